"""A profile in its tables: functions on a connection, inside the caller's transaction."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

import apsw
import msgspec

from knownas.editing import TakenBack, alias_names
from knownas.errors import KnownasError, ProfileNotFound
from knownas.history import Source, differing
from knownas.lookups import Holder, Holders, Place, Sought
from knownas.model import (
    NO_IDENTIFIERS,
    AppId,
    Identifiers,
    Profile,
    ProfileId,
    ProfileRef,
)
from knownas.storage import rows, sqlite_aliases
from knownas.storage.rows import to_identifiers
from knownas.storage.sqlite_changes import Entry, entry, next_revision, note
from knownas.storage.sqlite_ids import to_blob, to_profile_id
from knownas.storage.sqlite_index import Moves, add_moves, index
from knownas.storage.sqlite_many import DELETE_CUSTOMER, UPDATE_PROFILE
from knownas.storage.sqlite_tombstones import Gate

_IDENTIFIERS_BY_CUSTOMER: Final = """
SELECT p.identifiers FROM customers c CROSS JOIN profiles p ON p.number = c.profile
WHERE c.app_id = ? AND c.customer_user_id = ?
"""
_IDENTIFIERS_BY_PROFILE: Final = """
SELECT identifiers FROM profiles WHERE app_id = ? AND profile_id = ?
"""
_PROFILE_COLUMNS: Final = (
    "p.number, p.profile_id, p.customer_user_id, p.identifiers, p.attributes,"
    " p.created_at, p.updated_at, p.revision"
)
_PROFILE_BY_CUSTOMER: Final = f"""
SELECT {_PROFILE_COLUMNS} FROM customers c CROSS JOIN profiles p ON p.number = c.profile
WHERE c.app_id = ? AND c.customer_user_id = ?
"""  # noqa: S608 - the columns are a constant
_PROFILE_BY_ID: Final = f"""
SELECT {_PROFILE_COLUMNS} FROM profiles p WHERE p.app_id = ? AND p.profile_id = ?
"""  # noqa: S608 - the columns are a constant
_FIRST_PROFILES: Final = f"""
SELECT {_PROFILE_COLUMNS} FROM profiles p WHERE p.app_id = ?1 ORDER BY p.profile_id LIMIT ?2
"""  # noqa: S608 - the columns are a constant
_NEXT_PROFILES: Final = f"""
SELECT {_PROFILE_COLUMNS} FROM profiles p WHERE p.app_id = ?1 AND p.profile_id > ?3
ORDER BY p.profile_id LIMIT ?2
"""  # noqa: S608 - the columns are a constant
# A statement for each profile of a batch would take several times as long.
_PROFILES_BY_CUSTOMER: Final = f"""
SELECT {_PROFILE_COLUMNS} FROM json_each(?2) k
CROSS JOIN customers c ON c.app_id = ?1 AND c.customer_user_id = k.value
CROSS JOIN profiles p ON p.number = c.profile
"""  # noqa: S608 - the columns are a constant
_PROFILES_BY_ID: Final = f"""
SELECT {_PROFILE_COLUMNS} FROM json_each(?2) k
CROSS JOIN profiles p ON p.app_id = ?1 AND p.profile_id = unhex(k.value, '-')
"""  # noqa: S608 - the columns are a constant
_HOLDERS_OF_KIND: Final = f"""
SELECT i.kind, {_PROFILE_COLUMNS}
FROM identifiers i CROSS JOIN profiles p ON p.number = i.profile
WHERE i.app_id = ? AND i.kind = ? AND i.value = ? AND i.profile > ?
ORDER BY i.profile LIMIT ?
"""  # noqa: S608 - the columns are a constant
# The kinds are gone through in their order, so nothing is sorted, and the limit ends it.
_HOLDERS: Final = f"""
SELECT i.kind, {_PROFILE_COLUMNS}
FROM identifiers i CROSS JOIN profiles p ON p.number = i.profile
WHERE i.app_id = ? AND i.kind IN (SELECT value FROM json_each(?)) AND i.value = ?
  AND i.profile > 0
