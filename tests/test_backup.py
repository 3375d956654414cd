"""`knownas backup` and `knownas restore`: whole, private, and never in the way of what is there."""

import os
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import apsw
import httpx2
import msgspec
import pytest

import postgres
from conftest import IDENTIFIERS_PATH, PLAIN, PROFILE_PATH, Server, free_port, knownas, start, stop
from shell import Shell
from soak.mounts import tmpfs

PROFILES = 300
CONTENT = (
    "SELECT p.app_id, hex(p.profile_id), p.customer_user_id, p.identifiers, c.profile, a.uuid, "
    "(SELECT group_concat(hex(digest) || id) FROM api_keys) FROM profiles p JOIN apps a "
    "ON a.id = p.app_id LEFT JOIN customers c USING (app_id, customer_user_id) ORDER BY p.number"
)


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """Give a shell on a database with profiles and a key."""
    shell = Shell(tmp_path / "knownas.db")
    shell("app", "create", "default")
    shell("key", "create")
    shell("demo", str(PROFILES))
    return shell


@pytest.fixture
def loose_umask() -> Iterator[None]:
    """Let new files be readable by all, as some systems do."""
    before = os.umask(0)
    yield
    os.umask(before)


def files(folder: Path) -> set[str]:
    """Return the names of a folder's files, but for the reserve beside the database."""
    return {file.name for file in folder.iterdir()} - {"knownas.db-reserve"}


@pytest.mark.usefixtures("loose_umask")
def test_backup_is_one_private_file_and_restores_to_the_same(shell: Shell) -> None:
    """All that was there comes back; the copy is for its owner alone, without a log beside it."""
    copy = shell.database.with_name("copy.db")
    made = shell.json("backup", str(copy))
    assert made == {"file": str(copy), "bytes": copy.stat().st_size}
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert files(copy.parent) == {"knownas.db", "copy.db"}
    restored = Shell(shell.database.with_name("restored.db"))
    assert restored.json("restore", str(copy)) == {**made, "erased": 0}
    assert stat.S_IMODE(restored.database.stat().st_mode) == 0o600
    assert restored.rows(CONTENT) == shell.rows(CONTENT)
    assert restored("check") == "All is well.\n"
    assert restored.rows("PRAGMA journal_mode") == [("wal",)]


def test_backup_is_said(shell: Shell, tmp_path: Path) -> None:
    """For people it is one line, with the bytes."""
    copy = tmp_path / "copy.db"
    line = shell("backup", str(copy))
    assert line == f"Backed up to {copy}: {copy.stat().st_size:,} bytes, all is well.\n"
    line = Shell(tmp_path / "other.db")("restore", str(copy))
    assert line == f"Restored {copy}: {copy.stat().st_size:,} bytes, all is well.\n"


def test_backup_while_servers_write_has_all_that_was_acknowledged(
    server: Server, tmp_path: Path
) -> None:
    """A backup amid writes is one moment's: sound, and with every write answered before it."""
    headers = {"Authorization": f"Api-Key {server.key}", "adapty-customer-user-id": "busy"}
    knownas("demo", "3000", database=server.database)
    PLAIN.post(server.url + PROFILE_PATH, headers=headers).raise_for_status()
    acknowledged, is_over = 0, threading.Event()

    def write() -> None:
        nonlocal acknowledged
        with httpx2.Client(base_url=server.url, headers=headers) as http:
            while not is_over.is_set():
                value = {"branch_id": str(acknowledged + 1)}
                http.post(IDENTIFIERS_PATH, json=value).raise_for_status()
                acknowledged += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for number in range(5):
            before = acknowledged
            knownas("backup", str(tmp_path / f"{number}.db"), database=server.database)
            copy = f"sqlite:///{tmp_path}/{number}.db"
            found = knownas("get", "--customer", "busy", "--json", database=copy)
            assert int(msgspec.json.decode(found)["branch_id"] or 0) >= before
            assert "All is well" in knownas("check", database=copy)
    finally:
        is_over.set()
        writer.join()
    assert acknowledged > 0


def test_what_is_there_is_not_overwritten_unless_told(shell: Shell, tmp_path: Path) -> None:
    """Neither a file by a backup nor a database by a restore, and then as a whole."""
    copy = tmp_path / "copy.db"
    copy.write_text("precious", encoding="utf-8")
    assert "--overwrite" in shell.fails("backup", str(copy))
    assert copy.read_text(encoding="utf-8") == "precious"
    shell("backup", str(copy), "--overwrite")
    before = shell.rows(CONTENT)
    shell("demo", "10")
    assert "--overwrite" in shell.fails("restore", str(copy))
    assert len(shell.rows(CONTENT)) == PROFILES + 10
    shell("restore", str(copy), "--overwrite")
    assert shell.rows(CONTENT) == before
    assert files(tmp_path) == {"knownas.db", "copy.db"}


def test_database_in_use_is_not_replaced(shell: Shell, tmp_path: Path) -> None:
    """While a server runs on it, its database is replaced by nobody, told or not."""
    copy = tmp_path / "copy.db"
    shell("backup", str(copy))
    process = start(f"sqlite:///{shell.database}", free_port())
    try:
        assert "is in use" in shell.fails("restore", str(copy), "--overwrite")
    finally:
        assert stop(process) == 0
    shell("restore", str(copy), "--overwrite")
    assert files(tmp_path) == {"knownas.db", "knownas.log", "copy.db"}


