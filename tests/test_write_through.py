"""Write-through: what clients write at one server is written at its upstream, a second process."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any, Final

import msgspec
import pytest

from conftest import (
    IDENTIFIERS_PATH,
    NATIVE_PATH,
    PROFILE_PATH,
    SDK_PATH,
    Server,
    ask,
    error_code,
    free_port,
    start,
    stop,
)
from hooks import SECONDS, WEBHOOKS, asked
from proxies import CUT, Proxy, always, answer, proxying
from receivers import Received
from upstreams import (
    UPSTREAM,
    VALUES,
    got,
    kept,
    made,
    name,
    new_customer,
    set_of,
    until_there,
    written,
)

pytestmark = pytest.mark.anyio

DATABASES = ("sqlite", "postgresql")

CLEAR: Final = f"{NATIVE_PATH}clear/"


@pytest.fixture
async def proxy(here: Server, there: Server) -> AsyncIterator[Proxy]:
    """Give what stands between the two; the one behind it is told what is written here."""
    async with proxying(int(there.url.rpartition(":")[2])) as between:
        await name(here, there, between, write_through=True, read_through=False)
        yield between
    await asked(here, "DELETE", UPSTREAM, status=204)


async def told(here: Server) -> dict[str, Any]:
    """Return how far the upstream has been told what was written."""
    forwarding: dict[str, Any] = (await asked(here, "GET", UPSTREAM))["forwarding"]
    return forwarding


async def until_told(here: Server, **counts: int) -> dict[str, Any]:
    """Return how it stands once so many wait, or were given up."""
    deadline = time.monotonic() + SECONDS
    while True:
        forwarding = await told(here)
        if counts.items() <= forwarding.items():
            return forwarding
        assert time.monotonic() < deadline, forwarding
        await asyncio.sleep(0.05)


# --- What is told -------------------------------------------------------------------------------


async def test_new_profile_is_made_there_under_the_same_names(
    here: Server, there: Server, proxy: Proxy
) -> None:
    """With its id, its customer, its identifiers and its custom attributes."""
    del proxy
    customer, body = new_customer(), {"custom_attributes": [{"key": "plan", "value": "pro"}]}
    await asyncio.to_thread(ask, here, "POST", PROFILE_PATH, body=body, customer=customer)
    await written(here, customer, VALUES)
    await until_there(there, customer, VALUES)
    mine, theirs = await kept(here, customer=customer), await kept(there, customer=customer)
    assert theirs["profile_id"] == mine["profile_id"]
    assert theirs["custom_attributes"] == body["custom_attributes"]


async def test_profile_that_is_there_is_changed(here: Server, there: Server, proxy: Proxy) -> None:
    """A customer with another profile there keeps it, and it gets what was written."""
    del proxy
    customer = new_customer()
    profile = await made(there, customer, appsflyer_id="old", branch_id="stays")
    await made(here, customer, appsflyer_id="new")
    await until_there(there, customer, {"appsflyer_id": "new", "branch_id": "stays"})
    assert (await kept(there, customer=customer))["profile_id"] == profile["profile_id"]


async def test_profile_that_went_there_is_made_again(
    here: Server, there: Server, proxy: Proxy
) -> None:
    """Of a profile that the upstream does not know what was set is set once it is made."""
    del proxy
    customer = new_customer()
    await made(here, customer)
    await until_there(there, customer, VALUES)
    await asyncio.to_thread(ask, there, "DELETE", PROFILE_PATH, customer=customer)
    await written(here, customer, {"branch_id": "b-2"})
    await until_there(there, customer, {"branch_id": "b-2"})


async def test_writes_of_every_kind_arrive(here: Server, there: Server, proxy: Proxy) -> None:
    """An SDK's identifiers, changed and removed attributes, a bound customer, and a deletion."""
    profile_id = "3b1e6c2d-9f04-4a3d-8a70-5b1e6c2d9f04"
    if here.database.startswith("postgresql"):
        profile_id = profile_id.replace("3b", "4b")
    who, customer = {"profile": profile_id}, new_customer()
    await asyncio.to_thread(ask, here, "POST", PROFILE_PATH, profile=profile_id)
    body = {"data": {"profile_id": profile_id, "branch_id": "sdk"}}
    await asyncio.to_thread(ask, here._replace(key=here.public_key), "POST", SDK_PATH, body=body)
    for attributes in ([("a", "1"), ("b", "2")], [("a", "3"), ("b", None)]):
        patch = {"custom_attributes": [{"key": key, "value": value} for key, value in attributes]}
        await asyncio.to_thread(ask, here, "PATCH", PROFILE_PATH, body=patch, profile=profile_id)
    await asyncio.to_thread(ask, here, "POST", PROFILE_PATH, customer=customer, profile=profile_id)
    await until_there(there, customer, {"branch_id": "sdk"})
    deadline = time.monotonic() + SECONDS
    while (await kept(there, **who))["custom_attributes"] != [{"key": "a", "value": "3"}]:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)
    await asyncio.to_thread(ask, here, "DELETE", PROFILE_PATH, customer=customer)
    while (await got(there, customer=customer)).status_code != 404:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)
    assert (await until_told(here, pending=0, dead=0))["last_failure"] is None
    assert {request.headers["authorization"] for request in proxy.requests} == {
        f"Api-Key {there.key}"
    }