ORDER BY i.kind, i.profile LIMIT ?
"""  # noqa: S608 - the columns are a constant
_LAST_NUMBER: Final = 2**63 - 1
_INSERT_PROFILE: Final = """
INSERT INTO profiles
  (app_id, profile_id, customer_user_id, identifiers, attributes, created_at, updated_at, revision)
VALUES (?, ?, ?, ?, ?, ?, ?, ?)
"""
_ADD_PROFILE: Final = """
INSERT INTO profiles
  (app_id, profile_id, customer_user_id, identifiers, attributes, created_at, updated_at, revision)
SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8
WHERE NOT EXISTS (SELECT 1 FROM customers WHERE app_id = ?1 AND customer_user_id = ?3)
ON CONFLICT DO NOTHING
"""
_LARGE_CACHE: Final = "PRAGMA cache_size = -65536"
"""64 MiB: the pages of an index that many profiles change are then written once, not each time."""
_USUAL_CACHE: Final = "PRAGMA cache_size = -2000"
_DELETE_PROFILE: Final = "DELETE FROM profiles WHERE number = ?"
_INSERT_CUSTOMER: Final = """
INSERT INTO customers (app_id, customer_user_id, profile) VALUES (?, ?, ?)
"""
Row = tuple[Any, ...]


def identifiers(read: apsw.Connection | apsw.Cursor, app: AppId, ref: ProfileRef) -> Identifiers:
    """Read a profile's identifiers by one statement where `ref` has one half."""
    if ref.profile_id is None:
        cursor = read.execute(_IDENTIFIERS_BY_CUSTOMER, (app, ref.customer_user_id))
    elif ref.customer_user_id is None:
        cursor = read.execute(_IDENTIFIERS_BY_PROFILE, (app, to_blob(ref.profile_id)))
    else:
        return settle(read, app, ref)[1].identifiers
    found = cursor.get
    if found is None:
        return settle(read, app, ref)[1].identifiers  # it may have been merged
    return to_identifiers(found)


def delete(  # noqa: PLR0913, PLR0917 - whom, when, by whom, and if
    connection: apsw.Connection,
    app: AppId,
    ref: ProfileRef,
    now: int,
    by: Source,
    check: Callable[[Profile], None] | None = None,
) -> Profile:
    """Delete a profile's rows, unless `check` raises something, and return what it was."""
    number, profile = settle(connection, app, ref)
    if check is not None:
        check(profile)
    take_out(connection, app, number, profile)
    note(connection, app, [entry(profile, None, max(now, profile.updated_at))], by)
    return profile


def take_out(connection: apsw.Connection, app: AppId, number: int, profile: Profile) -> None:
    """Delete a profile's rows, and note nothing."""
    connection.execute(_DELETE_PROFILE, (number,))
    if profile.customer_user_id is not None:
        connection.execute(DELETE_CUSTOMER, (app, profile.customer_user_id))
    lost = differing(profile.identifiers, NO_IDENTIFIERS)
    index(connection, app, add_moves({}, 0, number, lost))


def after(
    connection: apsw.Connection, app: AppId, profile_id: ProfileId | None, limit: int
) -> list[Profile]:
    """Return the next profiles in the order of their ids."""
    if profile_id is None:
        rows = connection.execute(_FIRST_PROFILES, (app, limit))
    else:
        rows = connection.execute(_NEXT_PROFILES, (app, limit, to_blob(profile_id)))
    return [_to_profile(row)[1] for row in rows]


