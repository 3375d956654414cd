"""The history, the feed and what is counted of an app: functions on a connection.

The writing ones run inside the transaction that changes a profile.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from operator import itemgetter
from typing import Final, NamedTuple

import apsw
import msgspec

from knownas.editing import TakenBack
from knownas.errors import CursorExpired
from knownas.history import (
    DAY_MS,
    Change,
    ChangesPage,
    CoverageDay,
    Difference,
    Shared,
    Source,
    counts_of,
    coverage_of,
    difference,
)
from knownas.model import AppId, Profile, ProfileId
from knownas.storage import rows
from knownas.storage.sqlite_ids import to_blob, to_profile_id

_INSERT: Final = """
INSERT INTO changes (app_id, profile_id, revision, at, source, difference, about)
VALUES (?, ?, ?, ?, ?, ?, ?)
"""
_LAST_REVISION: Final = "SELECT max(revision) FROM changes WHERE app_id = ? AND profile_id = ?"
_LAST_REVISIONS: Final = """
SELECT c.profile_id, max(c.revision) FROM json_each(?2) k
CROSS JOIN changes c ON c.app_id = ?1 AND c.profile_id = unhex(k.value, '-')
GROUP BY c.profile_id
"""
_COUNT: Final = """
INSERT INTO coverage VALUES (?, ?, ?, ?)
ON CONFLICT (app_id, day, kind) DO UPDATE SET change = change + excluded.change
"""
_COLUMNS: Final = "profile_id, revision, at, source, difference"
_HISTORY: Final = f"""
SELECT position, {_COLUMNS} FROM changes
WHERE app_id = ? AND profile_id = ? AND revision < ? ORDER BY revision DESC LIMIT ?
"""  # noqa: S608 - the columns are a constant
_CHANGES: Final = f"""
SELECT position, {_COLUMNS} FROM changes INDEXED BY changes_by_app
WHERE app_id = ? AND position > ? ORDER BY position LIMIT ?
"""  # noqa: S608 - the columns are a constant
_FEED: Final = "SELECT name, pruned FROM feed"
_END: Final = "SELECT coalesce(max(position), 0) FROM changes"
_OLD: Final = """
SELECT max(position) FROM (
  SELECT position, at FROM changes ORDER BY position LIMIT ?) WHERE at < ?
