"""Two servers as the tests of upstreams have them: one here, and one there that knows more."""

import asyncio
import time
import uuid
from typing import Any, Final

import httpx2

from conftest import IDENTIFIERS_PATH, NATIVE_PATH, Server, ask, make_profile
from hooks import SECONDS, asked
from proxies import Proxy

UPSTREAM: Final = "/api/v1/upstream/"
VALUES: Final = {"appsflyer_id": "1741933337626-3179568", "branch_id": "b-1"}


def new_customer() -> str:
    """Return a customer that nobody knows."""
    return f"customer {uuid.uuid4()}"


async def made(server: Server, customer: str, **values: str) -> dict[str, Any]:
    """Make a customer's profile on one of the servers."""
    return await asyncio.to_thread(make_profile, server, customer, **(values or VALUES))


async def name(here: Server, there: Server, proxy: Proxy, **more: object) -> dict[str, Any]:
    """Have `there`, behind a proxy, be the upstream of `here`."""
    terms = {"url": proxy.url, "key": there.key, **more}
    named: dict[str, Any] = await asked(here, "PUT", UPSTREAM, terms)
    return named


async def got(server: Server, path: str = IDENTIFIERS_PATH, **who: str) -> httpx2.Response:
    """Return the answer to a GET for a `customer=` or a `profile=`."""
    return await asyncio.to_thread(ask, server, "GET", path, **who)  # type: ignore[arg-type] # as `Who` has them


async def kept(server: Server, **who: str) -> dict[str, Any]:
    """Return a profile as the native API has it."""
    answer = await got(server, NATIVE_PATH, **who)
    assert answer.status_code == 200, answer.text
    data: dict[str, Any] = answer.json()["data"]
    return data


def set_of(answer: httpx2.Response) -> dict[str, str]:
    """Return the identifiers of an answer that are set."""
    assert answer.status_code == 200, answer.text
    return {kind: value for kind, value in answer.json().items() if value is not None}


async def written(server: Server, customer: str, body: object) -> None:
    """Set identifiers of a customer's profile."""
    done = await asyncio.to_thread(
        ask, server, "POST", IDENTIFIERS_PATH, body=body, customer=customer
    )
    assert done.status_code == 200, done.text


async def until_there(there: Server, customer: str, values: dict[str, str]) -> None:
    """Return when the upstream knows a customer's profile with these identifiers."""
    deadline = time.monotonic() + SECONDS
    while True:
        answer = await got(there, customer=customer)
        if answer.status_code == 200 and set_of(answer) == values:
            return
        assert time.monotonic() < deadline, answer.text
        await asyncio.sleep(0.05)
