"""Rates of keys: what is past a key's rate gets 429, and nobody else notices."""

import asyncio
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Final, TypeVar

import httpx2
import pytest

from conftest import (
    IDENTIFIERS_PATH,
    PROFILE_PATH,
    SDK_PATH,
    Server,
    ask,
    error_code,
    free_port,
    start,
    stop,
)
from knownas import bootstrap
from knownas.errors import RateLimited, ValidationError
from knownas.http.rates import KeyRates
from knownas.http.windows import Windows
from knownas.keys import KeyType
from knownas.model import ApiKey, App, AppId, clean_rate
from knownas.registry import Registry

T = TypeVar("T")

DATABASES = ("sqlite", "postgresql")

NOTICED_SECONDS: Final = 1.0
"""Within this time every process keeps to another rate."""
SLACK_SECONDS: Final = 4.0
LIMITED: Final = (429, "rate_limited")


def with_registry(server: Server, use: Callable[[Registry, App], Awaitable[T]]) -> T:
    """Do something beside the server, as a command does."""

    async def run() -> T:
        registry = Registry(bootstrap.open_storage(server.database))
        try:
            return await use(registry, await registry.app("default"))
        finally:
            await registry.close()

    return asyncio.run(run())


def new_key(
    server: Server, rate: str | None = None, key_type: KeyType = "secret"
) -> tuple[Server, str]:
    """Return the server as it is asked with a new key, and the key's id."""
    text, kept = with_registry(
        server, lambda registry, app: registry.keyring.create(app, key_type, rate=rate)
    )
    return server._replace(key=text), kept.id


def set_rate(server: Server, key_id: str, rate: str | None) -> None:
    """Give a key another rate."""
    with_registry(server, lambda registry, app: registry.keyring.limit(app.id, key_id, rate))


def client(server: Server) -> httpx2.Client:
    """Return a client that keeps one connection, and asks for a customer who is not there."""
    headers = {"Authorization": f"Api-Key {server.key}", "adapty-customer-user-id": "nobody"}
    return httpx2.Client(base_url=server.url, headers=headers)


def hot(server: Server, count: int) -> list[int]:
    """Make hot requests over one connection, and return their statuses."""
    with client(server) as http:
        return [http.get(IDENTIFIERS_PATH).status_code for _ in range(count)]


# --- A key with a rate --------------------------------------------------------------------------


def test_key_past_its_rate_gets_429(server: Server) -> None:
    """So many requests are served, the hot ones too; then the answer says when to come again."""
    limited, _ = new_key(server, "3/minute")
    assert hot(limited, 5) == [404, 404, 404, 429, 429]
    answer = ask(limited, "GET", IDENTIFIERS_PATH, customer="nobody")
    assert error_code(answer) == LIMITED
    assert "3/minute" in answer.json()["errors"][0]["errors"][0]
    assert 1 <= int(answer.headers["retry-after"]) <= 60


def test_other_keys_are_unaffected(server: Server) -> None:
    """Each key has its own count; one without a rate has none."""
    used_up, _ = new_key(server, "1/hour")
    other, _ = new_key(server, "1/hour")
    assert hot(used_up, 2) == [404, 429]
    assert hot(other, 2) == [404, 429]
    assert hot(server, 100) == [404] * 100


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", IDENTIFIERS_PATH),
        ("HEAD", IDENTIFIERS_PATH),
        ("POST", IDENTIFIERS_PATH),
        ("GET", PROFILE_PATH),
        ("POST", PROFILE_PATH),
        ("PATCH", PROFILE_PATH),
        ("DELETE", PROFILE_PATH),
        ("POST", SDK_PATH),
    ],
)
def test_every_request_with_a_key_counts(server: Server, method: str, path: str) -> None:
    """Whatever the request and its answer are, the next one is past a rate of one."""
    limited, _ = new_key(server, "1/hour")
    assert ask(limited, method, path, customer="nobody").status_code != 429
    assert ask(limited, "GET", PROFILE_PATH, customer="nobody").status_code == 429
    again = ask(limited, method, path, body={"branch_id": "x"}, customer="nobody")
    assert again.status_code == 429
    assert int(again.headers["retry-after"]) > 3_500


def test_refused_write_changes_nothing(server: Server) -> None:
    """A write past the rate is not made, on the fast lane's way neither."""
    limited, _ = new_key(server, "3/hour")
    with client(limited) as http:
        assert http.post(PROFILE_PATH, headers={"adapty-customer-user-id": "w"}).is_success
        statuses = [
            http.post(
                IDENTIFIERS_PATH,
                json={"branch_id": f"b{number}"},
                headers={"adapty-customer-user-id": "w"},
            ).status_code
            for number in range(4)
        ]
    assert statuses == [200, 200, 429, 429]
    assert ask(server, "GET", IDENTIFIERS_PATH, customer="w").json()["branch_id"] == "b1"


def test_rate_is_free_again_after_its_time(server: Server) -> None:
    """Who waits as long as Retry-After says is served."""
    limited, _ = new_key(server, "2/second")
    for _ in range(2):
        deadline = time.monotonic() + SLACK_SECONDS
        while (answer := ask(limited, "GET", PROFILE_PATH, customer="nobody")).status_code != 429:
            assert time.monotonic() < deadline
        time.sleep(int(answer.headers["retry-after"]))
        assert ask(limited, "GET", PROFILE_PATH, customer="nobody").status_code == 404


def test_wrong_key_stays_401(server: Server) -> None:
    """An unknown key, and one of the wrong type, are 401 however often, and take no one's rate."""
    public, _ = new_key(server, "1/hour", "public")
    unknown = server._replace(key="unknown")
    for _ in range(3):
        for wrong in (unknown, public):
            assert ask(wrong, "GET", PROFILE_PATH, customer="nobody").status_code == 401
    assert ask(public, "POST", SDK_PATH).status_code == 400
    assert ask(public, "POST", SDK_PATH).status_code == 429
    assert ask(public, "GET", PROFILE_PATH, customer="nobody").status_code == 401