"""
_GO_PAST: Final = """
UPDATE webhooks SET position = ?1, lost_at = iif(EXISTS (
  SELECT 1 FROM changes c INDEXED BY changes_by_app
  WHERE c.app_id = webhooks.app_id AND c.position > webhooks.position AND c.position <= ?1
), ?2, lost_at)
WHERE position < ?1
"""
_PRUNE: Final = "DELETE FROM changes WHERE position <= ?"
_PRUNED: Final = "UPDATE feed SET pruned = max(pruned, ?)"
_RENAME: Final = "UPDATE feed SET name = lower(hex(randomblob(6)))"
_COVERAGE: Final = "SELECT day, kind, change FROM coverage WHERE app_id = ? ORDER BY day, kind"
_SHARED: Final = """
SELECT kind, value, profiles FROM shared_identifiers
WHERE app_id = ?1 AND (kind, value) > (?2, ?3) ORDER BY kind, value LIMIT ?4
"""
_COUNT_SHARED: Final = """
SELECT kind, count(*) FROM shared_identifiers WHERE app_id = ? GROUP BY kind ORDER BY kind
"""
MAX_REVISION: Final = 2**62
_FEW: Final = 100
"""Changes that are written as they come: more of them are quicker in the order of an index."""


class Entry(NamedTuple):
    """A change of one profile, as it will be noted."""

    profile_id: ProfileId
    revision: int
    at: int
    differs: Difference
    about: str | None

    def with_shared(self, kinds: tuple[int, ...]) -> "Entry":
        """Return it with the kinds of whose new values others had the same."""
        return self._replace(differs=msgspec.structs.replace(self.differs, shared=kinds))


def entry(
    before: Profile | None, after: Profile | None, at: int, undoes: TakenBack | None = None
) -> Entry:
    """Return the change that leads from one state of a profile to another; one of them is there."""
    known = after or before
    if known is None:
        raise ValueError("A change has a profile before it, after it, or both.")
    return Entry(
        known.profile_id,
        after.revision if after else known.revision + 1,
        at,
        difference(before, after, takes_back=undoes.revision if undoes else 0),
        rows.about(before, after, undoes),
    )


def next_revision(connection: apsw.Connection, app: AppId, profile_id: ProfileId) -> int:
    """Return the revision with which a profile of this id begins: 1, or after its last one."""
    last: int | None = connection.execute(_LAST_REVISION, (app, to_blob(profile_id))).get
    return (last or 0) + 1


def last_revisions(
    connection: apsw.Connection, app: AppId, ids: Sequence[ProfileId]
) -> dict[ProfileId, int]:
    """Return the last revision of each id, 0 for one that never had a profile."""
    last = dict.fromkeys(ids, 0)
    if ids:
        found = connection.execute(_LAST_REVISIONS, (app, rows.as_json(ids)))
        last |= {to_profile_id(blob): revision for blob, revision in found}
    return last


def note(connection: apsw.Connection, app: AppId, entries: Iterable[Entry], by: Source) -> None:
    """Write what changed into the history, and count it."""
    source = by.text()
    counts: dict[int, list[tuple[int, int]]] = {}
    noted = []
    for profile_id, revision, at, differs, about in entries:
        text = rows.from_difference(differs)
        noted.append((app, to_blob(profile_id), revision, at, source, text, about))
        counts.setdefault(at // DAY_MS, []).extend(counts_of(differs))
    if len(noted) > _FEW:
        noted.sort(key=itemgetter(1))  # those of one profile stay in their order
    connection.executemany(_INSERT, noted)
    counted: Counter[tuple[int, int]] = Counter()
    for day, of_day in counts.items():
        for (kind, change), times in Counter(of_day).items():
            counted[day, kind] += change * times
    _count(connection, app, counted)


def note_erasure(
    connection: apsw.Connection, app: AppId, erasure_id: ProfileId, at: int, by: Source
) -> None:
    """Tell followers that a person was erased, and not who."""
    revision = next_revision(connection, app, erasure_id)
    text = rows.from_difference(Difference(erased=True))
    connection.execute(_INSERT, (app, to_blob(erasure_id), revision, at, by.text(), text, None))


def uncount(connection: apsw.Connection, app: AppId, gone: Profile, at: int) -> None:
    """Count a profile as one less, of which no entry tells."""
    counted = Counter({(at // DAY_MS, kind): change for kind, change in coverage_of(gone, None)})
    _count(connection, app, counted)


def _count(connection: apsw.Connection, app: AppId, counted: Counter[tuple[int, int]]) -> None:
    for (day, kind), change in counted.items():
        if change:
            connection.execute(_COUNT, (app, day, kind, change))


def history(
    connection: apsw.Connection, app: AppId, profile_id: ProfileId, before: int | None, limit: int
) -> list[Change]:
    """Return the changes of a profile before a revision, the newest first."""
    name, _ = _feed(connection)
    below = MAX_REVISION if before is None else before
    values = (app, to_blob(profile_id), below, limit)
    return [_to_change(name, *row) for row in connection.execute(_HISTORY, values)]


def change(
    connection: apsw.Connection, app: AppId, profile_id: ProfileId, revision: int
) -> Change | None:
    """Return what made a revision of a profile, if the history still has it."""
    found = history(connection, app, profile_id, revision + 1, 1)
    return found[0] if found and found[0].revision == revision else None


def changes(connection: apsw.Connection, app: AppId, cursor: str | None, limit: int) -> ChangesPage:
    """Return the changes after a cursor, the oldest first."""
    with connection:  # one snapshot, lest it is pruned between two statements
        name, pruned = _feed(connection)
        position = 0 if cursor is None else _position(cursor, name)
        if cursor is not None and position < pruned:
            raise CursorExpired
        end_now = end(connection)
        values = (app, position, limit)
        found = [_to_change(name, *row) for row in connection.execute(_CHANGES, values)]
    # Past the changes of other apps, lest a cursor that rests expires.
    return ChangesPage(found, found[-1].cursor if len(found) == limit else end_now)


def end(connection: apsw.Connection) -> str:
    """Return the cursor after which comes what is not written yet."""
    name, pruned = _feed(connection)
    return f"{name}-{max(pruned, connection.execute(_END).get)}"


def prune(connection: apsw.Connection, before: int, limit: int, now: int) -> int:
    """Delete at most `limit` of the oldest changes, none that is not older, and count them.

    A webhook that had not come so far goes on behind them, and has it noted if it missed any.
    """
    last = connection.execute(_OLD, (limit, before)).get
    if last is None:
        return 0
    connection.execute(_GO_PAST, (last, now))
    connection.execute(_PRUNE, (last,))
    pruned = connection.changes()
    connection.execute(_PRUNED, (last,))
    return pruned


def rename(connection: apsw.Connection) -> None:
    """Make all cursors that were given so far those of another feed."""
    connection.execute(_RENAME)


def cursors(connection: apsw.Connection) -> Callable[[int], str]:
    """Return what makes a cursor of a position that a row has."""
    name, _ = _feed(connection)
    return lambda position: f"{name}-{position}"


def position_of(connection: apsw.Connection, cursor: str) -> int:
    """Return the position that a cursor of this feed has. Raises CursorExpired for another's."""
    name, _ = _feed(connection)
    return _position(cursor, name)


def coverage(connection: apsw.Connection, app: AppId) -> list[CoverageDay]:
    """Return what each day changed, the oldest first."""
    return [CoverageDay(*row) for row in connection.execute(_COVERAGE, (app,))]


def shared(
    connection: apsw.Connection, app: AppId, after: tuple[int, str] | None, limit: int
) -> list[Shared]:
    """Return identifiers that stand on several profiles, in the order of kind and value."""
    kind, value = after or (-1, "")
    return [Shared(*row) for row in connection.execute(_SHARED, (app, kind, value, limit))]


def count_shared(connection: apsw.Connection, app: AppId) -> dict[int, int]:
    """Return how many identifiers of each kind stand on several profiles."""
    return dict(connection.execute(_COUNT_SHARED, (app,)))


def _feed(connection: apsw.Connection) -> tuple[str, int]:
    [feed] = connection.execute(_FEED)
    name, pruned = feed
    return name, pruned


def _position(cursor: str, name: str) -> int:
    of, _, position = cursor.partition("-")
    if of != name or not position.isdecimal() or not position.isascii():
        raise CursorExpired
    return min(int(position[:18]), MAX_REVISION)


def _to_change(  # noqa: PLR0913, PLR0917 - the columns of a row
    name: str, position: int, blob: bytes, revision: int, at: int, source: str, text: str
) -> Change:
    return rows.to_change(f"{name}-{position}", to_profile_id(blob), revision, at, source, text)
