"""Webhooks by real processes: killed, stopped, and several at once."""

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from conftest import PROFILE_PATH, Server, ask, free_port, sources, start, stop
from hooks import IDS, SECONDS, WEBHOOKS, asked, hook, opened, remove, told, until, written
from knownas import vault
from receivers import NO_CONTENT, Received, Receiver, receiving

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

DATABASES = ("sqlite", "postgresql")


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Give a master key."""
    path = str(tmp_path_factory.mktemp("master") / "key")
    vault.create(path)
    return path


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    """Give a receiver that takes everything."""
    async with receiving(answer=NO_CONTENT, keeps=True) as made:
        yield made


async def test_row_25_server_sends_to_nowhere_of_its_own(
    server: Server, key_file: str, receiver: Receiver
) -> None:
    """Without the operator's networks this machine is refused: as an address, and behind a name."""
    port = free_port()
    process = start(server.database, port, KNOWNAS_MASTER_KEY_FILE=key_file)
    strict = server._replace(url=f"http://127.0.0.1:{port}")
    for host in ("127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "169.254.169.254", "0.0.0.0"):  # noqa: S104 - an address that is refused
        for scheme in ("http", "https"):
            url = f"{scheme}://{host}:{receiver.port}/"
            assert sources(ask(strict, "POST", WEBHOOKS, body={"url": url})) == ["url"]
    url = f"https://localhost:{receiver.port}/"
    made = await asked(strict, "POST", WEBHOOKS, {"url": url})
    outcome = await asked(strict, "POST", f"{WEBHOOKS}test/", {"id": made["id"]})
    assert (outcome["result"], outcome["status"]) == ("refused", None)
    assert "127.0.0.1" not in outcome["reason"]
    await asyncio.to_thread(ask, strict, "POST", PROFILE_PATH, profile=IDS[1])
    deadline = time.monotonic() + SECONDS
    while not (found := (await asked(strict, "GET", WEBHOOKS))[0])["pending"]:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)
    assert found["last_failure"]["reason"] == outcome["reason"]
    assert receiver.connections == 0
    await remove(strict)
    assert stop(process) == 0


async def test_kill_between_sending_and_writing_loses_nothing(
    server: Server, key_file: str, receiver: Receiver
) -> None:
    """Of a process that is killed at every other message another one sends all that is left.

    What was taken may come again, with the same id; without what came again, each profile's
    events are all there and in order.
    """
    registry = opened(server, key_file)
    app = await registry.app("default")
    made, _ = await registry.webhooks.add(app.id, f"http://127.0.0.1:{receiver.port}/", None)
    process: subprocess.Popen[bytes] | None = None
    kills = 0

    async def kill(request: Received) -> int:
        nonlocal kills
        if len(receiver.requests) in {7, 20, 21, 50} and process is not None:
            kills += 1
            process.kill()
        del request
        return 204

    receiver.decide = kill
    await asyncio.to_thread(written, server.database, 6, 15)
    script = Path(__file__).with_name("dispatching.py")
    command = [sys.executable, str(script), server.database, key_file]
    deadline = time.monotonic() + SECONDS
    while True:
        process = subprocess.Popen(command)  # noqa: ASYNC220 - a few, and nobody waits
        while process.poll() is None:
            assert time.monotonic() < deadline
            state = (await registry.webhooks.all(app.id))[0]
            page = await registry.changes(app.id, state.cursor, 1)
            if not page.changes and not state.pending:
                process.terminate()
            await asyncio.sleep(0.02)
        if process.wait() != -signal.SIGKILL:
            break
    assert kills >= 3
    await registry.webhooks.delete(app.id, made.webhook.id)
    await registry.close()
    seen: dict[str, tuple[str, int]] = {}
    for request in receiver.requests:
        seen.setdefault(request.headers["webhook-id"], told(request))
    for one in IDS[:6]:
        revisions = [revision for profile, revision in seen.values() if profile == one]
        assert revisions == list(range(revisions[0], revisions[0] + 15))


async def test_workers_send_each_event_once(
    server: Server, key_file: str, receiver: Receiver
) -> None:
    """Two processes of one server: nothing comes twice, and each profile's events in order."""
    port = free_port()
    process = start(
        server.database,
        port,
        "--workers",
        "2",
        KNOWNAS_MASTER_KEY_FILE=key_file,
        KNOWNAS_WEBHOOK_NETWORKS="127.0.0.0/8",
    )
    both = server._replace(url=f"http://127.0.0.1:{port}")
    await hook(both, receiver)
    await asyncio.to_thread(written, server.database, 10, 10)
    await until(receiver, 100)
    await asyncio.sleep(1)
    await remove(both)
    assert await asyncio.to_thread(stop, process) == 0
    taken = [told(request) for request in receiver.requests]
    assert len(set(taken)) == len(taken) == 100
    for one in IDS[:10]:
        revisions = [revision for profile, revision in taken if profile == one]
        assert revisions == sorted(revisions)


async def test_stopping_server_finishes_what_it_sends(
    server: Server, key_file: str, receiver: Receiver
) -> None:
    """On SIGTERM a delivery that is under way is waited for and written down; the server ends."""
    asked_for, port = asyncio.Event(), free_port()
    settings = {
        "KNOWNAS_MASTER_KEY_FILE": key_file,
        "KNOWNAS_WEBHOOK_NETWORKS": "127.0.0.0/8",
    }

    async def slowly(_request: Received) -> int:
        asked_for.set()
        await asyncio.sleep(3)
        return 204

    process = start(server.database, port, **settings)
    await hook(server._replace(url=f"http://127.0.0.1:{port}"), receiver)
    receiver.decide = slowly
    await asyncio.to_thread(written, server.database, 1, 1)
    await asyncio.wait_for(asked_for.wait(), SECONDS)
    assert await asyncio.to_thread(stop, process) == 0
    receiver.decide = None
    process = start(server.database, port, **settings)
    await asyncio.to_thread(written, server.database, 1, 1)
    await until(receiver, 2)
    await remove(server._replace(url=f"http://127.0.0.1:{port}"))
    assert await asyncio.to_thread(stop, process) == 0
    first, second = (told(request) for request in receiver.requests)
    assert second == (first[0], first[1] + 1)
