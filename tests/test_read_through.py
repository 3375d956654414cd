"""Read-through: a server asks another one, a real second process, for profiles that it lacks."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import httpx2
import msgspec
import pytest

from conftest import (
    IDENTIFIERS_PATH,
    PROFILE_PATH,
    SDK_PATH,
    Server,
    ask,
    error_code,
    knownas,
)
from hooks import asked
from knownas.http.wire import CUSTOMER_HEADER
from knownas.upstream.asking import ASK_SECONDS
from knownas.upstream.patience import FAILURES
from proxies import CUT, Proxy, always, answer, late, proxying
from upstreams import UPSTREAM, VALUES, got, kept, made, name, new_customer, set_of

pytestmark = pytest.mark.anyio

DATABASES = ("sqlite", "postgresql")

UNAVAILABLE: Final = (503, "service_unavailable")
UNKNOWN: Final = (404, "profile_not_found")

ONCE: Final = ["GET integration-identifiers", "GET profile"]
"""What is asked to bring one profile."""

BROKEN: Final = {
    "cut": CUT,
    "500": answer(500, {"error_code": "internal_error"}),
    "the edge's 403": answer(403, b"error code: 1010", "Content-Type: text/plain"),
    "a wrong key": answer(401, {"error_code": "not_authenticated"}),
    "a wrong address": answer(404, b"<html>", "Content-Type: text/html"),
    "another API": answer(404, {"error_code": "not_found"}),
    "no JSON": answer(200, b"<html>"),
    "no object": answer(200, [1]),
    "a redirect": answer(302, b"", "Location: http://127.0.0.1:1/"),
    "too long": answer(200, b'"' + b"x" * 70_000 + b'"'),
}


@pytest.fixture
async def proxy(here: Server, there: Server) -> AsyncIterator[Proxy]:
    """Give what stands between the two, and have the one behind it be the upstream."""
    async with proxying(int(there.url.rpartition(":")[2])) as between:
        await name(here, there, between)
        yield between
    await asked(here, "DELETE", UPSTREAM, status=204)


# --- What comes ---------------------------------------------------------------------------------


async def test_unknown_profile_is_brought_once(here: Server, there: Server, proxy: Proxy) -> None:
    """It is answered as it is there, kept with its id, and not asked for again."""
    customer = new_customer()
    profile = await made(there, customer)
    assert set_of(await got(here, customer=customer)) == VALUES
    assert set_of(await got(here, customer=customer)) == VALUES
    assert set_of(await got(here, profile=profile["profile_id"])) == VALUES
    assert proxy.asked() == ONCE
    assert {request.headers["authorization"] for request in proxy.requests} == {
        f"Api-Key {there.key}"
    }
    found = await kept(here, customer=customer)
    assert (found["profile_id"], found["identifiers"]) == (profile["profile_id"], VALUES)
    [change] = (
        await asyncio.to_thread(ask, here, "GET", "/api/v1/profile/history/", customer=customer)
    ).json()["data"]
    assert change["source"] == {"via": "upstream", "key_id": None}


async def test_profile_routes_bring_it_too(here: Server, there: Server, proxy: Proxy) -> None:
    """By its id, with its custom attributes, on both APIs; an anonymous one stays so."""
    customer, body = new_customer(), {"custom_attributes": [{"key": "plan", "value": "pro"}]}
    await asyncio.to_thread(ask, there, "POST", PROFILE_PATH, body=body, customer=customer)
    found = (await got(here, PROFILE_PATH, customer=customer)).json()["data"]
    assert found["custom_attributes"] == body["custom_attributes"]
    anonymous = "0b1e6c2d-9f04-4a3d-8a70-5b1e6c2d9f04"
    await asyncio.to_thread(ask, there, "POST", PROFILE_PATH, profile=anonymous)
    found = await kept(here, profile=anonymous)
    assert (found["customer_user_id"], found["identifiers"]) == (None, {})
    assert proxy.asked() == 2 * ONCE


async def test_customer_of_any_letters_is_brought(
    here: Server, there: Server, proxy: Proxy
) -> None:
    """A customer's id goes there and comes back byte for byte."""
    for suffix in ("é", "e\u0301", "\u2764\ufe0f", "a%20b", "+", '"'):
        customer = new_customer() + suffix
        await made(there, customer)
        assert set_of(await got(here, customer=customer)) == VALUES
    assert len(proxy.requests) == 12


