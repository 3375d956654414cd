"""Profiles from a file into an app: batch by batch, each in one transaction with how far it came.

What is given is merged into what is there; a row that says what is known changes nothing. How far
an import came stands in the database, in the transaction of each batch: one that was broken off,
however that was, goes on exactly there.
"""

import asyncio
import secrets
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Final, Literal, NamedTuple

import msgspec

from knownas import writes
from knownas.editing import Edit, Needs
from knownas.erasing import Subjects, names_of
from knownas.errors import (
    FieldError,
    IdentifierTaken,
    ProfileConflict,
    ProfileNotFound,
    ServiceUnavailable,
    ValidationError,
)
from knownas.history import Source as By
from knownas.model import KINDS, App, Profile, ProfileId
from knownas.storage import Storage
from knownas.transfer.formats import Source
from knownas.transfer.merging import Merged, Terms, merge
from knownas.transfer.reports import (
    BAD,
    CONFLICT,
    ERASED,
    MAX_PROBLEMS,
    Problem,
    Report,
    Tally,
    Telling,
    count,
)
from knownas.transfer.resuming import Kept, forget, keep, kept
from knownas.transfer.rows import Bad, Record, Row
from knownas.transfer.unpacking import fingerprint

BATCH: Final = 20_000
"""Rows to a transaction, at most: the more they are, the fewer times each page is written."""

LEAST_BATCH: Final = 5_000
"""Rows to a transaction, unless fewer are asked for: with less of them it would go ever slower."""

BATCH_SECONDS: Final = 2.0
"""How long a larger transaction may take: so long others may have to wait for it."""

_TRIES: Final = 60
_WAIT_SECONDS: Final = 1.0
_BY: Final = By("import")


class Options(NamedTuple):
    """How to import."""

    dry_run: bool = False
    atomic: bool = False
    """Whether nothing is written where a row is bad."""
    on_error: Literal["skip", "stop"] = "skip"
    restart: bool = False
    """Whether to begin anew where an import of the same file was broken off."""
    most: int | None = None
    """Rows to a transaction, at most; None for `BATCH`."""


class _Outcome(msgspec.Struct):
    """What came of a batch."""

    tally: Tally
    problems: list[Problem]
    stopped_at: int | None = None
    resume: Tally | None = None
    """Where the same file goes on: before the row that stopped it."""
    made: list[tuple[int, Profile | None, Profile]] = msgspec.field(default_factory=list)
    """In a dry run what would be written: line, before, after."""


class _DryRun(Exception):
    """Ends a transaction of which nothing is to be kept."""

    def __init__(self, outcome: _Outcome) -> None:
        super().__init__()
        self.outcome = outcome


async def run(  # noqa: PLR0913 - where, what, how, and who is told
    storage: Storage,
    subjects: Subjects,
    app: App,
    open_source: Callable[[], Source],
    options: Options,
    *,
    clock: Callable[[], int],
    telling: Telling,
    key: str | None = None,
) -> Report:
    """Import a file into an app, and return what came of it.

    Under a `key` it is known how far it came; without one the file itself tells which it is.
    `open_source` opens it: twice where the import is atomic. Raises TransferError, what of the
    file was imported by then is kept; ServiceUnavailable when the database is away for a minute.
    """
    importer = _Import(storage, subjects, app, options, clock, telling, key)
    if options.atomic and (refused := await importer.refuse_bad(open_source())) is not None:
        return refused
    return await importer.run(open_source())


