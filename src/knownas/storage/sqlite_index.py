"""The reverse index, and what is counted of identifiers that several profiles have."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final

import apsw

from knownas.model import AppId
from knownas.storage import rows

_INSERT_IDENTIFIERS: Final = """
INSERT INTO identifiers (app_id, kind, value, profile)
SELECT ?1, ?2, key, value FROM json_each(?3) ORDER BY key
"""
_DELETE_IDENTIFIERS: Final = """
DELETE FROM identifiers WHERE app_id = ?1 AND kind = ?2
  AND (value, profile) IN (SELECT key, value FROM json_each(?3))
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

Differing = Iterable[tuple[int, str | None, str | None]]
"""What a change does to identifiers: kind number, old value, new value."""


def add_moves(moves: Moves, at: int, number: int, differing: Differing) -> Moves:
    """Add what a profile loses and gets by the change that is the `at`th of several."""
    for kind, lost, gained in differing:
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
        of_kind = moves[kind]
        if len(of_kind) > _FEW:
            of_kind = _index_lone(connection, app, kind, of_kind)
        for value, at, number, gets in sorted(of_kind):
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
    got = {value: number for value, _, number, gets in moves if gets}
    lost = {value: number for value, _, number, gets in moves if not gets}
    others: set[str] = set()
    if len(got) + len(lost) < len(moves) or got.keys() & lost.keys():
        counts = Counter([move[0] for move in moves])
        others = {value for value, times in counts.items() if times > 1}
    others |= _do_lone(connection, (_SHARED, _DELETE_IDENTIFIERS), (app, kind), lost, others)
    others |= _do_lone(connection, (_HELD, _INSERT_IDENTIFIERS), (app, kind), got, others)
    return [move for move in moves if move[0] in others] if others else []


def _do_lone(
    connection: apsw.Connection,
    statements: tuple[str, str],
    key: tuple[AppId, int],
    moves: Mapping[str, int],
    others: set[str],
) -> set[str]:
    """Write moves of values that are not among the `others`, nor found by the first statement.

    Return those that are found. To bring them as one text takes a third of the time of a statement
    for each.
    """
    finds, writes = statements
    lone = moves
    if others:
        lone = {value: number for value, number in moves.items() if value not in others}
    if not lone:
        return set()
    text = rows.as_json(lone)
    found = {value for (value,) in connection.execute(finds, (*key, text))}
    if found:
        text = rows.as_json({value: lone[value] for value in lone if value not in found})
    connection.execute(writes, (*key, text))
    return found


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
