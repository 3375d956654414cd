"""The history, the feed and what is counted of an app, as they are read: functions on a link.

The feed is in the order of `tx`. A change is told once every transaction has ended whose number
is not greater, which is when the number is below `xmin` of a snapshot. What commits later has a
number from there on, and so has all that it notes (`postgres_changes.py`): it comes after every
cursor that was given. What this costs is time: the feed waits for the oldest transaction that
writes.

A cursor is a place: of a change, or behind the last one that could be told. The latter is not
`xmin` itself: after a crash the server may give out again the numbers of transactions that were
never committed. None of them is less than that of a committed one.

Numbers mean something on one server only. A database that was restored into another one counts its
own from a `base`, so that they go on from those that it brought; and its feed gets another name.
"""

import re
import secrets
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from knownas.errors import CursorExpired
from knownas.history import Change, ChangesPage, CoverageDay, Shared
from knownas.model import AppId, ProfileId
from knownas.storage import rows
from knownas.storage.postgres_link import Link, Row
from knownas.storage.postgres_reads import columns

_NOW: Final = """
WITH told AS (
  SELECT *, base + pg_snapshot_xmin(pg_current_snapshot())::text::bigint AS until FROM feed
), now AS MATERIALIZED (
  SELECT *, 1 + greatest(pruned_tx, (
    SELECT tx FROM changes WHERE tx < until ORDER BY tx DESC LIMIT 1)) AS rest FROM told
)
"""
"""All before the number `until` can be told; before `rest` is the place behind the last of it."""

_CHANGES: Final = f"""{_NOW}
SELECT now.name, now.pruned_tx, now.pruned_profile, now.pruned_revision, now.until, now.rest,
  c.tx, c.profile_id, c.revision, c.at, c.source, c.difference
FROM now LEFT JOIN LATERAL (
  SELECT * FROM changes
  WHERE app_id = $1 AND (tx, profile_id, revision) > ($2, $3, $4) AND tx < now.until
  ORDER BY tx, profile_id, revision LIMIT $5) AS c ON true
ORDER BY c.tx, c.profile_id, c.revision
"""  # noqa: S608 - what is told is a constant
_HISTORY: Final = f"""{_NOW}
SELECT now.name, now.rest, c.tx, c.profile_id, c.revision, c.at, c.source, c.difference
FROM now CROSS JOIN LATERAL (
  SELECT * FROM changes WHERE app_id = $1 AND profile_id = $2 AND revision < $3
  ORDER BY revision DESC LIMIT $4) AS c
ORDER BY c.revision DESC
"""  # noqa: S608 - what is told is a constant
_END: Final = f"{_NOW} SELECT name, rest FROM now"  # noqa: S608 - what is told is a constant

_OLDEST: Final = f"""{_NOW}
SELECT c.tx, c.profile_id, c.revision, c.app_id, c.at
FROM now CROSS JOIN LATERAL (
  SELECT * FROM changes WHERE tx < now.until ORDER BY tx LIMIT $1) AS c
"""  # noqa: S608 - what is told is a constant
_PRUNED: Final = """
UPDATE feed SET pruned_tx = $1, pruned_profile = $2, pruned_revision = $3
WHERE (pruned_tx, pruned_profile, pruned_revision) < ($1, $2, $3)
"""
_GO_PAST: Final = """
UPDATE webhooks w SET at_tx = $1, at_profile = $2, at_revision = $3, lost_at = CASE
  WHEN EXISTS (
    SELECT tx FROM changes c WHERE c.app_id = w.app_id
      AND (c.tx, c.profile_id, c.revision) > (w.at_tx, w.at_profile, w.at_revision)
      AND (c.tx, c.profile_id, c.revision) <= ($1, $2, $3))
  THEN $4 ELSE w.lost_at END
WHERE (w.at_tx, w.at_profile, w.at_revision) < ($1, $2, $3)
"""
_PRUNE: Final = """
DELETE FROM changes c USING unnest($1::integer[], $2::uuid[], $3::bigint[])
  AS a (app_id, profile_id, revision)
WHERE c.app_id = a.app_id AND c.profile_id = a.profile_id AND c.revision = a.revision
RETURNING 1
"""

_COVERAGE: Final = """
SELECT day, kind, sum(change)::bigint FROM coverage WHERE app_id = $1
GROUP BY day, kind ORDER BY day, kind
"""
_SHARED: Final = """
SELECT kind, value, profiles FROM shared_identifiers
WHERE app_id = $1 AND (kind, value) > ($2, $3) ORDER BY kind, value LIMIT $4
"""
_COUNT_SHARED: Final = """
SELECT kind, count(*) FROM shared_identifiers WHERE app_id = $1 GROUP BY kind ORDER BY kind
"""

# A dump keeps none of the three; a standby and a copy of the files keep them all.
_PLACES: Final = """
SELECT concat_ws('/',
    (SELECT system_identifier FROM pg_control_system()),
    (SELECT oid FROM pg_database WHERE datname = current_database()),
    'feed'::regclass::oid) AS here,
  greatest(pruned_tx, (SELECT tx FROM changes ORDER BY tx DESC LIMIT 1)) AS last,
  base + pg_snapshot_xmax(pg_current_snapshot())::text::bigint AS next, feed.*
FROM feed
"""
_IS_AT_HOME: Final = f"SELECT home = here AND last < next FROM ({_PLACES}) AS it"  # noqa: S608 - a constant
_SETTLE: Final = f"""
UPDATE feed SET name = $1, home = it.here,
  base = CASE WHEN it.last < it.next THEN feed.base ELSE it.last END
FROM ({_PLACES}) AS it
"""  # noqa: S608 - a constant

