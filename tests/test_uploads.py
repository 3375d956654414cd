"""Files that are uploaded and imported: in pieces, by any server, through restarts and kills."""

import asyncio
import gzip
import itertools
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from conftest import (
    IDENTIFIERS_PATH,
    Server,
    ask,
    error_code,
    free_port,
    knownas,
    new_keys,
    sources,
    start,
    stop,
    stored,
)
from knownas import bootstrap
from knownas.uploads import MOST
from knownas_client import Client
from shell import Shell

DATABASES = ("sqlite", "postgresql")

IMPORTS: Final = "/api/v1/imports/"
CANARY: Final = "canary-81f0"
PIECE: Final = ("Content-Type", "application/partial-upload")
END_SECONDS: Final = 60


def rows(count: int, name: str = "u") -> bytes:
    """Return a CSV file of customers."""
    lines = [f"{name}-{number},{name}-b-{number}" for number in range(count)]
    return "\n".join(["customer_user_id,branch_id", *lines, ""]).encode()


def begun(server: Server, **body: object) -> str:
    """Begin an import and return its path."""
    answer = ask(server, "POST", IMPORTS, body=body)
    assert answer.status_code == 201, answer.text
    assert answer.headers["upload-limit"] == "max-append-size=8388608"
    path: str = answer.headers["location"]
    assert answer.json()["data"]["id"] in path
    return path


def send(server: Server, path: str, offset: int, piece: bytes, *, last: bool = False) -> Any:  # noqa: ANN401 - an answer
    """Send a piece of a file."""
    headers = [PIECE, ("Upload-Offset", str(offset)), ("Upload-Complete", "?1" if last else "?0")]
    return ask(server, "PATCH", path, headers, piece)


def ended(server: Server, path: str) -> dict[str, Any]:
    """Return an import once it has ended."""
    deadline = time.monotonic() + END_SECONDS
    while True:
        found: dict[str, Any] = ask(server, "GET", path).json()["data"]
        if found["state"] in {"done", "failed", "cancelled"}:
            return found
        assert time.monotonic() < deadline, found
        time.sleep(0.05)


def branch(server: Server, customer: str) -> str | None:
    """Return a customer's branch_id."""
    answer = ask(server, "GET", IDENTIFIERS_PATH, customer=customer)
    assert answer.status_code == 200
    found: str | None = answer.json()["branch_id"]
    return found


def test_file_in_pieces_is_imported(server: Server) -> None:
    """Each piece follows the last one, wherever it ended; after the last it goes on by itself."""
    content = gzip.compress(rows(300, CANARY) + b"bad,row,here\n")
    path = begun(server, name="users.csv.gz", size=len(content))
    assert send(server, path, 0, content[:100]).headers["upload-offset"] == "100"
    # An answer was lost, and so the client sends the piece again.
    answer = send(server, path, 0, content[:100])
    assert error_code(answer) == (409, "upload_conflict")
    assert answer.headers["upload-offset"] == "100"
    assert error_code(send(server, path, 200, b"x")) == (409, "upload_conflict")
    head = ask(server, "HEAD", path)
    assert (head.headers["upload-offset"], head.headers["upload-complete"]) == ("100", "?0")
    answer = send(server, path, 100, content[100:], last=True)
    assert (answer.status_code, answer.headers["upload-complete"]) == (204, "?1")
    found = ended(server, path)
    assert (found["state"], found["failure"], found["received"]) == ("done", None, len(content))
    report = found["report"]
    assert (report["file"], report["format"]) == ("users.csv.gz", "csv")
    assert (report["rows"], report["new"], report["bad"]) == (301, 300, 1)
    assert [one["line"] for one in report["problems"]] == [302]
    assert branch(server, f"{CANARY}-7") == f"{CANARY}-b-7"
    listed = ask(server, "GET", IMPORTS).json()["data"]
    assert listed[0] == found
    history = ask(server, "GET", "/api/v1/profile/history/", customer=f"{CANARY}-7").json()
    assert history["data"][0]["source"]["via"] == "import"
    assert error_code(send(server, path, len(content), b"x")) == (409, "upload_conflict")
    assert ask(server, "DELETE", path).status_code == 204
    assert error_code(ask(server, "GET", path)) == (404, "import_not_found")


