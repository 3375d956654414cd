"""The checkpoints beside the commits: they hold up no commit, and the log stays short."""

import asyncio
import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import apsw
import msgspec
import pytest

from knownas.model import AppId, Profile, ProfileId, ProfileRef, merge_identifiers
from knownas.storage import sqlite_checkpoint
from knownas.storage.sqlite import SqliteStorage
from knownas.storage.sqlite_file import PAGE_BYTES

PAGE = PAGE_BYTES + 24
"""Bytes of a page in the log."""

DISK_SECONDS = 1.0
"""How long the slow disk takes to flush the database."""


class SlowDisk(apsw.VFS):
    """The usual VFS, but flushing the database takes long, or fails."""

    def __init__(self) -> None:
        """Register it."""
        self.name = "slow-disk"
        self.flushed_by: set[str] = set()
        self.broken = False
        super().__init__(self.name, "")

    def xOpen(  # noqa: N802 - SQLite's name
        self, name: str | apsw.URIFilename | None, flags: list[int]
    ) -> apsw.VFSFile:
        """Open a file."""
        if isinstance(name, apsw.URIFilename):  # the database itself
            return _SlowFile(self, name, flags)
        return apsw.VFSFile("", name, flags)


class _SlowFile(apsw.VFSFile):
    def __init__(self, disk: SlowDisk, name: apsw.URIFilename, flags: list[int]) -> None:
        self._disk = disk
        super().__init__("", name, flags)

    def xSync(self, flags: int) -> None:  # noqa: N802 - SQLite's name
        self._disk.flushed_by.add(threading.current_thread().name)
        if self._disk.broken:
            raise apsw.IOError
        time.sleep(DISK_SECONDS)
        super().xSync(flags)


@pytest.fixture
def slow_disk() -> Iterator[SlowDisk]:
    """Give a VFS whose checkpoints take long."""
    disk = SlowDisk()
    yield disk
    disk.unregister()


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a log of a few pages be long already."""
    monkeypatch.setattr(sqlite_checkpoint, "PASS_PAGES", 50)
    monkeypatch.setattr(sqlite_checkpoint, "LONG_PAGES", 200)


async def an_app(storage: SqliteStorage) -> AppId:
    """Return an app that is made for it."""
    return (await storage.create_app("uuid", "app", now=0)).id


async def write_on(storage: SqliteStorage, app: AppId, until: Callable[[], bool]) -> list[float]:
    """Write from several sides until the time has come; return how long each write took."""
    numbers = itertools.count()

    async def write() -> list[float]:
        took = []
        while not until():
            number = next(numbers)
            began = time.monotonic()
            await storage.change_profile(
                app,
                ProfileRef(f"c{number % 500}"),
                setting(f"value {number}"),
                now=number,
                create_as=ProfileId(f"00000000-0000-4000-8000-{number:012}"),
            )
            took.append(time.monotonic() - began)
        return took

    return [one for side in await asyncio.gather(*(write() for _ in range(8))) for one in side]


def setting(value: str) -> Callable[[Profile], Profile]:
    """Return a change of two identifiers."""
    values = {"branch_id": value, "appsflyer_id": value}
    return lambda profile: msgspec.structs.replace(
        profile, identifiers=merge_identifiers(profile.identifiers, values)
    )


def log_pages(path: Path) -> int:
    """Return how long the log is, in pages."""
    return path.with_name(f"{path.name}-wal").stat().st_size // PAGE


def test_checkpoint_holds_up_no_commit(
    tmp_path: Path, slow_disk: SlowDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the disk is slow for a checkpoint, commits go on as if there were none.

    However long the log gets, here the writer does not have to let it begin anew.
    """
    monkeypatch.setattr(sqlite_checkpoint, "PASS_PAGES", 50)
    monkeypatch.setattr(sqlite_checkpoint, "LONG_PAGES", 1_000_000)

    async def main() -> None:
        storage = SqliteStorage(f"{tmp_path}/knownas.db", vfs=slow_disk.name)
        app = await an_app(storage)
        slow_disk.flushed_by.clear()
        end = time.monotonic() + 30
        took = await write_on(
            storage, app, lambda: bool(slow_disk.flushed_by) or time.monotonic() > end
        )
        assert slow_disk.flushed_by == {"knownas-checkpoint"}
        end = time.monotonic() + DISK_SECONDS  # while that is under way
        took += await write_on(storage, app, lambda: time.monotonic() > end)
        assert max(took) < DISK_SECONDS
        await storage.close()

    asyncio.run(main())