MAX_REVISION: Final = 2**62
_CURSOR: Final = re.compile(r"([0-9a-f]+)-([0-9]{1,18})-([0-9a-f]{32})-([0-9]{1,18})")


class _Place(NamedTuple):
    """A place in the feed: whatever comes after it has a greater one."""

    tx: int
    profile: str
    """The 32 digits of an id."""
    revision: int

    def cursor(self, name: str) -> str:
        return f"{name}-{self.tx}-{self.profile}-{self.revision}"


def _before(tx: int) -> _Place:
    """Return the place before all that has this number."""
    return _Place(tx, "0" * 32, 0)


def _up_to(tx: int) -> _Place:
    """Return the place behind all that has this number."""
    return _Place(tx, "f" * 32, MAX_REVISION)


async def history(
    link: Link, app: AppId, profile_id: ProfileId, before: int | None, limit: int
) -> list[Change]:
    """Return the changes of a profile before a revision, the newest first.

    What cannot be told in the feed yet has the cursor after which it will be.
    """
    asked = (app, profile_id, MAX_REVISION if before is None else before, limit)
    return [
        to_change(name, row, _before(rest))
        for name, rest, *row in await link.fetch(_HISTORY, *asked)
    ]


async def changes(link: Link, app: AppId, cursor: str | None, limit: int) -> ChangesPage:
    """Return the changes after a cursor, the oldest first."""
    name, place = ("", _before(0)) if cursor is None else _parsed(cursor)
    found = await link.fetch(_CHANGES, app, *place, limit)
    own_name, pruned_tx, pruned_profile, pruned_revision, until, rest = found[0][:6]
    if cursor is not None:
        pruned = _Place(pruned_tx, pruned_profile.hex, pruned_revision)
        # One from behind what there is was given before this server lost what was there.
        if name != own_name or place < pruned or place.tx > until:
            raise CursorExpired
    told = [to_change(own_name, row[6:]) for row in found if row[6] is not None]
    if len(told) == limit:
        return ChangesPage(told, told[-1].cursor)
    return ChangesPage(told, max(place, _before(rest)).cursor(own_name))


async def end(link: Link) -> str:
    """Return the cursor after which comes what cannot be told yet."""
    name, rest = (await link.fetch(_END))[0]
    return _before(rest).cursor(name)


async def prune(link: Link, before: int, limit: int, now: int) -> int:
    """Delete at most `limit` of the oldest changes, and count them.

    Of a transaction all changes go at once, unless they are more than `limit`. A webhook that had
    not come so far goes on behind them, and has it noted if it missed any.
    """
    async with link.transaction():
        found = await link.fetch(_OLDEST, limit + 1)
        gone = found
        if len(found) > limit:
            cut = found[-1][0]
            gone = [row for row in found if row[0] < cut] or found[:limit]
        last = max((row[0] for row in gone if row[4] < before), default=None)
        if last is None:
            return 0
        gone = [row for row in gone if row[0] <= last]
        is_whole = len(found) <= limit or last < found[-1][0]
        place = max(_place(row) for row in gone) if is_whole else _up_to(last)
        await link.fetch(_GO_PAST, *place, now)
        await link.fetch(_PRUNED, *place)
        keys = columns((app, profile_id, revision) for _, profile_id, revision, app, _ in gone)
        return len(await link.fetch(_PRUNE, *keys))


async def coverage(link: Link, app: AppId) -> list[CoverageDay]:
    """Return what each day changed, the oldest first."""
    return [CoverageDay(*row) for row in await link.fetch(_COVERAGE, app)]


async def shared(link: Link, app: AppId, after: tuple[int, str] | None, limit: int) -> list[Shared]:
    """Return identifiers that stand on several profiles, in the order of kind and value."""
    kind, value = after or (-1, "")
    return [Shared(*row) for row in await link.fetch(_SHARED, app, kind, value, limit)]


async def count_shared(link: Link, app: AppId) -> dict[int, int]:
    """Return how many identifiers of each kind stand on several profiles."""
    return dict(await link.fetch(_COUNT_SHARED, app))


async def is_at_home(link: Link) -> bool:
    """Tell whether the feed was named where it is, and its numbers are all of the past."""
    return bool((await link.fetch(_IS_AT_HOME))[0][0])


async def settle(link: Link) -> None:
    """Give the feed a new name here, and have its numbers go on from those that it has."""
    await link.fetch(_SETTLE, secrets.token_hex(6))


def place_of(cursor: str) -> tuple[int, str, int]:
    """Return the place that a cursor has, whichever feed it is of. Raises CursorExpired."""
    return _parsed(cursor)[1]


def cursor_of(name: str, tx: int, profile_id: Any, revision: int) -> str:  # noqa: ANN401 - asyncpg's own UUID
    """Return the cursor of a place in the feed of this name."""
    return _Place(tx, profile_id.hex, revision).cursor(name)


def _parsed(cursor: str) -> tuple[str, _Place]:
    parts = _CURSOR.fullmatch(cursor)
    if parts is None:
        raise CursorExpired
    name, tx, profile, revision = parts.groups()
    return name, _Place(int(tx), profile, int(revision))


def _place(row: Row) -> _Place:
    tx, profile_id, revision, *_ = row
    return _Place(tx, profile_id.hex, revision)


def to_change(name: str, row: Iterable[Any], rest: _Place | None = None) -> Change:
    """Return the change in a row; one that was not told yet has the place `rest` at most."""
    tx, profile_id, revision, *others = row
    place = _Place(tx, profile_id.hex, revision)
    cursor = (place if rest is None else min(place, rest)).cursor(name)
    return rows.to_change(cursor, ProfileId(str(profile_id)), revision, *others)
