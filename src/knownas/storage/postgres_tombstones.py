"""What keeps erased persons away: functions on a link, within the transaction of a write."""

from collections.abc import Iterable, Sequence
from typing import Any, Final

from knownas.erasing import Subjects, Tombstone, names_of
from knownas.errors import Unauthorized
from knownas.model import AppId, Profile, ProfileId
from knownas.storage.postgres_apps import LOCK_APPS
from knownas.storage.postgres_link import Link
from knownas.storage.postgres_reads import columns

_KEYS: Final = "SELECT sealed FROM erasure_keys WHERE app_id = $1 ORDER BY app_id, id"
_PUT_KEY: Final = """
INSERT INTO erasure_keys (app_id, id, sealed) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING
"""
_HAS_ERASED: Final = "UPDATE apps SET has_erased = true WHERE id = $1 RETURNING id"
_COLUMNS: Final = "subject, erasure_id::text, erased_at, revived_at"
_FIND: Final = f"""
SELECT {_COLUMNS} FROM tombstones WHERE app_id = $1 AND subject = any($2::bytea[])
"""  # noqa: S608 - the columns are a constant
_AFTER: Final = f"""
SELECT {_COLUMNS} FROM tombstones WHERE app_id = $1 AND subject > $2 ORDER BY subject LIMIT $3
"""  # noqa: S608 - the columns are a constant
_REVIVE: Final = """
UPDATE tombstones t SET revived_at = a.revived_at
FROM unnest($1::integer[], $2::bytea[], $3::bigint[]) AS a (app_id, subject, revived_at)
WHERE t.app_id = a.app_id AND t.subject = a.subject
"""
_GIVEN: Final = """
INSERT INTO tombstones AS t (app_id, subject, erasure_id, erased_at, revived_at)
SELECT * FROM unnest($1::integer[], $2::bytea[], $3::uuid[], $4::bigint[], $5::bigint[])
ON CONFLICT (app_id, subject) DO UPDATE SET
  erasure_id = excluded.erasure_id, erased_at = excluded.erased_at, revived_at =
"""
_ERECT: Final = f"{_GIVEN} NULL WHERE t.erased_at <= excluded.erased_at"
_PUT: Final = f"""{_GIVEN}
  CASE WHEN t.erased_at < excluded.erased_at THEN excluded.revived_at
    ELSE coalesce(t.revived_at, excluded.revived_at) END
WHERE t.erased_at <= excluded.erased_at
"""

Name = tuple[AppId, str]
"""A name in an app, as an alias has it."""


async def keys(link: Link, app: AppId) -> list[bytes]:
    """Return an app's keys, sealed; none where nobody was erased yet."""
    return [sealed for (sealed,) in await link.fetch(_KEYS, app)]


async def put_key(link: Link, app: AppId, key_id: bytes, sealed: bytes) -> None:
    """Keep a key, unless it is kept already. Raises Unauthorized without the app."""
    async with link.transaction():
        if not await link.fetch(_HAS_ERASED, app):
            raise Unauthorized
        await link.fetch(_PUT_KEY, app, key_id, sealed)


async def find(link: Link, app: AppId, subjects: Sequence[bytes]) -> list[Tombstone]:
    """Return the tombstones of these subjects."""
    return [Tombstone(*row) for row in await link.fetch(_FIND, app, list(subjects))]


async def after(link: Link, app: AppId, subject: bytes, limit: int) -> list[Tombstone]:
    """Return the next tombstones in the order of their subjects."""
    return [Tombstone(*row) for row in await link.fetch(_AFTER, app, subject, limit)]


async def erect(link: Link, app: AppId, tombstones: Iterable[Tombstone]) -> None:
    """Write tombstones of who was erased just now, in the place of none that is newer."""
    await _write(link, _ERECT, app, tombstones)


async def put(link: Link, app: AppId, tombstones: Iterable[Tombstone]) -> None:
    """Write tombstones that were made elsewhere, in the place of none that is newer."""
    await _write(link, _PUT, app, tombstones)


async def _write(link: Link, statement: str, app: AppId, stones: Iterable[Tombstone]) -> None:
    # One statement may not write a row twice.
    newest: dict[bytes, Tombstone] = {}
    for stone in stones:
        known = newest.get(stone.subject)
        if known is None or known.erased_at <= stone.erased_at:
            newest[stone.subject] = stone
    if newest:
        rows = sorted((app, *stone) for stone in newest.values())
        await link.fetch(statement, *columns(rows))


async def revive(link: Link, revived: Iterable[tuple[AppId, bytes, int]]) -> None:
    """Note that others have begun anew under erased names."""
    if rows := sorted(revived):
        await link.fetch(_REVIVE, *columns(rows))


async def erased_among(
    link: Link, app: AppId, uuid: str, subjects: Subjects, names: Sequence[str]
) -> dict[str, list[Tombstone]]:
    """Return those of an app's names that were erased, and under which nobody has begun anew.

    Raises FeatureNotConfigured where a key cannot be opened.
    """
    sealed = await keys(link, app)
    if not sealed or not names:
        return {}
    made = subjects.of(uuid, sealed, names)
    stones = {stone.subject: stone for stone in await find(link, app, made)}
    found: dict[str, list[Tombstone]] = {}
    for name, subject in zip([*names] * len(sealed), made, strict=True):
        stone = stones.get(subject)
        if stone is not None and stone.revived_at is None:
            found.setdefault(name, []).append(stone)
    return found


async def kept_out(
    link: Link, app: AppId, subjects: Subjects, profiles: Sequence[Profile]
) -> set[ProfileId]:
    """Return the ids of those who were erased among some; keep the app from going meanwhile.

    Raises Unauthorized when it is gone.
    """
    rows: list[Any] = await link.fetch(LOCK_APPS, [app])
    if not rows:
        raise Unauthorized
    [(_, uuid, has_erased)] = rows
    if not has_erased:
        return set()
    names = list(dict.fromkeys(name for one in profiles for name in names_of(one)))
    erased = await erased_among(link, app, uuid, subjects, names)
    return {one.profile_id for one in profiles if not erased.keys().isdisjoint(names_of(one))}
