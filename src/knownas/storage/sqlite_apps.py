"""Apps and their keys: functions on a connection; those that write run within a transaction."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import apsw

from knownas.errors import ValidationError
from knownas.model import ApiKey, App, AppId, Policies
from knownas.storage.rows import (
    APP_COLUMNS,
    KEY_COLUMNS,
    from_key,
    from_policies,
    from_upstream,
    to_app,
    to_key,
    to_upstream,
)
from knownas.storage.sqlite_tombstones import require_app
from knownas.upstreams import Upstream

_INSERT_APP: Final = "INSERT INTO apps (uuid, name, created_at) VALUES (?, ?, ?) RETURNING id"
_APPS: Final = f"SELECT {APP_COLUMNS} FROM apps a ORDER BY a.id"  # noqa: S608 - the columns are a constant
_APP_BY_NAME: Final = "SELECT 1 FROM apps WHERE name = ?"
_SET_POLICIES: Final = "UPDATE apps SET policies = ? WHERE id = ?"
_UPSTREAM: Final = "SELECT upstream FROM apps WHERE id = ?"
_SET_UPSTREAM: Final = "UPDATE apps SET upstream = ? WHERE id = ?"
_DELETE_APP: Final = (
    "DELETE FROM identifiers WHERE app_id = ?",
    "DELETE FROM customers WHERE app_id = ?",
    "DELETE FROM profiles WHERE app_id = ?",
    "DELETE FROM changes WHERE app_id = ?",
    "DELETE FROM coverage WHERE app_id = ?",
    "DELETE FROM shared_identifiers WHERE app_id = ?",
    "DELETE FROM aliases WHERE app_id = ?",
    "DELETE FROM answers WHERE app_id = ?",
    "DELETE FROM tombstones WHERE app_id = ?",
    "DELETE FROM erasures WHERE app_id = ?",
    "DELETE FROM erasure_keys WHERE app_id = ?",
    "DELETE FROM webhooks WHERE app_id = ?",
    "DELETE FROM deliveries WHERE app_id = ?",
    "DELETE FROM inbound_secrets WHERE app_id = ?",
    "DELETE FROM inbound_refusals WHERE app_id = ?",
    "DELETE FROM dead_letters WHERE app_id = ?",
    "DELETE FROM shadow_counts WHERE app_id = ?",
    "DELETE FROM shadow_differences WHERE app_id = ?",
    "DELETE FROM audit WHERE app_id = ?",
    "DELETE FROM imports WHERE app_id = ?",
    "DELETE FROM api_keys WHERE app_id = ?",
    "DELETE FROM apps WHERE id = ?",
)
_INSERT_KEY: Final = """
INSERT INTO api_keys (digest, id, app_id, type, label, created_at, expires_at, ended_at, rate)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
_KEY_EXISTS: Final = "SELECT 1 FROM api_keys WHERE digest = ?"
_KEY_BY_DIGEST: Final = f"""
SELECT {KEY_COLUMNS} FROM api_keys k JOIN apps a ON a.id = k.app_id WHERE k.digest = ?
"""  # noqa: S608 - the columns are a constant
_KEYS_OF_APP: Final = f"""
SELECT {KEY_COLUMNS}, k.digest FROM api_keys k JOIN apps a ON a.id = k.app_id
WHERE k.app_id = ? ORDER BY k.created_at, k.id
"""  # noqa: S608 - the columns are a constant
_PUT_KEY: Final = """
INSERT INTO api_keys (digest, id, app_id, type, label, created_at, expires_at, ended_at, rate)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (digest) DO UPDATE SET
  expires_at = coalesce(
    min(expires_at, excluded.expires_at), expires_at, excluded.expires_at),
  ended_at = coalesce(min(ended_at, excluded.ended_at), ended_at, excluded.ended_at),
  rate = excluded.rate
WHERE app_id = excluded.app_id
"""
_EXPIRE_KEY: Final = """
UPDATE api_keys SET expires_at = min(coalesce(expires_at, ?1), ?1) WHERE app_id = ?2 AND id = ?3
"""
_END_KEY: Final = """
UPDATE api_keys SET ended_at = coalesce(ended_at, ?) WHERE app_id = ? AND id = ?
"""
_NOTE_KEY_USE: Final = """
UPDATE api_keys SET last_used_at = max(coalesce(last_used_at, 0), ?) WHERE app_id = ? AND id = ?
"""
_SET_KEY_RATE: Final = "UPDATE api_keys SET rate = ? WHERE app_id = ? AND id = ?"


