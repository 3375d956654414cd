"""Erasing on SQLite: the person at once, its bytes by writing all pages of the file anew.

A deleted row leaves its bytes behind: in freed pages, in the rest of a page out of which it was
moved once, in the write-ahead log. `secure_delete` overwrites most of them as they are deleted;
`VACUUM` and an emptied log leave none. It takes as long as the file is large, and no write can be
made meanwhile, so it is done once for several erasures.
"""

import errno
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

import apsw

from knownas.erasing import (
    UNWRITTEN,
    Erasure,
    Person,
    Record,
    Tombstone,
    Wait,
    Whom,
    customer_name,
    profile_name,
)
from knownas.errors import ServiceUnavailable
from knownas.history import SERVER, Source
from knownas.model import AppId, ProfileId
from knownas.storage import sqlite_changes, sqlite_person, sqlite_tombstones
from knownas.storage.sqlite_beside import ReaderBeside
from knownas.storage.sqlite_ids import to_blob, to_profile_id
from knownas.storage.sqlite_writer import GroupCommit

T = TypeVar("T")

QUICK_BYTES: Final = 64 * 1024 * 1024
"""A file up to this is written anew in about a second."""

NAMES_AT_ONCE: Final = 10_000

_COLUMNS: Final = "id, erased_at, receipt, completed_at"
_KEEP: Final = """
INSERT INTO erasures (app_id, id, erased_at, receipt, completed_at) VALUES (?, ?, ?, ?, ?)
ON CONFLICT DO NOTHING
"""
_GET: Final = f"SELECT {_COLUMNS} FROM erasures WHERE app_id = ? AND id = ?"  # noqa: S608 - the columns are a constant
_PAGE: Final = f"""
SELECT {_COLUMNS} FROM erasures WHERE app_id = ? AND (erased_at, id) < (?, ?)
ORDER BY erased_at DESC, id DESC LIMIT ?
"""  # noqa: S608 - the columns are a constant
_LATEST: Final = (2**62, "ffffffff-ffff-ffff-ffff-ffffffffffff")
_WAITING_SINCE: Final = "SELECT min(erased_at) FROM erasures WHERE completed_at IS NULL"
_WAITING: Final = """
SELECT app_id, id FROM erasures WHERE completed_at IS NULL ORDER BY erased_at
"""
_COMPLETE: Final = "UPDATE erasures SET completed_at = ? WHERE app_id = ? AND id = ?"
_SEALED: Final = "SELECT sealed FROM server_secrets WHERE name = ?"
_PUT_SEALED: Final = """
INSERT INTO server_secrets (name, sealed) VALUES (?, ?) ON CONFLICT DO NOTHING
"""
_PROFILES: Final = "SELECT profile_id, customer_user_id FROM profiles WHERE app_id = ?"
_ALIASES: Final = "SELECT name FROM aliases WHERE app_id = ?"
_WITH_HISTORY: Final = "SELECT DISTINCT profile_id FROM changes WHERE app_id = ?"
_ABOUT: Final = "SELECT DISTINCT about FROM changes WHERE app_id = ? AND about IS NOT NULL"


def ledger_beside(path: str) -> str:
    """Return where the ledger of a database file stands if no setting says so."""
    return f"{path}.erasures"


class Aside(Protocol):
    """Runs a long read on a connection of its own."""

    def __call__(self, read: Callable[[apsw.Connection], T]) -> Awaitable[T]:
        """Return what `read` returns."""
        ...


