"""What erasing leaves in the files of an embedded database, whatever breaks off or is brought back.

Threat row 31 for SQLite: the pages, the log, the reserve, backups, the ledger; kill -9, a restart,
a full disk, older backups.
"""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import httpx2
import msgspec
import pytest

from conftest import free_port, start, stop, stored
from knownas import ledger, vault
from knownas.model import KINDS
from shell import Shell
from soak.mounts import fill, tmpfs

CANARY: Final = b"CANARY"
PROFILE_ID: Final = "0ca7a7e0-0ca7-4a7e-8ca7-0ca7a7e00ca7"
MARKS: Final = (CANARY, PROFILE_ID.encode(), bytes.fromhex(PROFILE_ID.replace("-", "")))
OTHERS: Final = 300
COMPLETE_SECONDS: Final = 60


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    """Give commands on a database that has a master key, many people, and the canary."""
    folder = tmp_path / "data"
    folder.mkdir()
    vault.create(str(tmp_path / "master.key"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KNOWNAS_MASTER_KEY_FILE", str(tmp_path / "master.key"))
        yield filled(Shell(folder / "knownas.db"))


def filled(shell: Shell) -> Shell:
    """Make an app with people, and among them the canary: in every field, changed many times."""
    shell("app", "create", "default")
    shell("demo", str(OTHERS))
    shell("profile", "create", "--customer", "CANARY-customer", "--profile", PROFILE_ID)
    for number in range(3):
        values = [f"{kind.name}=CANARY-{number}-{kind.name}" for kind in KINDS]
        shell("set", "--profile", PROFILE_ID, *values)
        shell("demo", str(OTHERS))
    return shell


def url_of(shell: Shell) -> str:
    """Return the URL of a shell's database."""
    return f"sqlite:///{shell.database}"


def left_of(content: bytes) -> list[bytes]:
    """Return which marks of the canary stand in some bytes."""
    return [mark for mark in MARKS if mark in content]


def completed(shell: Shell, erasure_id: str) -> dict[str, Any]:
    """Return a receipt when it has become complete."""
    deadline = time.monotonic() + COMPLETE_SECONDS
    while True:
        receipt: dict[str, Any] = shell.json("erasures", "show", erasure_id)["receipt"]
        if receipt["complete"]:
            return receipt
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_complete_erasure_leaves_no_byte(shell: Shell, tmp_path: Path) -> None:
    """Neither in the file, its log and index of it, nor the reserve, a new backup, the ledger."""
    assert CANARY in left_of(stored(url_of(shell)))
    made = shell.json("erase", "--customer", "CANARY-customer", "--yes")
    assert made["receipt"]["complete"]
    assert left_of(stored(url_of(shell))) == []
    shell("backup", str(tmp_path / "copy.db"))
    assert left_of((tmp_path / "copy.db").read_bytes()) == []
    assert Path(f"{shell.database}.erasures").stat().st_mode & 0o777 == 0o600
    assert shell("check") == "All is well.\n"
    count = "SELECT count(*) FROM profiles"
    assert shell.rows(count) == [(4 * OTHERS,)]


def test_server_completes_it_beside_its_readers(shell: Shell) -> None:
    """While connections are open and others write and read, nothing is left soon."""
    key = shell.json("key", "create")["key"]
    port = free_port()
    process = start(url_of(shell), port)
    try:
        with httpx2.Client(
            base_url=f"http://127.0.0.1:{port}", headers={"Authorization": f"Api-Key {key}"}
        ) as http:
            body = {"value": "CANARY-2-branch_id"}
            answer = http.post("/api/v1/erasures/", json=body).raise_for_status()
            erasure_id = answer.json()["data"]["receipt"]["id"]
            deadline = time.monotonic() + COMPLETE_SECONDS
            number = 0
            while not (
                http.get("/api/v1/erasures/", params={"id": erasure_id})
                .raise_for_status()
                .json()["data"]["receipt"]["complete"]
            ):
                assert time.monotonic() < deadline
                number += 1
                headers = {"adapty-customer-user-id": f"other-{number}"}
                path = "/api/v2/server-side-api/profile/"
                http.post(path, headers=headers).raise_for_status()
            assert left_of(stored(url_of(shell))) == []
    finally:
        assert stop(process) == 0


def test_restart_does_not_forget_what_waits(shell: Shell) -> None:
    """Where a process died before the pages were written anew, the next one does it."""
    killed(shell, "complete")
    assert len(left_of(stored(url_of(shell)))) > 0
    [erasure] = shell.json("erasures", "list")["erasures"]
    assert not erasure["complete"]
    process = start(url_of(shell), free_port())
    try:
        completed(shell, erasure["id"])
        assert left_of(stored(url_of(shell))) == []
    finally:
        assert stop(process) == 0


def killed(shell: Shell, moment: str) -> None:
    """Erase the canary in a process that is killed at a moment."""
    program = f"""
        import asyncio, os, signal, sys
        from knownas import bootstrap, eraser, ledger, settings
        from knownas.erasing import Whom
        from knownas.model import ProfileRef

        append = ledger.append

        def die(*_):
            os.kill(os.getpid(), signal.SIGKILL)

        def append_and_die(path, entry):
            append(path, entry)
            die()

        async def main():
            registry = bootstrap.open_registry(settings.load(os.environ))
            app = await registry.app("default")
            if {moment!r} == "commit":
                ledger.append = append_and_die
            await registry.eraser.erase(app, Whom(ProfileRef("CANARY-customer")))
            die()

        asyncio.run(main())
    """
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        env={**os.environ, "KNOWNAS_DATABASE": url_of(shell)},
        check=False,
    )
    assert ended.returncode == -signal.SIGKILL


def test_ledger_has_an_erasure_before_the_database(shell: Shell) -> None:
    """Killed just before its commit it is in the ledger alone; the next start makes it again."""
    killed(shell, "commit")
    path = f"{shell.database}.erasures"
    [entry] = ledger.read([path])
    assert left_of(Path(path).read_bytes()) == []
    assert shell("get", "--customer", "CANARY-customer")
    assert shell.json("erasures", "list") == {"erasures": []}
    process = start(url_of(shell), free_port())
    try:
        assert completed(shell, entry.id)["erased"]["profiles"] == 1
        assert left_of(stored(url_of(shell))) == []
        assert "Profile not found" in shell.fails("get", "--customer", "CANARY-customer")
    finally:
        assert stop(process) == 0


def test_torn_line_of_the_ledger_is_left_out(shell: Shell) -> None:
    """A line that broke off is none, and the next erasure takes its place."""
    shell("erase", "--customer", "CANARY-customer", "--yes")
    place = Path(f"{shell.database}.erasures")
    whole = place.read_bytes()
    place.write_bytes(whole + whole[: len(whole) // 2])
    assert len(ledger.read([str(place)])) == 1
    shell("profile", "create", "--customer", "CANARY-customer")
    shell("erase", "--customer", "CANARY-customer", "--yes")
    assert place.read_bytes().startswith(whole)
    assert len(ledger.read([str(place)])) == 2
    place.write_bytes(b"nonsense\n" + whole)
    assert shell.fails("erasures", "replay") == f"{place}: line 1 is no erasure."


def test_older_backup_does_not_bring_the_person_back(shell: Shell, tmp_path: Path) -> None:
    """Restoring erases again what the ledger has, before the database is there; and once."""
    copy = str(tmp_path / "older.db")
    shell("backup", copy)
    shell("erase", "--customer", "CANARY-customer", "--yes")
    shell("profile", "create", "--customer", "later")
    restored = shell.json("restore", copy, "--overwrite")
    assert restored["erased"] == 1
    assert left_of(stored(url_of(shell))) == []
    assert not shell.database.with_name("knownas.db.part-").exists()
    assert {it.name for it in shell.database.parent.iterdir()} <= {
        *(f"knownas.db{ending}" for ending in ("", "-wal", "-shm", "-reserve", ".erasures")),
    }
    [erasure] = shell.json("erasures", "list")["erasures"]
    assert erasure["complete"]
    assert "not found" in shell.fails("set", "--profile", PROFILE_ID, "branch_id=x")
    assert shell.json("erasures", "replay") == {"apps": []}
    assert shell("check") == "All is well.\n"
    new = shell.json("profile", "create", "--customer", "CANARY-customer")
    assert new["identifiers"]["branch_id"] is None
    shell("backup", copy, "--overwrite")
    assert shell.json("restore", copy, "--overwrite")["erased"] == 0
    assert shell.json("profile", "show", "--customer", "CANARY-customer") == new


def test_backup_is_not_restored_without_the_key_of_the_ledger(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who was erased could not be told from others, so nothing is put there."""
    copy = str(tmp_path / "older.db")
    shell("backup", copy)
    shell("erase", "--customer", "CANARY-customer", "--yes")
    monkeypatch.delenv("KNOWNAS_MASTER_KEY_FILE")
    target = Shell(tmp_path / "data" / "restored.db")
    monkeypatch.setenv("KNOWNAS_ERASURE_LEDGER", f"{shell.database}.erasures")
    assert "KNOWNAS_MASTER_KEY_FILE" in target.fails("restore", copy)
    assert not target.database.exists()


def test_file_that_was_put_back_by_hand_is_set_right_at_the_start(
    shell: Shell, tmp_path: Path
) -> None:
    """Whatever put an older file in the place, the server that starts has read the ledger."""
    copy = tmp_path / "older.db"
    shell("backup", str(copy))
    shell("erase", "--customer", "CANARY-customer", "--yes")
    for ending in ("-wal", "-shm"):
        Path(f"{shell.database}{ending}").unlink(missing_ok=True)
    shell.database.write_bytes(copy.read_bytes())
    process = start(url_of(shell), free_port())
    try:
        [erasure] = shell.json("erasures", "list")["erasures"]
        completed(shell, erasure["id"])
        assert left_of(stored(url_of(shell))) == []
    finally:
        assert stop(process) == 0


def test_full_disk_erases_and_completes_later(tmp_path: Path) -> None:
    """The person is gone out of the reserve; the pages are written anew once there is space."""
    vault.create(str(tmp_path / "master.key"))
    with tmpfs(40) as disk, pytest.MonkeyPatch.context() as patch:
        patch.setenv("KNOWNAS_MASTER_KEY_FILE", str(tmp_path / "master.key"))
        shell = filled(Shell(disk / "knownas.db"))
        key = shell.json("key", "create")["key"]
        port = free_port()
        process = start(url_of(shell), port)
        try:
            filling = fill(disk)
            with httpx2.Client(
                base_url=f"http://127.0.0.1:{port}", headers={"Authorization": f"Api-Key {key}"}
            ) as http:
                answer = http.post("/api/v1/erasures/", json={"profile_id": PROFILE_ID})
                assert answer.status_code == 200, answer.text
                erasure_id = answer.json()["data"]["receipt"]["id"]
                headers = {"adapty-profile-id": PROFILE_ID}
                gone = http.get("/api/v2/server-side-api/profile/", headers=headers)
                assert gone.status_code == 404
            filling.unlink()
            shell("erasures", "finish")
            assert completed(shell, erasure_id)["complete"]
            assert left_of(stored(url_of(shell))) == []
        finally:
            assert stop(process) == 0


def test_receipt_is_verified_by_a_command(shell: Shell) -> None:
    """Whoever has the receipt and the public key needs no database for it."""
    made = shell.json("erase", "--customer", "CANARY-customer", "--yes")
    public_key = shell("erasures", "key").strip()
    assert shell.json("erasures", "verify", public_key, made["signed"]) == {
        "receipt": made["receipt"]
    }
    assert "complete" in shell("erasures", "verify", public_key, made["signed"])
    body, _, signature = made["signed"].partition(".")
    forged = msgspec.json.encode({**made["receipt"], "complete": False})
    assert "no receipt" in shell.fails("erasures", "verify", public_key, f"{body}.AAAA{signature}")
    assert "no receipt" in shell.fails("erasures", "verify", "AAAA", made["signed"])
    assert "no signed" in shell.fails("erasures", "verify", public_key, forged.decode())