def create(connection: apsw.Connection, app_uuid: str, name: str, now: int) -> App:
    """Create an app. Raises ValidationError when the name is taken."""
    if connection.execute(_APP_BY_NAME, (name,)).get:
        raise ValidationError("There is an app of this name already.", source="name")
    return App(connection.execute(_INSERT_APP, (app_uuid, name, now)).get, app_uuid, name, now)


def apps(connection: apsw.Connection) -> list[App]:
    """Return all apps, oldest first."""
    return [to_app(row) for row in connection.execute(_APPS)]


def set_policies(connection: apsw.Connection, app: AppId, policies: Policies) -> None:
    """Have kinds of identifiers follow these policies. Raises Unauthorized without the app."""
    require_app(connection, app)
    connection.execute(_SET_POLICIES, (from_policies(policies), app))


def change_upstream(
    connection: apsw.Connection, app: AppId, change: Callable[[Upstream | None], Upstream | None]
) -> Upstream | None:
    """Replace an app's upstream and return what is kept. Raises as `Storage.change_upstream`."""
    require_app(connection, app)
    before = to_upstream(connection.execute(_UPSTREAM, (app,)).get)
    after = change(before)
    if after != before:
        connection.execute(_SET_UPSTREAM, (from_upstream(after), app))
    return after


def delete(connection: apsw.Connection, app: AppId) -> None:
    """Delete an app with all that it has."""
    for statement in _DELETE_APP:
        connection.execute(statement, (app,))


def add_key(  # noqa: PLR0913, PLR0917 - a key, and the one that it replaces
    connection: apsw.Connection,
    app: AppId,
    key: ApiKey,
    digest: bytes,
    replacing: str | None,
    overlap_until: int,
) -> None:
    """Keep a key, and have the one that it replaces expire. Raises as `Storage.add_key`."""
    require_app(connection, app)
    if connection.execute(_KEY_EXISTS, (digest,)).get:
        raise ValidationError("This key is in use here already.", source="key")
    connection.execute(_INSERT_KEY, from_key(app, key, digest))
    if replacing is not None:
        connection.execute(_EXPIRE_KEY, (overlap_until, app, replacing))


def put_keys(
    connection: apsw.Connection, app: AppId, given: Sequence[tuple[ApiKey, bytes]]
) -> None:
    """Keep keys, or the earlier of each end of those that are there. Raises as the storage's."""
    require_app(connection, app)
    for key, digest in given:
        if not _changes(connection, _PUT_KEY, from_key(app, key, digest)):
            raise ValidationError("Another app has this key already.", source="key")


def end_key(connection: apsw.Connection, app: AppId, key_id: str, at: int) -> bool:
    """End a key for good, and tell whether the app has it."""
    return _changes(connection, _END_KEY, (at, app, key_id))


def set_key_rate(connection: apsw.Connection, app: AppId, key_id: str, rate: str | None) -> bool:
    """Give a key another rate, and tell whether the app has it."""
    return _changes(connection, _SET_KEY_RATE, (rate, app, key_id))


def note_key_uses(connection: apsw.Connection, uses: Mapping[tuple[AppId, str], int]) -> None:
    """Note when keys were used last."""
    rows = ((at, app, key_id) for (app, key_id), at in uses.items())
    connection.executemany(_NOTE_KEY_USE, rows)


def key(connection: apsw.Connection, digest: bytes) -> ApiKey | None:
    """Return the key with a digest, live or not."""
    row = connection.execute(_KEY_BY_DIGEST, (digest,)).fetchone()
    return None if row is None else to_key(row)


def keys_of(connection: apsw.Connection, app: AppId) -> list[tuple[ApiKey, bytes]]:
    """Return all keys of an app with their digests, oldest first."""
    return [(to_key(row), digest) for *row, digest in connection.execute(_KEYS_OF_APP, (app,))]


def _changes(connection: apsw.Connection, statement: str, values: tuple[Any, ...]) -> bool:
    connection.execute(statement, values)
    return connection.changes() > 0
