"""Shadow: what a server answers is compared with what its upstream would have answered."""

import asyncio
import re
import time
from collections.abc import AsyncIterator
from typing import Any, Final

import httpx2
import pytest

from conftest import IDENTIFIERS_PATH, METRICS, PLAIN, PROFILE_PATH, Server, ask, knownas, sources
from hooks import SECONDS, asked
from knownas.http.wire import CUSTOMER_HEADER
from proxies import CUT, Proxy, always, proxying
from upstreams import UPSTREAM, VALUES, got, made, name, new_customer, set_of

pytestmark = pytest.mark.anyio

DATABASES = ("sqlite", "postgresql")

DIFFERENCES: Final = f"{UPSTREAM}differences/"
NONE: Final = dict.fromkeys(("same", "different", "missing_here", "missing_there", "failed"), 0)


@pytest.fixture
async def proxy(here: Server, there: Server) -> AsyncIterator[Proxy]:
    """Give what stands between the two; the one behind it is the upstream, and all is compared."""
    async with proxying(int(there.url.rpartition(":")[2])) as between:
        await name(here, there, between, shadow_percent=100)
        await asyncio.sleep(0.6)  # the keys that were read before do not know it
        yield between
    await asked(here, "DELETE", DIFFERENCES, status=204)
    await asked(here, "DELETE", UPSTREAM, status=204)


async def differences(here: Server, profiles: int) -> dict[str, Any]:
    """Return what came of comparisons once so many profiles were compared."""
    deadline = time.monotonic() + SECONDS
    while True:
        answer = await got(here, DIFFERENCES)
        found: dict[str, Any] = answer.json()
        if sum(found["counts"]["profiles"].values()) >= profiles:
            return found
        assert time.monotonic() < deadline, found
        await asyncio.sleep(0.1)


async def test_same_on_both_sides(here: Server, there: Server, proxy: Proxy) -> None:
    """A profile that is the same is counted by its kinds, and stands in no list."""
    customer = new_customer()
    await made(there, customer)
    assert set_of(await got(here, customer=customer)) == VALUES  # brought, and not compared
    headers = {"Authorization": f"Api-Key {here.key}", CUSTOMER_HEADER: customer}
    async with httpx2.AsyncClient(base_url=here.url, headers=headers) as client:
        for _ in range(2):  # on a kept connection, which the fast lane would answer
            assert set_of(await client.get(IDENTIFIERS_PATH)) == VALUES
    assert set_of(await got(here, customer=customer)) == VALUES
    found = await differences(here, 3)
    assert found["counts"]["profiles"] == {**NONE, "same": 3}
    assert {kind: it["same"] for kind, it in found["counts"]["identifiers"].items()} == (
        dict.fromkeys(VALUES, 3)
    )
    assert found["data"] == []
    assert len(proxy.requests) == 5


async def test_differences_are_counted_and_listed(
    here: Server, there: Server, proxy: Proxy
) -> None:
    """By kind: another value, one that only one side has, and a profile that only this side has.

    A difference is found twice before it counts, and leaves the list once it is mended.
    """
    del proxy
    customer, alone = new_customer(), new_customer()
    await made(
        there, customer, appsflyer_id="of them", branch_id="same", mixpanel_user_id="of them"
    )
    mine = {"appsflyer_id": "of us", "branch_id": "same", "adjust_device_id": "of us"}
    await asked(here, "PUT", UPSTREAM, {"url": await url_of(here), "paused": True})
    profile, other = await made(here, customer, **mine), await made(here, alone, branch_id="b")
    await asked(here, "PUT", UPSTREAM, {"url": await url_of(here), "paused": False})
    await asyncio.sleep(0.6)
    for who in (customer, alone):
        assert (await got(here, customer=who)).status_code == 200
    found = await differences(here, 2)
    kinds = {
        "appsflyer_id": "different",
        "mixpanel_user_id": "missing_here",
        "adjust_device_id": "missing_there",
    }
    listed = {one["profile_id"]: one["kinds"] for one in found["data"]}
    assert listed == {
        profile["profile_id"]: kinds,
        other["profile_id"]: {"branch_id": "missing_there"},
    }
    assert found["counts"]["profiles"] == {**NONE, "different": 1, "missing_there": 1}
    assert found["counts"]["identifiers"]["branch_id"] == {
        "same": 1, "different": 0, "missing_here": 0, "missing_there": 1,
    }  # fmt: skip
    assert not any(value in str(found) for value in ("of them", "of us"))
    shown = knownas("upstream", "differences", database=here.database)
    assert (
        f"{profile['profile_id']}  mixpanel_user_id missing_here, appsflyer_id different" in shown
    )
    await asyncio.to_thread(ask, there, "POST", IDENTIFIERS_PATH, body=mine, customer=customer)
    await asyncio.to_thread(
        ask, here, "POST", IDENTIFIERS_PATH, body={"mixpanel_user_id": "of them"}, customer=customer
    )
    assert (await got(here, customer=customer)).status_code == 200
    found = await differences(here, 3)
    assert [one["profile_id"] for one in found["data"]] == [other["profile_id"]]
    text = PLAIN.get(f"{here.url}/metrics", headers=METRICS).text
    line = r'knownas_shadow_identifiers_total\{kind="appsflyer_id",result="different"\} (\S+)'
    assert float(re.findall(line, text)[0]) >= 1
    assert 'knownas_shadow_profiles_total{result="missing_there"}' in text


