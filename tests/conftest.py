"""What the tests share: a real server in a process of its own, on a fresh database."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx2
import msgspec
import pytest

START_SECONDS = 30


class Server(NamedTuple):
    """A running server, its database and its keys."""

    url: str
    key: str
    public_key: str
    database: str


def knownas(*arguments: str, database: str, stdin: str = "") -> str:
    """Run a `knownas` command to its end and return what it printed."""
    return subprocess.run(
        [sys.executable, "-m", "knownas", *arguments],
        env={**os.environ, "KNOWNAS_DATABASE": database},
        input=stdin,
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return port


def start(database: str, port: int, *arguments: str, **settings: str) -> subprocess.Popen[bytes]:
    """Start `knownas serve` and return when it is ready."""
    log = Path(database.removeprefix("sqlite:///")).with_suffix(".log").open("ab")
    environment = {**os.environ, "KNOWNAS_DATABASE": database, "KNOWNAS_ACCESS_LOG": "off"}
    process = subprocess.Popen(
        [sys.executable, "-m", "knownas", "serve", "--port", str(port), *arguments],
        env={**environment, **settings},
        stdout=log,
        stderr=log,
    )
    log.close()
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx2.get(f"http://127.0.0.1:{port}/readyz").status_code == httpx2.codes.OK:
                return process
        except httpx2.TransportError:
            time.sleep(0.05)
    process.kill()
    process.wait()
    raise RuntimeError("The server did not start.")


def stop(process: subprocess.Popen[bytes]) -> int:
    """Stop a server by SIGTERM and return its exit code."""
    process.terminate()
    return process.wait(START_SECONDS)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Give a running server on a fresh database."""
    database = f"sqlite:///{tmp_path_factory.mktemp('server')}/knownas.db"
    port = free_port()
    process = start(database, port, KNOWNAS_METRICS_TOKEN="metrics-token")  # noqa: S106 - a test's own
    key, public_key = (
        msgspec.json.decode(
            knownas("key", "create", "--type", key_type, "--json", database=database)
        )["key"]
        for key_type in ("secret", "public")
    )
    yield Server(f"http://127.0.0.1:{port}", key, public_key, database)
    assert stop(process) == 0