def several(
    read: apsw.Connection | apsw.Cursor, app: AppId, refs: Sequence[ProfileRef]
) -> list[Profile | KnownasError]:
    """Return the profile that each reference names, or why there is none."""
    of_customers: dict[str | None, Profile] = {
        profile.customer_user_id: profile
        for _, profile in _named(
            read, _PROFILES_BY_CUSTOMER, app, {ref.customer_user_id for ref in refs}
        )
    }
    of_ids: dict[str | None, Profile] = {
        profile.profile_id: profile
        for _, profile in _named(read, _PROFILES_BY_ID, app, {ref.profile_id for ref in refs})
    }
    found: list[Profile | KnownasError] = []
    for ref in refs:
        halves = of_customers.get(ref.customer_user_id), of_ids.get(ref.profile_id)
        try:
            found.append(ref.settle(*halves))
        except ProfileNotFound:
            found.append(_merged(read, app, ref))
        except KnownasError as error:
            found.append(error)
    return found


def _merged(
    read: apsw.Connection | apsw.Cursor, app: AppId, ref: ProfileRef
) -> Profile | KnownasError:
    """Return the profile of a reference that no profile has itself: it may have been merged."""
    try:
        return settle(read, app, ref)[1]
    except KnownasError as error:
        return error


def all_by_customer(
    connection: apsw.Connection, app: AppId, customers: set[str]
) -> dict[str, tuple[int, Profile]]:
    """Return what `by_customer` does, for each customer that has a profile."""
    named = _named(connection, _PROFILES_BY_CUSTOMER, app, customers)
    return {one[1].customer_user_id: one for one in named if one[1].customer_user_id is not None}


def all_by_id(
    connection: apsw.Connection, app: AppId, ids: set[ProfileId]
) -> dict[ProfileId, tuple[int, Profile]]:
    """Return what `by_id` does, for each id that has a profile."""
    return {one[1].profile_id: one for one in _named(connection, _PROFILES_BY_ID, app, ids)}


def _named(
    read: apsw.Connection | apsw.Cursor, statement: str, app: AppId, names: set[Any]
) -> list[tuple[int, Profile]]:
    """Return the rows that a statement finds by names, of which None is none."""
    names.discard(None)
    if not names:
        return []
    rows = read.execute(statement, (app, msgspec.json.encode(names).decode()))
    return [_to_profile(row) for row in rows]


def holders(read: apsw.Connection | apsw.Cursor, app: AppId, sought: Sought) -> Holders:
    """Return who has a value, in the order of the kinds and within each of the rows' numbers."""
    kinds, value, limit, after = sought
    rows: list[Row]
    if after is None and len(kinds) == 1:
        rows = read.execute(_HOLDERS_OF_KIND, (app, kinds[0], value, 0, limit + 1)).fetchall()
    else:
        rows = _holders_after(read, app, sought, after or Place(-1, 0))
    if len(rows) <= limit:
        return Holders([_to_holder(row) for row in rows], None)
    rows.pop()
    return Holders([_to_holder(row) for row in rows], Place(*rows[-1][:2]))


def _holders_after(
    read: apsw.Connection | apsw.Cursor, app: AppId, sought: Sought, after: Place
) -> list[Row]:
    """Return the rows of holders after a place, one more than the limit if there are."""
    kinds, value, limit, _ = sought
    rows: list[Row] = []
    if after.kind in kinds:
        at = min(after.at, _LAST_NUMBER)
        rows += read.execute(_HOLDERS_OF_KIND, (app, after.kind, value, at, limit + 1))
    others = [kind for kind in kinds if kind > after.kind]
    if others and len(rows) <= limit:
        rows += read.execute(_HOLDERS, (app, str(others), value, limit + 1 - len(rows)))
    return rows


def _to_holder(row: Row) -> Holder:
    return Holder(row[0], _to_profile(row[1:])[1])


def replace(  # noqa: PLR0913, PLR0917 - what is to be done, when, and by whom
    connection: apsw.Connection,
    app: AppId,
    gate: Gate,
    gone: Iterable[ProfileId],
    new: Iterable[Profile],
    now: int,
    by: Source,
) -> int:
    """Delete profiles that are there, then do as `add`."""
    old: dict[ProfileId, Profile] = {}
    for profile_id in gone:
        if found := by_id(connection, app, profile_id):
            number, profile = found
            take_out(connection, app, number, profile)
            old[profile_id] = profile
    return add(connection, app, gate, new, now, by, old)


