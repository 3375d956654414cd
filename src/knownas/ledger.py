"""The ledger of erasures: a file outside the database, which a restored backup does not undo.

Each erasure is one line of JSON, on the disk before the database commits: so there may be one that
the database does not have, and never the reverse. Nothing in a line tells who was erased. What
breaks off while it is written leaves a line without an end, of an erasure that was never made; it
is left out by whoever reads, and cut off by whoever writes the next one.
"""

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from knownas.erasing import Erasure, Tombstone

_LONGEST_LINE: Final = 1024 * 1024
"""Bytes; a person with a thousand merged profiles has a tenth of that."""


class LedgerError(Exception):
    """A ledger cannot be read; the text is one line that says which and why."""


class Entry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One erasure, as it stands in a line."""

    id: str
    """That of the erasure, a UUID."""
    app: str
    """The UUID of the app."""
    erased_at: int
    key: bytes
    """The key that the subjects were made by, sealed; base64 in the line."""
    subjects: list[str]
    """In hexadecimal digits."""
    receipt: str
    """JSON."""

    @property
    def erasure(self) -> Erasure:
        """The erasure that this is of."""
        return Erasure(self.id, self.erased_at, self.receipt)

    @property
    def tombstones(self) -> list[Tombstone]:
        """The tombstones that it left."""
        return [
            Tombstone(bytes.fromhex(subject), self.id, self.erased_at) for subject in self.subjects
        ]


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Entry).decode


def append(path: str, entry: Entry) -> None:
    """Write an erasure to the end of a ledger, which is made if it is not there.

    It is on the disk at the return, for its owner alone to read. Raises OSError, and then the
    ledger is as it was.
    """
    place = Path(path)
    descriptor = os.open(place, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        with _locked(descriptor):
            end = _whole_bytes(descriptor)
            os.ftruncate(descriptor, end)
            try:
                _write(descriptor, _encode(entry) + b"\n")
                os.fsync(descriptor)
            except OSError:
                os.ftruncate(descriptor, end)
                raise
    finally:
        os.close(descriptor)
    if end == 0:  # the file may be new
        _flush_folder(place.parent)


def read(paths: Sequence[str]) -> list[Entry]:
    """Return the erasures in several ledgers, oldest first, each once.

    A ledger that is not there has none. Raises LedgerError for one that cannot be read.
    """
    found: dict[str, Entry] = {}
    for path in paths:
        for entry in _read_one(path):
            known = found.get(entry.id)
            # Begun anew, a transaction may have found more of the same person.
            subjects = [*known.subjects, *entry.subjects] if known else entry.subjects
            found[entry.id] = msgspec.structs.replace(entry, subjects=list(dict.fromkeys(subjects)))
    return sorted(found.values(), key=lambda entry: entry.erased_at)


def _read_one(path: str) -> list[Entry]:
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise LedgerError(f"{path}: {error.strerror}.") from None
    entries = []
    *lines, _torn = content.split(b"\n")
    for number, line in enumerate(lines, 1):
        try:
            entry = _decode(line)
            entry.tombstones  # noqa: B018 - whether the subjects are such
        except (msgspec.DecodeError, ValueError):
            raise LedgerError(f"{path}: line {number} is no erasure.") from None
        entries.append(entry)
    return entries


def _whole_bytes(descriptor: int) -> int:
    """Return how long the ledger is up to the end of its last whole line."""
    size = os.fstat(descriptor).st_size
    begin = max(0, size - _LONGEST_LINE)
    tail = os.pread(descriptor, size - begin, begin)
    return begin + tail.rfind(b"\n") + 1 if b"\n" in tail or begin == 0 else size


def _write(descriptor: int, line: bytes) -> None:
    while line:
        line = line[os.write(descriptor, line) :]


@contextmanager
def _locked(descriptor: int) -> Iterator[None]:
    """Keep other processes from writing meanwhile; closing the file lets them again."""
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    yield


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
