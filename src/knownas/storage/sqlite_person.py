"""A person in all tables: found, and taken out. Functions on a connection, in one transaction."""

from collections.abc import Iterable
from typing import Any, Final

import apsw

from knownas.erasing import (
    Gathering,
    Person,
    Trace,
    Whom,
    customer_name,
    profile_name,
    stand_in,
    without_person,
)
from knownas.errors import IdentifierShared, ProfileNotFound
from knownas.history import Change, Difference
from knownas.lookups import Sought
from knownas.model import AppId, Profile, ProfileId, ProfileRef
from knownas.storage import rows, sqlite_aliases, sqlite_changes, sqlite_profiles
from knownas.storage.sqlite_changes import MAX_REVISION
from knownas.storage.sqlite_ids import to_blob, to_profile_id

_LEADING_TO: Final = "SELECT name FROM aliases WHERE app_id = ? AND profile_id = ? ORDER BY name"
_LAST_ABOUT: Final = """
SELECT profile_id FROM changes WHERE app_id = ? AND about = ? ORDER BY position DESC LIMIT 1
"""
_ABOUT: Final = """
SELECT profile_id, revision, difference FROM changes
WHERE app_id = ? AND about = ? ORDER BY position
"""
_UNMARK: Final = "UPDATE changes SET about = NULL WHERE app_id = ? AND about = ?"
_REWRITE: Final = """
UPDATE changes SET difference = ? WHERE app_id = ? AND profile_id = ? AND revision = ?
"""
_FORGET_CHANGES: Final = "DELETE FROM changes WHERE app_id = ? AND profile_id = ?"
_FORGET_ANSWERS: Final = "DELETE FROM answers WHERE app_id = ? AND instr(answer, ?)"


def find(connection: apsw.Connection, app: AppId, whom: Whom) -> Person:
    """Return all that there is of a person.

    Raises ProfileNotFound, and IdentifierShared where a value leads to several profiles.
    """
    profile = _living(connection, app, whom)
    found = Gathering(profile)
    todo = [] if profile is None else [profile.profile_id]
    if profile is None and whom.ref is not None:
        todo = [one for one in _dead(connection, app, whom.ref) if found.add_id(one)]
    if not todo:
        raise ProfileNotFound
    named: set[str] = set()
    while todo or (todo := _led_here(connection, app, found, named)):
        profile_id = todo.pop()
        for name in _leading_to(connection, app, profile_id):
            if name.startswith("c:"):
                found.add_customer(name[2:])
            elif found.add_id(ProfileId(name[2:])):
                todo.append(ProfileId(name[2:]))
        for change in _history(connection, app, profile_id):
            named.update(found.add_change(change))
    return found.person()


def take_out(connection: apsw.Connection, app: AppId, person: Person, now: int) -> None:
    """Delete a person from all tables."""
    for trace in _traces(connection, app, person):
        _clean(connection, app, person, trace)
    if person.profile is not None:
        number = sqlite_profiles.number_of(connection, app, person.profile.profile_id)
        sqlite_profiles.take_out(connection, app, number, person.profile)
        sqlite_changes.uncount(connection, app, person.profile, now)
    for profile_id in person.profile_ids:
        connection.execute(_FORGET_CHANGES, (app, to_blob(profile_id)))
        connection.execute(_FORGET_ANSWERS, (app, profile_id))
    for name in person.names:
        sqlite_aliases.put(connection, app, name, None)
        connection.execute(_UNMARK, (app, name))


# --- who it is ------------------------------------------------------------------------------------


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


def _dead(connection: apsw.Connection, app: AppId, ref: ProfileRef) -> list[ProfileId]:
    """Return the deleted profiles that a reference led to, as the history has them."""
    if ref.profile_id is not None:
        last = _end(connection, app, profile_name(ref.profile_id)) or ref.profile_id
        newest = sqlite_changes.history(connection, app, ref.profile_id, None, 1)
        return [last] if newest and newest[0].action != "erased" else []
    if ref.customer_user_id is None:
        return []
    name = customer_name(ref.customer_user_id)
    last_of_all = _end(connection, app, name)
    ended = _ended_as(connection, app, name)
    return ended if last_of_all is None else [last_of_all, *ended]


