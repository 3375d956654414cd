"""Uploaded imports in SQLite; their files stand in a folder beside the database.

A folder of its own, with a file for each import, which only the database's owner can read.
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Final

import apsw

from knownas.errors import InsufficientStorage, TooManyImports
from knownas.imports import Import, OfApp
from knownas.model import AppId
from knownas.storage.rows import APP_COLUMNS, from_import, to_app, to_import
from knownas.storage.sqlite_beside import ReaderBeside
from knownas.storage.sqlite_reserve import RESERVE_BYTES
from knownas.storage.sqlite_tombstones import require_app
from knownas.storage.sqlite_writer import GroupCommit

_COUNT: Final = "SELECT count(*) FROM imports WHERE app_id = ? AND ended_at IS NULL"
_ADD: Final = """
INSERT INTO imports (app_id, id, created_at, ended_at, detail) VALUES (?, ?, ?, ?, ?)
"""
_GET: Final = "SELECT detail FROM imports WHERE app_id = ? AND id = ?"
_ALL: Final = """
SELECT detail FROM imports WHERE app_id = ? ORDER BY created_at DESC, id DESC LIMIT ?
"""
_CHANGE: Final = "UPDATE imports SET ended_at = ?, detail = ? WHERE app_id = ? AND id = ?"
_DELETE: Final = "DELETE FROM imports WHERE app_id = ? AND id = ?"
_UNENDED: Final = f"""
SELECT i.detail, {APP_COLUMNS} FROM imports i JOIN apps a ON a.id = i.app_id
WHERE i.ended_at IS NULL ORDER BY i.created_at, i.id
"""  # noqa: S608 - the columns are a constant
_WITH_FILES: Final = "SELECT app_id, id FROM imports WHERE ended_at IS NULL"
_PRUNE: Final = "DELETE FROM imports WHERE ended_at < ?"

_OWNER_ONLY: Final = 0o600
_OWNERS_FOLDER: Final = 0o700


class SqliteImports:
    """`knownas.imports.Imports` over one SQLite file."""

    def __init__(self, path: str, writer: GroupCommit, beside: ReaderBeside) -> None:
        """Write by `writer` and read beside the loop; `path` is the database's."""
        self._folder = Path(f"{path}-imports")
        self._writer = writer
        self._beside = beside

    async def add(self, app: AppId, new: Import, *, most: int) -> None:
        """See `Imports.add`."""

        def work(connection: apsw.Connection) -> None:
            require_app(connection, app)
            if connection.execute(_COUNT, (app,)).get >= most:
                raise TooManyImports
            connection.execute(_ADD, (app, new.id, new.created_at, *from_import(new)))

        await self._writer.run(work)

    async def get(self, app: AppId, import_id: str) -> Import | None:
        """See `Imports.get`."""
        found: Any = await self._beside.read(lambda read: read.execute(_GET, (app, import_id)).get)
        return None if found is None else to_import(found)

    async def all(self, app: AppId, limit: int) -> list[Import]:
        """See `Imports.all`."""
        return await self._beside.read(
            lambda read: [to_import(text) for (text,) in read.execute(_ALL, (app, limit))]
        )

    async def change(
        self, app: AppId, import_id: str, change: Callable[[Import], Import]
    ) -> Import | None:
        """See `Imports.change`."""

        def work(connection: apsw.Connection) -> Import | None:
            text = connection.execute(_GET, (app, import_id)).get
            if text is None:
                return None
            before = to_import(text)
            after = change(before)
            if after != before:
                connection.execute(_CHANGE, (*from_import(after), app, import_id))
            return after

        return await self._writer.run(work)

    async def delete(self, app: AppId, import_id: str) -> None:
        """See `Imports.delete`."""
        await self._writer.run(
            lambda write: write.execute(_DELETE, (app, import_id)).get, erases=True
        )
        await self.drop_file(app, import_id)

    async def unended(self) -> list[OfApp]:
        """See `Imports.unended`."""
        return await self._beside.read(
            lambda read: [
                OfApp(to_app(row), to_import(text)) for text, *row in read.execute(_UNENDED)
            ]
        )

    async def put_piece(self, app: AppId, import_id: str, start: int, piece: bytes) -> None:
        """See `Imports.put_piece`."""
        await asyncio.to_thread(self._put_piece, self._path(app, import_id), start, piece)

    def _put_piece(self, path: Path, start: int, piece: bytes) -> None:
        self._folder.mkdir(mode=_OWNERS_FOLDER, exist_ok=True)
        file = os.open(path, os.O_CREAT | os.O_RDWR, _OWNER_ONLY)
        try:
            os.ftruncate(file, start)
            free = os.fstatvfs(file)
            # The rest is for the import itself, and for all else that the database is to take.
            if free.f_bavail * free.f_frsize < len(piece) + RESERVE_BYTES:
                raise InsufficientStorage
            written = 0
            while written < len(piece):
                written += os.pwrite(file, piece[written:], start + written)
            os.fsync(file)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(file, start)
            raise InsufficientStorage from None
        finally:
            os.close(file)

    async def drop_file(self, app: AppId, import_id: str) -> None:
        """See `Imports.drop_file`."""
        await asyncio.to_thread(self._path(app, import_id).unlink, missing_ok=True)

    @contextlib.asynccontextmanager
    async def file(self, app: AppId, import_id: str) -> AsyncIterator[str]:
        """See `Imports.file`."""
        path = self._path(app, import_id)
        if not await asyncio.to_thread(path.exists):
            raise FileNotFoundError(path)
        yield str(path)

    async def prune(self, *, before: int) -> None:
        """See `Imports.prune`."""
        await self._writer.run(lambda write: write.execute(_PRUNE, (before,)).get, erases=True)
        await self.sweep()

    async def sweep(self) -> None:
        """Delete files that belong to no import that has not ended."""
        if not await asyncio.to_thread(self._folder.exists):
            return
        # In this order: a file comes after its import.
        there = await asyncio.to_thread(lambda: set(self._folder.iterdir()))
        with_files: list[Any] = await self._beside.read(
            lambda read: read.execute(_WITH_FILES).fetchall()
        )
        for path in there - {self._path(app, import_id) for app, import_id in with_files}:
            await asyncio.to_thread(path.unlink, missing_ok=True)

    def _path(self, app: AppId, import_id: str) -> Path:
        return self._folder / f"{app}-{import_id}"
