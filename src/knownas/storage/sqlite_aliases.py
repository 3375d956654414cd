"""Where the names of merged profiles lead: functions on a connection."""

from collections.abc import Iterable
from typing import Final

import apsw

from knownas.editing import Alias
from knownas.model import AppId
from knownas.storage.sqlite_ids import to_blob, to_profile_id

_FIND: Final = """
SELECT profile_id, revision, survivor_revision, merged_at FROM aliases
WHERE app_id = ? AND name = ?
"""
_ANY: Final = "SELECT 1 FROM aliases WHERE app_id = ? LIMIT 1"
_PUT: Final = """
INSERT INTO aliases (app_id, name, profile_id, revision, survivor_revision, merged_at)
VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (app_id, name) DO UPDATE SET
  profile_id = excluded.profile_id, revision = excluded.revision,
  survivor_revision = excluded.survivor_revision, merged_at = excluded.merged_at
"""
_DROP: Final = "DELETE FROM aliases WHERE app_id = ? AND name = ?"


def any_of(connection: apsw.Connection, app: AppId) -> bool:
    """Tell whether an app has a merged profile at all."""
    return connection.execute(_ANY, (app,)).get is not None


def find(connection: apsw.Connection | apsw.Cursor, app: AppId, name: str) -> Alias | None:
    """Return where a name leads."""
    found = connection.execute(_FIND, (app, name)).fetchone()
    if found is None:
        return None
    blob, *others = found
    return Alias(to_profile_id(blob), *others)


def put(connection: apsw.Connection, app: AppId, name: str, alias: Alias | None) -> None:
    """Have a name lead somewhere, or with None nowhere."""
    if alias is None:
        connection.execute(_DROP, (app, name))
    else:
        profile_id, *others = alias
        connection.execute(_PUT, (app, name, to_blob(profile_id), *others))


def end(connection: apsw.Connection, app: AppId, names: Iterable[str | None]) -> None:
    """Have names lead nowhere that are a profile's own from now on."""
    for name in names:
        if name is not None:
            connection.execute(_DROP, (app, name))
