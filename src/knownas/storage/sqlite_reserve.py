"""Space that is kept free for erasing: on a full disk, SQLite needs space even to delete.

A file next to the database holds it. When an erasing write meets a full disk, the file is
emptied, the write is done with its space, and the file is filled again. Until it could be, no
other write is begun, by any process: the space is not theirs.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from typing import Final

import apsw

RESERVE_BYTES: Final = 16 * 1024 * 1024
"""Enough to bring a log of the usual length into the database, and then to erase."""


class Reserve:
    """The space kept for the erasing writes on one database."""

    def __init__(self, path: str) -> None:
        """Keep it in the file at `path`, which is made when it is not there; else OSError."""
        self._file = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
        self._is_whole()

    def require(self) -> None:
        """Raise apsw.FullError unless the space is kept, or could be kept again just now."""
        if not self._is_whole():
            raise apsw.FullError("The space that is kept for erasing is in use.")

    @contextlib.contextmanager
    def lent(self) -> Iterator[None]:
        """Let go of the space while the block runs, then keep it again if that is possible."""
        with self._locked():
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, 0)
            yield
        self._is_whole()

    def close(self) -> None:
        """Let go of the file; it stays, and keeps the space."""
        os.close(self._file)

    def _is_whole(self) -> bool:
        try:
            if os.fstat(self._file).st_size == RESERVE_BYTES:
                return True
            with self._locked() as mine:
                if mine:
                    self._fill()
                return mine
        except OSError:
            return False

    def _fill(self) -> None:
        free = os.fstatvfs(self._file)
        if free.f_bavail * free.f_frsize < RESERVE_BYTES:
            raise OSError
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(self._file, 0, RESERVE_BYTES)
            else:  # macOS
                os.pwrite(self._file, bytes(RESERVE_BYTES), 0)
        except OSError:
            os.ftruncate(self._file, 0)
            raise

    @contextlib.contextmanager
    def _locked(self) -> Iterator[bool]:
        """Keep other processes from filling the file; False: another one does it just now."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        try:
            yield True
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)
