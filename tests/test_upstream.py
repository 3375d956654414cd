"""An app's upstream as it is set, shown, paused and removed, over HTTP and by commands."""

import asyncio
import time
from pathlib import Path
from typing import Any, Final

import httpx2
import pytest

from conftest import (
    METRICS,
    PLAIN,
    Server,
    ask,
    error_code,
    free_port,
    knownas,
    sources,
    start,
    stop,
    stored,
)
from hooks import SECONDS, asked, opened
from knownas import vault
from knownas.model import ProfileRef
from knownas.upstream.patience import (
    ABSENT_SECONDS,
    FAILURES,
    FIRST_PAUSE_SECONDS,
    LONGEST_PAUSE_SECONDS,
    MOST_ABSENT,
    Absent,
    Breaker,
)
from knownas.upstream.terms import Terms
from proxies import proxying
from shell import Shell
from upstreams import UPSTREAM, VALUES, got, made, name, new_customer, set_of

pytestmark = pytest.mark.anyio

DATABASES = ("sqlite", "postgresql")

KEY: Final = "secret_live_canary"
DEFAULTS: Final = {
    "key_from": "stored",
    "read_through": True,
    "on_failure": "unavailable",
    "shadow_percent": 0,
    "write_through": False,
    "paused": False,
    "forwarding": None,
}


def put(server: Server, **terms: object) -> httpx2.Response:
    """Return the answer to a PUT of an upstream."""
    return ask(server, "PUT", UPSTREAM, body=terms)


def shown(answer: httpx2.Response) -> dict[str, Any]:
    """Return an upstream as it is shown, without the time at which it was set."""
    assert answer.status_code == 200, answer.text
    data: dict[str, Any] = answer.json()["data"]
    assert data.pop("changed_at") > 0
    return data


def removed(server: Server) -> None:
    """Remove an upstream."""
    assert ask(server, "DELETE", UPSTREAM).status_code == 204


# --- Over HTTP ----------------------------------------------------------------------------------


def test_upstream_is_set_shown_and_removed(here: Server) -> None:
    """What is given changes and the rest stays; the key is never shown; without one it is 404."""
    url = "https://api.example/base"
    assert error_code(ask(here, "GET", UPSTREAM)) == (404, "upstream_not_found")
    made_so = put(here, url=f"{url}/", key=KEY)
    assert shown(made_so) == {"url": url, **DEFAULTS}
    more = {"on_failure": "not_found", "shadow_percent": 7, "read_through": False, "paused": True}
    changed = put(here, url=url, **more)
    assert shown(changed) == {"url": url, **DEFAULTS, **more}
    assert shown(put(here, url=url, paused=False)) == {
        "url": url,
        **DEFAULTS,
        **more,
        "paused": False,
    }
    assert "canary" not in made_so.text + changed.text + ask(here, "GET", UPSTREAM).text
    removed(here)
    for method in ("GET", "DELETE"):
        assert error_code(ask(here, method, UPSTREAM)) == (404, "upstream_not_found")


@pytest.mark.parametrize(
    ("terms", "named"),
    [
        ({}, ["url"]),
        ({"url": 1, "key": 2}, ["url", "key"]),
        ({"url": "https://a.example", "key": ""}, ["key"]),
        ({"url": "https://a.example", "key": "with blank"}, ["key"]),
        ({"url": "https://a.example", "key": "é"}, ["key"]),
        ({"url": "https://a.example", "key": "k" * 256}, ["key"]),
        ({"url": "https://a.example"}, ["key"]),
        ({"url": "ftp://a.example", "key": KEY}, ["url"]),
        ({"url": "https://a.example/?q", "key": KEY}, ["url"]),
        ({"url": "https://u:p@a.example/", "key": KEY}, ["url"]),
        ({"url": "https://a.example", "key": KEY, "paused": 1}, ["paused"]),
        ({"url": "https://a.example", "key": KEY, "on_failure": "maybe"}, ["on_failure"]),
        ({"url": "https://a.example", "key": KEY, "key_from": "env:PATH"}, ["key_from"]),
        ({"url": "https://a.example", "key": KEY, "shadow_percent": None}, ["shadow_percent"]),
    ],
)
def test_bad_terms_are_named(here: Server, terms: dict[str, object], named: list[str]) -> None:
    """Each thing that is wrong is named, and nothing is set."""
    assert sources(put(here, **terms)) == named
    assert ask(here, "GET", UPSTREAM).status_code == 404