async def test_what_came_from_there_does_not_go_back(
    here: Server, there: Server, proxy: Proxy
) -> None:
    """A profile that was brought is not told, nor is one of demo data or a cleared identifier."""
    await name(here, there, proxy, read_through=True)
    customer = new_customer()
    await made(there, customer)
    assert set_of(await got(here, customer=customer)) == VALUES
    body = {"kinds": ["branch_id"]}
    await asyncio.to_thread(ask, here, "POST", CLEAR, body=body, customer=customer)
    last = new_customer()
    await made(here, last)
    await until_there(there, last, VALUES)
    methods = [line.split()[0] for line, *_ in proxy.requests]
    assert methods.count("GET") == 3  # one brought, one that was to be made
    names = {request.headers.get("adapty-customer-user-id") for request in proxy.requests}
    writes = [one for one in proxy.requests if not one.line.startswith("GET")]
    assert {one.headers.get("adapty-customer-user-id") for one in writes} == {last}
    assert customer in names
    assert set_of(await got(there, customer=customer)) == VALUES


# --- Order, repetition, outages -----------------------------------------------------------------


async def test_writes_of_a_profile_arrive_in_order(
    here: Server, there: Server, proxy: Proxy
) -> None:
    """While a third of the requests fail, nothing older is ever set over something newer."""
    count = 0

    async def sometimes(_request: Received) -> bytes | None:
        nonlocal count
        count += 1
        return answer(500, {}) if count % 3 == 0 else None

    proxy.fault = sometimes
    customers = [new_customer() for _ in range(3)]
    for customer in customers:
        await made(here, customer, branch_id="0")
    for number in range(1, 8):
        for customer in customers:
            await written(here, customer, {"branch_id": str(number)})
    await asyncio.sleep(1)
    proxy.fault = None
    await asked(here, "POST", f"{UPSTREAM}replay/", {})
    for customer in customers:
        await until_there(there, customer, {"branch_id": "7"})
    await until_told(here, pending=0, dead=0)
    for customer in customers:
        numbers = [
            int(msgspec.json.decode(one.body)["branch_id"])
            for one in proxy.requests
            if one.headers.get("adapty-customer-user-id") == customer
            and one.line.split()[1] == IDENTIFIERS_PATH
        ]
        assert numbers == sorted(numbers)
        assert numbers[-1] == 7


async def test_outage_loses_nothing(here: Server, there: Server, proxy: Proxy) -> None:
    """What is written while the upstream is down waits, and arrives once it is back."""
    proxy.fault = always(CUT)
    customer = new_customer()
    await made(here, customer)
    assert (await until_told(here, pending=2))["last_failure"]["status"] is None
    [first, second] = await asked(here, "GET", f"{UPSTREAM}deliveries/?state=pending")
    assert (first["attempts"], second["attempts"]) == (1, 0)
    await written(here, customer, {"branch_id": "newer"})
    proxy.fault = None
    replayed = await asked(here, "POST", f"{UPSTREAM}replay/", {})
    assert replayed == {"replayed": 0, "dead": 0}
    await until_there(there, customer, {**VALUES, "branch_id": "newer"})


