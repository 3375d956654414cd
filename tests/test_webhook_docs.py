"""The receivers that docs/webhooks.md shows are run as they are printed there, and sent to."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from ipaddress import ip_network
from pathlib import Path
from typing import Final

import httpx2
import pytest

from conftest import START_SECONDS, free_port
from knownas.webhooks import signatures
from knownas.webhooks.outbound import Sender
from knownas.webhooks.schedule import DELAYS_MS

pytestmark = pytest.mark.anyio

DOCUMENT: Final = Path(__file__).parent.parent / "docs" / "webhooks.md"
SECRET: Final = signatures.new_secret()
BODY: Final = '{"é": 1}'.encode()


@pytest.fixture(scope="module", params=["python", "javascript"])
def receiver(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """Give the URL of a receiver of the document."""
    language = request.param
    program = sys.executable if language == "python" else shutil.which("node")
    if program is None:
        pytest.skip("node is not installed")
    text = DOCUMENT.read_text(encoding="utf-8")
    [code] = re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    file = (
        tmp_path_factory.mktemp("receiver") / {"python": "it.py", "javascript": "it.mjs"}[language]
    )
    file.write_text(code, encoding="utf-8")
    port = free_port()
    process = subprocess.Popen(
        [program, file, str(port)],
        env={**os.environ, "WEBHOOK_SECRET": SECRET},
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(port)
        yield f"http://127.0.0.1:{port}/hook"
    finally:
        process.terminate()
        process.wait()


def wait_for(port: int) -> None:
    """Return when something listens on a port."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        with suppress(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port)).close()
            return
        time.sleep(0.05)
    pytest.fail("The receiver did not start.")


@pytest.fixture
async def sender() -> AsyncIterator[Sender]:
    """Give a sender that may go to this machine."""
    made = Sender([ip_network("127.0.0.0/8")])
    yield made
    await made.close()


async def status(
    sender: Sender, url: str, *secrets: str, ago: int = 0, message_id: str = "msg_1"
) -> int | None:
    """Return how a receiver answers a message that was sent some seconds ago."""
    now_ms = time.time_ns() // 1_000_000 - ago * 1_000
    outcome = await sender.send(url, BODY, message_id=message_id, secrets=secrets, now_ms=now_ms)
    return outcome.status


async def test_documented_receiver_takes_what_is_genuine(sender: Sender, receiver: str) -> None:
    """With its secret alone, or beside another one while secrets are changed."""
    assert await status(sender, receiver, SECRET) == 204
    assert await status(sender, receiver, signatures.new_secret(), SECRET) == 204
    assert await status(sender, receiver, SECRET, ago=290) == 204


async def test_row_26_documented_receiver_refuses_what_is_not(
    sender: Sender, receiver: str
) -> None:
    """Another secret, a replay, a changed body or id, no headers, and nonsense in them: 401."""
    assert await status(sender, receiver, signatures.new_secret()) == 401
    for ago in (310, -310, 86_400):
        assert await status(sender, receiver, SECRET, ago=ago) == 401
    signed = signatures.signed_headers(
        [SECRET], message_id="msg_1", timestamp=int(time.time()), body=BODY
    )
    good = {name.encode(): value.encode() for name, value in signed.items()}
    changed: list[dict[bytes, bytes]] = [{}]
    for name in good:
        changed.append({other: value for other, value in good.items() if other != name})
        changed.extend({**good, name: value} for value in (b"", b"x", b"1", b"\xb2", b"\xff"))
    with httpx2.Client() as client:
        assert client.post(receiver, headers=good, content=BODY).status_code == 204
        assert client.post(receiver, headers=good, content=BODY + b" ").status_code == 401
        for headers in changed:
            answer = client.post(receiver, headers=headers, content=BODY)
            assert answer.status_code == 401, headers


def test_documented_delays_are_those_of_the_schedule() -> None:
    """The table of attempts says what `schedule.py` does."""
    units = {"s": 1_000, "min": 60_000, "h": 3_600_000}
    rows = re.findall(
        r"^\| ([\d, ]+) \| (\d+) (s|min|h)(?: each)? \|", DOCUMENT.read_text(), re.MULTILINE
    )
    documented = {
        int(attempt): int(number) * units[unit]
        for attempts, number, unit in rows
        for attempt in attempts.split(",")
    }
    assert documented == dict(enumerate(DELAYS_MS, 2))