def test_row_25_upstream_leads_to_nowhere_of_the_servers_own(here: Server) -> None:
    """Private addresses that no setting allows are refused, and plain HTTP to the public."""
    for host in ("10.0.0.1", "[::1]", "[::ffff:10.0.0.1]", "169.254.169.254", "0.0.0.0"):  # noqa: S104 - an address that is refused
        for scheme in ("http", "https"):
            assert sources(put(here, url=f"{scheme}://{host}/", key=KEY)) == ["url"]
    assert sources(put(here, url="http://93.184.215.14/", key=KEY)) == ["url"]


async def test_row_25_name_that_leads_inside_is_not_asked(server: Server, here: Server) -> None:
    """Where a name leads is looked at for each question, and nothing is sent."""
    del server
    await asyncio.to_thread(put, here, url="https://localhost:1/", key=KEY)
    failed = await got(here, customer=new_customer())
    assert error_code(failed) == (503, "service_unavailable")
    removed(here)


async def test_stored_key_does_not_follow_another_url(here: Server, there: Server) -> None:
    """Whoever names another URL has to give a key, whatever key there was."""
    async with proxying(1) as first, proxying(int(there.url.rpartition(":")[2])) as second:
        await name(here, there, first)
        refused = await asyncio.to_thread(put, here, url=second.url)
        assert sources(refused) == ["key"]
        assert (await asked(here, "GET", UPSTREAM))["url"] == first.url
        assert (await got(here, customer=new_customer())).status_code == 503
        assert second.requests == []
    removed(here)


def test_row_1_and_5_only_a_secret_key_of_the_app(here: Server, other: Server) -> None:
    """A public key and none are 401 on every route; another app has an upstream of its own."""
    for method, path in (
        ("GET", UPSTREAM),
        ("PUT", UPSTREAM),
        ("DELETE", UPSTREAM),
        ("GET", f"{UPSTREAM}differences/"),
        ("DELETE", f"{UPSTREAM}differences/"),
        ("GET", f"{UPSTREAM}deliveries/"),
        ("POST", f"{UPSTREAM}replay/"),
    ):
        for key in (here.public_key, ""):
            answer = ask(here._replace(key=key), method, path, body={})
            assert error_code(answer) == (401, "unauthorized"), path
    put(here, url="https://a.example", key=KEY)
    assert ask(here._replace(key=other.key), "GET", UPSTREAM).status_code == 404
    removed(here)


async def test_row_28_and_29_key_is_nowhere_in_clear(here: Server, there: Server) -> None:
    """The upstream's key is in no form in the database, and in no answer or metric."""
    async with proxying(int(there.url.rpartition(":")[2])) as proxy:
        await name(here, there, proxy, write_through=True)
        customer = new_customer()
        await made(there, customer)
        assert set_of(await got(here, customer=customer)) == VALUES
        kept = await asyncio.to_thread(stored, here.database)
        text = PLAIN.get(f"{here.url}/metrics", headers=METRICS).text
        assert 'knownas_upstream_questions_total{outcome="found"}' in text
        for form in (there.key.encode(), there.key.encode().hex().encode()):
            assert form not in kept + text.encode()
    removed(here)


async def test_upstream_of_a_deleted_app_is_gone(here: Server) -> None:
    """Nothing is asked or told for an app that is not there."""
    database = here.database
    knownas("app", "create", "gone", database=database)
    made_key = knownas("key", "create", "--app", "gone", database=database).strip()
    gone = here._replace(key=made_key)
    assert (await asyncio.to_thread(put, gone, url="https://a.example", key=KEY)).is_success
    knownas("app", "delete", "gone", "--yes", database=database)
    await asyncio.sleep(1)
    assert (await asyncio.to_thread(put, gone, url="https://a.example")).status_code == 401


async def test_second_process_goes_by_it(here: Server, there: Server, key_file: str) -> None:
    """What is set at one process holds for another within a second."""
    port = free_port()
    process = start(
        here.database,
        port,
        KNOWNAS_MASTER_KEY_FILE=key_file,
        KNOWNAS_WEBHOOK_NETWORKS="127.0.0.0/8",
    )
    second = here._replace(url=f"http://127.0.0.1:{port}")
    assert (await got(second, customer=new_customer())).status_code == 404
    async with proxying(int(there.url.rpartition(":")[2])) as proxy:
        await name(here, there, proxy)
        customer = new_customer()
        await made(there, customer)
        deadline = time.monotonic() + SECONDS
        while (await got(second, customer=customer)).status_code != 200:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.1)
    removed(here)
    assert stop(process) == 0


# --- By commands --------------------------------------------------------------------------------


