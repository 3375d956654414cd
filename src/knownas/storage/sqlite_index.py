"""The reverse index, and what is counted of identifiers that several profiles have."""

from collections import Counter
from typing import Final

import apsw

from knownas.history import differing
from knownas.model import NO_IDENTIFIERS, AppId, Profile
from knownas.storage import rows

_INSERT_IDENTIFIERS: Final = """
INSERT INTO identifiers (app_id, kind, value, profile)
SELECT ?1, ?2, key, value FROM json_each(?3)
"""
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

Move = tuple[str, int, int, bool]
"""What a profile loses or gets: value, which change, the row's number, whether it gets it."""

Moves = dict[int, list[Move]]
"""By kind."""


def add_moves(
    moves: Moves, at: int, number: int, before: Profile | None, after: Profile | None
) -> Moves:
    """Add what a profile loses and gets by the change that is the `at`th of several."""
    old = before.identifiers if before else NO_IDENTIFIERS
    new = after.identifiers if after else NO_IDENTIFIERS
    for kind, lost, gained in differing(old, new):
        of_kind = moves.setdefault(kind, [])
        if lost is not None:
            of_kind.append((lost, at, number, False))
        if gained is not None:
            of_kind.append((gained, at, number, True))
    return moves


def index(connection: apsw.Connection, app: AppId, moves: Moves) -> dict[int, tuple[int, ...]]:
    """Bring the reverse index up to date; return by change the kinds of which others had the value.

    It is done in the index's own order, so that each of its pages is written once. What concerns
    one value is done in the order of the changes, so the outcome is as if each were done by itself.
    """
    shared: dict[int, tuple[int, ...]] = {}
    for kind in sorted(moves):
        of_kind = sorted(moves[kind])
        if len(of_kind) > _FEW:
            of_kind = _index_lone(connection, app, kind, of_kind)
        for value, at, number, gets in of_kind:
            key = (app, kind, value)
            if not gets:
                _leave(connection, key, number)
            elif _enter(connection, key, number):
                shared[at] = (*shared.get(at, ()), kind)
    return shared


def _index_lone(
    connection: apsw.Connection, app: AppId, kind: int, moves: list[Move]
) -> list[Move]:
    """Do what concerns values that no other profile has or gets, and return the rest."""
    counts = Counter([move[0] for move in moves])
    lone = moves
    if len(counts) < len(moves):
        lone = [move for move in moves if counts[move[0]] == 1]
    got, lost = [move for move in lone if move[3]], [move for move in lone if not move[3]]
    beside = _found(connection, _HELD, app, kind, got)
    beside |= _found(connection, _SHARED, app, kind, lost)
    connection.executemany(
        _DELETE_IDENTIFIER,
        [(app, kind, value, number) for value, _, number, _ in lost if value not in beside],
    )
    brought = {value: number for value, _, number, _ in got if value not in beside}
    if brought:
        connection.execute(_INSERT_IDENTIFIERS, (app, kind, rows.as_json(brought)))
    if lone is moves and not beside:
        return []
    return [move for move in moves if move[0] in beside or counts[move[0]] > 1]


def _found(
    connection: apsw.Connection, statement: str, app: AppId, kind: int, moves: list[Move]
) -> set[str]:
    """Return the values that a statement finds."""
    if not moves:
        return set()
    values = [move[0] for move in moves]
    found = connection.execute(statement, (app, kind, rows.as_json(values)))
    return {values[at] for (at,) in found}


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
