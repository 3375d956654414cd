"""Webhooks over HTTP, and by real processes: what is asked, answered, refused and delivered."""

import asyncio
import base64
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final

import httpx2
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
from hooks import IDS, SECONDS, WEBHOOKS, asked, hook, opened, remove, told, until
from knownas import vault
from knownas.deliveries import Delivery, Failure, Report
from knownas.history import SERVER
from knownas.model import ProfileRef
from knownas.webhooks import signatures
from receivers import NO_CONTENT, Receiver, receiving

pytestmark = pytest.mark.anyio

DATABASES = ("sqlite", "postgresql")

ROTATE: Final = f"{WEBHOOKS}rotate/"
TEST: Final = f"{WEBHOOKS}test/"
DELIVERIES: Final = f"{WEBHOOKS}deliveries/"
REPLAY: Final = f"{WEBHOOKS}replay/"
NO_ID: Final = "whk_0000000000000000"

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


def naming(webhook_id: str, body: object) -> object:
    """Return a body of `USES` with the id of a webhook that is there."""
    return {**body, "id": webhook_id} if isinstance(body, dict) else body


def logged(server: Server) -> bytes:
    """Return what a server has logged."""
    path = server.database.removeprefix("sqlite:///")
    if path == server.database:
        port = httpx2.URL(server.url).port
        path = f"{tempfile.gettempdir()}/knownas-tests-{port}"
    return Path(path).with_suffix(".log").read_bytes()


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
        answer = ask(
            sending, method, path.replace(NO_ID, webhook_id), body=naming(webhook_id, body)
        )
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
        named = naming(made["id"], body)
        found = ask(stranger, method, path.replace(NO_ID, made["id"]), body=named)
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
    only = {"id": webhook_id, "profile_id": IDS[3].upper(), "revision": 1}
    assert await asked(sending, "POST", REPLAY, only) == {"replayed": 1, "dead": 2}
    assert await asked(sending, "POST", REPLAY, only) == {"replayed": 0, "dead": 2}
    assert await asked(sending, "POST", REPLAY, {"id": webhook_id}) == {"replayed": 2, "dead": 0}
    await until(receiver, 3)
    assert {told(it) for it in receiver.requests} == {(one, 1) for one in IDS[2:5]}
    await remove(sending)


# --- Secrets ------------------------------------------------------------------------------------


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
    kept += logged(sending)
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