class _Import:
    """One import."""

    def __init__(  # noqa: PLR0913, PLR0917 - as `run`
        self,
        storage: Storage,
        subjects: Subjects,
        app: App,
        options: Options,
        clock: Callable[[], int],
        telling: Telling,
        key: str | None = None,
    ) -> None:
        self._storage = storage
        self._subjects = subjects
        self._app = app
        self._options = options
        self._most = options.most or BATCH
        self._batch = min(LEAST_BATCH, self._most)
        self._clock = clock
        self._telling = telling
        self._problems: list[Problem] = []
        self._began = time.monotonic()
        self._key = key or ""
        self._run_id = secrets.token_hex(8)

    async def refuse_bad(self, source: Source) -> Report | None:
        """Read all rows; return a report where one is bad, of which nothing is to be written."""
        tally = Tally()
        stopped_at = None
        try:
            while records := await asyncio.to_thread(_next, source.records, self._batch):
                tally.rows += len(records)
                for one in records:
                    if isinstance(one, Bad) and stopped_at is None:
                        tally.bad += 1
                        self._tell([Problem(one.line, BAD, one.problems)])
                        if self._options.on_error == "stop":
                            stopped_at = one.line
                self._telling.progress(source.done(), source.size, tally.rows)
                if stopped_at is not None:
                    break
        finally:
            source.close()
        return self._report(source, tally, 0, stopped_at, {}) if tally.bad else None

    async def run(self, source: Source) -> Report:
        """Import all rows of a file."""
        try:
            return await self._run(source)
        finally:
            source.close()

    async def _run(self, source: Source) -> Report:
        self._key = self._key or f"import {fingerprint(source.path)} {source.format}"
        tally = await self._begin()
        went_on_after = tally.rows
        shared = await self._storage.count_shared(self._app.id)
        records = await asyncio.to_thread(_after, source.records, went_on_after)
        writing: asyncio.Task[_Outcome] | None = None
        stopped_at = None
        try:
            while batch := await asyncio.to_thread(_next, records, self._batch):
                done = source.done()
                if writing is not None:
                    tally, stopped_at = self._note(await writing)
                    if stopped_at is not None:
                        break
                # The next rows are read while these are written.
                self._telling.progress(done, source.size, tally.rows - went_on_after)
                writing = asyncio.create_task(self._write(tally, batch))
        finally:
            if writing is not None:
                await asyncio.wait({writing})  # whatever the file does, this is done
        if writing is not None and stopped_at is None:
            tally, stopped_at = self._note(await writing)
        if stopped_at is None:
            self._telling.progress(source.size, source.size, tally.rows - went_on_after)
            await self._end()
        now_shared = await self._storage.count_shared(self._app.id)
        more = {
            KINDS[kind].name: count - shared.get(kind, 0)
            for kind, count in now_shared.items()
            if count > shared.get(kind, 0)
        }
        return self._report(source, tally, went_on_after, stopped_at, more)

    # --- how far it came ------------------------------------------------------------------------

    async def _begin(self) -> Tally:
        """Return what was done of the file before, if it is to go on."""
        if self._options.dry_run:
            return Tally()
        if self._options.restart:
            await self._end()
            return Tally()
        now = self._clock()
        so_far = await self._storage.edit(
            self._app.id, lambda edit: kept(edit, self._key, now), now=now, by=_BY
        )
        return so_far.done

    async def _end(self) -> None:
        """Forget how far it came."""
        if self._options.dry_run:
            return
        await self._storage.edit(
            self._app.id, lambda edit: forget(edit, self._key), now=self._clock(), by=_BY
        )

    # --- a batch ----------------------------------------------------------------------------------

    async def _write(self, before: Tally, records: Sequence[Record]) -> _Outcome:
        """Write a batch, again where the database was away: it says whether it was done."""
        batch = [(one, _new_id(one)) for one in records]
        refs = [one.ref for one in records if isinstance(one, Row)]
        exclusive = writes.exclusive_kinds(self._app.policies)
        values = [
            (kind, value)
            for one in records
            if exclusive and isinstance(one, Row)
            for kind in exclusive
            if (value := one.identifiers[kind]) is not None
        ]
        dated = any(isinstance(one, Row) and one.times is not None for one in records)
        needs = Needs(refs=refs, values=values, answer=self._key, ages=dated)
        now = self._clock()
        terms = Terms(self._app.policies, exclusive, now)

        def work(edit: Edit) -> _Outcome:
            if self._options.dry_run:
                raise _DryRun(self._merge(edit, before, batch, terms))
            so_far = kept(edit, self._key, now)
            more = so_far.done.rows - before.rows
            if more and so_far.run != self._run_id:
                raise ValidationError("Another import of the same file goes on meanwhile.")
            if more:
                # The commit of which nothing was heard was made, be it that a row stopped it.
                line = records[more].line if more < len(records) else None
                return _Outcome(so_far.done, [], line)
            outcome = self._merge(edit, before, batch, terms)
            keep(edit, self._key, Kept(outcome.resume or outcome.tally, self._run_id), now)
            return outcome

        for _ in range(_TRIES):
            began = time.monotonic()
            try:
                outcome = await self._storage.edit(self._app.id, work, now=now, by=_BY, needs=needs)
            except _DryRun as dry:
                return await self._without_erased(dry.outcome)
            except ServiceUnavailable:
                await asyncio.sleep(_WAIT_SECONDS)
            else:
                self._adapt(len(records), time.monotonic() - began)
                return outcome
        return await self._storage.edit(self._app.id, work, now=now, by=_BY, needs=needs)

    def _adapt(self, rows: int, seconds: float) -> None:
        """Take as many rows to a transaction as are written in the time that it may take."""
        fitting = round(rows * BATCH_SECONDS / max(seconds, 0.001))
        self._batch = min(max(fitting, LEAST_BATCH), 2 * self._batch, self._most)

    def _merge(
        self, edit: Edit, before: Tally, batch: Sequence[tuple[Record, ProfileId]], terms: Terms
    ) -> _Outcome:
        """Merge rows into profiles; one that cannot be is left out."""
        outcome = _Outcome(msgspec.structs.replace(before), [])
        tally = outcome.tally
        for record, new_id in batch:
            tally.rows += 1
            problem: Problem | None = None
            if isinstance(record, Bad):
                problem = Problem(record.line, BAD, record.problems)
            else:
                try:
                    merged = merge(edit, record, new_id, terms)
                    if merged.conflicts:
                        problem = Problem(record.line, CONFLICT, tuple(merged.conflicts))
                    else:
                        self._count(record, merged, outcome)
                except (ProfileConflict, IdentifierTaken) as error:
                    problem = Problem(record.line, CONFLICT, error.fields)
                except ProfileNotFound:
                    problem = Problem(record.line, ERASED, (_WASERASED,))
                except ValidationError as error:
                    problem = Problem(record.line, BAD, error.fields)
            if problem is None:
                continue
            if self._options.on_error == "stop" and problem.what != ERASED:
                outcome.stopped_at = problem.line
                outcome.resume = msgspec.structs.replace(tally, rows=tally.rows - 1)
            count(tally, problem)
            outcome.problems.append(problem)
            if outcome.stopped_at is not None:
                break
        return outcome

    def _count(self, row: Row, merged: Merged, outcome: _Outcome) -> None:
        before, after = merged.before, merged.after
        if before is None:
            outcome.tally.new += 1
        elif after == before:
            outcome.tally.same += 1
            return
        else:
            outcome.tally.changed += 1
        if self._options.dry_run:
            outcome.made.append((row.line, before, after))

    async def _without_erased(self, outcome: _Outcome) -> _Outcome:
        """Return the outcome of a dry run without who was erased.

        Only a transaction that goes on to its end always learns of them.
        """
        keys = await self._storage.erasures.keys(self._app.id)
        if not keys:
            return outcome
        for line, before, after in outcome.made:
            names = names_of(after)[0 if before is None else 1 :]
            if before is not None and before.customer_user_id == after.customer_user_id:
                continue
            subjects = self._subjects.of(self._app.uuid, keys, names)
            found = await self._storage.erasures.tombstones(self._app.id, subjects)
            if any(stone.revived_at is None for stone in found):
                if before is None:
                    outcome.tally.new -= 1
                else:
                    outcome.tally.changed -= 1
                outcome.tally.erased += 1
                outcome.problems.append(Problem(line, ERASED, (_WASERASED,)))
        return outcome

    # --- what is told -----------------------------------------------------------------------------

    def _note(self, outcome: _Outcome) -> tuple[Tally, int | None]:
        self._tell(outcome.problems)
        return outcome.tally, outcome.stopped_at

    def _tell(self, problems: list[Problem]) -> None:
        for one in problems:
            self._telling.problem(one)
        self._problems += problems[: MAX_PROBLEMS - len(self._problems)]

    def _report(
        self,
        source: Source,
        tally: Tally,
        went_on_after: int,
        stopped_at: int | None,
        shared: dict[str, int],
    ) -> Report:
        return Report(
            file=source.path,
            format=source.format,
            dry_run=self._options.dry_run,
            done=tally,
            went_on_after=went_on_after,
            stopped_at=stopped_at,
            ignored=source.ignored.named,
            problems=self._problems,
            shared=shared,
            seconds=time.monotonic() - self._began,
        )


_WASERASED: Final = FieldError(None, "Was erased, and stays away.")


def _new_id(record: Record) -> ProfileId:
    """Return the id that a row's profile gets if it is made."""
    if isinstance(record, Bad):
        return ProfileId("")
    return record.ref.profile_id or ProfileId(str(uuid.uuid4()))


def _next(records: Iterator[Record], count: int) -> list[Record]:
    return list(islice(records, count))


def _after(records: Iterator[Record], count: int) -> Iterator[Record]:
    """Pass over rows that were done before."""
    for _ in islice(records, count):
        pass
    return records
