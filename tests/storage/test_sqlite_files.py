"""The SQLite file: who may read it, when it is on the disk, and what damage is found in it."""

import asyncio
import os
import stat
import threading
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from knownas.keys import digest
from knownas.model import NO_IDENTIFIERS, ApiKey, Profile, ProfileId
from knownas.storage import migrate
from knownas.storage.sqlite import SqliteStorage
from knownas.storage.sqlite_check import CHECKS
from knownas.storage.sqlite_file import PAGE_BYTES

PAGE = PAGE_BYTES
UUIDS = [ProfileId(f"aaaaaaaa-bbbb-4ccc-8ddd-{number:012}") for number in range(3)]
PROFILE = Profile(UUIDS[0], "a", ("v", None, None, "w", *NO_IDENTIFIERS[4:]), (), 1, 1)
OPENERS = 8
ROUNDS = 40


@pytest.fixture
def loose_umask() -> Iterator[None]:
    """Let new files be readable by all, as a careless environment would."""
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.fixture
def syncs() -> Iterator[Counter[str]]:
    """Give a count, by the end of the file's name, of the flushes that SQLite asks for."""
    counts: Counter[str] = Counter()

    class File(apsw.VFSFile):
        """A file that counts its flushes."""

        def __init__(
            self, base: str, filename: str | apsw.URIFilename | None, flags: list[int]
        ) -> None:
            name = filename.filename() if isinstance(filename, apsw.URIFilename) else filename
            self.ending = (name or "").rpartition(".")[2]
            super().__init__(base, filename, flags)

        def xSync(self, flags: int) -> None:  # noqa: N802 - SQLite's name
            counts[self.ending] += 1
            super().xSync(flags)

    class Counting(apsw.VFS):
        """The usual file system, its flushes counted."""

        def __init__(self) -> None:
            super().__init__("counting", "", makedefault=True)

        def xOpen(  # noqa: N802 - SQLite's name
            self, name: str | apsw.URIFilename | None, flags: list[int]
        ) -> apsw.VFSFile:
            return File("unix", name, flags)

    file_system = Counting()
    yield counts
    file_system.unregister()


@pytest.fixture
def connections() -> Iterator[list[apsw.Connection]]:
    """Give a list to which every new connection to SQLite is added."""
    made: list[apsw.Connection] = []
    apsw.connection_hooks.append(made.append)
    yield made
    apsw.connection_hooks.remove(made.append)


def modes(folder: Path) -> dict[str, int]:
    """Return the permissions of a folder's files by name."""
    return {file.name: stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()}


# --- Who may read it ----------------------------------------------------------------------------


@pytest.mark.usefixtures("loose_umask")
@pytest.mark.anyio
async def test_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    """The database and its log are made with mode 0600, whatever the umask says."""
    storage = SqliteStorage(str(tmp_path / "knownas.db"))
    await storage.create_app("uuid", "one", now=1)
    names = ("knownas.db", "knownas.db-wal", "knownas.db-shm", "knownas.db-reserve")
    assert modes(tmp_path) == dict.fromkeys(names, 0o600)
    await storage.close()


def test_mode_of_a_file_that_is_there_stays(tmp_path: Path) -> None:
    """Who may read an existing file is its owner's affair."""
    path = tmp_path / "knownas.db"
    path.touch()
    path.chmod(0o640)
    asyncio.run(SqliteStorage(str(path)).close())
    assert modes(tmp_path) == {"knownas.db": 0o640, "knownas.db-reserve": 0o600}


def test_temporary_database_is_gone_at_the_end(connections: list[apsw.Connection]) -> None:
    """A temporary database is in a folder of its own, readable by its owner; close removes it."""
    storage = SqliteStorage(None)
    folder = Path(connections[0].filename).parent
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    asyncio.run(storage.close())
    assert not folder.exists()


# --- When it is on the disk ---------------------------------------------------------------------


