"""Uploaded imports in PostgreSQL, their files in pieces: any server can take the next one."""

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Final

from knownas.errors import TooManyImports, Unauthorized
from knownas.imports import Import, OfApp
from knownas.model import AppId
from knownas.storage.postgres_link import Link
from knownas.storage.postgres_webhooks import LOCK_APP, Runs
from knownas.storage.rows import APP_COLUMNS, from_import, to_app, to_import

_COUNT: Final = "SELECT count(*) FROM imports WHERE app_id = $1 AND ended_at IS NULL"
_ADD: Final = """
INSERT INTO imports (app_id, id, created_at, ended_at, detail) VALUES ($1, $2, $3, $4, $5)
"""
_GET: Final = "SELECT detail FROM imports WHERE app_id = $1 AND id = $2"
_LOCK: Final = f"{_GET} FOR UPDATE"
_ALL: Final = """
SELECT detail FROM imports WHERE app_id = $1 ORDER BY created_at DESC, imports.id DESC LIMIT $2
"""
_CHANGE: Final = "UPDATE imports SET ended_at = $1, detail = $2 WHERE app_id = $3 AND id = $4"
_DELETE: Final = "DELETE FROM imports WHERE app_id = $1 AND id = $2"
_UNENDED: Final = f"""
SELECT i.detail, {APP_COLUMNS} FROM imports i JOIN apps a ON a.id = i.app_id
WHERE i.ended_at IS NULL ORDER BY i.created_at, i.id
"""  # noqa: S608 - the columns are a constant
_PRUNE: Final = "DELETE FROM imports WHERE ended_at < $1"

_PUT_PIECE: Final = """
INSERT INTO import_pieces (app_id, import_id, start, piece) VALUES ($1, $2, $3, $4)
ON CONFLICT (app_id, import_id, start) DO UPDATE SET piece = excluded.piece
"""
_PIECE: Final = """
SELECT piece FROM import_pieces WHERE app_id = $1 AND import_id = $2 AND start = $3
"""
_DROP_FILE: Final = "DELETE FROM import_pieces WHERE app_id = $1 AND import_id = $2"


class PostgresImports:
    """`knownas.imports.Imports` over a PostgreSQL database."""

    def __init__(self, read: Runs, write: Runs) -> None:
        """Take what runs reads, and what runs transactions."""
        self._read = read
        self._write = write

    async def add(self, app: AppId, new: Import, *, most: int) -> None:
        """See `Imports.add`."""

        async def job(link: Link) -> None:
            async with link.transaction():
                if not await link.fetch(LOCK_APP, app):
                    raise Unauthorized
                if (await link.fetch(_COUNT, app))[0][0] >= most:
                    raise TooManyImports
                await link.fetch(_ADD, app, new.id, new.created_at, *from_import(new))

        await self._write(job)

    async def get(self, app: AppId, import_id: str) -> Import | None:
        """See `Imports.get`."""

        async def job(link: Link) -> Import | None:
            found = await link.fetch(_GET, app, import_id)
            return to_import(found[0][0]) if found else None

        return await self._read(job)

    async def all(self, app: AppId, limit: int) -> list[Import]:
        """See `Imports.all`."""

        async def job(link: Link) -> list[Import]:
            return [to_import(text) for (text,) in await link.fetch(_ALL, app, limit)]

        return await self._read(job)

    async def change(
        self, app: AppId, import_id: str, change: Callable[[Import], Import]
    ) -> Import | None:
        """See `Imports.change`."""

        async def job(link: Link) -> Import | None:
            async with link.transaction():
                found = await link.fetch(_LOCK, app, import_id)
                if not found:
                    return None
                before = to_import(found[0][0])
                after = change(before)
                if after != before:
                    await link.fetch(_CHANGE, *from_import(after), app, import_id)
                return after

        return await self._write(job)

    async def delete(self, app: AppId, import_id: str) -> None:
        """See `Imports.delete`."""

        async def job(link: Link) -> None:
            async with link.transaction():
                await link.fetch(_DELETE, app, import_id)
                await link.fetch(_DROP_FILE, app, import_id)

        await self._write(job)

    async def unended(self) -> list[OfApp]:
        """See `Imports.unended`."""

        async def job(link: Link) -> list[OfApp]:
            return [
                OfApp(to_app(row), to_import(text)) for text, *row in await link.fetch(_UNENDED)
            ]

        return await self._read(job)

    async def put_piece(self, app: AppId, import_id: str, start: int, piece: bytes) -> None:
        """See `Imports.put_piece`."""

        async def job(link: Link) -> None:
            async with link.transaction():
                # It is not to come back behind whoever deletes the import.
                if not await link.fetch(_LOCK, app, import_id):
                    return
                await link.fetch(_PUT_PIECE, app, import_id, start, piece)

        await self._write(job)

    async def drop_file(self, app: AppId, import_id: str) -> None:
        """See `Imports.drop_file`."""

        async def job(link: Link) -> None:
            async with link.transaction():
                await link.fetch(_DROP_FILE, app, import_id)

        await self._write(job)

    @contextlib.asynccontextmanager
    async def file(self, app: AppId, import_id: str) -> AsyncIterator[str]:
        """See `Imports.file`."""
        with tempfile.TemporaryDirectory(prefix="knownas-") as folder:
            path = Path(folder, import_id)
            start = 0
            with await asyncio.to_thread(path.open, "xb") as file:
                while piece := await self._piece(app, import_id, start):
                    start += await asyncio.to_thread(file.write, piece)
            if not start:
                raise FileNotFoundError(import_id)
            yield str(path)

    async def _piece(self, app: AppId, import_id: str, start: int) -> bytes | None:
        async def job(link: Link) -> bytes | None:
            found = await link.fetch(_PIECE, app, import_id, start)
            return found[0][0] if found else None

        return await self._read(job)

    async def prune(self, *, before: int) -> None:
        """See `Imports.prune`."""

        async def job(link: Link) -> None:
            async with link.transaction():
                await link.fetch(_PRUNE, before)

        await self._write(job)