def look_up(
    connection: apsw.Connection | apsw.Cursor, app: AppId, ref: ProfileRef
) -> tuple[tuple[int, Profile] | None, tuple[int, Profile] | None]:
    """Return what the customer and what the profile id of `ref` find, merged ones included."""
    of_customer = of_profile = None
    customer_alias, id_alias = alias_names(ref)
    if ref.customer_user_id is not None and customer_alias is not None:
        of_customer = by_customer(connection, app, ref.customer_user_id) or _follow(
            connection, app, customer_alias
        )
    if ref.profile_id is not None and id_alias is not None:
        of_profile = by_id(connection, app, ref.profile_id) or _follow(connection, app, id_alias)
    return of_customer, of_profile


def by_customer(
    connection: apsw.Connection | apsw.Cursor, app: AppId, customer: str
) -> tuple[int, Profile] | None:
    """Return the row's number and the profile that is a customer's own."""
    row = connection.execute(_PROFILE_BY_CUSTOMER, (app, customer)).fetchone()
    return _to_profile(row) if row else None


def by_id(
    connection: apsw.Connection | apsw.Cursor, app: AppId, profile_id: ProfileId
) -> tuple[int, Profile] | None:
    """Return the row's number and the profile that has an id by itself."""
    row = connection.execute(_PROFILE_BY_ID, (app, to_blob(profile_id))).fetchone()
    return _to_profile(row) if row else None


def _follow(
    connection: apsw.Connection | apsw.Cursor, app: AppId, name: str
) -> tuple[int, Profile] | None:
    """Return the profile into which the one of this name was merged, however many times."""
    while alias := sqlite_aliases.find(connection, app, name):
        if found := by_id(connection, app, alias.profile_id):
            return found
        name = f"p:{alias.profile_id}"
    return None


def number_of(connection: apsw.Connection, app: AppId, profile_id: ProfileId) -> int:
    """Return the number of a profile's row. Raises ProfileNotFound."""
    found = by_id(connection, app, profile_id)
    if found is None:
        raise ProfileNotFound
    return found[0]


def settle(
    connection: apsw.Connection | apsw.Cursor, app: AppId, ref: ProfileRef
) -> tuple[int, Profile]:
    """Return the row's number and the profile that `ref` names; raises as `ProfileRef.settle`."""
    by_customer, by_id = look_up(connection, app, ref)
    profile = ref.settle(by_customer and by_customer[1], by_id and by_id[1])
    number = (by_customer or by_id or (0,))[0]  # settle raises where neither found one
    return number, profile


def settle_or_new(
    connection: apsw.Connection, app: AppId, ref: ProfileRef, new_id: ProfileId, now: int
) -> tuple[int | None, Profile | None, Profile]:
    """Return the row's number and content, if there is one, and the profile to go on with."""
    by_customer, by_id = look_up(connection, app, ref)
    profile = ref.settle_or_new(by_customer and by_customer[1], by_id and by_id[1], new_id, now)
    number, before = by_customer or by_id or (None, None)
    return number, before, profile


def store(  # noqa: PLR0913, PLR0917 - both states, and by whom
    connection: apsw.Connection,
    app: AppId,
    number: int | None,
    before: Profile | None,
    after: Profile,
    by: Source,
    undoes: TakenBack | None = None,
) -> None:
    """Write what differs between `before` and `after`, in all tables, and note it."""
    number = _write(connection, app, number, before, after)
    noted = entry(before, after, after.updated_at, undoes)
    moves = add_moves({}, 0, number, noted.differs.identifiers)
    for kinds in index(connection, app, moves).values():
        noted = noted.with_shared(kinds)
    note(connection, app, [noted], by)


