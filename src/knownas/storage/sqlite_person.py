"""A person in all tables: found, and taken out. Functions on a connection, in one transaction."""

from collections.abc import Generator, Iterable
from typing import Any, Final, TypeVar

import apsw

from knownas import persons
from knownas.erasing import Person, Whom, profile_name
from knownas.errors import IdentifierShared
from knownas.history import Change
from knownas.lookups import Sought
from knownas.model import AppId, Profile, ProfileId, ProfileRef
from knownas.persons import End, Ends, Histories, LeadingTo, Mention, Mentions, Question
from knownas.storage import (
    rows,
    sqlite_aliases,
    sqlite_changes,
    sqlite_inbound,
    sqlite_operators,
    sqlite_profiles,
)
from knownas.storage.sqlite_changes import MAX_REVISION
from knownas.storage.sqlite_ids import to_blob, to_profile_id

T = TypeVar("T")

_LEADING_TO: Final = "SELECT name FROM aliases WHERE app_id = ? AND profile_id = ? ORDER BY name"
_MENTIONS: Final = """
SELECT about, profile_id, revision, difference FROM changes
WHERE app_id = ? AND about IN (SELECT value FROM json_each(?)) ORDER BY position
"""
_UNMARK: Final = "UPDATE changes SET about = NULL WHERE app_id = ? AND about = ?"
_REWRITE: Final = """
UPDATE changes SET difference = ? WHERE app_id = ? AND profile_id = ? AND revision = ?
"""
_FORGET_CHANGES: Final = "DELETE FROM changes WHERE app_id = ? AND profile_id = ?"
_FORGET_DELIVERIES: Final = """
DELETE FROM deliveries WHERE app_id = ?1
  AND webhook_id IN (SELECT id FROM webhooks WHERE app_id = ?1) AND profile_id = ?2
"""
_FORGET_DIFFERENCES: Final = "DELETE FROM shadow_differences WHERE app_id = ? AND profile_id = ?"
_FORGET_ANSWERS: Final = "DELETE FROM answers WHERE app_id = ? AND instr(answer, ?)"


def find(connection: apsw.Connection, app: AppId, whom: Whom) -> Person:
    """Return all that there is of a person.

    Raises ProfileNotFound, and IdentifierShared where a value leads to several profiles.
    """
    finding = persons.find(_living(connection, app, whom), whom.ref)
    return _answered(connection, app, finding)


def take_out(connection: apsw.Connection, app: AppId, person: Person, now: int) -> None:
    """Delete a person from all tables."""
    for one in _answered(connection, app, persons.rewrites(person)):
        place = (app, to_blob(one.profile_id), one.revision)
        connection.execute(_REWRITE, (rows.from_difference(one.difference), *place))
    if person.profile is not None:
        number = sqlite_profiles.number_of(connection, app, person.profile.profile_id)
        sqlite_profiles.take_out(connection, app, number, person.profile)
        sqlite_changes.uncount(connection, app, person.profile, now)
    for profile_id in person.profile_ids:
        connection.execute(_FORGET_CHANGES, (app, to_blob(profile_id)))
        connection.execute(_FORGET_DELIVERIES, (app, to_blob(profile_id)))
        connection.execute(_FORGET_DIFFERENCES, (app, to_blob(profile_id)))
        connection.execute(_FORGET_ANSWERS, (app, profile_id))
    sqlite_inbound.forget(connection, app, person.words)
    sqlite_operators.forget(connection, app, person.profile_ids)
    for name in person.names:
        sqlite_aliases.put(connection, app, name, None)
        connection.execute(_UNMARK, (app, name))


def _living(connection: apsw.Connection, app: AppId, whom: Whom) -> Profile | None:
    if whom.ref is None:
        # One profile may have the value as each of the kinds.
        sought = Sought(whom.kinds, whom.value, len(whom.kinds) + 1)
        holders = {
            holder.profile.profile_id: holder.profile
            for holder in sqlite_profiles.holders(connection, app, sought).found
        }
        if len(holders) > 1:
            raise IdentifierShared
        return next(iter(holders.values()), None)
    by_customer, by_id = sqlite_profiles.look_up(connection, app, whom.ref)
    if by_customer is None and by_id is None:
        return None
    return whom.ref.settle(by_customer and by_customer[1], by_id and by_id[1])


# --- what is looked up ----------------------------------------------------------------------------


def _answered(connection: apsw.Connection, app: AppId, asking: Generator[Question, Any, T]) -> T:
    """Look up what is asked, until that comes to an end."""
    found: Any = None
    while True:
        try:
            question = asking.send(found)
        except StopIteration as end:
            result: T = end.value
            return result
        found = _found(connection, app, question)


def _found(connection: apsw.Connection, app: AppId, question: Question) -> Any:  # noqa: ANN401 - as the question says
    match question:
        case LeadingTo(ids):
            return [name for one in ids for name in _leading_to(connection, app, one)]
        case Histories(ids):
            return [change for one in ids for change in _history(connection, app, one)]
        case Mentions(names):
            return list(_mentions(connection, app, names))
        case Ends(names):
            ends = {name: _end(connection, app, name) for name in names}
            return {name: end for name, end in ends.items() if end is not None}


def _leading_to(connection: apsw.Connection, app: AppId, profile_id: ProfileId) -> list[str]:
    key = (app, to_blob(profile_id))
    return [row[0] for row in connection.execute(_LEADING_TO, key)]


def _history(connection: apsw.Connection, app: AppId, profile_id: ProfileId) -> list[Change]:
    return sqlite_changes.history(connection, app, profile_id, None, MAX_REVISION)[::-1]


def _mentions(connection: apsw.Connection, app: AppId, names: Iterable[str]) -> Iterable[Mention]:
    found: list[tuple[Any, ...]] = connection.execute(
        _MENTIONS, (app, rows.as_json(list(names)))
    ).fetchall()
    for name, blob, revision, text in found:
        yield Mention(name, to_profile_id(blob), revision, rows.to_difference(text))


def _end(connection: apsw.Connection, app: AppId, name: str) -> End | None:
    ref = (
        ProfileRef(name[2:])
        if name.startswith("c:")
        else ProfileRef(profile_id=ProfileId(name[2:]))
    )
    living = sqlite_profiles.look_up(connection, app, ref)
    for found in living:
        if found is not None:
            return End(found[1].profile_id, lives=True)
    last = None
    while alias := sqlite_aliases.find(connection, app, name):
        last = alias.profile_id
        name = profile_name(last)
    return None if last is None else End(last, lives=False)
