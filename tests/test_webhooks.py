"""Webhooks over HTTP, and by real processes: what is asked, answered, refused and delivered."""

import asyncio
import base64
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from conftest import (
    PROFILE_PATH,
    Server,
    ask,
    error_code,
    free_port,
    sources,
    start,
    stop,
    stored,
)
from knownas import bootstrap, vault
from knownas.deliveries import Delivery, Failure, Report
from knownas.history import SERVER
from knownas.model import ProfileId, ProfileRef
from knownas.registry import Registry
from knownas.vault import Vault
from knownas.webhooks import signatures
from knownas.webhooks.outbound import Sender
from receivers import NO_CONTENT, Received, Receiver, receiving

pytestmark = pytest.mark.anyio

DATABASES = ("sqlite", "postgresql")

WEBHOOKS: Final = "/api/v1/webhooks/"
ROTATE: Final = f"{WEBHOOKS}rotate/"
TEST: Final = f"{WEBHOOKS}test/"
DELIVERIES: Final = f"{WEBHOOKS}deliveries/"
REPLAY: Final = f"{WEBHOOKS}replay/"
LOOPBACK: Final = ip_network("127.0.0.0/8")
NO_ID: Final = "whk_0000000000000000"
IDS: Final = [ProfileId(f"00000000-0000-4000-8000-{number:012}") for number in range(30)]
SECONDS: Final = 60.0

USES: Final[list[tuple[str, str, object]]] = [
    ("GET", WEBHOOKS, None),
    ("POST", WEBHOOKS, {"url": "https://a.example/"}),
    ("PATCH", WEBHOOKS, {"id": NO_ID, "enabled": True}),
    ("DELETE", f"{WEBHOOKS}?id={NO_ID}", None),
    ("POST", ROTATE, {"id": NO_ID}),
    ("POST", TEST, {"id": NO_ID}),
    ("GET", f"{DELIVERIES}?id={NO_ID}", None),
    ("POST", REPLAY, {"id": NO_ID}),
]


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Give a master key."""
    path = str(tmp_path_factory.mktemp("master") / "key")
    vault.create(path)
    return path


@pytest.fixture(scope="module")
def sending(server: Server, key_file: str) -> Iterator[Server]:
    """Give a server that may send to this machine, over the same database."""
    port = free_port()
    process = start(
        server.database,
        port,
        KNOWNAS_MASTER_KEY_FILE=key_file,
        KNOWNAS_WEBHOOK_NETWORKS="127.0.0.0/8",
    )
    yield server._replace(url=f"http://127.0.0.1:{port}")
    assert stop(process) == 0


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    """Give a receiver that takes everything."""
    async with receiving(answer=NO_CONTENT, keeps=True) as made:
        yield made


async def asked(
    server: Server, method: str, path: str, body: object = None, status: int = 200
) -> Any:  # noqa: ANN401 - any JSON
    """Return the data of an answer."""
    answer = await asyncio.to_thread(ask, server, method, path, body=body)
    assert answer.status_code == status, answer.text
    return answer.json()["data"] if answer.content else None


async def hook(server: Server, receiver: Receiver, **more: object) -> dict[str, Any]:
    """Make a webhook to a receiver."""
    url = f"http://127.0.0.1:{receiver.port}/hook"
    made: dict[str, Any] = await asked(server, "POST", WEBHOOKS, {"url": url, **more})
    return made


async def remove(server: Server) -> None:
    """Delete all webhooks of an app."""
    for one in await asked(server, "GET", WEBHOOKS):
        await asked(server, "DELETE", f"{WEBHOOKS}?id={one['id']}", status=204)


def opened(server: Server, key_file: str) -> Registry:
    """Open a server's database, with what may send to this machine."""
    return Registry(
        bootstrap.open_storage(server.database),
        vault=Vault.open(key_file),
        open_sender=lambda: Sender([LOOPBACK]),
    )


async def until(receiver: Receiver, count: int) -> None:
    """Return when a receiver has got so many messages."""
    deadline = time.monotonic() + SECONDS
    while len(receiver.requests) < count:
        assert time.monotonic() < deadline, receiver.requests
        await asyncio.sleep(0.02)