async def test_refused_write_is_given_up_and_seen(
    here: Server, there: Server, proxy: Proxy
) -> None:
    """What the upstream answers 400 to is a dead letter at once; what follows goes on.

    Replayed, it is told as it stands then, and so sets nothing back.
    """
    customer = new_customer()
    await made(here, customer, appsflyer_id="a")
    await until_there(there, customer, {"appsflyer_id": "a"})
    proxy.fault = always(answer(400, {"error_code": "validation_error"}))
    await written(here, customer, {"branch_id": "1"})
    forwarding = await until_told(here, dead=1)
    assert forwarding["last_failure"]["status"] == 400
    [dead] = await asked(here, "GET", f"{UPSTREAM}deliveries/?state=dead")
    assert (dead["state"], dead["revision"]) == ("dead", 3)
    proxy.fault = None
    await written(here, customer, {"branch_id": "2"})
    await until_there(there, customer, {"appsflyer_id": "a", "branch_id": "2"})
    proxy.requests.clear()
    body = {"profile_id": dead["profile_id"], "revision": dead["revision"]}
    assert (await asked(here, "POST", f"{UPSTREAM}replay/", body))["replayed"] == 1
    await until_told(here, pending=0, dead=0)
    [again] = proxy.requests
    assert msgspec.json.decode(again.body) == {"branch_id": "2"}


async def test_pause_keeps_what_is_written(here: Server, there: Server, proxy: Proxy) -> None:
    """While it is paused nothing is told; then all is, from where it was."""
    customer = new_customer()
    await name(here, there, proxy, paused=True)
    proxy.requests.clear()
    await made(here, customer)
    await asyncio.sleep(1.5)
    assert proxy.requests == []
    await name(here, there, proxy, paused=False)
    await until_there(there, customer, VALUES)


async def test_end_of_write_through_forgets_what_waits(
    here: Server, there: Server, proxy: Proxy
) -> None:
    """Whoever ends it and begins again begins with what is written from then on."""
    proxy.fault = always(CUT)
    customer, later = new_customer(), new_customer()
    await made(here, customer)
    await until_told(here, pending=2)
    ended = await name(here, there, proxy, write_through=False)
    assert ended["forwarding"] is None
    proxy.fault = None
    await name(here, there, proxy, write_through=True)
    await made(here, later)
    await until_there(there, later, VALUES)
    assert (await got(there, customer=customer)).status_code == 404


async def test_upstream_is_no_webhook_of_the_list(here: Server, proxy: Proxy) -> None:
    """What brings changes to the upstream is not listed, counted or changed as a webhook."""
    del proxy
    assert await asked(here, "GET", WEBHOOKS) == []
    for number in range(20):
        await asked(here, "POST", WEBHOOKS, {"url": f"https://a.example/{number}"})
    full = await asyncio.to_thread(ask, here, "POST", WEBHOOKS, body={"url": "https://a.example/"})
    assert error_code(full) == (400, "validation_error")
    listed = await asked(here, "GET", WEBHOOKS)
    assert len(listed) == 20
    for one in listed:
        await asked(here, "DELETE", f"{WEBHOOKS}?id={one['id']}", status=204)


async def test_without_master_key_nothing_is_told(server: Server, there: Server) -> None:
    """Write-through needs what webhooks need, and says so."""
    port = free_port()
    process = start(server.database, port, KNOWNAS_WEBHOOK_NETWORKS="127.0.0.0/8")
    keyless = server._replace(url=f"http://127.0.0.1:{port}")
    terms = {"url": there.url, "key": there.key}
    for more in ({}, {"write_through": True}):
        refused = await asyncio.to_thread(ask, keyless, "PUT", UPSTREAM, body={**terms, **more})
        assert error_code(refused) == (501, "feature_not_configured")
    assert stop(process) == 0