def test_no_file_is_left(server: Server) -> None:
    """What was uploaded is gone when it is imported, has failed, or was cancelled."""
    content = b"name\n" + f"{CANARY}-left".encode() * 100
    path = begun(server, name="no-table.csv")
    assert send(server, path, 0, content, last=True).status_code == 204
    failed = ended(server, path)
    assert failed["state"] == "failed"
    assert failed["failure"] == "The file: has no column profile_id or customer_user_id."
    path = begun(server)
    assert send(server, path, 0, content).status_code == 204
    assert f"{CANARY}-left".encode() in stored_with_files(server)
    assert ask(server, "DELETE", path).status_code == 204
    assert ended(server, path)["state"] == "cancelled"
    assert error_code(send(server, path, len(content), b"x")) == (409, "upload_conflict")
    if server.database.startswith("sqlite"):  # PostgreSQL's dump has no deleted rows, either
        assert not list(folder(server).iterdir())
    assert f"{CANARY}-left".encode() not in stored_with_files(server)


def folder(server: Server) -> Path:
    """Return where files are that are uploaded to a server on SQLite."""
    return Path(f"{server.database.removeprefix('sqlite:///')}-imports")


def stored_with_files(server: Server) -> bytes:
    """Return all that is kept."""
    if server.database.startswith("sqlite"):
        return b"".join(one.read_bytes() for one in folder(server).iterdir())
    return stored(server.database).replace(b"\\x", b"") + bytes.fromhex(hexes(server))


def hexes(server: Server) -> str:
    """Return the pieces of files in a dump of PostgreSQL."""
    lines = stored(server.database).split(b"COPY public.import_pieces", 1)[1].splitlines()
    pieces = itertools.takewhile(lambda line: line != b"\\.", lines[1:])
    return "".join(line.rsplit(b"\\x", 1)[1].decode() for line in pieces)


def test_dry_run_writes_nothing(server: Server) -> None:
    """How it is to be imported is said when it begins."""
    content = rows(3, "dry")
    path = begun(server, dry_run=True, format="csv", on_error="stop", atomic=True)
    assert send(server, path, 0, content, last=True).status_code == 204
    found = ended(server, path)
    assert (found["dry_run"], found["on_error"], found["atomic"]) == (True, "stop", True)
    assert (found["report"]["dry_run"], found["report"]["new"]) == (True, 3)
    assert ask(server, "GET", IDENTIFIERS_PATH, customer="dry-0").status_code == 404


def test_what_is_refused(server: Server, other: Server) -> None:
    """Wrong bodies and headers are named; what is of another app is not there."""
    wrong = {"name": 1, "format": "xls", "size": -1, "dry_run": "yes", "on_error": "?", "x": 1}
    assert sorted(map(str, sources(ask(server, "POST", IMPORTS, body=wrong)))) == sorted(wrong)
    assert sources(ask(server, "POST", IMPORTS, body={"size": 2**45})) == ["size"]
    path = begun(server, size=10)
    for headers in ([PIECE], [PIECE, ("Upload-Offset", "-1")], [PIECE, ("Upload-Offset", "1e3")]):
        assert sources(ask(server, "PATCH", path, headers, b"x")) == ["upload-offset"]
    wrong_end = [PIECE, ("Upload-Offset", "0"), ("Upload-Complete", "yes")]
    assert sources(ask(server, "PATCH", path, wrong_end, b"x")) == ["upload-complete"]
    as_json = [("Content-Type", "application/json"), ("Upload-Offset", "0")]
    answer = ask(server, "PATCH", path, as_json, b"{}")
    assert error_code(answer) == (415, "unsupported_media_type")
    assert sources(send(server, path, 0, b"")) == [None]
    assert sources(send(server, path, 0, b"eleven bytes")) == ["upload-offset"]
    assert sources(send(server, path, 0, b"short", last=True)) == ["upload-offset"]
    assert send(server, path, 0, b"x" * 9_000_000).status_code == 413
    assert ask(server, "GET", path).json()["data"]["received"] == 0
    for stranger in (other, server._replace(key=server.public_key)):
        assert ask(stranger, "GET", path).status_code == (404 if stranger is other else 401)
    for method in ("GET", "PATCH", "DELETE"):
        headers = [PIECE, ("Upload-Offset", "0")]
        unknown = f"{IMPORTS}imp_0000000000000000/"
        answer = ask(server, method, unknown, headers, b"x" if method == "PATCH" else None)
        assert error_code(answer) == (404, "import_not_found")
    assert error_code(ask(server, "GET", f"{IMPORTS}nonsense/")) == (404, "import_not_found")
    paths = [path, *(begun(server) for _ in range(MOST - 1))]
    assert error_code(ask(server, "POST", IMPORTS, body={})) == (409, "too_many_imports")
    for one in paths:
        assert ask(server, "DELETE", one).status_code == 204