def test_revoked_key_is_401_and_not_429(server: Server) -> None:
    """A key that ends past its rate is refused as any other."""
    limited, key_id = new_key(server, "1/hour")
    assert hot(limited, 2) == [404, 429]
    with_registry(server, lambda registry, app: registry.keyring.revoke(app.id, key_id))
    time.sleep(NOTICED_SECONDS)
    assert hot(limited, 1) == [401]


def test_other_rate_is_kept_to_within_a_second(server: Server) -> None:
    """A key gets a rate, another one and none while the server runs."""
    changing, key_id = new_key(server)
    assert hot(changing, 20) == [404] * 20
    for rate, expected in (
        ("2/hour", [404, 404, 429]),
        ("1/day", [404, 429, 429]),
        ("none", [404] * 3),
        (None, [404] * 3),
    ):
        set_rate(server, key_id, rate)
        time.sleep(NOTICED_SECONDS)
        assert hot(changing, 3) == expected, rate


def test_successor_has_the_rate_of_its_key(server: Server) -> None:
    """A rotated key does not get rid of its rate, but begins with a count of its own."""
    limited, key_id = new_key(server, "1/hour")
    assert hot(limited, 2) == [404, 429]
    successor, _ = with_registry(
        server, lambda registry, app: registry.keyring.rotate(app, key_id, overlap_seconds=60)
    )
    assert hot(server._replace(key=successor), 2) == [404, 429]


# --- The setting --------------------------------------------------------------------------------


@pytest.fixture
def rated(server: Server) -> Iterator[Server]:
    """Give a second process on the same database in which each key has a rate."""
    port = free_port()
    process = start(server.database, port, KNOWNAS_KEY_RATE="2/hour")
    yield server._replace(url=f"http://127.0.0.1:{port}")
    assert stop(process) == 0


def test_setting_is_the_rate_of_keys_that_have_none(rated: Server, server: Server) -> None:
    """A key's own rate goes before it, `none` too; another process does not know of it."""
    usual, _ = new_key(rated)
    own, _ = new_key(rated, "3/hour")
    free, _ = new_key(rated, "none")
    assert hot(usual, 4) == [404, 404, 429, 429]
    assert hot(own, 4) == [404, 404, 404, 429]
    assert hot(free, 100) == [404] * 100
    assert hot(usual._replace(url=server.url), 10) == [404] * 10


def test_nothing_is_loaded_where_no_key_is_limited() -> None:
    """Whoever limits no key pays nothing for it, not even the library."""
    program = "import sys, knownas.cli.serve; print('limits' in sys.modules)"
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert ended.stdout == "False\n"


# --- Counting -----------------------------------------------------------------------------------


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        """Begin somewhere."""
        self.now = 1_000.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


def key(rate: str | None, key_id: str = "key_a") -> ApiKey:
    """Return a key with a rate in force."""
    return ApiKey(key_id, App(AppId(1), "", "", 0), "secret", "", 0, rate=rate)


def wait(rates: KeyRates, one: ApiKey) -> int | None:
    """Make a request; return how long it has to wait, None where it is served."""
    try:
        rates.spend(one)
    except RateLimited as error:
        return error.retry_after
    return None


@pytest.mark.parametrize(
    ("rate", "seconds"),
    [("2/second", 1), ("2/minute", 60), ("2/hour", 3_600), ("2/day", 86_400)],
)
def test_window_begins_with_its_first_request(rate: str, seconds: int) -> None:
    """It is as long as the rate says, and Retry-After is what is left of it, rounded up."""
    clock = Clock()
    rates = KeyRates(clock)
    for _ in range(3):
        assert [wait(rates, key(rate)) for _ in range(3)] == [None, None, seconds]
        clock.now += seconds - 0.25
        assert wait(rates, key(rate)) == 1
        clock.now += 0.25


def test_key_without_a_rate_is_not_counted() -> None:
    """None is no limit."""
    rates = KeyRates(Clock())
    assert {wait(rates, key(None)) for _ in range(1_000)} == {None}


def test_windows_that_are_over_are_forgotten() -> None:
    """However many keys come and go, no more is kept than is counted."""
    clock = Clock()
    windows = Windows(clock)
    for number in range(25_000):
        clock.now += 0.01
        assert windows.incr(f"key_{number}", 60) == 1
    assert windows.reset() <= 16_000
    assert windows.get("key_24999") == 0


@pytest.mark.parametrize("rate", ["1/second", "600/minute", "10/hour", "999999999/day"])
def test_rate_is_taken(rate: str) -> None:
    """A number and a time make a rate, and such a rate can be counted."""
    assert clean_rate(rate, source="rate") == rate
    assert wait(KeyRates(Clock()), key(rate)) is None


@pytest.mark.parametrize(
    "text",
    [
        *("", "none", "600", "600/", "/minute", "0/minute", "-1/minute", "1.5/minute", "01/minute"),
        *("600/fortnight", "600/minutes", "600 / minute", " 600/minute", "600/minute\n"),
        *("600 per minute", "1e3/minute", "1000000000/minute", "\u0661/minute", "1/MINUTE"),
        "600/minute;5/second",
    ],
)
def test_what_is_no_rate_is_refused(text: str) -> None:
    """Whatever else `limits` would understand is none: one form is enough to know."""
    with pytest.raises(ValidationError) as refused:
        clean_rate(text, source="rate")
    assert refused.value.fields[0].source == "rate"
