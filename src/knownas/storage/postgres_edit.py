"""Edits of a group in one transaction, each a pure function that is run in memory.

What they need is read and locked at once, as far as it is said before. What one asks for beyond
that ends its run; when all have run, it is read, and all run again. So what they are given is
always of one moment, and what was not said before costs another way to the database.
"""

import contextlib
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final, NamedTuple

import msgspec

from knownas.editing import Ages, Alias, Answer, Edit, Needs, TakenBack
from knownas.erasing import Subjects
from knownas.history import Change, Source
from knownas.model import AppId, Profile, ProfileId, ProfileRef
from knownas.storage.postgres_changes import Entry
from knownas.storage.postgres_errors import OUTRUN, Outrun
from knownas.storage.postgres_held import Held, Wanted
from knownas.storage.postgres_link import Link
from knownas.storage.postgres_reads import ProfileKey
from knownas.storage.postgres_state import State
from knownas.storage.postgres_writes import MAX_TRIES, refuse_growth, store

_PRUNE_ANSWERS: Final = "DELETE FROM answers WHERE expires_at <= $1"


class Job(NamedTuple):
    """An edit that is to be made."""

    app: AppId
    work: Callable[[Edit], Any]
    needs: Needs
    now: int
    by: Source


class Unknown(Exception):
    """An edit asks for what was not read yet."""

    def __init__(self, wanted: Wanted) -> None:
        """Say what it is."""
        super().__init__()
        self.wanted = wanted


async def edit(link: Link, group: list[Job], subjects: Subjects) -> list[Any]:
    """Make the edits in one transaction, and return what comes of each; an error is one to raise.

    One that raises fails alone. Raises Outrun when others were in the way too often, and what
    asyncpg does.
    """
    wanted, busy = Wanted(), set[ProfileKey]()
    for job in group:
        wanted.add(job.app, job.needs)
    for _ in range(MAX_TRIES):
        with contextlib.suppress(*OUTRUN):
            return await _try_to_edit(link, group, wanted, Held(busy, subjects))
    raise Outrun


async def _try_to_edit(link: Link, group: list[Job], wanted: Wanted, held: Held) -> list[Any]:
    async with link.transaction():
        await held.learn(link, wanted)
        while True:
            state, more = State(held), Wanted()
            answers = [_outcome(job, state, held, more) for job in group]
            if not more.is_empty():
                wanted.add_all(more)  # if it is made anew, it is among the first
                await held.learn(link, more)
            elif not (
                await held.find_revisions(link, _made_anew(state, held))
                or await refuse_growth(link, held, state)
            ):
                break
        await store(link, held, state, {})
    return answers


def _made_anew(state: State, held: Held) -> set[ProfileKey]:
    """Return the ids of new profiles that may have had one before."""
    return state.made() - held.profiles.keys() - held.asked_revisions


def _outcome(job: Job, state: State, held: Held, more: Wanted) -> Any:  # noqa: ANN401 - whatever its work returns
    """Run one edit; where it cannot be done it has done nothing, and `more` is wanted for it."""
    mark = state.mark()
    try:
        return job.work(PostgresEdit(job, state, held))
    except Unknown as unknown:
        more.add_all(unknown.wanted)
        outcome: BaseException = unknown
    except Exception as error:  # noqa: BLE001 - whatever it is, it is told to its caller
        outcome = error
    state.back_to(mark)
    return outcome


async def prune_answers(link: Link, now: int) -> None:
    """Delete the answers that nobody gets any more."""
    async with link.transaction():
        await link.fetch(_PRUNE_ANSWERS, now)


