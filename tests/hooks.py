"""Webhooks as the tests use them: made over HTTP, to receivers on this machine."""

import asyncio
import time
from ipaddress import ip_network
from typing import Any, Final

import msgspec

from conftest import Server, ask
from knownas import bootstrap
from knownas.model import ProfileId, ProfileRef
from knownas.registry import Registry
from knownas.vault import Vault
from knownas.webhooks.outbound import Sender
from receivers import Received, Receiver

WEBHOOKS: Final = "/api/v1/webhooks/"
LOOPBACK: Final = ip_network("127.0.0.0/8")
SECONDS: Final = 60.0
"""How long something may take that is waited for."""

IDS: Final = [ProfileId(f"00000000-0000-4000-8000-{number:012}") for number in range(30)]


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
