"""`knownas doctor`: it finds what is wrong with an installation, and says what to do."""

import asyncio
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import apsw
import msgspec
import pytest
from click.testing import CliRunner

import postgres
from knownas import bootstrap, doctor, settings, vault
from knownas.cli import cli
from knownas.condition import Condition, Finding, Queue, newest_change
from knownas.model import ProfileRef
from knownas.registry import Registry
from knownas.storage import sqlite_doctor
from postgres import psql

HOUR_MS: Final = 3_600_000
FILLED: Final = "filled.db"


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder with a database that has something of all, and a master key."""
    folder = tmp_path_factory.mktemp("filled")
    vault.create(str(folder / "key"))
    asyncio.run(_fill(f"sqlite:///{folder / FILLED}"))
    return folder


async def _fill(url: str) -> None:
    registry = Registry(bootstrap.open_storage(url))
    app = await registry.create_app("default")
    await registry.fill_with_demo(app.id, 20, seed=1, progress=lambda _count: None)
    await registry.put_profile(app.id, ProfileRef("c"), {})
    await registry.close()


@pytest.fixture
def folder(filled: Path, tmp_path: Path) -> Path:
    """Give a copy of that folder, to be damaged."""
    shutil.copytree(filled, tmp_path / "copy")
    return tmp_path / "copy"


@pytest.fixture
def file(folder: Path) -> Path:
    """Give the database in it."""
    return folder / FILLED


def look(file: Path | str, *, quick: bool = False, **more: str) -> dict[str, list[Finding]]:
    """Return what is found, but what is as it should be, by what it is about."""
    url, key = file, ""
    if isinstance(file, Path):
        url, key = f"sqlite:///{file}", str(file.parent / "key")
    environment = {
        "KNOWNAS_ACCESS_LOG": "off",
        "KNOWNAS_MAX_CONNECTIONS": "100",
        "KNOWNAS_METRICS_TOKEN": "0123456789abcdef",
        "KNOWNAS_MASTER_KEY_FILE": key,
        **more,
    }
    found: dict[str, list[Finding]] = {}
    for finding in doctor.examine(environment, str(url), quick=quick):
        assert finding.says.endswith((".", "?"))
        assert bool(finding.do) == (finding.level != "ok"), finding
        if finding.level != "ok":
            found.setdefault(finding.about, []).append(finding)
    return found


def only(found: dict[str, list[Finding]], about: str, level: str) -> str:
    """Return what is said where one thing alone is found."""
    assert found.keys() == {about}, found
    [finding] = found[about]
    assert finding.level == level
    return f"{finding.says} {finding.do}"


def test_sound_installation_has_nothing_to_find(file: Path) -> None:
    """All is looked at, and all is as it should be."""
    assert look(file) == {}


def test_command_prints_and_ends_as_it_found(file: Path) -> None:
    """With 0 where there is no problem, with 1 where there is; JSON has all findings."""
    environment = {"KNOWNAS_DATABASE": f"sqlite:///{file}"}
    sound = CliRunner().invoke(cli, ["doctor"], env=environment)
    assert sound.exit_code == 0
    assert "ok      data          All tables agree with each other.\n" in sound.stdout
    file.unlink()
    gone = CliRunner().invoke(cli, ["doctor", "--json"], env=environment)
    assert gone.exit_code == 1
    told = msgspec.json.decode(gone.stdout)
    assert told["problems"] == sum(it["level"] == "problem" for it in told["findings"]) >= 1
    assert {"about", "level", "says", "do"} == told["findings"][0].keys()


def test_wrong_setting_is_all_that_is_told() -> None:
    """Nothing can be looked at by settings that no server would start with."""
    said = only(look("sqlite:///x", KNOWNAS_DATABSE="y"), "settings", "problem")
    assert "did you mean KNOWNAS_DATABASE?" in said


def test_settings_that_have_a_price_are_noted(file: Path) -> None:
    """No metrics, or ones that are easily had; a log that costs the fast lane."""
    found = look(file, quick=True, KNOWNAS_METRICS_TOKEN="", KNOWNAS_ACCESS_LOG="on")
    assert {about: one.level for about, [one] in found.items()} == {
        "metrics": "note",
        "settings": "note",
        "data": "note",
    }
    assert look(file, KNOWNAS_METRICS_TOKEN="short")["metrics"][0].level == "warning"  # noqa: S106 - a test's own


def test_too_few_open_files_are_told(file: Path) -> None:
    """What the connections need is more than this user may have."""
    said = only(look(file, KNOWNAS_MAX_CONNECTIONS=str(2**40)), "open files", "warning")
    assert "LimitNOFILE" in said


def test_master_key_that_is_missing_or_open_to_others(file: Path) -> None:
    """None is a note; one that cannot be used is a problem, and is not to be made anew."""
    assert only(look(file, KNOWNAS_MASTER_KEY_FILE=""), "master key", "note")
    (file.parent / "key").chmod(0o644)
    assert "chmod 600" in only(look(file), "master key", "problem")
    (file.parent / "key").unlink()
    assert "no such file" in only(look(file), "master key", "problem")


def test_file_that_others_may_read_is_told(file: Path) -> None:
    """With the command that mends it."""
    file.chmod(0o640)
    assert f"chmod 600 {file}" in only(look(file), "permissions", "warning")


def test_network_file_system_is_told(tmp_path: Path) -> None:
    """By the mount point that is nearest, whatever stands in its name."""
    mounts = tmp_path / "mounts"
    mounts.write_text(f"/dev/sda / ext4 rw 0 0\nserver:/a {tmp_path}/net\\040work nfs4 rw 0 0\n")
    there = tmp_path / "net work" / "knownas.db"
    assert sqlite_doctor.file_system_of(there, mounts) == "nfs4"
    assert sqlite_doctor.file_system_of(tmp_path / "knownas.db", mounts) == "ext4"
    assert sqlite_doctor.file_system_of(there, tmp_path / "none") == ""


def test_full_disk_and_long_log_are_told(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Little room, and a log that has become long."""
    with (file.parent / f"{FILLED}-wal").open("wb") as log:
        log.truncate(300 * 1024 * 1024)
    [finding] = look(file, quick=True)["log"]
    assert (finding.level, "fuser" in finding.do) == ("warning", True)
    monkeypatch.setattr(sqlite_doctor, "LEAST_BYTES", 2**62)
    assert look(file, quick=True)["disk"][0].level == "problem"