class PostgresEdit:
    """`knownas.editing.Edit` on what a transaction has.

    Every method raises Unknown for what it has not read.
    """

    def __init__(self, job: Job, state: State, held: Held) -> None:
        """Change `state`, which is made of what is `held`."""
        self._app, self._now, self._by = job.app, job.now, job.by
        self._state = state
        self._held = held

    def find(self, ref: ProfileRef) -> tuple[Profile | None, Profile | None]:
        """See `Edit.find`."""
        customer = None if ref.customer_user_id is None else (self._app, ref.customer_user_id)
        profile = None if ref.profile_id is None else (self._app, ref.profile_id)
        is_known = (
            customer is None
            or customer in self._held.asked_customers
            or customer in self._state.customers
        ) and (
            profile is None
            or profile in self._held.missing
            or profile in self._held.profiles
            or profile in self._state.profiles
        )
        if not is_known:
            wanted = Wanted()
            wanted.add(self._app, Needs([ref]))
            raise Unknown(wanted)
        return self._state.look_up(self._app, ref)

    def admit(self, before: Profile | None, after: Profile) -> None:
        """See `Edit.admit`; what is not known yet is asked at the end, then all is made anew."""
        if before is None:
            self._state.refuse_deleted(self._app)
        self._state.admit(self._app, before, after, None)

    def put(
        self,
        before: Profile | None,
        after: Profile,
        *,
        exclusive: Collection[int] = (),
        anew: bool = False,
        undoes: TakenBack | None = None,
    ) -> Profile:
        """See `Edit.put`."""
        if after == before and undoes is None:
            return after
        if before is None:
            self._state.refuse_deleted(self._app)
        after = self._state.admit(self._app, before, after, self._now if anew else None)
        kept = msgspec.structs.replace(
            after,
            updated_at=max(self._now, before.updated_at if before else after.created_at),
            revision=self._state.next_revision(self._app, before, after.profile_id),
        )
        self._state.replace(Entry(self._app, before, kept, kept.updated_at, self._by, undoes))
        for kind in exclusive:
            value = kept.identifiers[kind]
            if value is not None:
                self._state.claim((self._app, kind, value, kept.profile_id))
        return kept

    def remove(self, profile: Profile) -> int:
        """See `Edit.remove`."""
        at = max(self._now, profile.updated_at)
        entry = Entry(self._app, profile, None, at, self._by)
        self._state.replace(entry)
        return entry.revision

    def holders(self, kind: int, value: str) -> list[Profile]:
        """See `Edit.holders`."""
        holding = (self._app, kind, value)
        if holding not in self._held.holders:
            raise Unknown(Wanted(holdings={holding}))
        return self._state.holders(holding)

    def change(self, profile_id: ProfileId, revision: int) -> Change | None:
        """See `Edit.change`."""
        for entry in reversed(self._state.entries):
            if (entry.app, entry.profile_id, entry.revision) == (self._app, profile_id, revision):
                return Change("", profile_id, revision, entry.at, entry.by, entry.difference)
        key = (self._app, profile_id, revision)
        if key not in self._held.changes:
            raise Unknown(Wanted(changes={key}))
        return self._held.changes[key]

    def alias(self, name: str) -> Alias | None:
        """See `Edit.alias`; a name that is a profile's own leads nowhere else."""
        key = (self._app, name)
        if key not in self._state.aliases and key not in self._held.asked_names:
            if self._state.owns(key):
                return None
            raise Unknown(Wanted(names={key}))
        return self._state.aliases.get(key)

    def lead(self, name: str, alias: Alias | None) -> None:
        """See `Edit.lead`."""
        if alias is not None or self.alias(name) is not None:
            self._state.lead((self._app, name), alias)

    def ages(self, profile: Profile) -> Mapping[int, int]:
        """See `Edit.ages`."""
        key = (self._app, profile.profile_id)
        if key in self._held.profiles and key not in self._held.ages:
            raise Unknown(Wanted(ages={key}))
        return self._state.ages_of(key)

    def keep_ages(self, profile: Profile, times: Mapping[int, int]) -> None:
        """See `Edit.keep_ages`."""
        self._state.keep_ages((self._app, profile.profile_id), Ages(profile.revision, times))

    def answer(self, key: str) -> Answer | None:
        """See `Edit.answer`."""
        if (self._app, key) not in self._held.answers:
            raise Unknown(Wanted(answers={(self._app, key)}))
        return self._state.answers[self._app, key]

    def keep_answer(self, key: str, answer: Answer) -> None:
        """See `Edit.keep_answer`."""
        self.answer(key)
        self._state.keep_answer((self._app, key), answer)
