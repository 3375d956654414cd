"""What keeps erased persons away: functions on a connection, within the transaction of a write."""

from collections.abc import Iterable, Sequence
from typing import Final

import apsw
import msgspec

from knownas.erasing import Subjects, Tombstone, names_of, new_names
from knownas.errors import ProfileNotFound, Unauthorized
from knownas.model import AppId, Profile, ProfileId
from knownas.storage.sqlite_ids import to_blob, to_profile_id

_UUID: Final = "SELECT uuid FROM apps WHERE id = ?"
_KEYS: Final = "SELECT sealed FROM erasure_keys WHERE app_id = ? ORDER BY id"
_PUT_KEY: Final = """
INSERT INTO erasure_keys (app_id, id, sealed) VALUES (?, ?, ?) ON CONFLICT DO NOTHING
"""
_COLUMNS: Final = "subject, erasure_id, erased_at, revived_at"
_FIND: Final = f"SELECT {_COLUMNS} FROM tombstones WHERE app_id = ? AND subject = ?"  # noqa: S608 - the columns are a constant
_AFTER: Final = f"""
SELECT {_COLUMNS} FROM tombstones WHERE app_id = ? AND subject > ? ORDER BY subject LIMIT ?
"""  # noqa: S608 - the columns are a constant
_REVIVE: Final = "UPDATE tombstones SET revived_at = ? WHERE app_id = ? AND subject = ?"
_ERECT: Final = """
INSERT INTO tombstones (app_id, subject, erasure_id, erased_at) VALUES (?, ?, ?, ?)
ON CONFLICT (app_id, subject) DO UPDATE SET
  erasure_id = excluded.erasure_id, erased_at = excluded.erased_at, revived_at = NULL
WHERE erased_at <= excluded.erased_at
"""
_PUT: Final = """
INSERT INTO tombstones (app_id, subject, erasure_id, erased_at, revived_at) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (app_id, subject) DO UPDATE SET
  erasure_id = excluded.erasure_id, erased_at = excluded.erased_at,
  revived_at = CASE WHEN erased_at < excluded.erased_at THEN excluded.revived_at
    ELSE coalesce(revived_at, excluded.revived_at) END
WHERE erased_at <= excluded.erased_at
"""


def require_app(connection: apsw.Connection, app: AppId) -> str:
    """Return the UUID of an app.

    Raises Unauthorized when it is gone, and with it the key of whoever still writes.
    """
    uuid: str | None = connection.execute(_UUID, (app,)).get
    if uuid is None:
        raise Unauthorized
    return uuid


def keys(connection: apsw.Connection, app: AppId) -> list[bytes]:
    """Return an app's keys, sealed; none where nobody was erased yet."""
    return [sealed for (sealed,) in connection.execute(_KEYS, (app,))]


def put_key(connection: apsw.Connection, app: AppId, key_id: bytes, sealed: bytes) -> None:
    """Keep a key, unless it is kept already."""
    connection.execute(_PUT_KEY, (app, key_id, sealed))


def find(connection: apsw.Connection, app: AppId, subjects: Iterable[bytes]) -> list[Tombstone]:
    """Return the tombstones of these subjects."""
    rows = (connection.execute(_FIND, (app, subject)).fetchone() for subject in subjects)
    return [_to_tombstone(*row) for row in rows if row is not None]


def after(connection: apsw.Connection, app: AppId, subject: bytes, limit: int) -> list[Tombstone]:
    """Return the next tombstones in the order of their subjects."""
    return [_to_tombstone(*row) for row in connection.execute(_AFTER, (app, subject, limit))]


def erect(connection: apsw.Connection, app: AppId, tombstones: Iterable[Tombstone]) -> None:
    """Write tombstones of who was erased just now, in the place of none that is newer."""
    for subject, erasure_id, erased_at, _ in tombstones:
        connection.execute(_ERECT, (app, subject, to_blob(ProfileId(erasure_id)), erased_at))


def put(connection: apsw.Connection, app: AppId, tombstones: Iterable[Tombstone]) -> None:
    """Write tombstones that were made elsewhere, in the place of none that is newer."""
    for subject, erasure_id, *times in tombstones:
        connection.execute(_PUT, (app, subject, to_blob(ProfileId(erasure_id)), *times))


def admit(  # noqa: PLR0913 - both states, and who may begin anew
    connection: apsw.Connection,
    app: AppId,
    subjects: Subjects,
    before: Profile | None,
    after: Profile,
    *,
    anew_at: int | None,
) -> Profile:
    """Return the profile to write, where none of the names that are new to it was erased.

    With `anew_at` it is someone else's from that time on, who begins no earlier than the erasure.
    Raises ProfileNotFound, and Unauthorized for a new profile where the app was deleted.
    """
    if before is not None and not new_names(before, after):
        return after
    return Gate(connection, app, subjects).admit(before, after, anew_at=anew_at)


class Gate:
    """Tells of many profiles which were erased."""

    def __init__(self, connection: apsw.Connection, app: AppId, subjects: Subjects) -> None:
        """Look once whether anybody was erased. Raises Unauthorized when the app was deleted."""
        self._connection = connection
        self._app = app
        self._subjects = subjects
        self._uuid = require_app(connection, app)
        self._keys: Sequence[bytes] = keys(connection, app)

    def admit(self, before: Profile | None, after: Profile, *, anew_at: int | None) -> Profile:
        """Do as the function `admit`."""
        names = new_names(before, after)
        if not names or not self._keys:
            return after
        found = find(self._connection, self._app, self._subjects.of(self._uuid, self._keys, names))
        found = [stone for stone in found if stone.revived_at is None]
        if not found:
            return after
        if anew_at is None:
            raise ProfileNotFound
        for stone in found:
            self._connection.execute(_REVIVE, (anew_at, self._app, stone.subject))
        if before is not None or after.created_at < anew_at:
            return after  # it has begun before
        erased_at = max(stone.erased_at for stone in found)
        return msgspec.structs.replace(after, created_at=max(after.created_at, erased_at))

    def keeps_out(self, profile: Profile) -> bool:
        """Tell whether a name of a profile was erased, and nobody has begun anew under it."""
        if not self._keys:
            return False
        subjects = self._subjects.of(self._uuid, self._keys, names_of(profile))
        found = find(self._connection, self._app, subjects)
        return any(stone.revived_at is None for stone in found)


def _to_tombstone(
    subject: bytes, erasure_id: bytes, erased_at: int, revived_at: int | None
) -> Tombstone:
    return Tombstone(subject, to_profile_id(erasure_id), erased_at, revived_at)