async def test_fast_lane_leaves_the_way_free(here: Server, there: Server, proxy: Proxy) -> None:
    """On a kept connection, which the fast lane answers, a profile is brought all the same."""
    known, unknown, later = new_customer(), new_customer(), new_customer()
    await made(here, known, branch_id="here")
    await made(there, later)
    proxy.requests.clear()
    key = {"Authorization": f"Api-Key {here.key}"}
    async with httpx2.AsyncClient(base_url=here.url, headers=key, timeout=60) as client:

        async def asked_for(customer: str) -> httpx2.Response:
            return await client.get(IDENTIFIERS_PATH, headers={CUSTOMER_HEADER: customer})

        for _ in range(3):
            assert set_of(await asked_for(known)) == {"branch_id": "here"}
        assert error_code(await asked_for(unknown)) == UNKNOWN
        proxy.fault = always(CUT)
        failed = await asked_for(later)
        assert (*error_code(failed), failed.headers["retry-after"]) == (*UNAVAILABLE, "1")
        proxy.fault = None
        for _ in range(3):
            assert set_of(await asked_for(later)) == VALUES
        body = {"mixpanel_user_id": "m"}
        last = new_customer()
        await made(there, last)
        written = await client.post(IDENTIFIERS_PATH, headers={CUSTOMER_HEADER: last}, json=body)
        assert written.status_code == 200
        assert set_of(await asked_for(last)) == {**VALUES, **body}
    assert proxy.asked() == [*ONCE[:1] * 2, *ONCE * 2]


async def test_many_who_ask_at_once_ask_once(here: Server, there: Server, proxy: Proxy) -> None:
    """Forty requests for one profile are one question, and all get the answer."""
    customer = new_customer()
    await made(there, customer)
    proxy.fault = late(0.3)
    answers = await asyncio.gather(*(got(here, customer=customer) for _ in range(40)))
    assert [set_of(one) for one in answers] == [VALUES] * 40
    assert proxy.asked() == ONCE


async def test_profile_unknown_everywhere_is_asked_for_once(here: Server, proxy: Proxy) -> None:
    """What the upstream does not know is believed for a while, and is still made here at once."""
    customer = new_customer()
    for _ in range(3):
        assert error_code(await got(here, customer=customer)) == UNKNOWN
    assert proxy.asked() == ONCE[:1]
    await made(here, customer)
    assert set_of(await got(here, customer=customer)) == VALUES


async def test_known_profile_is_never_asked_for(here: Server, there: Server, proxy: Proxy) -> None:
    """What is here is answered from here, and is not overwritten."""
    customer = new_customer()
    await made(here, customer, appsflyer_id="here")
    proxy.requests.clear()
    await made(there, customer, appsflyer_id="there", branch_id="there")
    assert set_of(await got(here, customer=customer)) == {"appsflyer_id": "here"}
    assert proxy.requests == []


async def test_anonymous_profile_here_is_completed(
    here: Server, there: Server, proxy: Proxy
) -> None:
    """The customer is bound to it, and what is set here stays."""
    customer = new_customer()
    profile = await made(there, customer)
    who = {"profile": profile["profile_id"]}
    proxy.fault = always(answer(404, {"error_code": "profile_does_not_exist"}))
    await asyncio.to_thread(ask, here, "POST", PROFILE_PATH, **who)
    values = {"branch_id": "here", "adjust_device_id": "here"}
    await asyncio.to_thread(ask, here, "POST", IDENTIFIERS_PATH, body=values, **who)
    proxy.fault = None
    assert set_of(await got(here, customer=customer)) == {**VALUES, **values}
    assert (await kept(here, **who))["customer_user_id"] == customer


async def test_write_brings_the_profile_first(here: Server, there: Server, proxy: Proxy) -> None:
    """Identifiers, attributes, a creation and an SDK's write are of the profile that is there."""
    for method, path, body in (
        ("POST", IDENTIFIERS_PATH, {"mixpanel_user_id": "m"}),
        ("PATCH", PROFILE_PATH, {"custom_attributes": [{"key": "a", "value": "b"}]}),
        ("POST", PROFILE_PATH, {}),
    ):
        customer = new_customer()
        profile = await made(there, customer)
        done = await asyncio.to_thread(ask, here, method, path, body=body, customer=customer)
        assert done.status_code == 200, done.text
        found = await kept(here, customer=customer)
        assert found["profile_id"] == profile["profile_id"]
        assert found["identifiers"].items() >= VALUES.items()
    profile = await made(there, new_customer())
    sdk_body = {"data": {"profile_id": profile["profile_id"], "adjust_device_id": "a"}}
    public = here._replace(key=here.public_key)
    assert (
        await asyncio.to_thread(ask, public, "POST", SDK_PATH, body=sdk_body)
    ).status_code == 200
    assert set_of(await got(here, profile=profile["profile_id"])) == {
        **VALUES,
        "adjust_device_id": "a",
    }
    assert proxy.asked() == 4 * ONCE


