"""A disk whose power can be cut: an APSW VFS that knows what a flush had made durable.

Every write goes through to a real file, so that the program under test reads what it wrote. At
the same time it is kept apart as unsynced, until `xSync` of that file. A cut may come between
any two operations. What is then found on the disk is, file by file:

- of each sector any content that it had since the last sync, that at the last sync included:
  unsynced writes are lost, reordered across sectors, and torn at the sectors' edges;
- any length that the file had since then; a truncation frees sectors, it does not write them;
- of each directory entry the new or the old one, until the directory is synced: a file that is
  new may vanish with all its content, a file that was deleted may be there again.

A disk that honours a flush does no worse. SQLite's unix VFS syncs the directory by itself, out
of sight of a VFS above it: with the first sync of a journal or log that it opened to create,
and with a deletion that asks for it. The model does as it does, see `unixOpen` in os_unix.c.

The shared memory of WAL mode (`-shm`) is the real one of the VFS below. It is no part of what a
cut leaves: SQLite makes it anew when no process has the database open.
"""

import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

import apsw

SECTORS: Final = (512, 4096)

_JOURNALS: Final = (
    apsw.SQLITE_OPEN_WAL | apsw.SQLITE_OPEN_MAIN_JOURNAL | apsw.SQLITE_OPEN_SUPER_JOURNAL
)


class _Write(NamedTuple):
    offset: int
    data: bytes


class _Truncation(NamedTuple):
    size: int


class _Content:
    """A file's content: as it was at the last sync, and what was done to it since."""

    def __init__(self) -> None:
        self.synced = bytearray()
        self.unsynced: list[_Write | _Truncation] = []

    def sync(self) -> None:
        steps, self.unsynced = self.unsynced, []
        for step in steps:
            _apply(self.synced, step)

    def after_a_cut(self, dice: random.Random, sector: int) -> bytes:
        """Return what of it a cut leaves."""
        # What is left of most cuts is a bit of everything; the ends of the scale are worth
        # their own share.
        survival = dice.choice((0.0, 0.1, 0.5, 0.5, 0.9, 1.0))
        live = bytearray(self.synced)
        sizes = [len(live)]
        found: dict[int, bytes] = {}
        for step in self.unsynced:
            _apply(live, step)
            sizes.append(len(live))
            if isinstance(step, _Truncation):
                continue  # it changes the length, as a whole or not at all, and no sector
            first, last = step.offset // sector, (step.offset + len(step.data) - 1) // sector
            for number in range(first, last + 1):
                if dice.random() < survival:
                    found[number] = bytes(live[number * sector : (number + 1) * sector])
        size = sizes[-1] if dice.random() < survival else dice.choice(sizes)
        left = bytearray(self.synced)
        left += bytes(max(sizes) + sector - len(left))
        for number, content in found.items():
            start = number * sector
            left[start : start + sector] = content + bytes(sector - len(content))
        return bytes(left[:size])


def _apply(content: bytearray, step: _Write | _Truncation) -> None:
    if isinstance(step, _Truncation):
        del content[step.size :]
        content += bytes(step.size - len(content))
    else:
        end = step.offset + len(step.data)
        content += bytes(max(0, end - len(content)))
        content[step.offset : end] = step.data


class Disk:
    """A folder and its files, as they are and as a cut would leave them."""

    def __init__(self, folder: Path, before_each: Callable[[str, str], None]) -> None:
        """Take an existing folder; what is in it now is durable.

        `before_each` is called before each operation that changes something, with its name and
        the kind of file: `db`, `wal`, `journal`, or `entries` for the directory.
        """
        self.folder = folder
        self.before_each = before_each
        self.lock = threading.RLock()
        """Held while the record changes: connections of several threads write and sync at once."""
        self._entries: dict[str, _Content] = {}
        for path in folder.iterdir():
            if not path.name.endswith("-shm"):
                content = self._entries[path.name] = _Content()
                content.synced += path.read_bytes()
        self._synced_entries = dict(self._entries)
        self._unsynced_entries: list[tuple[str, _Content | None]] = []

    def open(self, name: str) -> _Content:
        """Return the content of a file, which is made if it is not there."""
        if name not in self._entries:
            self.before_each("create", kind_of(name))
        with self.lock:
            if name not in self._entries:
                self._enter(name, _Content())
            return self._entries[name]

    def delete(self, name: str, *, sync: bool) -> None:
        """Delete a file."""
        self.before_each("delete", kind_of(name))
        with self.lock:
            if name in self._entries:
                self._enter(name, None)
            if sync:
                self.sync_entries()

    def sync_entries(self) -> None:
        """Make durable which files there are."""
        with self.lock:
            self._synced_entries = dict(self._entries)
            self._unsynced_entries.clear()

    def after_a_cut(self, dice: random.Random, sector: int) -> dict[str, bytes]:
        """Return the files that a cut now would leave."""
        with self.lock:
            entries = dict(self._synced_entries)
            survival = dice.choice((0.0, 0.5, 1.0))
            for name, content in self._unsynced_entries:
                if dice.random() < survival:
                    if content is None:
                        entries.pop(name, None)
                    else:
                        entries[name] = content
            return {name: content.after_a_cut(dice, sector) for name, content in entries.items()}

    def _enter(self, name: str, content: _Content | None) -> None:
        if content is None:
            del self._entries[name]
        else:
            self._entries[name] = content
        self._unsynced_entries.append((name, content))


def kind_of(name: str) -> str:
    """Return what kind of file a name is of: `db`, `wal` or `journal`."""
    for kind in ("wal", "journal"):
        if name.endswith(f"-{kind}"):
            return kind
    return "db"


class PowerCutVFS(apsw.VFS):
    """SQLite's VFS for a `Disk`, over the usual one."""

    def __init__(self, name: str, disk: Disk) -> None:
        """Register the VFS under a name."""
        self.name = name
        self.disk = disk
        super().__init__(name, "")

    def xOpen(  # noqa: N802 - SQLite's name
        self, name: str | apsw.URIFilename | None, flags: list[int]
    ) -> apsw.VFSFile:
        """Open a file; one without a name is temporary, and no cut leaves any of it."""
        if name is None:
            return apsw.VFSFile("", name, flags)
        return _File(self.disk, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: FBT001, N802 - SQLite's own
        """Delete a file."""
        self.disk.delete(Path(filename).name, sync=syncdir)
        super().xDelete(filename, syncdir)


class _File(apsw.VFSFile):
    """An open file of a `Disk`."""

    def __init__(self, disk: Disk, name: str | apsw.URIFilename, flags: list[int]) -> None:
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        self._disk = disk
        self._kind = kind_of(path)
        self._content = disk.open(Path(path).name)
        self._syncs_entries = bool(flags[0] & apsw.SQLITE_OPEN_CREATE and flags[0] & _JOURNALS)
        super().__init__("", name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802 - SQLite's name
        self._disk.before_each("write", self._kind)
        super().xWrite(data, offset)
        with self._disk.lock:
            self._content.unsynced.append(_Write(offset, bytes(data)))

    def xTruncate(self, newsize: int) -> None:  # noqa: N802 - SQLite's name
        self._disk.before_each("truncate", self._kind)
        super().xTruncate(newsize)
        with self._disk.lock:
            self._content.unsynced.append(_Truncation(newsize))

    def xSync(self, _flags: int) -> None:  # noqa: N802 - SQLite's name
        self._disk.before_each("sync", self._kind)
        with self._disk.lock:
            self._content.sync()
        if self._syncs_entries:
            self._disk.before_each("sync", "entries")
            self._syncs_entries = False
            self._disk.sync_entries()