@pytest.mark.anyio
async def test_every_connection_logs_ahead_and_flushes_fully(
    tmp_path: Path, connections: list[apsw.Connection]
) -> None:
    """WAL and synchronous=FULL are in force on the writer and on every other connection."""
    storage = SqliteStorage(str(tmp_path / "knownas.db"))
    full = 2
    in_force = [(one.pragma("journal_mode"), one.pragma("synchronous")) for one in connections]
    assert in_force == [("wal", full)] * 3
    await storage.close()


@pytest.mark.anyio
async def test_write_is_flushed_before_it_is_acknowledged(
    tmp_path: Path, syncs: Counter[str]
) -> None:
    """The log is flushed once for a lone write, and once for all that were made together."""
    storage = SqliteStorage(str(tmp_path / "knownas.db"))
    for number in range(10):
        before = syncs["db-wal"]
        await storage.create_app(f"uuid-{number}", f"app-{number}", now=1)
        assert syncs["db-wal"] == before + 1
    before = syncs["db-wal"]
    await asyncio.gather(
        *(storage.create_app(f"uuid{number}", f"app{number}", now=1) for number in range(100))
    )
    assert before < syncs["db-wal"] <= before + 2
    await storage.close()


def test_database_can_be_first_opened_by_several_at_once(tmp_path: Path) -> None:
    """Of processes that start together on no file one makes it, and all can use it."""

    def open_together(path: Path, barrier: threading.Barrier, outcomes: list[object]) -> None:
        barrier.wait()
        try:
            storage = SqliteStorage(str(path))
        except Exception as error:  # noqa: BLE001 - whatever it is, there should be none
            outcomes.append(error)
        else:
            outcomes.append(len(storage.migrated))
            asyncio.run(storage.close())

    steps = len(migrate.available("sqlite"))
    for number in range(ROUNDS):
        barrier, outcomes = threading.Barrier(OPENERS), list[object]()
        threads = [
            threading.Thread(
                target=open_together, args=(tmp_path / f"{number}.db", barrier, outcomes)
            )
            for _ in range(OPENERS)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [one for one in outcomes if isinstance(one, Exception)] == []
        assert sorted(outcomes, key=str) == [*[0] * (OPENERS - 1), steps]


# --- What damage is found -----------------------------------------------------------------------

LOST_VALUE, UNINDEXED_VALUE, LOST_CUSTOMER, UNLED_CUSTOMER, NO_APP, NO_APP_OF_KEY = CHECKS
DAMAGE: dict[str, dict[str, int]] = {
    "UPDATE profiles SET identifiers = '[]' WHERE number = 1": {LOST_VALUE: 2},
    "UPDATE profiles SET identifiers = '{}' WHERE number = 1": {LOST_VALUE: 2},
    "INSERT INTO identifiers VALUES (1, 3, 'x', 2)": {LOST_VALUE: 1},
    "INSERT INTO identifiers VALUES (1, 3, 'x', 99)": {LOST_VALUE: 1},
    "UPDATE identifiers SET app_id = 2 WHERE kind = 3": {LOST_VALUE: 1, UNINDEXED_VALUE: 1},
    "UPDATE identifiers SET value = 'X' WHERE kind = 3": {LOST_VALUE: 1, UNINDEXED_VALUE: 1},
    "DELETE FROM identifiers WHERE kind = 3": {UNINDEXED_VALUE: 1},
    "DELETE FROM identifiers": {UNINDEXED_VALUE: 2},
    "INSERT INTO customers VALUES (1, 'ghost', 1)": {LOST_CUSTOMER: 1},
    "INSERT INTO customers VALUES (1, 'ghost', 99)": {LOST_CUSTOMER: 1},
    "INSERT INTO customers VALUES (2, 'a', 1)": {LOST_CUSTOMER: 1},
    "UPDATE customers SET profile = 2": {LOST_CUSTOMER: 1, UNLED_CUSTOMER: 1},
    "UPDATE profiles SET customer_user_id = 'A' WHERE number = 1": {
        LOST_CUSTOMER: 1,
        UNLED_CUSTOMER: 1,
    },
    "DELETE FROM customers WHERE customer_user_id = 'a'": {UNLED_CUSTOMER: 1},
    "DELETE FROM profiles WHERE number = 1": {LOST_VALUE: 2, LOST_CUSTOMER: 1},
    "UPDATE profiles SET app_id = 99 WHERE number = 3": {NO_APP: 1},
    "UPDATE api_keys SET app_id = 99": {NO_APP_OF_KEY: 1},
    "DELETE FROM apps": {NO_APP: 3, NO_APP_OF_KEY: 1},
}


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    """Give a closed database: an app with a key, two customers, an anonymous profile."""

    async def fill(storage: SqliteStorage) -> None:
        app = await storage.create_app("uuid", "one", now=1)
        await storage.add_key(app.id, ApiKey("key_a", app, "secret", "", 1), digest("a"))
        await storage.add_profiles(app.id, [PROFILE, *bare])
        await storage.close()

    bare = [
        Profile(UUIDS[1], "b", NO_IDENTIFIERS, (), 1, 1),
        Profile(UUIDS[2], None, NO_IDENTIFIERS, (), 1, 1),
    ]
    path = tmp_path / "knownas.db"
    asyncio.run(fill(SqliteStorage(str(path))))
    return path


def damage(path: Path, statement: str) -> None:
    """Change a database behind the storage's back."""
    connection = apsw.Connection(str(path))
    connection.execute(statement)
    connection.close()


def problems(path: Path) -> list[str]:
    """Return what the storage's check finds."""

    async def check(storage: SqliteStorage) -> list[str]:
        try:
            return await storage.check()
        finally:
            await storage.close()

    return asyncio.run(check(SqliteStorage(str(path))))


def test_sound_database_has_no_problem(filled: Path) -> None:
    """A filled database without damage is sound."""
    assert problems(filled) == []


@pytest.mark.parametrize("statement", DAMAGE)
def test_damage_between_the_tables_is_found(filled: Path, statement: str) -> None:
    """Each way in which tables can disagree is a line that counts the rows."""
    damage(filled, statement)
    assert problems(filled) == [f"{count} {what}" for what, count in DAMAGE[statement].items()]


def test_every_check_has_its_damage() -> None:
    """No statement of the check is without a damage that it finds."""
    assert {what for found in DAMAGE.values() for what in found} == set(CHECKS)


@pytest.mark.parametrize("text", ["nonsense", "[", "", '["x"', "7"])
def test_row_that_is_no_json_is_found(filled: Path, text: str) -> None:
    """A profile whose identifiers cannot be read is a line, not the end of the check."""
    damage(filled, f"UPDATE profiles SET identifiers = '{text}' WHERE number = 1")  # noqa: S608 - a test's own
    assert problems(filled)


def test_damaged_index_is_found(filled: Path) -> None:
    """An index that disagrees with its table is SQLite's own line."""
    content = filled.read_bytes()
    in_index = content.rindex(uuid.UUID(UUIDS[0]).bytes)
    assert in_index > content.index(uuid.UUID(UUIDS[0]).bytes)
    filled.write_bytes(content[:in_index] + b"\xee" + content[in_index + 1 :])
    assert any("sqlite_autoindex_profiles" in line for line in problems(filled))


@pytest.mark.parametrize("table", ["apps", "api_keys", "profiles", "customers", "identifiers"])
def test_destroyed_page_is_found(filled: Path, table: str) -> None:
    """A table that cannot be read any more is a line, not the end of the check."""
    connection = apsw.Connection(str(filled))
    root = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (table,)).get
    connection.close()
    with filled.open("r+b") as file:
        file.seek((root - 1) * PAGE)
        file.write(b"\xff" * PAGE)
    assert problems(filled)