async def url_of(here: Server) -> str:
    """Return the upstream's URL."""
    shown = await asked(here, "GET", UPSTREAM)
    return str(shown["url"])


async def test_write_that_is_on_its_way_is_no_difference(
    here: Server, there: Server, proxy: Proxy
) -> None:
    """What is the same a moment later was only late."""
    del proxy
    customer = new_customer()
    await made(there, customer)
    assert (await got(here, customer=customer)).status_code == 200
    values = {"branch_id": "new"}
    await asyncio.to_thread(ask, here, "POST", IDENTIFIERS_PATH, body=values, customer=customer)
    assert set_of(await got(here, customer=customer))["branch_id"] == "new"
    await asyncio.sleep(0.5)
    await asyncio.to_thread(ask, there, "POST", IDENTIFIERS_PATH, body=values, customer=customer)
    found = await differences(here, 1)
    assert found["counts"]["profiles"] == {**NONE, "same": 1}


async def test_answers_do_not_wait_for_the_upstream(
    here: Server, there: Server, proxy: Proxy
) -> None:
    """While it is down all that is here is answered as ever, and the failure is counted."""
    customer = new_customer()
    await made(there, customer)
    assert (await got(here, customer=customer)).status_code == 200
    proxy.fault = always(CUT)
    for _ in range(20):
        assert set_of(await got(here, customer=customer)) == VALUES
    found = await differences(here, 1)
    assert found["counts"]["profiles"]["failed"] >= 1
    assert found["data"] == []


async def test_sample_is_a_sample(here: Server, there: Server, proxy: Proxy) -> None:
    """Without a share nothing is compared; a share that is none is refused."""
    customer = new_customer()
    await made(there, customer)
    assert (await got(here, customer=customer)).status_code == 200
    await name(here, there, proxy, shadow_percent=0)
    proxy.requests.clear()
    for _ in range(20):
        assert (await got(here, customer=customer)).status_code == 200
    assert proxy.requests == []
    for percent in (-1, 101, 1.5, "1", True):
        terms = {"url": proxy.url, "key": there.key, "shadow_percent": percent}
        answer = await asyncio.to_thread(ask, here, "PUT", UPSTREAM, body=terms)
        assert sources(answer) == ["shadow_percent"]


async def test_erased_person_is_in_no_list(here: Server, there: Server, proxy: Proxy) -> None:
    """An erasure takes the profile out of the list of those that differ."""
    del proxy
    customer = new_customer()
    await made(there, customer)
    assert (await got(here, customer=customer)).status_code == 200
    await asyncio.to_thread(ask, there, "DELETE", PROFILE_PATH, customer=customer)
    assert (await got(here, customer=customer)).status_code == 200
    found = await differences(here, 1)
    assert [one["kinds"] for one in found["data"]] == [dict.fromkeys(VALUES, "missing_there")]
    body = {"customer_user_id": customer}
    erased = await asyncio.to_thread(ask, here, "POST", "/api/v1/erasures/", body=body)
    assert erased.status_code == 200, erased.text
    assert (await differences(here, 1))["data"] == []