def told(request: Received) -> tuple[str, int]:
    """Return the profile and the revision that a request is about."""
    data = msgspec.json.decode(request.body)["data"]
    return data["profile_id"], data["revision"]


# --- What is asked and answered -----------------------------------------------------------------


async def test_change_over_http_arrives_signed(sending: Server, receiver: Receiver) -> None:
    """A server delivers what is written through it to the webhook that was made through it."""
    made = await hook(sending, receiver)
    await asyncio.to_thread(ask, sending, "POST", PROFILE_PATH, profile=IDS[0])
    await until(receiver, 1)
    await remove(sending)
    [request] = receiver.requests
    assert signatures.verify([made["secret"]], request.headers, request.body, now=time.time())
    body = msgspec.json.decode(request.body)
    assert (body["type"], body["data"]["profile_id"]) == ("profile.created", IDS[0])


async def test_secret_is_shown_once(sending: Server, receiver: Receiver) -> None:
    """A webhook is listed as it was answered, without its secret, and with how far it has come."""
    made = await hook(sending, receiver, types=["profile.deleted", "profile.created"])
    secret = made.pop("secret")
    assert secret.startswith("whsec_")
    [listed] = await asked(sending, "GET", WEBHOOKS)
    assert listed == made
    assert made == {
        "id": made["id"],
        "url": f"http://127.0.0.1:{receiver.port}/hook",
        "types": ["profile.created", "profile.deleted"],
        "created_at": made["created_at"],
        "enabled": True,
        "disabled_at": None,
        "disabled_because": None,
        "cursor": made["cursor"],
        "pending": 0,
        "dead": 0,
        "lost_at": None,
        "last_failure": None,
    }
    await remove(sending)


async def test_webhook_is_changed_and_deleted(sending: Server, receiver: Receiver) -> None:
    """Only what is given changes; what is deleted is not found any more."""
    made = await hook(sending, receiver, types=["profile.created"])
    webhook_id = made["id"]
    off = await asked(sending, "PATCH", WEBHOOKS, {"id": webhook_id, "enabled": False})
    assert (off["enabled"], off["types"], off["url"]) == (False, made["types"], made["url"])
    assert off["disabled_at"] >= made["created_at"]
    changes = {"id": webhook_id, "url": "https://A.example", "types": None, "enabled": True}
    on = await asked(sending, "PATCH", WEBHOOKS, changes)
    assert (on["enabled"], on["disabled_at"]) == (True, None)
    assert (on["types"], on["url"]) == (None, "https://a.example/")
    await remove(sending)
    for method, path, body in USES[2:]:
        body = {**body, "id": webhook_id} if isinstance(body, dict) else body
        answer = ask(sending, method, path.replace(NO_ID, webhook_id), body=body)
        assert error_code(answer) == (404, "webhook_not_found"), path


async def test_test_message_tells_how_it_ended(sending: Server, receiver: Receiver) -> None:
    """It is sent at once, signed, and the answer has the receiver's status or why there is none."""
    made = await hook(sending, receiver)
    tried = {"id": made["id"]}
    assert await asked(sending, "POST", TEST, tried) == {
        "result": "delivered",
        "status": 204,
        "reason": None,
    }
    [request] = receiver.requests
    assert signatures.verify([made["secret"]], request.headers, request.body, now=time.time())
    body = msgspec.json.decode(request.body)
    assert (body["type"], body["data"]) == ("webhook.test", {"webhook_id": made["id"]})
    receiver.answer = b"HTTP/1.1 410 S\r\nContent-Length: 0\r\n\r\n"
    gone = await asked(sending, "POST", TEST, tried)
    assert (gone["result"], gone["status"]) == ("gone", 410)
    url = f"http://127.0.0.1:{free_port()}/"
    await asked(sending, "PATCH", WEBHOOKS, {"id": made["id"], "url": url})
    failed = await asked(sending, "POST", TEST, tried)
    assert (failed["result"], failed["status"]) == ("failed", None)
    assert failed["reason"]
    [listed] = await asked(sending, "GET", WEBHOOKS)
    assert listed["enabled"]
    await remove(sending)