async def test_identifier_of_one_profile_alone_is_left_to_it(
    here: Server, there: Server, proxy: Proxy
) -> None:
    """Where the app's policy lets one profile have a value, a profile that comes has it not."""
    del proxy
    await asked(here, "PUT", "/api/v1/policies/", {"branch_id": "move"})
    await asyncio.sleep(1)
    first, customer = new_customer(), new_customer()
    await made(here, first, branch_id="only one")
    await made(there, customer, branch_id="only one", appsflyer_id="a")
    assert set_of(await got(here, customer=customer)) == {"appsflyer_id": "a"}
    assert set_of(await got(here, customer=first)) == {"branch_id": "only one"}
    await asked(here, "PUT", "/api/v1/policies/", {"branch_id": "allow"})


# --- Who stays away -----------------------------------------------------------------------------


async def test_erased_person_does_not_come_back(here: Server, there: Server, proxy: Proxy) -> None:
    """The upstream still knows them; they are refused, and not asked for again."""
    customer = new_customer()
    profile = await made(there, customer)
    assert (await got(here, customer=customer)).status_code == 200
    erased = await asyncio.to_thread(
        ask, here, "POST", "/api/v1/erasures/", body={"customer_user_id": customer}
    )
    assert erased.status_code == 200, erased.text
    proxy.requests.clear()
    for who in ({"customer": customer}, {"profile": profile["profile_id"]}) * 2:
        assert error_code(await got(here, **who)) == UNKNOWN
    assert proxy.asked() == 2 * ONCE


async def test_deleted_profile_does_not_come_back(
    here: Server, there: Server, proxy: Proxy
) -> None:
    """What was deleted here is not brought again, until it is made anew."""
    customer = new_customer()
    await made(there, customer)
    assert (await got(here, customer=customer)).status_code == 200
    await asyncio.to_thread(ask, here, "DELETE", PROFILE_PATH, customer=customer)
    assert error_code(await got(here, customer=customer)) == UNKNOWN
    assert error_code(await got(here, customer=customer)) == UNKNOWN
    assert proxy.asked() == 2 * ONCE
    await asyncio.to_thread(ask, here, "POST", PROFILE_PATH, customer=customer)
    assert set_of(await got(here, customer=customer)) == {}


# --- What goes wrong ----------------------------------------------------------------------------


@pytest.mark.parametrize("what", BROKEN)
async def test_upstream_that_answers_badly_is_no_answer(
    here: Server, there: Server, proxy: Proxy, what: str
) -> None:
    """It is 503 or 404 as the upstream is set, nothing is kept, and the profile comes later."""
    customer = new_customer()
    await made(there, customer)
    proxy.fault = always(BROKEN[what])
    failed = await got(here, customer=customer)
    assert error_code(failed) == UNAVAILABLE
    assert int(failed.headers["retry-after"]) >= 1
    await name(here, there, proxy, on_failure="not_found")
    assert error_code(await got(here, customer=customer)) == UNKNOWN
    proxy.fault = None
    assert set_of(await got(here, customer=customer)) == VALUES


async def test_answer_that_breaks_off_is_no_answer(
    here: Server, there: Server, proxy: Proxy
) -> None:
    """Wherever an answer ends too soon, nothing of it is believed."""
    customer = new_customer()
    await made(there, customer)
    for length in (10, 100, 300):
        proxy.cut_after = length
        await name(here, there, proxy)
        assert error_code(await got(here, customer=customer)) == UNAVAILABLE
    proxy.cut_after = None
    await name(here, there, proxy)
    assert set_of(await got(here, customer=customer)) == VALUES


async def test_slow_upstream_holds_nobody_for_long(
    here: Server, there: Server, proxy: Proxy
) -> None:
    """The request is answered within the upstream's time, whatever the upstream does."""
    customer = new_customer()
    await made(there, customer)
    proxy.fault = late(60)
    began = time.monotonic()
    assert error_code(await got(here, customer=customer)) == UNAVAILABLE
    assert time.monotonic() - began < ASK_SECONDS + 5


async def test_dead_upstream_is_left_alone(here: Server, there: Server, proxy: Proxy) -> None:
    """After some failures nothing is asked for a while; then one question finds out, and all go on.

    What is here is answered all the time.
    """
    known, customer = new_customer(), new_customer()
    await made(here, known)
    await made(there, customer)
    proxy.requests.clear()
    proxy.fault = always(CUT)
    for _ in range(FAILURES + 5):
        assert error_code(await got(here, customer=new_customer())) == UNAVAILABLE
        assert (await got(here, customer=known)).status_code == 200
    assert len(proxy.requests) == FAILURES
    proxy.fault = None
    deadline = time.monotonic() + 30
    while (found := await got(here, customer=customer)).status_code != 200:
        assert error_code(found) == UNAVAILABLE
        assert time.monotonic() < deadline
        await asyncio.sleep(0.2)
    assert set_of(found) == VALUES