def test_reserve_in_use_is_told(file: Path) -> None:
    """Nothing but erasing is done until there is room again."""
    os.truncate(file.parent / f"{FILLED}-reserve", 5)
    [finding] = list(sqlite_doctor._reserve(file))  # noqa: SLF001 - opening the database fills it
    assert finding.level == "problem"


def test_steps_that_are_still_to_do_are_told(file: Path) -> None:
    """What is in the tables is not looked at then, and nothing is migrated."""
    connection = apsw.Connection(str(file))
    connection.execute("DELETE FROM schema_version WHERE version = 9")
    connection.close()
    said = only(look(file), "migrations", "warning")
    assert "0009_console" in said
    assert "0009_console" in only(look(file), "migrations", "warning")


def test_database_of_a_newer_program_is_told(file: Path) -> None:
    """It has a step that this program does not know."""
    connection = apsw.Connection(str(file))
    connection.execute("INSERT INTO schema_version VALUES (9999, 'later', 'x', 1)")
    connection.close()
    assert "newer version" in only(look(file), "database", "problem")


def test_schema_that_was_changed_by_hand_is_told(file: Path) -> None:
    """An index that is gone, and one that is another one."""
    connection = apsw.Connection(str(file))
    connection.execute("DROP INDEX deliveries_due; DROP INDEX answers_by_expiry")
    connection.execute("CREATE INDEX answers_by_expiry ON answers (app_id)")
    connection.close()
    missing, others = look(file)["indexes"]
    assert "are missing: deliveries_due." in missing.says
    assert "answers_by_expiry" in others.says
    assert {missing.level, others.level} == {"problem"}


def test_data_that_do_not_agree_are_told(file: Path) -> None:
    """As `knownas check` finds them; --quick leaves it out."""
    connection = apsw.Connection(str(file))
    connection.execute("DELETE FROM customers WHERE customer_user_id = 'c'")
    connection.close()
    assert "profiles whose customer" in only(look(file), "data", "problem")
    assert "--quick" in only(look(file, quick=True), "data", "note")