@pytest.mark.usefixtures("small")
def test_log_stays_short_under_constant_writes_and_reads(tmp_path: Path) -> None:
    """However long writes and reads go on, the log grows to a certain length only."""

    async def main() -> None:
        path = tmp_path / "knownas.db"
        storage = SqliteStorage(str(path))
        app = await an_app(storage)
        written = 0

        async def read_on() -> None:
            while writing:
                await storage.count_profiles(app)

        writing = True
        reading = asyncio.create_task(read_on())
        for _ in range(20):
            end = time.monotonic() + 0.1
            written += len(await write_on(storage, app, lambda end=end: time.monotonic() > end))  # type: ignore[misc]
        writing = False
        await reading
        assert written > 1_000  # of some pages each
        assert log_pages(path) < 2_000
        await storage.close()

    asyncio.run(main())


@pytest.mark.usefixtures("small")
def test_log_begins_anew_after_a_long_read(tmp_path: Path) -> None:
    """A reader that stays long lets the log grow, and holds up no commit; then that is over."""

    async def main() -> None:
        path = tmp_path / "knownas.db"
        storage = SqliteStorage(str(path))
        app = await an_app(storage)
        with contextlib.closing(apsw.Connection(str(path))) as reader:
            reader.execute("BEGIN; SELECT count(*) FROM profiles").fetchall()
            took = await write_on(storage, app, lambda: log_pages(path) > 2_000)
        grown = log_pages(path)
        assert max(took) < 10 * sqlite_checkpoint.PATIENCE_SECONDS
        end = time.monotonic() + 1
        await write_on(storage, app, lambda: time.monotonic() > end)
        assert log_pages(path) < 2 * grown  # where it went on growing, it would be longer by now
        await storage.close()
        assert not path.with_name("knownas.db-wal").exists()

    asyncio.run(main())


def test_closing_empties_the_log(tmp_path: Path) -> None:
    """What a process wrote is in the database when it closes, though others have it open."""

    async def main() -> None:
        path = tmp_path / "knownas.db"
        other = SqliteStorage(str(path))
        storage = SqliteStorage(str(path))
        await an_app(storage)
        assert log_pages(path) > 0
        await storage.close()
        assert log_pages(path) == 0
        assert [app.name for app in await other.apps()] == ["app"]
        await other.close()

    asyncio.run(main())


@pytest.mark.usefixtures("small")
@pytest.mark.usefixtures("small")
def test_failing_checkpoint_stops_nothing(tmp_path: Path, slow_disk: SlowDisk) -> None:
    """A checkpoint that fails is tried again; the writes go on, and are not lost."""

    async def main() -> None:
        path = tmp_path / "knownas.db"
        storage = SqliteStorage(str(path), vfs=slow_disk.name)
        app = await an_app(storage)
        slow_disk.broken = True
        slow_disk.flushed_by.clear()
        end = time.monotonic() + 30
        written = await write_on(
            storage, app, lambda: bool(slow_disk.flushed_by) or time.monotonic() > end
        )
        assert slow_disk.flushed_by == {"knownas-checkpoint"}
        slow_disk.broken = False
        end = time.monotonic() + 2 * DISK_SECONDS
        written += await write_on(storage, app, lambda: time.monotonic() > end)
        await storage.close()
        assert not path.with_name("knownas.db-wal").exists()
        other = SqliteStorage(str(path))
        assert await other.count_profiles(app) == min(500, len(written))
        await other.close()

    asyncio.run(main())
