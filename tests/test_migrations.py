"""`knownas migrate` on each database: what is to be done is named, and done once."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

import postgres
from conftest import knownas
from knownas.storage import migrate

DATABASES = ("sqlite", "postgresql")


@pytest.fixture(scope="module")
def database(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """Give the URL of a database without tables."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path_factory.mktemp('empty')}/knownas.db"
        return
    server_url = request.getfixturevalue("postgres_url")
    url = postgres.new_database(server_url)
    yield url
    postgres.drop_database(server_url, url)


def migrated(database: str, *arguments: str) -> dict[str, list[str]]:
    """Return what the command says that it did, or would do."""
    printed = knownas("migrate", "--json", *arguments, database=database)
    return msgspec.json.decode(printed, type=dict[str, list[str]])


def test_dry_run_names_what_the_next_run_does(database: str) -> None:
    """It changes nothing, not even on a database that is not there yet."""
    dialect = "sqlite" if database.startswith("sqlite") else "postgres"
    steps = [step.full_name for step in migrate.available(dialect)]
    for _ in range(2):
        assert migrated(database, "--dry-run") == {"pending": steps}
    assert not Path(database.removeprefix("sqlite:///")).exists()
    assert migrated(database) == {"applied": steps}
    assert migrated(database, "--dry-run") == {"pending": []}
    assert migrated(database) == {"applied": []}
    assert knownas("migrate", "--dry-run", database=database) == "The schema is up to date.\n"


def test_driver_is_loaded_for_its_own_database_only() -> None:
    """Whoever uses SQLite loads nothing of PostgreSQL's."""
    program = "import sys, knownas.cli.serve; print('asyncpg' in sys.modules)"
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert ended.stdout == "False\n"
