"""A file's lines, unpacked on the way, in constant memory.

A line longer than any row can be is passed over without being held, and a file that unpacks to far
more than any table does is refused.
"""

import gzip
import hashlib
import io
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final

from knownas.transfer import TransferError
from knownas.transfer.zstd import zstd

MAX_LINE: Final = 131_072
"""Bytes of the longest line; a row of ours has at most 20,000 characters."""

MAX_RATIO: Final = 250
"""By how much a file may unpack: tables do so by 3 to 30 times, bombs by 1,000."""

_SLACK: Final = 64 * 1024 * 1024
"""Bytes that any file may unpack to."""

_PIECE: Final = 1024 * 1024
_ENDS: Final = 1024 * 1024
_GZIP: Final = b"\x1f\x8b"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_UTF8_BOM: Final = b"\xef\xbb\xbf"
_UTF16: Final = (b"\xff\xfe", b"\xfe\xff")

TOO_LONG: Final = b""
"""What stands for a line that is longer than `MAX_LINE`."""


class _Unpacked(io.RawIOBase):
    """What a packed file unpacks to."""

    def __init__(
        self,
        path: str,
        packed: BinaryIO,
        inner: Any,  # noqa: ANN401 - whatever unpacks
        errors: tuple[type[Exception], ...],
    ) -> None:
        self._path = path
        self._packed = packed
        self._inner = inner
        self._errors = errors
        self._size = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "memoryview") -> int:  # type: ignore[override] # what BufferedReader gives
        try:
            piece: bytes = self._inner.read1(len(buffer))
        except self._errors as error:
            told = str(error).rstrip(".")
            raise TransferError(f"{self._path}: is damaged, or cut off: {told}.") from None
        buffer[: len(piece)] = piece
        self._size += len(piece)
        if self._size > _SLACK and self._size > MAX_RATIO * self._packed.tell():
            raise TransferError(
                f"{self._path}: unpacks to more than {MAX_RATIO} times its size, as no table does; "
                "it is not read any further."
            )
        return len(piece)


class Lines:
    """The lines of a file, packed or not."""

    def __init__(self, path: str) -> None:
        """Open a file. Raises TransferError."""
        self.path = path
        self.number = 0
        """Of the line that was given last, from 1."""
        try:
            self._packed = Path(path).open("rb", buffering=_PIECE)  # noqa: SIM115 - `close` does
        except OSError as error:
            raise TransferError(f"{path}: {error.strerror}.") from None
        try:
            self._begin()
        except BaseException:
            self.close()
            raise

    def _begin(self) -> None:
        """Look at the first bytes. Raises TransferError."""
        try:
            self.size = os.fstat(self._packed.fileno()).st_size
            self._file: Any = self._unpacked()
            start = self._file.peek(4)
        except OSError as error:
            raise TransferError(f"{self.path}: {error.strerror}.") from None
        if start.startswith(_UTF16):
            raise TransferError(f"{self.path}: is UTF-16; save it as UTF-8.")
        if start.startswith(_UTF8_BOM):
            self._file.read(len(_UTF8_BOM))
        self.start = self._file.peek(4)[:4]
        """The first bytes, unpacked."""

    def _unpacked(self) -> Any:  # noqa: ANN401 - a reader with peek, whatever is beneath it
        start = self._packed.read(4)
        self._packed.seek(0)
        inner: Any
        errors: tuple[type[Exception], ...] = (EOFError, OSError)
        if start.startswith(_GZIP):
            inner, errors = gzip.GzipFile(fileobj=self._packed), (*errors, zlib.error)
        elif start == _ZSTD:
            inner, errors = zstd().ZstdFile(self._packed), (*errors, zstd().ZstdError)
        else:
            return self._packed
        return io.BufferedReader(_Unpacked(self.path, self._packed, inner, errors), _PIECE)

    def __iter__(self) -> Iterator[bytes]:
        """Yield each line with its end, and `TOO_LONG` for one that is too long."""
        read = self._file.readline
        while line := read(MAX_LINE + 1):
            self.number += 1
            if len(line) > MAX_LINE and not line.endswith(b"\n"):
                while (rest := read(_PIECE)) and not rest.endswith(b"\n"):
                    pass
                line = TOO_LONG
            yield line

    def done(self) -> int:
        """Return how many bytes of the file were read."""
        return min(self._packed.tell(), self.size)

    def close(self) -> None:
        """Let go of the file."""
        self._packed.close()


def fingerprint(path: str) -> str:
    """Return what tells a file from others and from itself as it was: 32 hexadecimal digits.

    It is made of size, time of the last change, and the first and last MiB: the whole of a large
    file takes long to read. Raises TransferError.
    """
    try:
        with Path(path).open("rb") as file:
            status = os.fstat(file.fileno())
            digest = hashlib.sha256(b"%d %d " % (status.st_size, status.st_mtime_ns))
            digest.update(file.read(_ENDS))
            file.seek(max(0, status.st_size - _ENDS))
            digest.update(file.read(_ENDS))
    except OSError as error:
        raise TransferError(f"{path}: {error.strerror}.") from None
    return digest.hexdigest()[:32]
