"""Operators, their sessions and the audit log, in PostgreSQL."""

from collections.abc import Sequence
from typing import Final

import asyncpg

from knownas.errors import ValidationError
from knownas.model import AppId, ProfileId
from knownas.operators import TAKEN, TAKEN_OIDC, Entry, Operator, Session
from knownas.storage.postgres_link import Link
from knownas.storage.postgres_webhooks import Runs
from knownas.storage.rows import ENTRY_COLUMNS, OPERATOR_COLUMNS

_ADD: Final = f"""
INSERT INTO operators ({OPERATOR_COLUMNS}, password) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT DO NOTHING RETURNING name
"""  # noqa: S608 - the columns are a constant
_ALL: Final = f"SELECT {OPERATOR_COLUMNS} FROM operators ORDER BY name"  # noqa: S608 - the columns are a constant
_PASSWORD: Final = "SELECT password FROM operators WHERE name = $1"  # noqa: S105 - a statement
_SET_PASSWORD: Final = "UPDATE operators SET password = $1 WHERE name = $2 RETURNING name"  # noqa: S105 - a statement
_SET_OIDC: Final = "UPDATE operators SET oidc = $1 WHERE name = $2 RETURNING name"
_REMOVE: Final = "DELETE FROM operators WHERE name = $1 RETURNING name"
_END_ALL: Final = "DELETE FROM sessions WHERE operator = $1"
# Whoever removes an operator waits for it, and then ends the session.
_LOCK: Final = "SELECT 1 FROM operators WHERE name = $1 FOR KEY SHARE"
_BEGIN: Final = "INSERT INTO sessions (digest, operator, expires_at) VALUES ($1, $2, $3)"
_SESSION: Final = """
SELECT s.expires_at, o.name, o.role, o.created_at, o.oidc
FROM sessions s JOIN operators o ON o.name = s.operator WHERE s.digest = $1
"""
_END: Final = "DELETE FROM sessions WHERE digest = $1"
_NOTE: Final = f"INSERT INTO audit ({ENTRY_COLUMNS}) VALUES ($1, $2, $3, $4, $5, $6, $7)"  # noqa: S608 - the columns are a constant
_ENTRIES: Final = f"""
SELECT {ENTRY_COLUMNS} FROM audit WHERE (at, id) < ($1, $2) ORDER BY at DESC, id DESC LIMIT $3
"""  # noqa: S608 - the columns are a constant
_FORGET: Final = """
UPDATE audit SET about = '' WHERE app_id = $1 AND about = any($2::text[]) AND about <> ''
"""
_EXPIRED: Final = "DELETE FROM sessions WHERE expires_at <= $1"
_OLD: Final = "DELETE FROM audit WHERE at < $1"
_LATEST: Final = (2**62, "")


class PostgresOperators:
    """`knownas.operators.Operators` over a PostgreSQL database."""

    def __init__(self, read: Runs, write: Runs) -> None:
        """Take what runs reads, and what runs transactions."""
        self._read = read
        self._write = write

    async def add(self, operator: Operator, password: str) -> None:
        """See `Operators.add`."""

        async def job(link: Link) -> None:
            async with link.transaction():
                if not await link.fetch(_ADD, *operator, password):
                    raise ValidationError(TAKEN, source="name")

        await self._write(job)

    async def all(self) -> list[Operator]:
        """See `Operators.all`."""

        async def job(link: Link) -> list[Operator]:
            return [Operator(*row) for row in await link.fetch(_ALL)]

        return await self._read(job)

    async def password(self, name: str) -> str | None:
        """See `Operators.password`."""

        async def job(link: Link) -> str | None:
            found = await link.fetch(_PASSWORD, name)
            return found[0][0] if found else None

        return await self._read(job)

    async def set_password(self, name: str, password: str, *, ends_sessions: bool) -> bool:
        """See `Operators.set_password`."""

        async def job(link: Link) -> bool:
            async with link.transaction():
                is_there = bool(await link.fetch(_SET_PASSWORD, password, name))
                if ends_sessions:
                    await link.fetch(_END_ALL, name)
            return is_there

        return await self._write(job)

    async def set_oidc(self, name: str, oidc: str) -> bool:
        """See `Operators.set_oidc`."""

        async def job(link: Link) -> bool:
            try:
                async with link.transaction():
                    is_there = bool(await link.fetch(_SET_OIDC, oidc, name))
                    await link.fetch(_END_ALL, name)
            except asyncpg.UniqueViolationError:
                raise ValidationError(TAKEN_OIDC, source="oidc") from None
            return is_there

        return await self._write(job)

    async def remove(self, name: str) -> bool:
        """See `Operators.remove`."""

        async def job(link: Link) -> bool:
            async with link.transaction():
                is_there = bool(await link.fetch(_REMOVE, name))
                await link.fetch(_END_ALL, name)
            return is_there

        return await self._write(job)

    async def begin(self, digest: bytes, name: str, *, expires_at: int) -> None:
        """See `Operators.begin`."""

        async def job(link: Link) -> None:
            async with link.transaction():
                if await link.fetch(_LOCK, name):
                    await link.fetch(_BEGIN, digest, name, expires_at)

        await self._write(job)

    async def session(self, digest: bytes) -> Session | None:
        """See `Operators.session`."""

        async def job(link: Link) -> Session | None:
            found = await link.fetch(_SESSION, digest)
            return Session(Operator(*found[0][1:]), found[0][0]) if found else None

        return await self._read(job)

    async def end(self, digest: bytes) -> None:
        """See `Operators.end`."""

        async def job(link: Link) -> None:
            async with link.transaction():
                await link.fetch(_END, digest)

        await self._write(job)

    async def note(self, entries: Sequence[Entry]) -> None:
        """See `Operators.note`."""

        async def job(link: Link) -> None:
            async with link.transaction():
                for entry in entries:
                    await link.fetch(_NOTE, *entry)

        await self._write(job)

    async def entries(self, before: tuple[int, str] | None, limit: int) -> list[Entry]:
        """See `Operators.entries`."""

        async def job(link: Link) -> list[Entry]:
            found = await link.fetch(_ENTRIES, *(before or _LATEST), limit)
            return [Entry(*row) for row in found]

        return await self._read(job)


async def forget(link: Link, app: AppId, profile_ids: Sequence[ProfileId]) -> None:
    """Take the ids of profiles out of the audit log."""
    await link.fetch(_FORGET, app, list(profile_ids))


async def prune(link: Link, before: int, now: int) -> None:
    """Delete the sessions that have expired, and what the log has of before a time."""
    await link.fetch(_EXPIRED, now)
    await link.fetch(_OLD, before)