def test_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set, show, pause, resume and remove; a key of the operator's is named, never shown."""
    shell = Shell(tmp_path / "commands.db")
    shell("app", "create", "default")
    monkeypatch.delenv("KNOWNAS_MASTER_KEY_FILE", raising=False)
    url = "https://a.example"
    assert "PUT /api/v1/upstream/" in shell.fails("upstream", "show")
    assert "master key" in shell.fails("upstream", "set", url, "--key-stdin", stdin=KEY)
    assert "key" in shell.fails("upstream", "set", url)
    assert "Say one of" in shell.fails("upstream", "set", url, "--key-stdin", "--key-env", "X")
    assert "variable" in shell.fails("upstream", "set", url, "--key-env", "A B")
    assert "from the root" in shell.fails("upstream", "set", url, "--key-file", "key")
    found = shell.json("upstream", "set", url, "--key-env", "ADAPTY_KEY", "--shadow-percent", "5")
    assert (found["key_from"], found["shadow_percent"]) == ("env:ADAPTY_KEY", 5)
    assert "master key" in shell.fails("upstream", "set", url, "--write-through")
    path = str(tmp_path / "master.key")
    vault.create(path)
    monkeypatch.setenv("KNOWNAS_MASTER_KEY_FILE", path)
    found = shell.json("upstream", "set", url, "--key-stdin", "--write-through", stdin=f"{KEY}\n")
    assert (found["key_from"], found["pending"], found["dead"]) == ("stored", 0, 0)
    assert shell.json("upstream", "pause")["paused"] is True
    assert "(paused)" in shell("upstream", "show")
    assert shell.json("upstream", "resume")["paused"] is False
    assert KEY not in shell("upstream", "show")
    assert shell.json("upstream", "differences", "--reset")["differing"] == []
    assert shell("upstream", "dead") == "Nothing was given up.\n"
    assert shell.json("upstream", "replay") == {"replayed": 0}
    assert shell.json("upstream", "remove") == {"removed": True}
    assert "no upstream" in shell.fails("upstream", "remove")
    assert "no upstream" in shell.fails("upstream", "pause")


# --- What spares an upstream --------------------------------------------------------------------


def test_breaker_lets_one_find_out() -> None:
    """After failures nothing is asked for ever longer; then one question decides for all."""
    now = 0.0
    breaker = Breaker(lambda: now)
    for _ in range(FAILURES):
        assert breaker.admit(3)
        breaker.failed()
    pause = FIRST_PAUSE_SECONDS
    for _ in range(12):
        assert not breaker.admit(3)
        assert breaker.seconds_left == pause
        now += pause
        assert breaker.admit(3)
        assert not breaker.admit(3)
        breaker.failed()
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
    now += pause
    assert breaker.admit(3)
    breaker.succeeded()
    assert breaker.admit(3)
    breaker.failed(retry_after=30)
    assert breaker.seconds_left == 30
    breaker.failed(retry_after=10**9)
    assert breaker.seconds_left == 3_600


def test_absent_are_believed_for_a_while() -> None:
    """Each for its time, some for good, and not more than there is room for."""
    now = 0.0
    absent = Absent(lambda: now)
    absent.add("erased", for_good=True)
    absent.add("unknown")
    now = ABSENT_SECONDS - 1
    assert "unknown" in absent
    now = ABSENT_SECONDS
    assert "unknown" not in absent
    assert "erased" in absent
    for number in range(MOST_ABSENT):
        absent.add(number)
    assert "erased" not in absent
    assert 0 in absent


async def test_rotated_master_key_seals_the_key_anew(
    server: Server, there: Server, tmp_path: Path
) -> None:
    """After a rotation and a start the stored key is under the newest, once it was used."""
    key_file = str(tmp_path / "master.key")
    vault.create(key_file)
    customer = new_customer()
    await made(there, customer)
    registry = opened(server, key_file)
    app = await registry.create_app("rotated")
    async with proxying(int(there.url.rpartition(":")[2])) as proxy:
        await registry.upstreams.set(app, Terms(url=proxy.url, key=there.key))
        await registry.close()
        vault.rotate(key_file)
        registry = opened(server, key_file)
        app = await registry.app("rotated")
        assert app.upstream is not None
        assert registry.vault.needs_resealing(app.upstream.key or b"")
        found = await registry.profile_from_anywhere(app, ProfileRef(customer))
        assert found.customer_user_id == customer
        kept = await registry.upstreams.one(app.id)
        assert not registry.vault.needs_resealing(kept.key or b"")
        assert kept.changed_at == app.upstream.changed_at
        other = await registry.profile_from_anywhere(
            await registry.app("rotated"), ProfileRef(profile_id=found.profile_id)
        )
        assert other == found
    await registry.close()
