"""The reverse index, and what is counted of identifiers that several profiles have."""

from collections import Counter
from collections.abc import Iterator
from typing import Final

import apsw

from knownas.history import differing
from knownas.model import NO_IDENTIFIERS, AppId, Profile
from knownas.storage import rows

_INSERT_IDENTIFIER: Final = """
INSERT INTO identifiers (app_id, kind, value, profile) VALUES (?, ?, ?, ?)
"""
_DELETE_IDENTIFIER: Final = """
DELETE FROM identifiers WHERE app_id = ? AND kind = ? AND value = ? AND profile = ?
"""
_HELD_ALREADY: Final = """
SELECT 1 FROM identifiers WHERE app_id = ? AND kind = ? AND value = ? LIMIT 1
"""
_SHARED_BY_ONE_MORE: Final = """
INSERT INTO shared_identifiers VALUES (?, ?, ?, 2)
ON CONFLICT (app_id, kind, value) DO UPDATE SET profiles = profiles + 1
"""
_SHARED_NO_MORE: Final = """
DELETE FROM shared_identifiers WHERE app_id = ? AND kind = ? AND value = ? AND profiles = 2
"""
_SHARED_BY_ONE_LESS: Final = """
UPDATE shared_identifiers SET profiles = profiles - 1
WHERE app_id = ? AND kind = ? AND value = ?
"""
_HELD: Final = """
SELECT k.key FROM json_each(?3) k
WHERE EXISTS (SELECT 1 FROM identifiers i WHERE i.app_id = ?1 AND i.kind = ?2 AND i.value = k.value)
"""
_SHARED: Final = """
SELECT k.key FROM json_each(?3) k WHERE EXISTS (
  SELECT 1 FROM shared_identifiers s WHERE s.app_id = ?1 AND s.kind = ?2 AND s.value = k.value)
"""
_FEW: Final = 100
"""Moves that are done one by one: to look for many at once begins to pay there."""

Move = tuple[int, str, int, int, bool]
"""What a profile loses or gets: kind, value, which change, the row's number, whether it gets it."""


def moves(at: int, number: int, before: Profile | None, after: Profile | None) -> list[Move]:
    """Return what a profile loses and gets by the change that is the `at`th of several."""
    old = before.identifiers if before else NO_IDENTIFIERS
    new = after.identifiers if after else NO_IDENTIFIERS
    found: list[Move] = []
    for kind, lost, gained in differing(old, new):
        if lost is not None:
            found.append((kind, lost, at, number, False))
        if gained is not None:
            found.append((kind, gained, at, number, True))
    return found


def index(connection: apsw.Connection, app: AppId, moved: list[Move]) -> dict[int, tuple[int, ...]]:
    """Bring the reverse index up to date; return by change the kinds of which others had the value.

    It is done in the index's own order, so that each of its pages is written once. What concerns
    one value is done in the order of the changes, so the outcome is as if each were done by itself.
    """
    shared: dict[int, tuple[int, ...]] = {}
    moved = sorted(moved)
    if len(moved) > _FEW:
        moved = _index_lone(connection, app, moved)
    for kind, value, at, number, gets in moved:
        key = (app, kind, value)
        if not gets:
            _leave(connection, key, number)
        elif _enter(connection, key, number):
            shared[at] = (*shared.get(at, ()), kind)
    return shared


def _index_lone(connection: apsw.Connection, app: AppId, moved: list[Move]) -> list[Move]:
    """Do what concerns values that no other profile has or gets, and return the rest."""
    alone = Counter((kind, value) for kind, value, *_ in moved)
    got = [move for move in moved if move[4] and alone[move[:2]] == 1]
    lost = [move for move in moved if not move[4] and alone[move[:2]] == 1]
    beside = _found(connection, _HELD, app, got) | _found(connection, _SHARED, app, lost)
    connection.executemany(_DELETE_IDENTIFIER, _keys(app, lost, beside))
    connection.executemany(_INSERT_IDENTIFIER, _keys(app, got, beside))
    return [move for move in moved if move in beside or alone[move[:2]] > 1]


def _keys(
    app: AppId, moved: list[Move], beside: set[Move]
) -> Iterator[tuple[AppId, int, str, int]]:
    return ((app, *move[:2], move[3]) for move in moved if move not in beside)


def _found(connection: apsw.Connection, statement: str, app: AppId, moved: list[Move]) -> set[Move]:
    """Return the moves of which a statement finds the value, asked once for each kind."""
    by_kind: dict[int, list[Move]] = {}
    for move in moved:
        by_kind.setdefault(move[0], []).append(move)
    return {
        of_kind[at]
        for kind, of_kind in by_kind.items()
        for (at,) in connection.execute(
            statement, (app, kind, rows.as_json([move[1] for move in of_kind]))
        )
    }


def _leave(connection: apsw.Connection, key: tuple[AppId, int, str], number: int) -> None:
    """Take an identifier out of the reverse index."""
    connection.execute(_DELETE_IDENTIFIER, (*key, number))
    connection.execute(_SHARED_NO_MORE, key)
    if connection.changes() == 0:
        connection.execute(_SHARED_BY_ONE_LESS, key)


def _enter(connection: apsw.Connection, key: tuple[AppId, int, str], number: int) -> bool:
    """Write an identifier into the reverse index, and return whether another profile has it."""
    held_already = connection.execute(_HELD_ALREADY, key).get is not None
    connection.execute(_INSERT_IDENTIFIER, (*key, number))
    if held_already:
        connection.execute(_SHARED_BY_ONE_MORE, key)
    return held_already