def test_second_server_goes_on(server: Server, second: Server) -> None:
    """Pieces may go to any server; whichever takes the last one imports the file."""
    content = rows(50, "second")
    path = begun(server, size=len(content))
    for number, offset in enumerate(range(0, len(content), 100)):
        piece = content[offset : offset + 100]
        to = second if number % 2 else server
        answer = send(to, path, offset, piece, last=offset + 100 >= len(content))
        assert answer.status_code == 204, answer.text
    assert ended(server, path)["report"]["new"] == 50
    assert branch(second, "second-49") == "second-b-49"


def test_client_and_command(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client sends a file, and the rest of one; `knownas --url import` waits for its report."""
    file = tmp_path / "users.csv"
    file.write_bytes(rows(40, "client"))
    told: list[tuple[int, int]] = []
    size = file.stat().st_size
    with Client(server.url, server.key) as client:
        begun_there = client.upload_import(file, progress=lambda *done: told.append(done))
        while not (found := client.get_import(begun_there.id)).has_ended:
            time.sleep(0.05)
        assert found.report is not None
        assert (found.state, found.report["new"], told[-1]) == ("done", 40, (size, size))
        assert client.list_imports()[0] == found
        path = begun(server, size=size)
        import_id = path.rstrip("/").rpartition("/")[2]
        assert send(server, path, 0, file.read_bytes()[:50]).status_code == 204
        client.upload_import(file, resume=import_id)
        assert ended(server, path)["report"]["same"] == 40
        client.cancel_import(import_id)
    monkeypatch.setenv("KNOWNAS_KEY", server.key)
    shell = Shell(tmp_path / "unused.db")
    report = json.loads(shell("--url", server.url, "import", str(file), "--json"))
    assert (report["file"], report["rows"], report["same"]) == (str(file), 40, 40)
    assert "No such file" in shell.fails("--url", server.url, "import", str(tmp_path / "absent"))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_killed_server_goes_on(database: str) -> None:
    """After kill -9 of all, another server has the rest imported: no row twice, none left out."""
    first = start(database, port := free_port())
    key, _ = asyncio.run(new_keys(database, "killed"))
    server = Server(f"http://127.0.0.1:{port}", key, "", database)
    content = rows(8_000, "killed")
    path = begun(server, size=len(content))
    assert send(server, path, 0, content, last=True).status_code == 204
    while ask(server, "GET", path).json()["data"]["progress"]["rows"] == 0:
        time.sleep(0.02)
    children = Path(f"/proc/{first.pid}/task/{first.pid}/children").read_text().split()
    for process_id in (first.pid, *map(int, children)):
        os.kill(process_id, signal.SIGKILL)
    first.wait()
    asyncio.run(without_lease(database))
    process = start(database, port)
    found = ended(server, path)
    report = found["report"]
    assert (found["state"], report["rows"], report["new"]) == ("done", 8_000, 8_000)
    coverage = ask(server, "GET", "/api/v1/coverage/").json()
    assert coverage["data"]["profiles"] == 8_000
    assert stop(process) == 0
    assert knownas("check", database=database) == "All is well.\n"


async def without_lease(database: str) -> None:
    """Have the lease of a process that was killed run out at once."""
    storage = bootstrap.open_storage(database)
    for one in await storage.imports.unended():
        await storage.imports.change(
            one.app.id, one.found.id, lambda it: msgspec.structs.replace(it, lease_until=0)
        )
    await storage.close()