def _write(
    connection: apsw.Connection,
    app: AppId,
    number: int | None,
    before: Profile | None,
    after: Profile,
) -> int:
    """Write a profile's own row and its customer's, and return the row's number."""
    row = _to_row(app, after)
    if number is None:
        connection.execute(_INSERT_PROFILE, row)
        number = connection.last_insert_rowid()
    else:
        connection.execute(UPDATE_PROFILE, (*row[2:], number))
    customer_before = before.customer_user_id if before else None
    if customer_before != after.customer_user_id:
        if customer_before is not None:
            connection.execute(DELETE_CUSTOMER, (app, customer_before))
        if after.customer_user_id is not None:
            connection.execute(_INSERT_CUSTOMER, (app, after.customer_user_id, number))
    if before is None or customer_before != after.customer_user_id:
        sqlite_aliases.end(connection, app, _names(after))
    return number


def add(  # noqa: PLR0913, PLR0917 - what is to be done, when, and by whom
    connection: apsw.Connection,
    app: AppId,
    gate: Gate,
    profiles: Iterable[Profile],
    now: int,
    by: Source,
    old: Mapping[ProfileId, Profile] = MappingProxyType({}),
) -> int:
    """Add the profiles whose id and customer are both new, and return how many they were.

    The gate keeps out those that were erased.

    `old` profiles were deleted just before; it is noted what became of them.
    """
    with large_cache(connection):
        added = _add(connection, app, gate, profiles, old)
    moves: Moves = {}
    noted: list[Entry] = []
    for at, (number, one) in enumerate(added):
        add_moves(moves, at, number, differing(NO_IDENTIFIERS, one.identifiers))
        noted.append(entry(old.get(one.profile_id), one, now))
    for at, kinds in index(connection, app, moves).items():
        noted[at] = noted[at].with_shared(kinds)
    replaced = {one.profile_id for one in noted}
    ended = [entry(one, None, now) for key, one in old.items() if key not in replaced]
    note(connection, app, ended + noted, by)
    return len(added)


@contextlib.contextmanager
def large_cache(connection: apsw.Connection) -> Iterator[None]:
    """Give more memory to a transaction that writes many profiles."""
    connection.execute(_LARGE_CACHE)
    try:
        yield
    finally:
        connection.execute(_USUAL_CACHE)


def _add(
    connection: apsw.Connection,
    app: AppId,
    gate: Gate,
    profiles: Iterable[Profile],
    old: Mapping[ProfileId, Profile],
) -> list[tuple[int, Profile]]:
    """Insert profiles and their customers, and return those that are new with their numbers."""
    added = []
    has_merged = sqlite_aliases.any_of(connection, app)
    for profile in profiles:
        profile_id = profile.profile_id
        if (has_merged and _was_merged(connection, app, profile)) or gate.keeps_out(profile):
            continue
        revision = (
            old[profile_id].revision + 1
            if profile_id in old
            else next_revision(connection, app, profile_id)
        )
        new = msgspec.structs.replace(profile, revision=revision)
        connection.execute(_ADD_PROFILE, _to_row(app, new))
        if connection.changes() == 0:
            continue
        number = connection.last_insert_rowid()
        if profile.customer_user_id is not None:
            connection.execute(_INSERT_CUSTOMER, (app, profile.customer_user_id, number))
        if has_merged:
            sqlite_aliases.end(connection, app, _names(profile))
        added.append((number, new))
    return added


def _was_merged(connection: apsw.Connection, app: AppId, profile: Profile) -> bool:
    """Tell whether the id or the customer of a profile leads to another one."""
    return any(name is not None and _follow(connection, app, name) for name in _names(profile))


def _names(profile: Profile) -> tuple[str | None, str | None]:
    return alias_names(ProfileRef(profile.customer_user_id, profile.profile_id))


# --- values as they stand in rows ----------------------------------------------------------------


def _to_row(app: AppId, profile: Profile) -> Row:
    return (app, to_blob(profile.profile_id), *rows.from_profile(profile))


def _to_profile(row: Row) -> tuple[int, Profile]:
    return row[0], rows.to_profile(to_profile_id(row[1]), row[2:])
