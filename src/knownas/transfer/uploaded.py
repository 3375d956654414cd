"""Files that were uploaded, imported by whichever process has the time: one at a time each.

Who imports one has a lease, and renews it as long as that goes on. Where it runs out, as after a
kill, another process goes on: the import itself knows how far it came, in the transaction of each
batch.
"""

import asyncio
import contextlib
import secrets
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import msgspec

from knownas.erasing import Subjects
from knownas.errors import ServiceUnavailable, Unauthorized, ValidationError
from knownas.imports import Import, OfApp, Progress, State
from knownas.storage import Storage
from knownas.transfer import TransferError, formats, importing
from knownas.transfer.reports import Report, Telling, data_of
from knownas.uploads import KEPT_MS, UPLOAD_MS

LEASE_MS: Final = 30_000

BATCH: Final = 2_000
"""Rows to a transaction: so few that the writes of clients wait no longer than for others."""

RENEW_SECONDS: Final = 2.0
"""How often progress is told, and the lease renewed."""

_GIVEN_UP: Final = "The rest of its file did not come within a day."
_DEFECT: Final = "The server has failed to import it; its log says where."
_LOST: Final = "Its file is not there any more; send it again."


class Worker(NamedTuple):
    """What imports."""

    storage: Storage
    subjects: Subjects
    clock: Callable[[], int]
    renew_seconds: float = RENEW_SECONDS

    async def work(self) -> bool:
        """Import one file, or go on with one that nobody goes on with; tell if there was any."""
        for one in await self.storage.imports.unended():
            now = self.clock()
            if _waits(one.found, now) and (lease := await self._lease(one, now)) is not None:
                await self._import(one, lease)
                return True
        return False

    async def is_wanted(self) -> bool:
        """Tell whether there is a file that could be imported now."""
        now = self.clock()
        return any(_waits(one.found, now) for one in await self.storage.imports.unended())

    async def keep_up(self) -> None:
        """Give up uploads that rest for too long, and forget what has ended long ago."""
        now = self.clock()
        for one in await self.storage.imports.unended():
            await self._give_up_if_old(one, now)
        await self.storage.imports.prune(before=now - KEPT_MS)

    async def _give_up_if_old(self, one: OfApp, now: int) -> None:
        if one.found.state != "uploading" or one.found.changed_at + UPLOAD_MS > now:
            return

        def give_up(found: Import) -> Import:
            if found.state != "uploading" or found.changed_at + UPLOAD_MS > now:
                return found
            return msgspec.structs.replace(found, state="failed", changed_at=now, failure=_GIVEN_UP)

        changed = await self.storage.imports.change(one.app.id, one.found.id, give_up)
        if changed is not None and changed.state == "failed":
            await self.storage.imports.drop_file(one.app.id, one.found.id)

    async def _lease(self, one: OfApp, now: int) -> str | None:
        """Begin to import it, where nobody else does; return what says so."""
        lease = secrets.token_hex(8)

        def begin(found: Import) -> Import:
            if not _waits(found, now):
                return found
            progress = Progress(since=now)
            return msgspec.structs.replace(
                found,
                state="running",
                progress=progress,
                changed_at=now,
                lease=lease,
                lease_until=now + LEASE_MS,
            )

        changed = await self.storage.imports.change(one.app.id, one.found.id, begin)
        return lease if changed is not None and changed.lease == lease else None

    async def _import(self, one: OfApp, lease: str) -> None:
        """Import a file as long as it is ours to do."""
        latest = Progress(since=self.clock())

        def tell(done: int, of: int, rows: int) -> None:
            nonlocal latest
            latest = Progress(done, of, rows, latest.since)

        importing_it = asyncio.create_task(self._run(one, Telling(tell, lambda _problem: None)))
        try:
            while not importing_it.done():
                await asyncio.wait({importing_it}, timeout=self.renew_seconds)
                if not await self._renew(one, lease, latest):
                    importing_it.cancel()
                    break
        finally:  # the server may stop meanwhile
            importing_it.cancel()
            await asyncio.wait({importing_it})
            if importing_it.cancelled():
                await self._let_go(one, lease)
        if importing_it.cancelled():
            return
        defect = importing_it.exception()
        if defect is None:
            await self._end(one, lease, latest, *importing_it.result())
            return
        if isinstance(defect, ValidationError):  # another process has begun with it
            return
        if not isinstance(defect, ServiceUnavailable):  # else it goes on when the lease has run out
            await self._end(one, lease, latest, "failed", _DEFECT)
        raise defect

    async def _run(self, one: OfApp, telling: Telling) -> tuple[State, Report | str]:
        """Import a file; return how it ended, and what came of it."""
        plan = one.found.plan
        options = importing.Options(plan.dry_run, plan.atomic, plan.on_error, most=BATCH)
        path = ""
        try:
            async with self.storage.imports.file(one.app.id, one.found.id) as path:
                report = await importing.run(
                    self.storage,
                    self.subjects,
                    one.app,
                    lambda: formats.open_source(path, plan.format),
                    options,
                    clock=self.clock,
                    telling=telling,
                    key=f"import {one.found.id}",
                )
        except TransferError as error:
            return "failed", str(error).replace(path, "The file")
        except FileNotFoundError:
            return "failed", _LOST
        except Unauthorized:
            return "cancelled", "The app was deleted."
        return "done", report

    async def _renew(self, one: OfApp, lease: str, progress: Progress) -> bool:
        """Tell how far it is, and whether it is still ours to go on with."""
        now = self.clock()

        def renew(found: Import) -> Import:
            if found.lease != lease or found.state != "running":
                return found
            return msgspec.structs.replace(
                found, progress=progress, changed_at=now, lease_until=now + LEASE_MS
            )

        try:
            changed = await self.storage.imports.change(one.app.id, one.found.id, renew)
        except ServiceUnavailable:
            return True  # the import itself waits for the database, too
        return changed is not None and changed.lease == lease and changed.state == "running"

    async def _let_go(self, one: OfApp, lease: str) -> None:
        """Have another process go on at once."""
        with contextlib.suppress(ServiceUnavailable):  # else it goes on when the lease has run out
            await self.storage.imports.change(
                one.app.id, one.found.id, lambda found: found.let_go(lease)
            )

    async def _end(
        self, one: OfApp, lease: str, progress: Progress, state: State, told: Report | str
    ) -> None:
        now = self.clock()
        is_ours = False
        report: dict[str, Any] | None = None
        if isinstance(told, Report):
            report = data_of(told) | {"file": one.found.name}

        def end(found: Import) -> Import:
            nonlocal is_ours
            is_ours = found.lease == lease and found.state == "running"
            if not is_ours:
                return found
            return msgspec.structs.replace(
                found,
                state=state,
                progress=progress,
                report=report,
                failure=told if isinstance(told, str) else None,
                changed_at=now,
                lease="",
                lease_until=0,
            )

        await self.storage.imports.change(one.app.id, one.found.id, end)
        if is_ours:
            await self.storage.imports.drop_file(one.app.id, one.found.id)


def _waits(found: Import, now: int) -> bool:
    """Tell whether a file is here that nobody imports."""
    return found.state in {"waiting", "running"} and found.lease_until <= now
