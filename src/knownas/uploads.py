"""The use cases of uploaded imports: begun, sent in pieces, looked at, cancelled.

A piece that was sent again, since its answer was lost, is refused with the place from which on the
file is to go on: so a client goes on exactly there, whatever has happened, and with any server.
"""

import asyncio
import contextlib
import secrets
import uuid
from collections.abc import Callable
from typing import Final

import msgspec

from knownas.errors import ImportNotFound, PayloadTooLarge, UploadConflict, ValidationError
from knownas.imports import ENDED, Import, Plan
from knownas.model import AppId
from knownas.storage import Storage

MOST: Final = 4
"""Imports of an app that have not ended, at most."""

MOST_LISTED: Final = 100

PIECE_BYTES: Final = 8 * 1024 * 1024
"""The largest piece."""

UPLOAD_MS: Final = 24 * 3_600_000
"""How long an upload may rest before it is given up, and its file deleted."""

KEPT_MS: Final = 30 * 24 * 3_600_000
"""How long it is known what came of an import."""

_APPEND_MS: Final = 30_000
"""How long a piece may take to be written; after that its writer has died."""


class Uploads:
    """Uploaded imports of the apps of one storage."""

    def __init__(
        self,
        storage: Storage,
        *,
        most_bytes: int,
        clock: Callable[[], int],
        new_uuid: Callable[[], uuid.UUID],
    ) -> None:
        """Take files of at most so many bytes; `clock` gives ms since 1970."""
        self.most_bytes = most_bytes
        self._too_large = (
            f"A file may have {most_bytes} bytes at most: pack it by gzip or zstd, or send it in "
            "parts."
        )
        self._imports = storage.imports
        self._clock = clock
        self._new_uuid = new_uuid
        self._is_whole = asyncio.Event()

    async def wait(self, seconds: float) -> None:
        """Return when a file is here in whole that came by this process, or after so long."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._is_whole.wait(), seconds)
        self._is_whole.clear()

    async def begin(self, app: AppId, name: str, plan: Plan, size: int | None) -> Import:
        """Begin an import, of whose file nothing is here yet; its size may be unknown.

        Raises ValidationError for a size beyond what is taken, TooManyImports, and Unauthorized
        where the app was deleted.
        """
        if size is not None and size > self.most_bytes:
            raise ValidationError(self._too_large, source="size")
        now = self._clock()
        new = Import(f"imp_{self._new_uuid().hex[:16]}", now, name, plan, size=size, changed_at=now)
        await self._imports.add(app, new, most=MOST)
        return new

    async def get(self, app: AppId, import_id: str) -> Import:
        """Return an import. Raises ImportNotFound."""
        found = await self._imports.get(app, import_id)
        if found is None:
            raise ImportNotFound
        return found

    async def all(self, app: AppId) -> list[Import]:
        """Return an app's imports with how far each is, the newest first, `MOST_LISTED` at most."""
        return await self._imports.all(app, MOST_LISTED)

    async def append(
        self, app: AppId, import_id: str, offset: int, piece: bytes, *, is_last: bool
    ) -> Import:
        """Take the piece of a file that begins at `offset`; after the last one it is imported.

        Raises ImportNotFound; UploadConflict where the file does not go on there, or is here in
        whole; PayloadTooLarge; ValidationError where it ends with another size than was announced;
        InsufficientStorage. Then nothing of the piece is taken.
        """
        writer = secrets.token_hex(8)
        now = self._clock()
        end = offset + len(piece)

        def reserve(found: Import) -> Import:
            self._refuse(found, offset, end, now, is_last=is_last)
            return msgspec.structs.replace(found, lease=writer, lease_until=now + _APPEND_MS)

        def take(found: Import) -> Import:
            if found.lease != writer:
                raise UploadConflict(offset=found.received)
            return msgspec.structs.replace(
                found,
                received=end,
                state="waiting" if is_last else "uploading",
                size=end if is_last else found.size,
                changed_at=self._clock(),
                lease="",
                lease_until=0,
            )

        await self._change(app, import_id, reserve)
        try:
            if piece:
                await self._imports.put_piece(app, import_id, offset, piece)
        except BaseException:
            await self._change(app, import_id, lambda found: found.let_go(writer))
            raise
        taken = await self._change(app, import_id, take)
        if is_last:
            self._is_whole.set()
        return taken

    def _refuse(self, found: Import, offset: int, end: int, now: int, *, is_last: bool) -> None:
        """Raise what `append` does, where a piece is not to be taken."""
        if found.state != "uploading":
            raise UploadConflict(
                "The file is not taken any more; GET says what becomes of it.",
                offset=found.received,
            )
        if offset != found.received:
            raise UploadConflict(offset=found.received)
        if found.lease and found.lease_until > now:
            raise UploadConflict(
                "Another request sends a piece of it just now; wait for that.", offset=offset
            )
        if end > self.most_bytes:
            raise PayloadTooLarge(self._too_large)
        if found.size is not None and (end > found.size or (is_last and end < found.size)):
            raise ValidationError(
                f"The file was announced with {found.size} bytes, and has {end}; cancel the import "
                "and begin anew.",
                source="upload-offset",
            )

    async def cancel(self, app: AppId, import_id: str) -> None:
        """End an import that has not ended: what it has done stays. Forget one that has.

        Its file is deleted. Raises ImportNotFound.
        """
        had_ended = False

        def end(found: Import) -> Import:
            nonlocal had_ended
            had_ended = found.state in ENDED
            if had_ended:
                return found
            return msgspec.structs.replace(found, state="cancelled", changed_at=self._clock())

        await self._change(app, import_id, end)
        if had_ended:
            await self._imports.delete(app, import_id)
        else:
            await self._imports.drop_file(app, import_id)

    async def _change(
        self, app: AppId, import_id: str, change: Callable[[Import], Import]
    ) -> Import:
        changed = await self._imports.change(app, import_id, change)
        if changed is None:
            raise ImportNotFound
        return changed