@pytest.mark.parametrize("damage", ["no database", "half", "log of another", "nothing"])
def test_damaged_database_is_replaced(shell: Shell, tmp_path: Path, damage: str) -> None:
    """What lies there, and a log left beside it, are gone, and do no harm to what is restored."""
    copy = tmp_path / "copy.db"
    shell("backup", str(copy))
    before = shell.rows(CONTENT)
    connection = apsw.Connection(str(shell.database))
    connection.execute("DELETE FROM profiles")
    log = Path(f"{shell.database}-wal").read_bytes()
    connection.close()
    Path(f"{shell.database}-wal").write_bytes(log)
    if damage == "no database":
        shell.database.write_text("This is no database. " * 100, encoding="utf-8")
    elif damage == "half":
        shell.database.write_bytes(shell.database.read_bytes()[: 10 * 4096])
    elif damage == "nothing":
        shell.database.unlink()
    shell("restore", str(copy), "--overwrite")
    assert shell.rows(CONTENT) == before
    assert shell("check") == "All is well.\n"


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("INSERT INTO schema_version VALUES (9999, 'later', 'x', 0)", "schema version 9999"),
        ("DROP TABLE schema_version", "no database of knownas"),
        ("DELETE FROM identifiers", "The copy is not sound: "),
    ],
)
def test_backup_that_is_not_sound_is_refused(
    shell: Shell, tmp_path: Path, statement: str, said: str
) -> None:
    """A newer schema, another program's file, a damage: one line, and nothing is left behind."""
    copy = tmp_path / "copy.db"
    shell("backup", str(copy))
    Shell(copy).rows(statement)
    other = Shell(tmp_path / "other.db")
    assert said in last_line(other, "restore", str(copy))
    assert files(tmp_path) == {"knownas.db", "copy.db"}


def test_damaged_database_is_not_backed_up(shell: Shell, tmp_path: Path) -> None:
    """A backup that could not be restored is not made, and the last good one stays."""
    copy = tmp_path / "copy.db"
    shell("backup", str(copy))
    good = copy.read_bytes()
    shell.rows("DELETE FROM customers")
    assert "not sound" in last_line(shell, "backup", str(copy), "--overwrite")
    assert copy.read_bytes() == good
    assert files(tmp_path) == {"knownas.db", "copy.db"}


def test_full_disk_is_said(shell: Shell) -> None:
    """Where the copy does not fit, one line says so, and no part of it stays."""
    shell("demo", "3000")
    with tmpfs(1) as small:
        assert "full" in last_line(shell, "backup", str(small / "copy.db"))
        assert files(small) == set()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["backup", "nowhere/copy.db"], "There is no folder"),
        (["backup", "knownas.db", "--overwrite"], "is the very file"),
        (["backup", "copy.db", "--database", "sqlite:///none.db"], "There is no database at"),
        (["backup", "copy.db", "--database", "sqlite://"], "A temporary database"),
        (["backup", "copy.db", "--database", "postgresql://u:canary@h/d"], "pg_dump"),
        (["restore", "copy.db", "--database", "postgresql://u:canary@h/d"], "pg_dump"),
        (["restore", "none.db", "--overwrite"], "There is no backup at"),
        (["restore", "text", "--overwrite"], "file is not a database"),
        (["restore", "knownas.db", "--overwrite"], "is the very file"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_done_is_one_line(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    """Each says what is wrong, repeats no password, and changes nothing."""
    monkeypatch.chdir(shell.database.parent)
    Path("text").write_text("This is no database. " * 100, encoding="utf-8")
    before = shell.database.read_bytes()
    line = shell.fails(*arguments)
    assert said in line
    assert "canary" not in line
    assert shell.database.read_bytes() == before
    assert files(shell.database.parent) == {"knownas.db", "text"}


def test_killed_backup_leaves_the_last_one(shell: Shell, tmp_path: Path) -> None:
    """Kill -9 at any moment leaves the old file or the new one, whole."""
    shell("demo", "3000")
    copy = tmp_path / "copy.db"
    shell("backup", str(copy))
    old = copy.read_bytes()
    command = [sys.executable, "-m", "knownas", "backup", str(copy), "--overwrite"]
    environment = {**os.environ, "KNOWNAS_DATABASE": f"sqlite:///{shell.database}"}
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process:
        while not list(tmp_path.glob("copy.db.part-*")) and process.poll() is None:
            pass
        process.kill()
    assert copy.read_bytes() == old
    shell("backup", str(copy), "--overwrite")
    assert Shell(copy)("check") == "All is well.\n"


def test_postgresql_comes_back_from_a_dump(shell: Shell, postgres_url: str, tmp_path: Path) -> None:
    """As docs/operating.md says: pg_dump while servers run, pg_restore into an empty database."""
    first, second = (postgres.new_database(postgres_url) for _ in range(2))
    dump = str(tmp_path / "knownas.dump")
    shell("copy", "--from", f"sqlite:///{shell.database}", "--to", first)
    pg_dump = str(postgres.programs() / "pg_dump")
    subprocess.run([pg_dump, "--format=custom", f"--file={dump}", first], check=True)
    restored = ["--exit-on-error", "--no-owner", f"--dbname={second}", dump]
    subprocess.run([postgres.programs() / "pg_restore", *restored], check=True)
    assert shell.json("migrate", "--database", second) == {"applied": []}
    assert shell("check", "--database", second) == "All is well.\n"
    done = shell.json("copy", "--from", first, "--to", second)["apps"]
    assert [(one["is_same"], one["written"]) for one in done] == [(True, 0)]
    for url in (first, second):
        postgres.drop_database(postgres_url, url)


def last_line(shell: Shell, *arguments: str) -> str:
    """Return what a failing command says after its bar was begun."""
    ended = shell.run(*arguments)
    assert (ended.exit_code, ended.stdout) == (1, "")
    *bar, line = ended.stderr.splitlines()
    assert len(bar) <= 1
    return line
