"""A whole database copied into another, of whichever kind: apps, keys and profiles.

Both are read in the order of the profile ids, side by side, and what differs is written. So a copy
that broke off goes on where it was, one that was made while servers wrote is brought up to date by
another, and what is equal at the end was compared profile by profile.
"""

import asyncio
import contextlib
import hashlib
import time
from collections.abc import Callable
from typing import Final

import msgspec

from knownas import replaying
from knownas.erasing import Subjects
from knownas.errors import ValidationError
from knownas.history import Source
from knownas.model import App, AppId, Profile, ProfileId
from knownas.receipts import KEY_NAME
from knownas.receiving import MOST_SECRETS
from knownas.storage import Storage

PAGE: Final = 10_000
"""Profiles that are read at once, and at most so many that are written in one transaction: at any
time a few pages are in memory."""

MAX_PASSES: Final = 4
"""One that copies and one that finds all equal, if nobody writes meanwhile."""

_TELL_EVERY: Final = 1_000

Progress = Callable[[int, int], None]
"""Told how many profiles are done, of how many; each counts twice, once to be compared."""


class AppCopy(msgspec.Struct, frozen=True):
    """What came of one app."""

    name: str
    app_id: str
    """The app's UUID, the same in both databases."""
    keys: int
    profiles: int
    checksum: str
    """SHA-256 over the source's profiles in the order of their ids."""
    is_same: bool
    """Whether the target's profiles are as many, with the same checksum."""
    written: int
    """Profiles that were added or replaced."""
    deleted: int
    kept: int
    """Profiles of the target that the source does not have, or has an older version of; left."""
    left_out: int
    """Profiles of the source who were erased in the target, or whose customer is another there."""
    erased: int = 0
    """Persons of the target that were erased in the source, and now in the target."""


async def copy(
    source: Storage,
    target: Storage,
    *,
    subjects: Subjects,
    overwrite: bool,
    progress: Progress,
) -> list[AppCopy]:
    """Bring every app of `source` into `target` as it is, and return what came of each.

    Who was erased in either is not in `target` at the end, and known there as erased by the
    `subjects`.

    Apps are the same by their UUID; other apps of `target` are not touched. With `overwrite`,
    profiles that `target` alone has are deleted, and those that are newer there replaced; else
    they are kept. Raises ValidationError where another app of `target` has the name or a key of
    one that is to be copied.
    """
    await _copy_secret(source, target)
    apps = await source.apps()
    counts = [await source.count_profiles(app.id) for app in apps]
    there = {app.uuid: app for app in await target.apps()}
    bar = _Bar(progress, sum(counts))
    copied = []
    for app, count in zip(apps, counts, strict=True):
        twin = there.get(app.uuid) or await _make(target, app)
        bar.begin_app(count)
        brought = await replaying.kept(source, app)
        replayed = await replaying.bring(target, subjects, twin, brought, _now)
        done = await _copy_app(source, app, target, twin, bar, overwrite=overwrite)
        copied.append(msgspec.structs.replace(done, erased=replayed.persons))
        bar.end_app()
    return copied


async def _make(target: Storage, app: App) -> App:
    try:
        return await target.create_app(app.uuid, app.name, now=app.created_at)
    except ValidationError:
        raise ValidationError(
            f"The target has another app of the name {app.name!r}; delete it there first.",
            source="app",
        ) from None


async def _copy_app(  # noqa: PLR0913 - two databases, two apps
    source: Storage, app: App, target: Storage, twin: App, bar: "_Bar", *, overwrite: bool
) -> AppCopy:
    keys = await source.keys_with_digests(app.id)
    await target.put_keys(twin.id, keys)
    for secret in await source.inbound.secrets(app.id):
        with contextlib.suppress(ValidationError):  # it is there, or the target has its own
            await target.inbound.add_secret(twin.id, secret, most=MOST_SECRETS)
    written = deleted = 0
    for _ in range(MAX_PASSES):
        ours, theirs = _Profiles(source, app.id), _Profiles(target, twin.id)
        changes = _Changes(target, twin.id)
        kept = await _merge(ours, theirs, changes, bar, overwrite=overwrite)
        bar.end_pass()
        written, deleted = written + changes.written, deleted + changes.deleted
        if not changes.written and not changes.deleted:
            break
    return AppCopy(
        name=app.name,
        app_id=app.uuid,
        keys=len(keys),
        profiles=ours.count,
        checksum=ours.checksum(),
        is_same=ours.checksum() == theirs.checksum(),
        written=written,
        deleted=deleted,
        kept=kept,
        left_out=changes.left_out,
    )


async def _copy_secret(source: Storage, target: Storage) -> None:
    """Have receipts of both signed by one key, if the target has none of its own yet."""
    sealed = await source.erasures.secret(KEY_NAME)
    if sealed is not None:
        await target.erasures.put_secret(KEY_NAME, sealed)


