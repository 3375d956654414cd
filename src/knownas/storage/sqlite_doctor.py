"""What `knownas doctor` looks at of a SQLite file; nothing is changed."""

import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import apsw

from knownas.condition import Finding, newest_change
from knownas.storage import migrate
from knownas.storage.sqlite_condition import log_bytes
from knownas.storage.sqlite_file import BUSY_TIMEOUT_MS
from knownas.storage.sqlite_reserve import RESERVE_BYTES

LONG_LOG_BYTES: Final = 256 * 1024 * 1024
"""A log is made to begin anew long before, unless somebody reads for very long."""
LITTLE_BYTES: Final = 1024 * 1024 * 1024
LEAST_BYTES: Final = 4 * RESERVE_BYTES
_SHARED: Final = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "ceph", "fuse.sshfs"})
"""File systems over a network: on them processes cannot share the memory that WAL mode needs."""

_SCHEMA: Final = """
SELECT type, name, sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite\\_%' ESCAPE '\\'
"""
_MODE: Final = "PRAGMA journal_mode"
_LAST_CHANGE: Final = "SELECT at FROM changes ORDER BY position DESC LIMIT 1"


def findings(path: str, now: int) -> Iterator[Finding]:
    """Yield what there is to say of the file at `path`, at a time in milliseconds since 1970."""
    file = Path(path)
    if not file.is_file():
        yield Finding(
            "database",
            "problem",
            f"There is no database at {path}.",
            "Set KNOWNAS_DATABASE to where it is; `knownas serve` or `knownas migrate` makes one.",
        )
        return
    yield from _permissions(file)
    yield _file_system(file)
    yield _space(file)
    yield _log(path)
    yield from _reserve(file)
    try:
        connection = apsw.Connection(path, flags=apsw.SQLITE_OPEN_READONLY)
        try:
            connection.set_busy_timeout(BUSY_TIMEOUT_MS)
            yield from _inside(connection, now)
        finally:
            connection.close()
    except apsw.Error as error:
        yield Finding(
            "database",
            "problem",
            f"{path} cannot be read: {error}.",
            "If it is damaged, restore the last backup: `knownas restore`.",
        )


def _permissions(file: Path) -> Iterator[Finding]:
    mode = file.stat().st_mode
    ours = os.access(file, os.R_OK | os.W_OK) and os.access(file.parent, os.W_OK | os.X_OK)
    if not ours:
        yield Finding(
            "permissions",
            "problem",
            f"This user may not write {file} and into its folder.",
            "Run as the user that owns them, or have that user own them: chown.",
        )
    for each in (file, *file.parent.glob(f"{file.name}-*")):
        rights = each.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO)
        if rights and each.is_file():
            yield Finding(
                "permissions",
                "warning",
                f"Others than its owner have rights on {each}, and it holds identifiers.",
                f"chmod 600 {each}",
            )
            return
    if ours:
        yield Finding("permissions", "ok", f"{file} is its owner's alone ({stat.filemode(mode)}).")


def _file_system(file: Path) -> Finding:
    kind = file_system_of(file)
    if kind in _SHARED:
        return Finding(
            "file system",
            "problem",
            f"{file} is on a network file system ({kind}), where SQLite's log does not work.",
            "Move it to a disk of this machine, or use PostgreSQL: `knownas copy`.",
        )
    return Finding("file system", "ok", f"It is on {kind or 'a file system of this machine'}.")


def file_system_of(file: Path, mounts: Path = Path("/proc/mounts")) -> str:
    """Return the type of the file system that a file is on, "" where it is not known (macOS)."""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    place, best, kind = file.resolve(), -1, ""
    for line in lines:
        _, point, of, *_ = line.split(" ")
        point = point.replace("\\040", " ")
        if place.is_relative_to(point) and len(point) >= best:
            best, kind = len(point), of
    return kind


def _space(file: Path) -> Finding:
    total, _, free = shutil.disk_usage(file.parent)
    says = f"{free >> 20:,} MiB of {total >> 20:,} MiB are free beside the database."
    if free < LEAST_BYTES:
        return Finding("disk", "problem", says, "Make room: writes will fail soon, or fail now.")
    if free < max(LITTLE_BYTES, 2 * log_bytes(str(file))):
        return Finding("disk", "warning", says, "Make room, or move the database to another disk.")
    return Finding("disk", "ok", says)


def _log(path: str) -> Finding:
    size = log_bytes(path)
    says = f"The log beside the database has {size >> 20:,} MiB."
    if size > LONG_LOG_BYTES:
        return Finding(
            "log",
            "warning",
            says,
            "Somebody reads the file for very long, and keeps the log from beginning anew: look "
            f"for who has it open (fuser {path}). It is emptied when all servers stop.",
        )
    return Finding("log", "ok", says)


def _reserve(file: Path) -> Iterator[Finding]:
    reserve = file.with_name(f"{file.name}-reserve")
    if reserve.exists() and reserve.stat().st_size != RESERVE_BYTES:
        yield Finding(
            "disk",
            "problem",
            "The space that is kept for erasing on a full disk is in use: nothing else is written.",
            "Make room; the space is kept again with the next write.",
        )


def _inside(connection: apsw.Connection, now: int) -> Iterator[Finding]:
    yield Finding("version", "ok", f"SQLite {apsw.sqlite_lib_version()}.")
    mode = connection.execute(_MODE).get
    if mode != "wal":
        yield Finding(
            "database",
            "warning",
            f"The file is in the mode {mode}, not WAL.",
            "Start a server, or run `knownas migrate`: opening it puts it into WAL mode.",
        )
    yield from _schema(connection)
    yield newest_change(connection.execute(_LAST_CHANGE).get, now)


def _schema(connection: apsw.Connection) -> Iterator[Finding]:
    """Yield how the tables and indexes differ from those that all migrations make."""
    fresh = apsw.Connection(":memory:")
    for step in migrate.available("sqlite"):
        fresh.execute(step.sql)
    wanted, there = _objects(fresh), _objects(connection)
    fresh.close()
    there.pop("schema_version", None)
    missing = sorted(name for name in wanted if name not in there)
    differ = sorted(name for name in wanted if name in there and wanted[name] != there[name])
    for names, how in ((missing, "missing"), (differ, "others than the migrations make")):
        if names:
            yield Finding(
                "indexes",
                "problem",
                f"Tables or indexes are {how}: {', '.join(names)}.",
                "Somebody has changed the schema by hand. Restore a backup, or copy the database "
                "into a new one: `knownas copy`.",
            )
    if not (missing or differ):
        yield Finding("indexes", "ok", f"All {len(wanted)} tables and indexes are there.")


def _objects(connection: apsw.Connection) -> dict[str, tuple[str, str]]:
    rows: list[Any] = connection.execute(_SCHEMA).fetchall()
    return {name: (kind, sql) for kind, name, sql in rows}
