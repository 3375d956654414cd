"""A profile in its three tables: functions on a connection, inside the caller's transaction."""

import contextlib
from collections.abc import Iterable, Sequence
from typing import Any, Final

import apsw
import msgspec

from knownas.errors import KnownasError, ProfileNotFound
from knownas.lookups import Holder, Holders, Place, Sought
from knownas.model import (
    NO_IDENTIFIERS,
    AppId,
    Identifiers,
    Profile,
    ProfileId,
    ProfileRef,
)
from knownas.storage import rows
from knownas.storage.rows import to_identifiers

_IDENTIFIERS_BY_CUSTOMER: Final = """
SELECT p.identifiers FROM customers c CROSS JOIN profiles p ON p.number = c.profile
WHERE c.app_id = ? AND c.customer_user_id = ?
"""
_IDENTIFIERS_BY_PROFILE: Final = """
SELECT identifiers FROM profiles WHERE app_id = ? AND profile_id = ?
"""
_PROFILE_COLUMNS: Final = (
    "p.number, p.profile_id, p.customer_user_id, p.identifiers, p.attributes,"
    " p.created_at, p.updated_at"
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
  (app_id, profile_id, customer_user_id, identifiers, attributes, created_at, updated_at)
VALUES (?, ?, ?, ?, ?, ?, ?)
"""
_ADD_PROFILE: Final = """
INSERT INTO profiles
  (app_id, profile_id, customer_user_id, identifiers, attributes, created_at, updated_at)
SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7
WHERE NOT EXISTS (SELECT 1 FROM customers WHERE app_id = ?1 AND customer_user_id = ?3)
ON CONFLICT DO NOTHING
"""
_ADDING_CACHE: Final = "PRAGMA cache_size = -65536"
"""64 MiB: the pages of an index that many profiles change are then written once, not each time."""
_USUAL_CACHE: Final = "PRAGMA cache_size = -2000"
_UPDATE_PROFILE: Final = """
UPDATE profiles SET customer_user_id = ?, identifiers = ?, attributes = ?, updated_at = ?
WHERE number = ?
"""
_DELETE_PROFILE: Final = "DELETE FROM profiles WHERE number = ?"
_INSERT_CUSTOMER: Final = """
INSERT INTO customers (app_id, customer_user_id, profile) VALUES (?, ?, ?)
"""
_DELETE_CUSTOMER: Final = "DELETE FROM customers WHERE app_id = ? AND customer_user_id = ?"
_INSERT_IDENTIFIER: Final = """
INSERT INTO identifiers (app_id, kind, value, profile) VALUES (?, ?, ?, ?)
"""
_DELETE_IDENTIFIER: Final = """
DELETE FROM identifiers WHERE app_id = ? AND kind = ? AND value = ? AND profile = ?
"""

Row = tuple[Any, ...]


def identifiers(read: apsw.Connection | apsw.Cursor, app: AppId, ref: ProfileRef) -> Identifiers:
    """Read a profile's identifiers by one statement where `ref` has one half."""
    if ref.profile_id is None:
        cursor = read.execute(_IDENTIFIERS_BY_CUSTOMER, (app, ref.customer_user_id))
    elif ref.customer_user_id is None:
        cursor = read.execute(_IDENTIFIERS_BY_PROFILE, (app, _to_blob(ref.profile_id)))
    else:
        return settle(read, app, ref)[1].identifiers
    found = cursor.get
    if found is None:
        raise ProfileNotFound
    return to_identifiers(found)


def delete(connection: apsw.Connection, app: AppId, ref: ProfileRef) -> Profile:
    """Delete a profile's rows and return what it was."""
    number, profile = settle(connection, app, ref)
    connection.execute(_DELETE_PROFILE, (number,))
    if profile.customer_user_id is not None:
        connection.execute(_DELETE_CUSTOMER, (app, profile.customer_user_id))
    _index(connection, app, number, profile.identifiers, NO_IDENTIFIERS)
    return profile


def after(
    connection: apsw.Connection, app: AppId, profile_id: ProfileId | None, limit: int
) -> list[Profile]:
    """Return the next profiles in the order of their ids."""
    if profile_id is None:
        rows = connection.execute(_FIRST_PROFILES, (app, limit))
    else:
        rows = connection.execute(_NEXT_PROFILES, (app, limit, _to_blob(profile_id)))
    return [_to_profile(row)[1] for row in rows]


def several(
    read: apsw.Connection | apsw.Cursor, app: AppId, refs: Sequence[ProfileRef]
) -> list[Profile | KnownasError]:
    """Return the profile that each reference names, or why there is none."""
    by_customer: dict[str | None, Profile] = {
        profile.customer_user_id: profile
        for profile in _named(
            read, _PROFILES_BY_CUSTOMER, app, {ref.customer_user_id for ref in refs}
        )
    }
    by_id: dict[str | None, Profile] = {
        profile.profile_id: profile
        for profile in _named(read, _PROFILES_BY_ID, app, {ref.profile_id for ref in refs})
    }
    found: list[Profile | KnownasError] = []
    for ref in refs:
        try:
            found.append(
                ref.settle(by_customer.get(ref.customer_user_id), by_id.get(ref.profile_id))
            )
        except KnownasError as error:
            found.append(error)
    return found


def _named(
    read: apsw.Connection | apsw.Cursor, statement: str, app: AppId, names: set[Any]
) -> list[Profile]:
    """Return the profiles that a statement finds by names, of which None is none."""
    names.discard(None)
    if not names:
        return []
    rows = read.execute(statement, (app, msgspec.json.encode(names).decode()))
    return [_to_profile(row)[1] for row in rows]


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


def replace(
    connection: apsw.Connection, app: AppId, gone: Iterable[ProfileId], new: Iterable[Profile]
) -> int:
    """Delete profiles that are there, then do as `add`."""
    for profile_id in gone:
        with contextlib.suppress(ProfileNotFound):
            delete(connection, app, ProfileRef(profile_id=profile_id))
    return add(connection, app, new)


def look_up(
    connection: apsw.Connection | apsw.Cursor, app: AppId, ref: ProfileRef
) -> tuple[tuple[int, Profile] | None, tuple[int, Profile] | None]:
    """Return what the customer and what the profile id of `ref` find."""
    by_customer = by_id = None
    if ref.customer_user_id is not None:
        by_customer = connection.execute(
            _PROFILE_BY_CUSTOMER, (app, ref.customer_user_id)
        ).fetchone()
    if ref.profile_id is not None:
        by_id = connection.execute(_PROFILE_BY_ID, (app, _to_blob(ref.profile_id))).fetchone()
    return by_customer and _to_profile(by_customer), by_id and _to_profile(by_id)


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


def store(
    connection: apsw.Connection,
    app: AppId,
    number: int | None,
    before: Profile | None,
    after: Profile,
) -> None:
    """Write what differs between `before` and `after`, in all three tables."""
    row = _to_row(app, after)
    if number is None:
        connection.execute(_INSERT_PROFILE, row)
        number = connection.last_insert_rowid()
    else:
        _, _, customer, identifiers, attributes, _, updated_at = row
        connection.execute(_UPDATE_PROFILE, (customer, identifiers, attributes, updated_at, number))
    customer_before = before.customer_user_id if before else None
    if customer_before != after.customer_user_id:
        if customer_before is not None:
            connection.execute(_DELETE_CUSTOMER, (app, customer_before))
        if after.customer_user_id is not None:
            connection.execute(_INSERT_CUSTOMER, (app, after.customer_user_id, number))
    _index(
        connection, app, number, before.identifiers if before else NO_IDENTIFIERS, after.identifiers
    )


def add(connection: apsw.Connection, app: AppId, profiles: Iterable[Profile]) -> int:
    """Add the profiles whose id and customer are both new, and return how many they were."""
    connection.execute(_ADDING_CACHE)
    try:
        return _add(connection, app, profiles)
    finally:
        connection.execute(_USUAL_CACHE)


def _add(connection: apsw.Connection, app: AppId, profiles: Iterable[Profile]) -> int:
    added = 0
    indexed: list[list[tuple[str, int]]] = [[] for _ in NO_IDENTIFIERS]
    for profile in profiles:
        connection.execute(_ADD_PROFILE, _to_row(app, profile))
        if connection.changes() == 0:
            continue
        added += 1
        number = connection.last_insert_rowid()
        if profile.customer_user_id is not None:
            connection.execute(_INSERT_CUSTOMER, (app, profile.customer_user_id, number))
        for values, value in zip(indexed, profile.identifiers, strict=True):
            if value is not None:
                values.append((value, number))
    # In the index's own order, so that each of its pages is written once.
    connection.executemany(
        _INSERT_IDENTIFIER,
        (
            (app, kind, value, number)
            for kind, values in enumerate(indexed)
            for value, number in sorted(values)
        ),
    )
    return added


def _index(
    connection: apsw.Connection, app: AppId, number: int, before: Identifiers, after: Identifiers
) -> None:
    """Bring the reverse index from one set of identifiers to another."""
    for kind, (old, new) in enumerate(zip(before, after, strict=True)):
        if old != new:
            if old is not None:
                connection.execute(_DELETE_IDENTIFIER, (app, kind, old, number))
            if new is not None:
                connection.execute(_INSERT_IDENTIFIER, (app, kind, new, number))


# --- values as they stand in rows ----------------------------------------------------------------


def _to_blob(profile_id: ProfileId) -> bytes:
    return bytes.fromhex(profile_id.replace("-", ""))


def _to_profile_id(blob: bytes) -> ProfileId:
    digits = blob.hex()
    return ProfileId(f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}")


def _to_row(app: AppId, profile: Profile) -> Row:
    return (app, _to_blob(profile.profile_id), *rows.from_profile(profile))


def _to_profile(row: Row) -> tuple[int, Profile]:
    return row[0], rows.to_profile(_to_profile_id(row[1]), row[2:])