def _now() -> int:
    return time.time_ns() // 1_000_000


async def _merge(
    ours: "_Profiles", theirs: "_Profiles", changes: "_Changes", bar: "_Bar", *, overwrite: bool
) -> int:
    """Note what has to change for the two to be equal, and return how many may not be changed."""
    kept = 0
    one, other = await ours.next(), await theirs.next()
    while one is not None or other is not None:
        if other is None or (one is not None and one.profile_id < other.profile_id):
            await changes.add(None, one)
            one = await ours.next()
        elif one is None or other.profile_id < one.profile_id:
            if overwrite:
                await changes.add(other, None)
            else:
                kept += 1
            other = await theirs.next()
        else:
            if one != other:
                if overwrite or one.updated_at >= other.updated_at:
                    await changes.add(other, one)
                else:
                    kept += 1
            one, other = await ours.next(), await theirs.next()
        bar.at(ours.count)
    await changes.write()
    return kept


class _Profiles:
    """An app's profiles in the order of their ids, a page ahead of whoever takes them."""

    def __init__(self, storage: Storage, app: AppId) -> None:
        self._storage = storage
        self._app = app
        self._page: list[Profile] = []
        self._at = 0
        self._ahead: asyncio.Task[list[Profile]] | None = self._read(None)
        self._hash = hashlib.sha256()
        self.count = 0

    async def next(self) -> Profile | None:
        """Return the next one, or None after the last."""
        if self._at == len(self._page):
            if self._ahead is None:
                return None
            # A revision counts what its own database has seen.
            self._page = [msgspec.structs.replace(one, revision=1) for one in await self._ahead]
            self._at = 0
            full = len(self._page) == PAGE
            self._ahead = self._read(self._page[-1].profile_id) if full else None
            if not self._page:
                return None
            self._hash.update(msgspec.json.encode(self._page))
        profile = self._page[self._at]
        self._at += 1
        self.count += 1
        return profile

    def checksum(self) -> str:
        """Return the checksum of those that were taken."""
        return self._hash.hexdigest()

    def _read(self, after: ProfileId | None) -> asyncio.Task[list[Profile]]:
        return asyncio.create_task(self._storage.profiles_after(self._app, after, PAGE))


class _Changes:
    """What is to be changed in an app of the target, written while more is found."""

    def __init__(self, target: Storage, app: AppId) -> None:
        self._target = target
        self._app = app
        self._gone: list[ProfileId] = []
        self._new: list[Profile] = []
        self._writing: asyncio.Task[int] | None = None
        self._brought = 0
        self.written = 0
        self.deleted = 0

    async def add(self, gone: Profile | None, new: Profile | None) -> None:
        """Note that one profile is to be deleted, another to be added, or both: a replacement."""
        if gone is not None:
            self._gone.append(gone.profile_id)
        if new is not None:
            self._new.append(new)
        elif gone is not None:
            self.deleted += 1
        if len(self._gone) + len(self._new) >= PAGE:
            await self._begin_to_write()

    async def write(self) -> None:
        """Return when all is written."""
        if self._gone or self._new:
            await self._begin_to_write()
        await self._end_to_write()

    @property
    def left_out(self) -> int:
        """How many of those that were to be added the target has not taken."""
        return self._brought - self.written

    async def _end_to_write(self) -> None:
        if self._writing is not None:
            self.written += await self._writing
            self._writing = None

    async def _begin_to_write(self) -> None:
        gone, new, self._gone, self._new = self._gone, self._new, [], []
        await self._end_to_write()
        self._brought += len(new)
        self._writing = asyncio.create_task(
            self._target.replace_profiles(self._app, gone, new, now=_now(), by=Source("copy"))
        )


class _Bar:
    """How far all of it is, where each app takes two passes."""

    def __init__(self, progress: Progress, profiles: int) -> None:
        self._progress = progress
        self._total = 2 * profiles
        self._count = self._begins = self._ends = 0

    def begin_app(self, count: int) -> None:
        """Begin with an app of so many profiles."""
        self._count = count
        self._begins, self._ends = self._ends, self._ends + 2 * count

    def at(self, number: int) -> None:
        """Tell that so many profiles of a pass are done, now and then."""
        if number % _TELL_EVERY == 0:
            # There may be more passes, and profiles, than there were to be.
            self._progress(min(self._begins + number, self._ends), self._total)

    def end_pass(self) -> None:
        """Go on with the next pass of the same app."""
        self._begins = min(self._begins + self._count, self._ends)

    def end_app(self) -> None:
        """Tell that all of an app is done."""
        self._progress(self._ends, self._total)