async def test_rotated_secret_signs_beside_the_old_one(sending: Server, receiver: Receiver) -> None:
    """The new secret is shown once; without an overlap it is the only one."""
    made = await hook(sending, receiver)
    new = await asked(sending, "POST", ROTATE, {"id": made["id"], "overlap_seconds": 60})
    await asked(sending, "POST", TEST, {"id": made["id"]})
    last = await asked(sending, "POST", ROTATE, {"id": made["id"], "overlap_seconds": 0})
    await asked(sending, "POST", TEST, {"id": made["id"]})
    await remove(sending)
    secrets = [one["secret"] for one in (made, new, last)]
    believed = [
        [signatures.verify([one], it.headers, it.body, now=time.time()) for one in secrets]
        for it in receiver.requests
    ]
    assert believed == [[True, True, False], [False, False, True]]


async def test_app_has_twenty_webhooks_at_most(sending: Server) -> None:
    """One more is refused."""
    body = {"url": "https://a.example/"}
    for _ in range(20):
        await asked(sending, "POST", WEBHOOKS, body)
    answer = ask(sending, "POST", WEBHOOKS, body=body)
    assert error_code(answer) == (400, "validation_error")
    await remove(sending)


@pytest.mark.parametrize(
    ("method", "path", "body", "source"),
    [
        ("POST", WEBHOOKS, {}, "url"),
        ("POST", WEBHOOKS, {"url": 1}, "url"),
        ("POST", WEBHOOKS, {"url": "ftp://a.example"}, "url"),
        ("POST", WEBHOOKS, {"url": "https://10.0.0.1/"}, "url"),
        ("POST", WEBHOOKS, {"url": "https://a.example/\u0000"}, "url"),
        ("POST", WEBHOOKS, {"url": "https://a.example", "types": []}, "types"),
        ("POST", WEBHOOKS, {"url": "https://a.example", "types": ["webhook.test"]}, "types"),
        ("POST", WEBHOOKS, {"url": "https://a.example", "types": [[]]}, "types"),
        ("POST", WEBHOOKS, {"url": "https://a.example", "types": "profile.created"}, "types"),
        ("POST", WEBHOOKS, {"url": "https://a.example", "secret": "x"}, "secret"),
        ("POST", f"{WEBHOOKS}?x=1", {"url": "https://a.example"}, "x"),
        ("PATCH", WEBHOOKS, {"id": NO_ID}, None),
        ("PATCH", WEBHOOKS, {"id": NO_ID, "enabled": 1}, "enabled"),
        ("PATCH", WEBHOOKS, {"id": NO_ID, "enabled": None}, "enabled"),
        ("PATCH", WEBHOOKS, {"id": NO_ID, "url": None}, "url"),
        ("PATCH", WEBHOOKS, {"id": "whk_\u0000", "enabled": True}, "id"),
        ("PATCH", WEBHOOKS, {"enabled": True}, "id"),
        ("DELETE", WEBHOOKS, None, "id"),
        ("DELETE", f"{WEBHOOKS}?id=%00", None, "id"),
        ("DELETE", f"{WEBHOOKS}?id=1&id=2", None, "id"),
        ("POST", ROTATE, {"id": NO_ID, "overlap_seconds": -1}, "overlap_seconds"),
        ("POST", ROTATE, {"id": NO_ID, "overlap_seconds": 2_592_001}, "overlap_seconds"),
        ("POST", ROTATE, {"id": NO_ID, "overlap_seconds": True}, "overlap_seconds"),
        ("POST", ROTATE, {"id": NO_ID, "overlap_seconds": 1.5}, "overlap_seconds"),
        ("POST", TEST, {"id": 1}, "id"),
        ("GET", DELIVERIES, None, "id"),
        ("GET", f"{DELIVERIES}?id={NO_ID}&state=done", None, "state"),
        ("GET", f"{DELIVERIES}?id={NO_ID}&limit=1001", None, "limit"),
        ("GET", f"{DELIVERIES}?id={NO_ID}&cursor=x", None, "cursor"),
        ("POST", REPLAY, {"id": NO_ID, "profile_id": IDS[0]}, "revision"),
        ("POST", REPLAY, {"id": NO_ID, "revision": 1}, "profile_id"),
        ("POST", REPLAY, {"id": NO_ID, "profile_id": IDS[0], "revision": 0}, "revision"),
        ("POST", REPLAY, {"id": NO_ID, "profile_id": "x", "revision": 1}, "profile_id"),
    ],
)
def test_wrong_input_is_named(
    sending: Server, method: str, path: str, body: object, source: str | None
) -> None:
    """Each is a 400 that names what is wrong, and nothing is made."""
    assert sources(ask(sending, method, path, body=body)) == [source]
    assert ask(sending, "GET", WEBHOOKS).json()["data"] == []