class SqliteErasures:
    """`knownas.erasures.Erasures` on one file."""

    waits: Sequence[Wait] = (
        Wait("the freed pages of the database file, and its log", "server"),
        Wait("backups of the database that were made before", "operator"),
    )

    def __init__(self, path: str, writer: GroupCommit, beside: ReaderBeside, aside: Aside) -> None:
        """Erase in the file at `path` by its writer, and read beside the loop."""
        self._path = path
        self.ledger_beside: str | None = ledger_beside(path)
        self._writer = writer
        self._beside = beside
        self._aside = aside
        self._rewritten_for: list[Any] = []
        """What the pages were last written anew for, while the log could not be emptied."""

    async def person(self, app: AppId, whom: Whom) -> Person:
        """See `Erasures.person`."""
        return await self._beside.read(lambda read: sqlite_person.find(read, app, whom))

    async def erase(
        self,
        app: AppId,
        whom: Whom,
        record: Callable[[Person], Record],
        *,
        now: int,
        by: Source = SERVER,
    ) -> Person:
        """See `Erasures.erase`."""

        def work(connection: apsw.Connection) -> Person:
            person = sqlite_person.find(connection, app, whom)
            with _noting():
                kept = record(person)
            with _overwriting(connection):
                sqlite_person.take_out(connection, app, person, now)
            sqlite_tombstones.erect(connection, app, kept.tombstones)
            if kept.erasure is not None:
                _keep(connection, app, [kept.erasure])
            sqlite_changes.note_erasure(connection, app, ProfileId(kept.id), now, by)
            return person

        return await self._writer.run(work, erases=True)

    async def keys(self, app: AppId) -> list[bytes]:
        """See `Erasures.keys`."""
        return await self._beside.read(lambda read: sqlite_tombstones.keys(read, app))

    async def put_key(self, app: AppId, key_id: bytes, sealed: bytes) -> None:
        """See `Erasures.put_key`."""

        def work(connection: apsw.Connection) -> None:
            sqlite_tombstones.require_app(connection, app)
            sqlite_tombstones.put_key(connection, app, key_id, sealed)

        await self._writer.run(work, erases=True)

    async def get(self, app: AppId, erasure_id: str) -> Erasure | None:
        """See `Erasures.get`."""
        key = (app, to_blob(ProfileId(erasure_id)))
        row = await self._beside.read(lambda read: read.execute(_GET, key).fetchone())
        return None if row is None else _to_erasure(*row)

    async def page(self, app: AppId, before: tuple[int, str] | None, limit: int) -> list[Erasure]:
        """See `Erasures.page`."""
        erased_at, erasure_id = before or _LATEST
        values = (app, erased_at, to_blob(ProfileId(erasure_id)), limit)
        return await self._beside.read(
            lambda read: [_to_erasure(*row) for row in read.execute(_PAGE, values)]
        )

    async def put(self, app: AppId, erasures: Sequence[Erasure]) -> None:
        """See `Erasures.put`."""

        def work(connection: apsw.Connection) -> None:
            sqlite_tombstones.require_app(connection, app)
            _keep(connection, app, erasures)

        await self._writer.run(work)

    async def tombstones(self, app: AppId, subjects: Sequence[bytes]) -> list[Tombstone]:
        """See `Erasures.tombstones`."""
        return await self._beside.read(lambda read: sqlite_tombstones.find(read, app, subjects))

    async def tombstones_after(self, app: AppId, subject: bytes, limit: int) -> list[Tombstone]:
        """See `Erasures.tombstones_after`."""
        return await self._beside.read(
            lambda read: sqlite_tombstones.after(read, app, subject, limit)
        )

    async def put_tombstones(self, app: AppId, tombstones: Sequence[Tombstone]) -> None:
        """See `Erasures.put_tombstones`."""

        def work(connection: apsw.Connection) -> None:
            sqlite_tombstones.require_app(connection, app)
            sqlite_tombstones.put(connection, app, tombstones)

        await self._writer.run(work)

    async def names_among(
        self, app: AppId, pick: Callable[[Sequence[str]], list[str]]
    ) -> list[str]:
        """See `Erasures.names_among`."""

        def read_all(connection: apsw.Connection) -> list[str]:
            names = _names(connection, app)
            picked: dict[str, None] = {}
            while some := list(islice(names, NAMES_AT_ONCE)):
                picked.update(dict.fromkeys(pick(some)))
            return list(picked)

        return await self._aside(read_all)

    async def waiting_since(self) -> int | None:
        """See `Erasures.waiting_since`."""
        since: int | None = await self._beside.read(lambda read: read.execute(_WAITING_SINCE).get)
        return since

    def holds_up_writes(self) -> bool:
        """See `Erasures.holds_up_writes`."""
        return Path(self._path).stat().st_size > QUICK_BYTES

    async def finish(self, clock: Callable[[], int]) -> None:
        """See `Erasures.finish`."""
        await self._writer.run_alone(lambda connection: self._rewrite(connection, clock))

    def _rewrite(self, connection: apsw.Connection, clock: Callable[[], int]) -> None:
        """Write all pages anew, and empty the log: of what was deleted before, nothing is left."""
        waiting = connection.execute(_WAITING).fetchall()
        if not waiting:
            return
        if waiting != self._rewritten_for:
            connection.execute("VACUUM")
            self._rewritten_for = waiting
        # Raises where another process reads so long that the log cannot be emptied.
        connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        with connection:
            connection.executemany(_COMPLETE, [(clock(), *key) for key in waiting])

    async def secret(self, name: str) -> bytes | None:
        """See `Erasures.secret`."""
        sealed: bytes | None = await self._beside.read(
            lambda read: read.execute(_SEALED, (name,)).get
        )
        return sealed

    async def put_secret(self, name: str, sealed: bytes) -> bytes:
        """See `Erasures.put_secret`."""

        def work(connection: apsw.Connection) -> bytes:
            connection.execute(_PUT_SEALED, (name, sealed))
            kept: bytes = connection.execute(_SEALED, (name,)).get
            return kept

        return await self._writer.run(work, erases=True)


@contextmanager
def _noting() -> Iterator[None]:
    """Tell the writer what a ledger says that cannot be written: on a full disk there is help."""
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise apsw.FullError("The ledger of erasures has no space.") from error
        raise ServiceUnavailable(UNWRITTEN) from error


@contextmanager
def _overwriting(connection: apsw.Connection) -> Iterator[None]:
    """Have what is deleted overwritten in its pages, which takes a little longer."""
    connection.execute("PRAGMA secure_delete = ON").fetchall()
    try:
        yield
    finally:
        connection.execute("PRAGMA secure_delete = OFF").fetchall()


def _names(connection: apsw.Connection, app: AppId) -> Iterator[str]:
    for blob, customer in connection.execute(_PROFILES, (app,)):
        yield profile_name(to_profile_id(blob))
        if customer is not None:
            yield customer_name(customer)
    for (blob,) in connection.execute(_WITH_HISTORY, (app,)):
        yield profile_name(to_profile_id(blob))
    for statement in (_ALIASES, _ABOUT):
        for (name,) in connection.execute(statement, (app,)):
            yield name


def _keep(connection: apsw.Connection, app: AppId, erasures: Iterable[Erasure]) -> None:
    for erasure_id, *others in erasures:
        connection.execute(_KEEP, (app, to_blob(ProfileId(erasure_id)), *others))


def _to_erasure(blob: bytes, erased_at: int, receipt: str, completed_at: int | None) -> Erasure:
    return Erasure(to_profile_id(blob), erased_at, receipt, completed_at)