async def test_upstream_that_is_asked_too_much_is_left_alone(
    here: Server, there: Server, proxy: Proxy
) -> None:
    """Its 429 is respected for as long as its Retry-After says."""
    customer = new_customer()
    await made(there, customer)
    proxy.fault = always(answer(429, {"error_code": "rate_limited"}, "Retry-After: 2"))
    assert (await got(here, customer=customer)).headers["retry-after"] == "2"
    proxy.fault = None
    began = time.monotonic()
    assert error_code(await got(here, customer=customer)) == UNAVAILABLE
    assert len(proxy.requests) == 1
    while (found := await got(here, customer=customer)).status_code != 200:
        assert error_code(found) == UNAVAILABLE
        await asyncio.sleep(0.1)
    assert time.monotonic() - began > 1.5
    assert proxy.asked() == [*ONCE[:1], *ONCE]


async def test_bad_requests_of_clients_stop_nobody(
    here: Server, there: Server, proxy: Proxy
) -> None:
    """A question that the upstream refuses says nothing about the next one."""
    customers = [new_customer(), new_customer()]
    profiles = [await made(there, customer) for customer in customers]
    for _ in range(FAILURES + 2):
        who = {"customer": customers[0], "profile": profiles[1]["profile_id"]}
        assert error_code(await got(here, **who)) == UNAVAILABLE
    assert set_of(await got(here, customer=customers[0])) == VALUES
    assert len(proxy.requests) == FAILURES + 2 + 2


async def test_answer_about_somebody_else_is_not_kept(
    here: Server, there: Server, proxy: Proxy
) -> None:
    """A profile of another id or customer than was asked for is no answer."""
    other = await made(there, new_customer())

    async def mistaken(request: object) -> bytes | None:
        del request
        if len(proxy.requests) % 2:
            return answer(200, VALUES)
        data = {key: other[key] for key in ("profile_id", "customer_user_id")}
        return answer(200, {"data": data})

    proxy.fault = mistaken
    for who in ({"customer": new_customer()}, {"profile": "0b1e6c2d-9f04-4a3d-8a70-000000000001"}):
        assert error_code(await got(here, **who)) == UNAVAILABLE
    proxy.fault = always(answer(404, {"error_code": "profile_not_found"}))
    assert error_code(await got(here, customer=other["customer_user_id"])) == UNKNOWN


async def test_what_cannot_be_kept_is_left_there(here: Server, proxy: Proxy) -> None:
    """Kinds that are not known, values that are not allowed and odd attributes stay away."""
    customer = new_customer()
    profile_id = "0b1e6c2d-9f04-4a3d-8a70-000000000002"
    values = {"branch_id": " b ", "new_kind": "x", "appsflyer_id": 7, "adjust_device_id": "\u0000"}
    data = {
        "profile_id": profile_id.upper(),
        "customer_user_id": customer,
        "custom_attributes": [{"key": "?", "value": "x"}],
    }

    async def odd(request: object) -> bytes:
        del request
        return answer(200, values if len(proxy.requests) == 1 else {"data": data})

    proxy.fault = odd
    assert set_of(await got(here, customer=customer)) == {"branch_id": "b"}
    assert (await kept(here, profile=profile_id))["custom_attributes"] == []


# --- The upstream's setting ---------------------------------------------------------------------


async def test_paused_or_other_upstream_is_not_asked(
    here: Server, there: Server, proxy: Proxy
) -> None:
    """Where it is paused, or not to be read through, an unknown profile is unknown."""
    customer = new_customer()
    await made(there, customer)
    for terms in ({"paused": True}, {"paused": False, "read_through": False}):
        await name(here, there, proxy, **terms)
        assert error_code(await got(here, customer=customer)) == UNKNOWN
    assert proxy.requests == []
    await name(here, there, proxy, read_through=True)
    assert set_of(await got(here, customer=customer)) == VALUES


async def test_key_of_the_operator_is_found_by_the_server(
    here: Server, there: Server, proxy: Proxy, key_file: str, tmp_path: Path
) -> None:
    """A file that the operator names has the key; without it the upstream cannot be asked."""
    del key_file
    place = tmp_path / "upstream.key"
    place.write_text(f"{there.key}\n")
    command = ("upstream", "set", proxy.url, "--key-file", str(place), "--json")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KNOWNAS_WEBHOOK_NETWORKS", "127.0.0.0/8")
        shown = knownas(*command, database=here.database)
    assert msgspec.json.decode(shown)["key_from"] == f"file:{place}"
    await asyncio.sleep(1)
    assert (await asked(here, "GET", UPSTREAM))["key_from"] == "operator"
    customer = new_customer()
    await made(there, customer)
    place.rename(tmp_path / "elsewhere")
    assert error_code(await got(here, customer=customer)) == UNAVAILABLE
    (tmp_path / "elsewhere").rename(place)
    assert set_of(await got(here, customer=customer)) == VALUES
