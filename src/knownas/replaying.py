"""Erasures made elsewhere, made here too: those of a ledger, and those of a copied database.

An erasure that the database knows is left alone: what it has under an erased name then came after
it. One that it does not know is newer than the database: that was restored from a backup, or is a
copy. Then whoever has an erased name and is older than the erasure is erased.
"""

import contextlib
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

import msgspec

from knownas import merging
from knownas.editing import Edit
from knownas.erasing import (
    Erasure,
    Person,
    Record,
    Subjects,
    Tombstone,
    Whom,
    names_of,
    profile_name,
)
from knownas.errors import HistoryExpired, ProfileNotFound, ValidationError
from knownas.history import Source
from knownas.ledger import Entry
from knownas.model import App, ProfileId, ProfileRef
from knownas.storage import Storage

PAGE: Final = 1_000

_BY: Final = Source("erasure")


class Brought(NamedTuple):
    """Erasures of one app, from elsewhere."""

    keys: Sequence[bytes]
    """Sealed."""
    tombstones: Sequence[Tombstone]
    erasures: Sequence[Erasure]


class Replayed(msgspec.Struct, frozen=True):
    """What came of erasures that were brought."""

    app: str
    """Its name, or its UUID where there is none here."""
    erasures: int
    """Those that the database did not have."""
    persons: int
    """Those that it had, and that are erased now."""


async def replay(
    storage: Storage, subjects: Subjects, entries: Iterable[Entry], clock: Callable[[], int]
) -> list[Replayed]:
    """Make the erasures of a ledger where they are missing, and return what was missing.

    Apps that the database does not have are passed over.
    """
    by_app: dict[str, list[Entry]] = {}
    for entry in entries:
        by_app.setdefault(entry.app, []).append(entry)
    done = []
    for app in await storage.apps():
        there = {erasure.id for erasure in await known(storage, app)} if app.uuid in by_app else ()
        if of_app := [entry for entry in by_app.get(app.uuid, ()) if entry.id not in there]:
            brought = Brought(
                list({entry.key: None for entry in of_app}),
                [stone for entry in of_app for stone in entry.tombstones],
                [entry.erasure for entry in of_app],
            )
            done.append(await bring(storage, subjects, app, brought, clock))
    return done


async def known(storage: Storage, app: App) -> list[Erasure]:
    """Return all erasures of an app."""
    found: list[Erasure] = []
    while True:
        before = (found[-1].erased_at, found[-1].id) if found else None
        page = await storage.erasures.page(app.id, before, PAGE)
        found += page
        if len(page) < PAGE:
            return found


async def kept(storage: Storage, app: App) -> Brought:
    """Return all that a database keeps of erasures of an app, to be brought into another one."""
    stones: list[Tombstone] = []
    while True:
        after = stones[-1].subject if stones else b""
        page = await storage.erasures.tombstones_after(app.id, after, PAGE)
        stones += page
        if len(page) < PAGE:
            break
    return Brought(await storage.erasures.keys(app.id), stones, await known(storage, app))


async def bring(
    storage: Storage, subjects: Subjects, app: App, brought: Brought, clock: Callable[[], int]
) -> Replayed:
    """Bring erasures into an app: what keeps the persons away, and who is there is erased.

    It can be broken off and made again. Raises FeatureNotConfigured where a key does not open.
    """
    there = {erasure.id for erasure in await known(storage, app)}
    new = [erasure for erasure in brought.erasures if erasure.id not in there]
    for sealed in brought.keys:
        await storage.erasures.put_key(app.id, subjects.key_id(app.uuid, sealed), sealed)
    if brought.tombstones:
        await storage.erasures.put_tombstones(app.id, brought.tombstones)
    if not new:
        return Replayed(app.name, 0, 0)
    missing = {erasure.id for erasure in new}
    stones = [stone for stone in brought.tombstones if stone.erasure_id in missing]
    persons = await _Replay(storage, subjects, app, brought.keys, stones, clock).run()
    # Only now: what breaks off before is begun again.
    completed_at = None if persons else clock()
    await storage.erasures.put(
        app.id, [erasure._replace(completed_at=completed_at) for erasure in new]
    )
    return Replayed(app.name, len(new), persons)


class _Replay:
    """The erasing of those who are there under erased names."""

    def __init__(  # noqa: PLR0913, PLR0917 - where, whom, and when
        self,
        storage: Storage,
        subjects: Subjects,
        app: App,
        keys: Sequence[bytes],
        stones: Iterable[Tombstone],
        clock: Callable[[], int],
    ) -> None:
        self._storage = storage
        self._subjects = subjects
        self._app = app
        self._keys = keys
        self._stones = {stone.subject: stone for stone in stones}
        self._clock = clock
        self._found: dict[str, Tombstone] = {}

    async def run(self) -> int:
        """Erase them, and return how many persons they were."""
        names = await self._storage.erasures.names_among(self._app.id, self._pick)
        # Profiles before customers: what was merged is taken apart by its id.
        return sum([await self._erase(name) for name in sorted(names, reverse=True)])

    def _pick(self, names: Sequence[str]) -> list[str]:
        subjects = self._subjects.of(self._app.uuid, self._keys, names)
        picked = []
        for name, subject in zip([*names] * len(self._keys), subjects, strict=True):
            if (stone := self._stones.get(subject)) is not None:
                self._found[name] = stone
                picked.append(name)
        return picked

    async def _erase(self, name: str) -> bool:
        """Erase whoever has a name, and return whether there was anybody."""
        stone, whom = self._found[name], _whom(name)
        try:
            person = await self._storage.erasures.person(self._app.id, whom)
            if person.profile is not None and name not in names_of(person.profile):
                if profile_name(person.profile.profile_id) in self._found:
                    return False  # goes by its own name, with all that was merged into it
                if not await self._take_apart(name):
                    return False
                person = await self._storage.erasures.person(self._app.id, whom)
            if person.profile is not None and person.profile.created_at >= stone.erased_at:
                revived = stone._replace(revived_at=person.profile.created_at)
                await self._storage.erasures.put_tombstones(self._app.id, [revived])
                return False
            await self._storage.erasures.erase(
                self._app.id,
                whom,
                lambda found: self._record(found, stone),
                now=self._clock(),
                by=_BY,
            )
        except ProfileNotFound:  # gone by another name
            return False
        return True

    async def _take_apart(self, name: str) -> bool:
        """Undo the merge that made a name lead to another person.

        Where that cannot be done any more, the two are one, and are erased as one. Returns False
        for a customer, which then leads nowhere.
        """
        if name.startswith("c:"):
            await self._edit(lambda edit: edit.lead(name, None))
            return False
        with contextlib.suppress(HistoryExpired, ValidationError):
            await self._edit(lambda edit: merging.undo(edit, ProfileId(name[2:])))
        return True

    async def _edit(self, work: Callable[[Edit], object]) -> None:
        await self._storage.edit(self._app.id, work, now=self._clock(), by=Source("undo"))

    def _record(self, found: Person, stone: Tombstone) -> Record:
        subjects = self._subjects.of(self._app.uuid, self._keys[:1], found.names)
        stones = [stone._replace(subject=subject) for subject in subjects]
        return Record(stone.erasure_id, stones, None)


def _whom(name: str) -> Whom:
    if name.startswith("p:"):
        return Whom(ProfileRef(profile_id=ProfileId(name[2:])))
    return Whom(ProfileRef(name[2:]))
