"""A copy of a database file while servers use it, and such a copy put in a database's place.

Both write a new file beside where it belongs, check it, flush it, and only then give it its name:
whatever breaks off leaves what was there. A copy is one file that needs no log beside it.
"""

import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import Final

import apsw

from knownas.storage import StorageError, migrate, sqlite_check, sqlite_file
from knownas.storage.sqlite_changes import rename

PAGES_A_STEP: Final = 2_000
"""4 MiB: often enough to tell how far it is."""

_HAS_FEED: Final = "SELECT 1 FROM sqlite_schema WHERE name = 'feed'"

_BESIDE: Final = ("-wal", "-shm", "-journal")
"""What SQLite may have left beside a file; found beside another one, it would destroy that."""

_LOCK_AT, _LOCK_BYTES = 0x40000002, 510
"""Of these bytes every connection in WAL mode has locked one (SQLite's file format, "Locking")."""

Progress = Callable[[int, int], None]
"""Told how many pages are done, of how many; half of them are the check of what was copied."""


def back_up(path: str, copy: str, *, overwrite: bool, progress: Progress) -> int:
    """Write the database at `path` to the file `copy`, and return the bytes of that.

    It is the database at one moment, whatever is written meanwhile, for its owner alone to read.
    Raises StorageError when there is no database, `copy` is there and not to be overwritten, the
    disk is full, or the copy is not sound.
    """
    _require_file(path, "database")
    _require_place(copy, path, overwrite=overwrite)
    with _telling(path), closing(sqlite_file.connect(path)) as source:
        return _copy(source, Path(copy), progress, overwrite=overwrite)


def restore(copy: str, path: str, *, overwrite: bool, progress: Progress) -> int:
    """Put the database in the file `copy` where one at `path` is looked for; return its bytes.

    Raises StorageError when `copy` is no sound database of a schema that this program knows, when
    there is a database at `path` that is not to be overwritten, or a process has it open.
    """
    _require_file(copy, "backup")
    _require_place(path, copy, overwrite=overwrite)
    with (
        _telling(copy),
        closing(apsw.Connection(copy, flags=apsw.SQLITE_OPEN_READONLY)) as source,
    ):
        _require_known_schema(source, copy)
        return _copy(source, Path(path), progress, overwrite=overwrite, begins_feed=True)


def _copy(
    source: apsw.Connection,
    target: Path,
    progress: Progress,
    *,
    overwrite: bool,
    begins_feed: bool = False,
) -> int:
    with _unused(target) if overwrite and target.exists() else nullcontext():
        descriptor, name = tempfile.mkstemp(prefix=f"{target.name}.part-", dir=target.parent)
        try:
            _write(source, name, progress, begins_feed=begins_feed)
            os.fsync(descriptor)
            size = os.fstat(descriptor).st_size
            _put(Path(name), target, overwrite=overwrite)
        finally:
            os.close(descriptor)
            for ending in ("", *_BESIDE):
                Path(name + ending).unlink(missing_ok=True)
        _flush_folder(target.parent)
        return size


def _write(source: apsw.Connection, name: str, progress: Progress, *, begins_feed: bool) -> None:
    """Write the whole database to a new file, and check that.

    Where the feed begins anew, cursors of the database that was there before are refused: what
    comes after them is not what came then.
    """
    with closing(apsw.Connection(name)) as target:
        # Nobody reads it before it is flushed as a whole.
        target.execute("PRAGMA synchronous = OFF; PRAGMA journal_mode = MEMORY").fetchall()
        # One snapshot: else what is written meanwhile makes the copying begin anew.
        with source:
            source.execute("SELECT 1 FROM sqlite_schema").fetchall()
            with target.backup("main", source, "main") as copying:
                while not copying.done:
                    copying.step(PAGES_A_STEP)
                    pages = copying.page_count
                    progress(pages - copying.remaining, 2 * pages)
        if begins_feed and target.execute(_HAS_FEED).get:
            rename(target)
        target.execute("PRAGMA journal_mode = DELETE").fetchall()
        problems = sqlite_check.problems(
            target, lambda step: progress(pages + pages * step // sqlite_check.STEPS, 2 * pages)
        )
        if problems:
            raise StorageError(f"The copy is not sound: {problems[0]}.")


def _put(partial: Path, target: Path, *, overwrite: bool) -> None:
    """Give a complete file its name, in the place of what has that name now."""
    if not overwrite or not target.exists():
        _remove_beside(target)
        try:
            target.hardlink_to(partial)  # unlike a renaming, this replaces nothing
        except FileExistsError:
            raise StorageError(f"{target} was made meanwhile.") from None
        return
    # The old file is not without its log before the new one is there: what breaks off here leaves
    # both under another name.
    aside = [
        (beside, beside.with_name(f"{beside.name}.old"))
        for beside in (Path(f"{target}{ending}") for ending in ("", *_BESIDE))
        if beside.exists()
    ]
    for beside, old in aside:
        beside.replace(old)
    partial.replace(target)
    _flush_folder(target.parent)
    for _, old in aside:
        old.unlink()


@contextmanager
def _unused(path: Path) -> Iterator[None]:
    """Keep every process from opening a database meanwhile. Raises StorageError if one has it open.

    It asks the kernel, not SQLite, which could not tell for a file that is damaged.
    """
    with path.open("r+b") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, _LOCK_BYTES, _LOCK_AT)
        except OSError:
            raise StorageError(f"{path} is in use: stop what uses it first.") from None
        yield


def _remove_beside(target: Path) -> None:
    for ending in _BESIDE:
        Path(f"{target}{ending}").unlink(missing_ok=True)


def _require_file(path: str, what: str) -> None:
    if not Path(path).is_file():
        raise StorageError(f"There is no {what} at {path}.")


def _require_place(target: str, source: str, *, overwrite: bool) -> None:
    place = Path(target)
    if not place.parent.is_dir():
        raise StorageError(f"There is no folder {place.parent}.")
    if place.exists() and place.samefile(source):
        raise StorageError(f"{target} is the very file that is to be copied.")
    if place.exists() and not overwrite:
        raise StorageError(f"{target} is there already; --overwrite replaces it.")


def _require_known_schema(source: apsw.Connection, copy: str) -> None:
    if source.execute("SELECT 1 FROM sqlite_schema WHERE name = 'schema_version'").get is None:
        raise StorageError(f"{copy} is no database of knownas.")
    applied = dict(source.execute("SELECT version, checksum FROM schema_version"))
    migrate.pending(migrate.available("sqlite"), applied)


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _telling(path: str) -> Iterator[None]:
    """Tell what the database or the file system says in one line."""
    try:
        yield
    except apsw.Error as error:
        raise StorageError(f"{path}: {error}.") from error
    except OSError as error:
        raise StorageError(f"{error.filename or path}: {error.strerror}.") from error
