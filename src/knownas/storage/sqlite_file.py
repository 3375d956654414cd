"""One database file: how it is made, opened and brought up to date."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import apsw

from knownas.storage import StorageError, migrate

BUSY_TIMEOUT_MS: Final = 5_000
"""How long a statement waits for another process's lock before it gives up."""

BUSY_POLL_SECONDS: Final = 0.0003

PAGE_BYTES: Final = 2_048
"""A write changes some ten pages at random places, each of which goes to the disk twice."""

PRAGMAS: Final = """
PRAGMA synchronous = FULL;
PRAGMA wal_autocheckpoint = 0;
PRAGMA trusted_schema = OFF;
PRAGMA mmap_size = 0x1000000000000;
"""

_NEW_FILE: Final = f"""
PRAGMA page_size = {PAGE_BYTES};
PRAGMA journal_mode = WAL;
"""

_MIGRATIONS_TABLE: Final = """
CREATE TABLE IF NOT EXISTS schema_version (
    version    INTEGER PRIMARY KEY,
    name       TEXT NOT NULL,
    checksum   TEXT NOT NULL,
    applied_at INTEGER NOT NULL
) STRICT
"""

_HAS_MIGRATIONS: Final = "SELECT 1 FROM sqlite_schema WHERE name = 'schema_version'"
_APPLIED: Final = "SELECT version, checksum FROM schema_version"


def connect(path: str, vfs: str | None = None) -> apsw.Connection:
    """Return a new connection to the file at `path`, with all that every connection needs."""
    connection = apsw.Connection(path, vfs=vfs)
    connection.set_busy_handler(_patience())
    # Without the stable query planner a statement is planned anew for each value that is
    # bound to it: three quarters of the time of a look-up.
    connection.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, 1)
    connection.execute(PRAGMAS).fetchall()
    return connection


def make_private(path: str, *, create: bool) -> None:
    """Make a new database file that only its owner can read; SQLite's own would follow umask."""
    if not Path(path).exists():
        if not create:
            raise StorageError(
                f"There is no database at {path}; `knownas serve` or `knownas migrate` makes one."
            )
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))


def migrate_to_newest(connection: apsw.Connection) -> list[str]:
    """Bring the schema up to date and return the names of the steps that were applied."""
    _use_wal(connection)
    steps = migrate.available("sqlite")
    connection.execute("BEGIN IMMEDIATE")
    try:
        connection.execute(_MIGRATIONS_TABLE)
        applied = dict(connection.execute(_APPLIED))
        todo = migrate.pending(steps, applied)
        for step in todo:
            connection.execute(step.sql)
            connection.execute(
                "INSERT INTO schema_version VALUES (?, ?, ?, ?)",
                (step.version, step.name, step.checksum, time.time_ns() // 1_000_000),
            )
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")
    return [step.full_name for step in todo]


def pending(path: str | None) -> list[str]:
    """Return the names of the steps that opening the file would apply; `path` None has no file yet.

    Nothing is changed. Raises StorageError when the file cannot be used, or does not go
    together with this program.
    """
    applied: dict[int, str] = {}
    if path is not None and Path(path).exists():
        try:
            connection = apsw.Connection(path, flags=apsw.SQLITE_OPEN_READONLY)
            connection.set_busy_timeout(BUSY_TIMEOUT_MS)
            if connection.execute(_HAS_MIGRATIONS).get:
                applied = dict(connection.execute(_APPLIED))
            connection.close()
        except apsw.Error as error:
            raise StorageError(f"{path}: {error}.") from error
    return [step.full_name for step in migrate.pending(migrate.available("sqlite"), applied)]


def _use_wal(connection: apsw.Connection) -> None:
    """Put the file into WAL mode, for good; one without content gets our page size.

    Of several processes that first open a file at once, SQLite tells some that it is busy
    without any waiting, so the waiting is done here.
    """
    deadline = time.monotonic() + BUSY_TIMEOUT_MS / 1_000
    while True:
        try:
            connection.execute(_NEW_FILE).fetchall()
        except apsw.BusyError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return


def _patience() -> Callable[[int], bool]:
    """Return a busy handler that asks for the lock again and again, evenly, until it is too late.

    SQLite's own sleeps longer each time, up to 100 ms, and so leaves the lock to whichever
    process had it last: of four that write without a pause, one waited for over three seconds.
    """
    until = 0.0

    def wait(attempts: int) -> bool:
        nonlocal until
        now = time.monotonic()
        if attempts == 0:
            until = now + BUSY_TIMEOUT_MS / 1_000
        time.sleep(BUSY_POLL_SECONDS)
        return now < until

    return wait