def test_empty_body_says_what_to_send(sending: Server) -> None:
    """Each route that takes a body says what belongs into it."""
    for method, path, body in USES:
        if body is not None:
            answer = ask(sending, method, path, body=b"")
            assert error_code(answer) == (400, "validation_error")
            assert "Send {" in answer.text


async def test_row_05_webhook_of_another_app_is_not_there(
    sending: Server, other: Server, receiver: Receiver
) -> None:
    """Every use by another app's key is answered as for a webhook that never was."""
    made = await hook(sending, receiver)
    stranger = other._replace(url=sending.url)
    assert await asked(stranger, "GET", WEBHOOKS) == []
    for method, path, body in USES[2:]:
        absent = ask(stranger, method, path, body=body)
        body = {**body, "id": made["id"]} if isinstance(body, dict) else body
        found = ask(stranger, method, path.replace(NO_ID, made["id"]), body=body)
        assert (found.status_code, found.content) == (absent.status_code, absent.content)
        assert error_code(found) == (404, "webhook_not_found")
    [listed] = await asked(sending, "GET", WEBHOOKS)
    assert listed["id"] == made["id"]
    assert receiver.requests == []
    await remove(sending)


def test_public_key_opens_no_webhooks(sending: Server) -> None:
    """A key that is in an app must not say where its changes are sent."""
    for method, path, body in USES:
        answer = ask(sending._replace(key=sending.public_key), method, path, body=body)
        assert error_code(answer) == (401, "unauthorized")


def test_without_a_master_key_there_are_no_webhooks(server: Server) -> None:
    """Every use is answered 501, and says what the operator has to do."""
    for method, path, body in USES:
        answer = ask(server, method, path, body=body)
        assert error_code(answer) == (501, "feature_not_configured")
        assert "knownas master-key create" in answer.text


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
    outcome = await asked(strict, "POST", TEST, {"id": made["id"]})
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


# --- What was given up --------------------------------------------------------------------------


async def test_dead_letters_are_listed_and_replayed(
    server: Server, sending: Server, key_file: str, receiver: Receiver
) -> None:
    """They come by pages; one is replayed, then all the others, and the receiver gets them."""
    registry = opened(server, key_file)
    app = await registry.app("default")
    made = await hook(sending, receiver, types=["profile.deleted"])
    webhook_id = made["id"]
    failure = Failure(5, 500, "The receiver answered 500.")
    for one in IDS[2:5]:
        await registry.put_profile(app.id, ProfileRef(profile_id=one), {}, by=SERVER)
    dead = [Delivery(one, 1, "dead", 12, None, failure) for one in IDS[2:5]]
    deadline = time.monotonic() + SECONDS
    while (
        await registry.storage.webhooks.lease(app.id, webhook_id, "t", now=0, until=2**60) is None
    ):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    assert await registry.storage.webhooks.report(
        app.id, webhook_id, "t", Report(kept=dead), now=1, until=0
    )
    await registry.close()
    path = f"{DELIVERIES}?id={webhook_id}&state=dead"
    first = (await asyncio.to_thread(ask, sending, "GET", f"{path}&limit=2")).json()
    rest = (
        await asyncio.to_thread(ask, sending, "GET", f"{path}&limit=2&cursor={first['next']}")
    ).json()
    assert [one["profile_id"] for one in (*first["data"], *rest["data"])] == IDS[2:5]
    assert rest["next"] is None
    assert first["data"][0] == {
        "profile_id": IDS[2],
        "revision": 1,
        "state": "dead",
        "attempts": 12,
        "next_at": None,
        "last_failure": {"at": 5, "status": 500, "reason": "The receiver answered 500."},
    }
    one = {"id": webhook_id, "profile_id": IDS[3].upper(), "revision": 1}
    assert await asked(sending, "POST", REPLAY, one) == {"replayed": 1, "dead": 2}
    assert await asked(sending, "POST", REPLAY, one) == {"replayed": 0, "dead": 2}
    assert await asked(sending, "POST", REPLAY, {"id": webhook_id}) == {"replayed": 2, "dead": 0}
    await until(receiver, 3)
    assert {told(it) for it in receiver.requests} == {(one, 1) for one in IDS[2:5]}
    await remove(sending)


