"""Operators, their sessions and the audit log, in SQLite."""

from collections.abc import Sequence
from typing import Any, Final

import apsw

from knownas.errors import ValidationError
from knownas.model import AppId, ProfileId
from knownas.operators import TAKEN, TAKEN_OIDC, Entry, Operator, Session
from knownas.storage.rows import ENTRY_COLUMNS, OPERATOR_COLUMNS
from knownas.storage.sqlite_beside import ReaderBeside
from knownas.storage.sqlite_writer import GroupCommit

_ADD: Final = f"""
INSERT INTO operators ({OPERATOR_COLUMNS}, password) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING
"""  # noqa: S608 - the columns are a constant
_ALL: Final = f"SELECT {OPERATOR_COLUMNS} FROM operators ORDER BY name"  # noqa: S608 - the columns are a constant
_PASSWORD: Final = "SELECT password FROM operators WHERE name = ?"  # noqa: S105 - a statement
_SET_PASSWORD: Final = "UPDATE operators SET password = ? WHERE name = ?"  # noqa: S105 - a statement
_SET_OIDC: Final = "UPDATE OR IGNORE operators SET oidc = ? WHERE name = ?"
_IS_THERE: Final = "SELECT 1 FROM operators WHERE name = ?"
_REMOVE: Final = "DELETE FROM operators WHERE name = ?"
_END_ALL: Final = "DELETE FROM sessions WHERE operator = ?"
_BEGIN: Final = """
INSERT INTO sessions (digest, operator, expires_at) SELECT ?1, ?2, ?3
WHERE EXISTS (SELECT 1 FROM operators WHERE name = ?2)
"""
_SESSION: Final = """
SELECT s.expires_at, o.name, o.role, o.created_at, o.oidc
FROM sessions s JOIN operators o ON o.name = s.operator WHERE s.digest = ?
"""
_END: Final = "DELETE FROM sessions WHERE digest = ?"
_NOTE: Final = f"INSERT INTO audit ({ENTRY_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)"  # noqa: S608 - the columns are a constant
_ENTRIES: Final = f"""
SELECT {ENTRY_COLUMNS} FROM audit WHERE (at, id) < (?, ?) ORDER BY at DESC, id DESC LIMIT ?
"""  # noqa: S608 - the columns are a constant
_FORGET: Final = "UPDATE audit SET about = '' WHERE app_id = ? AND about = ? AND about <> ''"
_EXPIRED: Final = "DELETE FROM sessions WHERE expires_at <= ?"
_OLD: Final = "DELETE FROM audit WHERE at < ?"
_LATEST: Final = (2**62, "")


class SqliteOperators:
    """`knownas.operators.Operators` over one SQLite file."""

    def __init__(self, writer: GroupCommit, beside: ReaderBeside) -> None:
        """Write by `writer` and read beside the loop."""
        self._writer = writer
        self._beside = beside

    async def add(self, operator: Operator, password: str) -> None:
        """See `Operators.add`."""

        def work(connection: apsw.Connection) -> None:
            connection.execute(_ADD, (*operator, password))
            if not connection.changes():
                raise ValidationError(TAKEN, source="name")

        await self._writer.run(work)

    async def all(self) -> list[Operator]:
        """See `Operators.all`."""
        return await self._beside.read(lambda read: [Operator(*row) for row in read.execute(_ALL)])

    async def password(self, name: str) -> str | None:
        """See `Operators.password`."""
        kept: Any = await self._beside.read(lambda read: read.execute(_PASSWORD, (name,)).get)
        return None if kept is None else str(kept)

    async def set_password(self, name: str, password: str, *, ends_sessions: bool) -> bool:
        """See `Operators.set_password`."""

        def work(connection: apsw.Connection) -> bool:
            connection.execute(_SET_PASSWORD, (password, name))
            is_there = connection.changes() > 0
            if ends_sessions:
                connection.execute(_END_ALL, (name,))
            return is_there

        return await self._writer.run(work, erases=True)

    async def set_oidc(self, name: str, oidc: str) -> bool:
        """See `Operators.set_oidc`."""

        def work(connection: apsw.Connection) -> bool:
            if connection.execute(_IS_THERE, (name,)).get is None:
                return False
            connection.execute(_SET_OIDC, (oidc, name))
            if not connection.changes():
                raise ValidationError(TAKEN_OIDC, source="oidc")
            connection.execute(_END_ALL, (name,))
            return True

        return await self._writer.run(work, erases=True)

    async def remove(self, name: str) -> bool:
        """See `Operators.remove`."""

        def work(connection: apsw.Connection) -> bool:
            connection.execute(_REMOVE, (name,))
            is_there = connection.changes() > 0
            connection.execute(_END_ALL, (name,))
            return is_there

        return await self._writer.run(work, erases=True)

    async def begin(self, digest: bytes, name: str, *, expires_at: int) -> None:
        """See `Operators.begin`."""
        values = (digest, name, expires_at)
        await self._writer.run(lambda write: write.execute(_BEGIN, values).get)

    async def session(self, digest: bytes) -> Session | None:
        """See `Operators.session`."""
        row: Any = await self._beside.read(
            lambda read: read.execute(_SESSION, (digest,)).fetchone()
        )
        return None if row is None else Session(Operator(*row[1:]), row[0])

    async def end(self, digest: bytes) -> None:
        """See `Operators.end`."""
        await self._writer.run(lambda write: write.execute(_END, (digest,)).get, erases=True)

    async def note(self, entries: Sequence[Entry]) -> None:
        """See `Operators.note`."""

        def work(connection: apsw.Connection) -> None:
            for entry in entries:
                connection.execute(_NOTE, entry)

        await self._writer.run(work)

    async def entries(self, before: tuple[int, str] | None, limit: int) -> list[Entry]:
        """See `Operators.entries`."""
        asked = (*(before or _LATEST), limit)
        return await self._beside.read(
            lambda read: [Entry(*row) for row in read.execute(_ENTRIES, asked)]
        )


def forget(connection: apsw.Connection, app: AppId, profile_ids: Sequence[ProfileId]) -> None:
    """Take the ids of profiles out of the audit log."""
    for profile_id in profile_ids:
        connection.execute(_FORGET, (app, profile_id))


def prune(connection: apsw.Connection, before: int, now: int) -> None:
    """Delete the sessions that have expired, and what the log has of before a time."""
    connection.execute(_EXPIRED, (now,))
    connection.execute(_OLD, (before,))
