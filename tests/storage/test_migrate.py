"""Migrations: each step once, in order, and no database that the program does not understand."""

import asyncio
import hashlib
from importlib import resources
from pathlib import Path

import apsw
import pytest

from knownas.storage import StorageError, migrate
from knownas.storage.migrate import Migration
from knownas.storage.sqlite import SqliteStorage

MIGRATIONS = resources.files("knownas.storage") / "migrations"
STEPS = [Migration(number, f"step-{number}", "", f"sum-{number}") for number in (1, 2, 3)]
SUMS = {step.version: step.checksum for step in STEPS}


def opened(path: Path) -> list[str]:
    """Open a database, close it, and return what the opening migrated."""
    storage = SqliteStorage(str(path))
    asyncio.run(storage.close())
    return storage.migrated


def rows(path: Path, statement: str) -> list[tuple[object, ...]]:
    """Run a statement on a database file and return its rows."""
    connection = apsw.Connection(str(path))
    found = connection.execute(statement).fetchall()
    connection.close()
    return found


@pytest.mark.parametrize("dialect", [folder.name for folder in MIGRATIONS.iterdir()])
def test_steps_are_the_files_in_order(dialect: str) -> None:
    """Steps are numbered from 1 without a gap, and each is its file and that file's SHA-256."""
    steps = migrate.available(dialect)
    assert [step.version for step in steps] == list(range(1, len(steps) + 1))
    for step in steps:
        file = MIGRATIONS / dialect / f"{step.version:04}_{step.name}.sql"
        content = file.read_bytes()
        assert step.sql.encode() == content
        assert step.checksum == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize(
    ("applied", "expected"),
    [([], [1, 2, 3]), ([1], [2, 3]), ([1, 2], [3]), ([2], [1, 3]), ([3, 2, 1], [])],
)
def test_pending_steps_come_in_order(applied: list[int], expected: list[int]) -> None:
    """What was not applied is still to do, the lowest number first."""
    todo = migrate.pending(STEPS, {version: SUMS[version] for version in applied})
    assert [step.version for step in todo] == expected


def test_edited_step_is_refused() -> None:
    """A step whose text is not the one that was applied is named."""
    with pytest.raises(
        StorageError,
        match=r"^Migration 0002 \(step-2\) was edited after it was applied to this database; "
        r"restore the file as it was released\.$",
    ):
        migrate.pending(STEPS, {**SUMS, 2: "another-sum"})


def test_newer_database_is_refused() -> None:
    """A database with a step that the program does not know says which version it needs."""
    with pytest.raises(
        StorageError,
        match=r"^The database has schema version 4, this program knows only 3: it was used by a "
        r"newer version of knownas\. Run that version\.$",
    ):
        migrate.pending(STEPS, {**SUMS, 4: "sum-4"})


def test_database_is_migrated_once(tmp_path: Path) -> None:
    """The first opening applies every step and remembers it; the next applies nothing."""
    path = tmp_path / "knownas.db"
    steps = migrate.available("sqlite")
    assert opened(path) == [f"{step.version:04}_{step.name}" for step in steps]
    remembered = "SELECT version, name, checksum, applied_at FROM schema_version ORDER BY version"
    first = rows(path, remembered)
    assert [row[:3] for row in first] == [(one.version, one.name, one.checksum) for one in steps]
    assert opened(path) == []
    assert rows(path, remembered) == first


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("UPDATE schema_version SET checksum = 'x' WHERE version = 1", "was edited after"),
        ("INSERT INTO schema_version VALUES (9999, 'later', 'x', 0)", "schema version 9999"),
    ],
)
def test_refused_database_is_left_as_it_was(tmp_path: Path, damage: str, said: str) -> None:
    """A database that is refused is not changed, and nothing keeps it locked."""
    path = tmp_path / "knownas.db"
    opened(path)
    rows(path, damage)
    whole = "SELECT * FROM schema_version, sqlite_schema"
    before = rows(path, whole)
    for _ in range(2):
        with pytest.raises(StorageError, match=said):
            SqliteStorage(str(path))
    assert rows(path, whole) == before
    rows(path, "BEGIN EXCLUSIVE; ROLLBACK")


def test_failing_step_leaves_nothing_of_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step that breaks off takes back what it did, and what was stored before stays."""
    path = tmp_path / "knownas.db"
    opened(path)
    whole = "SELECT * FROM schema_version, sqlite_schema"
    before = rows(path, whole)
    broken = Migration(9999, "broken", "CREATE TABLE half (a); CREATE TABLE half (a)", "x")
    steps = migrate.available("sqlite")
    with monkeypatch.context() as patch:
        patch.setattr(migrate, "available", lambda _dialect: [*steps, broken])
        with pytest.raises(StorageError, match="half"):
            SqliteStorage(str(path))
    assert rows(path, whole) == before
    assert opened(path) == []