# --- Processes ----------------------------------------------------------------------------------


def written(database: str, profiles: int, times: int) -> None:
    """Have each of some profiles changed so many times, by turns."""

    async def write() -> None:
        registry = Registry(bootstrap.open_storage(database))
        app = await registry.app("default")
        for number in range(times):
            for one in IDS[:profiles]:
                await registry.put_profile(
                    app.id, ProfileRef(profile_id=one), {"at": f"{number}-{time.time_ns()}"}
                )
        await registry.close()

    asyncio.run(write())


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
    command = [sys.executable, str(Path(__file__).with_name("dispatching.py"))]
    deadline = time.monotonic() + SECONDS
    while True:
        process = subprocess.Popen([*command, server.database, key_file])
        while process.poll() is None:
            assert time.monotonic() < deadline
            state = (await registry.webhooks.all(app.id))[0]
            page = await registry.changes(app.id, state.cursor, 1)
            if not page.changes and not state.pending:
                process.terminate()
            await asyncio.sleep(0.02)
        if process.wait() == 0:
            break
        assert process.returncode == -signal.SIGKILL
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


async def test_row_28_and_29_secret_is_nowhere_in_clear(
    sending: Server, receiver: Receiver
) -> None:
    """No signing secret is in the database, in whatever form, nor in the log, failures included."""
    made = await hook(sending, receiver)
    receiver.answer = b"HTTP/1.1 500 S\r\nContent-Length: 0\r\n\r\n"
    new = await asked(sending, "POST", ROTATE, {"id": made["id"]})
    await asked(sending, "POST", TEST, {"id": made["id"]})
    await asyncio.to_thread(ask, sending, "POST", PROFILE_PATH, profile=IDS[20])
    await until(receiver, 2)
    kept = await asyncio.to_thread(stored, sending.database)
    assert made["id"].encode() in kept
    for log in Path(tempfile.gettempdir()).glob("knownas-tests-*.log"):
        kept += log.read_bytes()
    if sending.database.startswith("sqlite:///"):
        kept += Path(sending.database.removeprefix("sqlite:///")).with_suffix(".log").read_bytes()
    for one in (made, new):
        secret = one["secret"].removeprefix("whsec_").encode()
        key = base64.b64decode(secret)
        for canary in (secret, key, key.hex().encode()):
            assert canary not in kept
    await remove(sending)


def test_master_key_that_cannot_be_read_stops_the_start(database: str, tmp_path: Path) -> None:
    """One line says what is wrong."""
    for path, said in ((tmp_path / "none", "no such file"), (tmp_path, "regular file")):
        ended = subprocess.run(
            [sys.executable, "-m", "knownas", "serve", "--port", "0"],
            env={
                **os.environ,
                "KNOWNAS_DATABASE": database,
                "KNOWNAS_MASTER_KEY_FILE": str(path),
            },
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == 1
        assert said in ended.stderr
        assert len(ended.stderr.splitlines()) == 1