def test_file_that_is_no_database_is_told(file: Path) -> None:
    """With what SQLite says of it."""
    file.write_bytes(b"no database" * 1_000)
    assert {one.level for one in look(file)["database"]} == {"problem"}


def test_clock_that_went_back_is_told(file: Path) -> None:
    """The newest change is of a time that is still to come."""
    connection = apsw.Connection(str(file))
    connection.execute("UPDATE changes SET at = at + 3600000")
    connection.close()
    assert "NTP" in only(look(file), "clock", "problem")
    assert newest_change(None, 5).level == newest_change(6, 5).level == "ok"


def test_ledger_that_cannot_be_read_is_told(file: Path) -> None:
    """A restored backup would have those again who were erased."""
    ledger = Path(f"{file}.erasures")
    ledger.write_text("no erasure\n")
    assert "line 1 is no erasure" in only(look(file), "ledger", "problem")
    ledger.write_text("")
    ledger.chmod(0o644)
    assert "chmod 600" in only(look(file), "ledger", "warning")


WELL: Final = Condition("sqlite", "3", 1, 0, 1, (), 0, (Queue("webhook", 0, 0, 0, 0),), None)


@pytest.mark.parametrize(
    ("condition", "about", "level"),
    [
        (WELL._replace(feed_lag=HOUR_MS), "feed", "warning"),
        (WELL._replace(queues=(Queue("webhook", 0, 1, 0, 0),)), "webhooks", "warning"),
        (WELL._replace(queues=(Queue("webhook", 0, 0, 1, 0),)), "webhooks", "warning"),
        (WELL._replace(queues=(Queue("upstream", 0, 0, 0, HOUR_MS),)), "upstreams", "warning"),
        (WELL._replace(erasures_since=1), "erasures", "problem"),
    ],
)
def test_what_is_behind_is_told(condition: Condition, about: str, level: str) -> None:
    """The feed, who follows it, and what was promised to the erased."""
    loaded = settings.load({})
    assert doctor.of_condition(WELL, loaded, 30 * HOUR_MS) == []
    [finding] = doctor.of_condition(condition, loaded, 30 * HOUR_MS)
    assert (finding.about, finding.level) == (about, level)


# --- PostgreSQL ---------------------------------------------------------------------------------


@pytest.fixture
def url(postgres_url: str) -> Iterator[str]:
    """Give a PostgreSQL database with something in it."""
    made = postgres.new_database(postgres_url)
    asyncio.run(_fill(made))
    yield made
    postgres.drop_database(postgres_url, made)


@pytest.fixture
def beside(tmp_path: Path) -> Callable[[str], dict[str, list[Finding]]]:
    """Give what looks at it with a key and a ledger."""
    vault.create(str(tmp_path / "key"))

    def looking(url: str) -> dict[str, list[Finding]]:
        return look(
            url,
            KNOWNAS_MASTER_KEY_FILE=str(tmp_path / "key"),
            KNOWNAS_ERASURE_LEDGER=str(tmp_path / "ledger"),
        )

    return looking


def test_postgresql_is_looked_over(
    url: str, beside: Callable[[str], dict[str, list[Finding]]]
) -> None:
    """The tests' own server would lose writes, and that is told; its indexes may be broken."""
    unsafe = {it.says.split(" ")[0] for it in beside(url).get("durability", [])}
    assert beside(url).keys() <= {"durability"}
    assert unsafe in ({"fsync", "full_page_writes"}, set())
    psql(
        url,
        "DROP INDEX changes_by_tx",
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'aliases_by_profile'::regclass",
        "UPDATE changes SET at = at + 3600000",
    )
    found = beside(url)
    missing, invalid = found["indexes"]
    assert "changes_by_tx" in missing.says
    assert invalid.do == "REINDEX INDEX CONCURRENTLY aliases_by_profile"
    assert {it.level for it in (missing, invalid)} == {"problem"}


def test_postgresql_that_is_away_is_told() -> None:
    """In one line, without the password of the URL."""
    found = look("postgresql://user:hidden@127.0.0.1:1/none", KNOWNAS_DATABASE_SECONDS="1")
    [finding] = found["database"]
    assert finding.level == "problem"
    assert "hidden" not in finding.says
