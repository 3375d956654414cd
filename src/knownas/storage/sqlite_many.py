"""Many profiles written at once, each table in its own order: functions on a connection.

What a statement has to bring is one JSON text where that is possible: then SQLite goes through all
rows by itself, while another thread can run Python.
"""

from collections.abc import Sequence
from operator import itemgetter
from typing import Any, Final, NamedTuple

import apsw

from knownas.model import AppId, Profile
from knownas.storage import rows
from knownas.storage.sqlite_ids import to_blob

_NEXT_NUMBER: Final = "SELECT coalesce(max(number), 0) + 1 FROM profiles"
_INSERT_PROFILE: Final = """
INSERT INTO profiles
  (number, app_id, profile_id, customer_user_id, identifiers, attributes, created_at, updated_at,
    revision)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
UPDATE_PROFILE: Final = """
UPDATE profiles
SET customer_user_id = ?, identifiers = ?, attributes = ?, created_at = ?, updated_at = ?,
  revision = ?
WHERE number = ?
"""
DELETE_CUSTOMER: Final = "DELETE FROM customers WHERE app_id = ? AND customer_user_id = ?"
_INSERT_CUSTOMERS: Final = """
INSERT INTO customers (app_id, customer_user_id, profile)
SELECT ?1, key, value FROM json_each(?2) ORDER BY key
"""


class Pending(NamedTuple):
    """A profile that is to be written."""

    number: int
    """Its row's."""
    before: Profile | None
    """What stands there; None where there is no such row."""
    after: Profile


def next_number(connection: apsw.Connection) -> int:
    """Return the number from which on no row is there."""
    return int(connection.execute(_NEXT_NUMBER).get)


def write(connection: apsw.Connection, app: AppId, pending: Sequence[Pending]) -> None:
    """Write the rows of profiles and of their customers; of each profile there is one.

    What goes does so first: a customer that one loses another one may get.
    """
    new: list[tuple[Any, ...]] = []
    changed: list[tuple[Any, ...]] = []
    lost: list[tuple[AppId, str]] = []
    customers: dict[str, int] = {}
    for number, before, after in pending:
        had = None if before is None else before.customer_user_id
        has = after.customer_user_id
        if had is not None and had != has:
            lost.append((app, had))
        if has is not None and had != has:
            customers[has] = number
        if before is None:
            new.append((number, app, to_blob(after.profile_id), *rows.from_profile(after)))
        else:
            changed.append((*rows.from_profile(after), number))
    connection.executemany(DELETE_CUSTOMER, lost)
    connection.executemany(UPDATE_PROFILE, sorted(changed, key=itemgetter(-1)))
    connection.executemany(_INSERT_PROFILE, sorted(new, key=itemgetter(2)))
    if customers:
        connection.execute(_INSERT_CUSTOMERS, (app, rows.as_json(customers)))