def _led_here(
    connection: apsw.Connection, app: AppId, found: Gathering, named: Iterable[str]
) -> list[ProfileId]:
    """Note the customers that lead to nobody else, and return what of them was deleted."""
    new = []
    for customer in {*found.customers, *named}:
        if _last_with(connection, app, customer) in found.profile_ids:
            found.add_customer(customer)
            ended = _ended_as(connection, app, customer_name(customer))
            new += [one for one in ended if found.add_id(one)]
    return new


def _last_with(connection: apsw.Connection, app: AppId, customer: str) -> ProfileId | None:
    """Return the profile that has a customer, or that had it last."""
    name = customer_name(customer)
    by_customer, _ = sqlite_profiles.look_up(connection, app, ProfileRef(customer))
    if by_customer is not None:
        return by_customer[1].profile_id
    last = _end(connection, app, name)
    if last is not None:
        return last
    blob = connection.execute(_LAST_ABOUT, (app, name)).get
    return None if blob is None else to_profile_id(blob)


def _ended_as(connection: apsw.Connection, app: AppId, name: str) -> list[ProfileId]:
    """Return the profiles that were deleted, and not merged, while they had a customer."""
    ended = []
    for profile_id, _, differs in _about(connection, app, name):
        is_end = differs.created_at is not None and differs.created_at[1] is None
        lives_on = sqlite_profiles.look_up(connection, app, ProfileRef(profile_id=profile_id))[1]
        if is_end and lives_on is None:
            ended.append(_end(connection, app, profile_name(profile_id)) or profile_id)
    return ended


def _end(connection: apsw.Connection, app: AppId, name: str) -> ProfileId | None:
    """Return where an alias leads in the end, be it to a profile that was deleted since."""
    last = None
    while alias := sqlite_aliases.find(connection, app, name):
        last = alias.profile_id
        name = profile_name(last)
    return last


def _leading_to(connection: apsw.Connection, app: AppId, profile_id: ProfileId) -> list[str]:
    key = (app, to_blob(profile_id))
    return [row[0] for row in connection.execute(_LEADING_TO, key)]


def _history(connection: apsw.Connection, app: AppId, profile_id: ProfileId) -> list[Change]:
    return sqlite_changes.history(connection, app, profile_id, None, MAX_REVISION)


def _about(
    connection: apsw.Connection, app: AppId, name: str
) -> list[tuple[ProfileId, int, Difference]]:
    """Return where histories tell of a name: of which profile, and by which change."""
    found: list[tuple[Any, ...]] = connection.execute(_ABOUT, (app, name)).fetchall()
    return [
        (to_profile_id(blob), revision, rows.to_difference(text)) for blob, revision, text in found
    ]


# --- what others' histories have of it ------------------------------------------------------------


def _traces(connection: apsw.Connection, app: AppId, person: Person) -> list[Trace]:
    """Return the parts of others' histories that tell of a person.

    Who had a merged profile in it may have been merged itself meanwhile, and taken back out.
    """
    found: list[Trace] = []
    names = person.names
    for name in names:
        for profile_id, revision, differs in _about(connection, app, name):
            if profile_id in person.profile_ids:
                continue
            found.append(Trace(name, profile_id, differs.takes_back or 1, revision))
            other = profile_name(profile_id)
            if name.startswith("p:") and other not in names:
                names.append(other)
    return found


def _clean(connection: apsw.Connection, app: AppId, person: Person, trace: Trace) -> None:
    """Put into a part of another's history what stands for a person's values."""
    history = sqlite_changes.history(
        connection, app, trace.profile_id, trace.last + 1, trace.last - trace.first + 1
    )
    merge = history[-1] if history and history[-1].revision == trace.first else None
    stand = stand_in(person, trace, merge)
    for change in history:
        cleaned = without_person(change.difference, stand)
        if change.revision >= trace.first and cleaned != change.difference:
            values = (app, to_blob(trace.profile_id), change.revision)
            connection.execute(_REWRITE, (rows.from_difference(cleaned), *values))
