"""Webhooks that others send, over HTTP and by commands: taken, refused, repeated, and kept."""

import itertools
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import httpx2
import msgspec
import pytest

import postgres
from conftest import (
    INJECTIONS,
    METRICS,
    NATIVE_PATH,
    PLAIN,
    PROFILE_PATH,
    Server,
    ask,
    error_code,
    exchange,
    free_port,
    knownas,
    make_profile,
    raw_request,
    sources,
    start,
    stop,
    stored,
)
from knownas import vault
from knownas.http import openapi
from knownas.webhooks.senders import SENDERS
from shell import Shell

DATABASES = ("sqlite", "postgresql")

ADAPTY: Final = "/webhooks/adapty/default"
REVENUECAT: Final = "/webhooks/revenuecat/default"
STATE: Final = "/api/v1/inbound/"
LETTERS: Final = "/api/v1/inbound/dead-letters/"
REPLAY: Final = f"{LETTERS}replay/"
HISTORY: Final = "/api/v1/profile/history/"
CUSTOMER: Final = "/api/v1/profile/customer/"
MERGE: Final = "/api/v1/merge/"
POLICIES: Final = "/api/v1/policies/"
ERASURES: Final = "/api/v1/erasures/"
CANARY: Final = "canary-4f1b"
BACK_SECONDS: Final = 30
MIB: Final = 1024 * 1024

numbers = itertools.count(1)


@pytest.fixture(scope="module")
def server(database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Give a server that can erase."""
    folder = tmp_path_factory.mktemp("inbound")
    vault.create(str(folder / "master.key"))
    port = free_port()
    process = start(
        database,
        port,
        KNOWNAS_METRICS_TOKEN="metrics-token",  # noqa: S106 - a test's own
        KNOWNAS_MASTER_KEY_FILE=str(folder / "master.key"),
        KNOWNAS_ERASURE_LEDGER=str(folder / "ledger"),
        KNOWNAS_BAD_KEYS_PER_MINUTE="1000",
    )
    made = knownas("key", "create", "--json", database=database)
    key = msgspec.json.decode(made)["key"]
    yield Server(f"http://127.0.0.1:{port}", key, "", database)
    assert stop(process) == 0


@pytest.fixture(scope="module")
def secrets(server: Server) -> dict[str, str]:
    """Give a secret for each sender, by its path."""
    return {
        path: created(server, sender)["secret"]
        for sender, path in (("adapty", ADAPTY), ("revenuecat", REVENUECAT))
    }


@pytest.fixture(autouse=True)
def without_letters(server: Server) -> None:
    """Begin with no dead letter."""
    assert ask(server, "DELETE", f"{LETTERS}?all=true").status_code == 204


def created(server: Server, sender: str, app: str = "default") -> dict[str, Any]:
    """Make a secret by the command."""
    text = knownas("webhook-in", "create", sender, "--app", app, "--json", database=server.database)
    made: dict[str, Any] = msgspec.json.decode(text)
    return made


def send(server: Server, secret: str | None, body: object, path: str = ADAPTY) -> httpx2.Response:
    """Send a request as a sender does."""
    headers = [] if secret is None else [("Authorization", secret)]
    return exchange(server, raw_request(server._replace(key=""), "POST", path, headers, body))


def result(answer: httpx2.Response) -> str:
    """Return what became of an event."""
    assert answer.status_code == 200, answer.text
    found: str = answer.json()["data"]["result"]
    return found


def new_profile() -> str:
    """Return the id of a profile that no test has yet."""
    return f"00000000-0000-4000-9000-{next(numbers):012}"


def event(profile_id: str, customer: str | None = None, **more: object) -> dict[str, Any]:
    """Return an event of Adapty, one that was not sent before."""
    return {
        "profile_id": profile_id,
        "customer_user_id": customer,
        "event_type": "subscription_renewed",
        "event_datetime": "2026-01-01T00:00:00.000000+0000",
        "event_properties": {"profile_event_id": f"event-{next(numbers)}"},
        "integration_ids": {"branch_id": f"branch-{profile_id}"},
        **more,
    }


def identifiers(server: Server, **who: str) -> dict[str, str]:
    """Return the identifiers of a profile."""
    answer = ask(server, "GET", NATIVE_PATH, **who)  # type: ignore[arg-type] # as `Who` has it
    assert answer.status_code == 200, answer.text
    found: dict[str, str] = answer.json()["data"]["identifiers"]
    return found


def letters(server: Server) -> list[dict[str, Any]]:
    """Return the dead letters."""
    found: list[dict[str, Any]] = ask(server, "GET", LETTERS).json()["data"]
    return found


def counted(server: Server, sender: str, outcome: str) -> float:
    """Return how many requests of a sender came to this."""
    text = PLAIN.get(f"{server.url}/metrics", headers=METRICS).text
    name = f'knownas_inbound_events_total{{outcome="{outcome}",sender="{sender}"}} '
    [count] = [line.removeprefix(name) for line in text.splitlines() if line.startswith(name)]
    return float(count)


# --- What is taken ------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [ADAPTY, f"{ADAPTY}/"])
def test_adapty_verifies_its_endpoint(server: Server, secrets: dict[str, str], path: str) -> None:
    """Both requests get 2xx and the JSON that is wanted, with a good secret only."""
    before = counted(server, "adapty", "verified")
    assert send(server, secrets[ADAPTY], {}, path).json() == {}
    checked = send(server, secrets[ADAPTY], {"adapty_check": "s"}, path)
    assert checked.json() == {"adapty_check_response": "s"}
    assert checked.headers["content-type"] == "application/json"
    assert counted(server, "adapty", "verified") == before + 2
    assert send(server, "wrong", {}, path).status_code == 503


def test_event_makes_and_changes_a_profile(server: Server, secrets: dict[str, str]) -> None:
    """An unknown profile is made with its customer; only a newer event changes what it has."""
    one = new_profile()
    assert result(send(server, secrets[ADAPTY], event(one, "made"))) == "applied"
    assert identifiers(server, customer="made") == {"branch_id": f"branch-{one}"}
    newer = event(
        one,
        "made",
        event_datetime="2026-01-03T00:00:00.000000+0000",
        integration_ids={"branch_id": "new", "adjust_device_id": "a"},
    )
    older = event(
        one,
        "made",
        event_datetime="2026-01-02T00:00:00.000000+0000",
        integration_ids={"branch_id": "old", "adjust_device_id": "o", "appsflyer_id": "f"},
    )
    assert result(send(server, secrets[ADAPTY], newer)) == "applied"
    assert result(send(server, secrets[ADAPTY], older)) == "applied"
    assert identifiers(server, profile=one) == {
        "branch_id": "new",
        "adjust_device_id": "a",
        "appsflyer_id": "f",
    }
    history = ask(server, "GET", HISTORY, profile=one).json()["data"]
    assert {(it["source"]["via"], it["source"]["key_id"]) for it in history} == {("webhook", None)}
    assert letters(server) == []


def test_event_does_not_undo_a_later_write(server: Server, secrets: dict[str, str]) -> None:
    """What was written over the API since the event happened stays; an event since then counts."""
    made = make_profile(server, "written", branch_id="api")
    late = event(made["profile_id"], "written")
    assert result(send(server, secrets[ADAPTY], late)) == "applied"
    assert identifiers(server, customer="written") == {"branch_id": "api"}
    now = event(
        made["profile_id"],
        event_datetime="2999-01-01T00:00:00Z",
        integration_ids={"branch_id": "event"},
    )
    assert result(send(server, secrets[ADAPTY], now)) == "applied"
    assert identifiers(server, customer="written") == {"branch_id": "event"}
    # The time was ahead, and counts as the present: it does not shut out what comes after it.
    again = {**now, "event_properties": {}, "integration_ids": {"branch_id": "later"}}
    assert result(send(server, secrets[ADAPTY], again)) == "applied"
    assert identifiers(server, customer="written") == {"branch_id": "later"}


def test_row_27_replayed_event_has_no_effect(server: Server, secrets: dict[str, str]) -> None:
    """An event that comes again is answered 200, and changes nothing, whatever was since."""
    one, two = new_profile(), new_profile()
    by_id, by_bytes = event(one), event(two, event_properties=None)
    for sent, profile_id in ((by_id, one), (by_bytes, two)):
        assert result(send(server, secrets[ADAPTY], sent)) == "applied"
        assert ask(server, "DELETE", PROFILE_PATH, profile=profile_id).status_code == 204
        before = counted(server, "adapty", "repeated")
        for _ in range(2):
            assert result(send(server, secrets[ADAPTY], sent)) == "repeated"
        assert counted(server, "adapty", "repeated") == before + 2
        assert ask(server, "GET", NATIVE_PATH, profile=profile_id).status_code == 404


def test_profiles_that_share_access_are_made(server: Server, secrets: dict[str, str]) -> None:
    """They are there with their customers, and have none of the event's identifiers."""
    one, two, three = new_profile(), new_profile(), new_profile()
    sharing = [
        {"profile_id": one, "customer_user_id": "sharing-1"},
        {"profile_id": two, "customer_user_id": "sharing-2"},
        {"profile_id": three, "customer_user_id": None},
    ]
    sent = event(one, "sharing-1", profiles_sharing_access_level=sharing)
    assert result(send(server, secrets[ADAPTY], sent)) == "applied"
    assert identifiers(server, customer="sharing-1") == {"branch_id": f"branch-{one}"}
    assert identifiers(server, customer="sharing-2", profile=two) == {}
    assert identifiers(server, profile=three) == {}


def test_revenuecat_event_is_stored_by_customer(server: Server, secrets: dict[str, str]) -> None:
    """Each attribute counts by its own time, and an unknown customer is made."""

    def told(event_id: str, **attributes: tuple[str, int]) -> dict[str, Any]:
        of = {
            f"${name}": {"value": value, "updated_at_ms": at}
            for name, (value, at) in attributes.items()
        }
        return {
            "api_version": "1.0",
            "event": {"id": event_id, "app_user_id": "cat", "subscriber_attributes": of},
        }

    first = told("rc-1", appsflyerId=("new", 2_000), adjustId=("old", 1_000))
    second = told("rc-2", appsflyerId=("old", 1_000), adjustId=("new", 2_000))
    for sent in (first, second):
        answer = send(server, secrets[REVENUECAT], sent, REVENUECAT)
        assert result(answer) == "applied"
    assert result(send(server, secrets[REVENUECAT], first, REVENUECAT)) == "repeated"
    assert identifiers(server, customer="cat") == {
        "appsflyer_id": "new",
        "adjust_device_id": "new",
    }


def test_unknown_kinds_are_counted(server: Server, secrets: dict[str, str]) -> None:
    """An identifier of a kind that is not known here is left out, and counted as on other ways."""
    one = new_profile()
    sent = event(one, integration_ids={"branch_id": "b", "a_kind_of_tomorrow": {"x": 1}})
    text = PLAIN.get(f"{server.url}/metrics", headers=METRICS).text
    assert result(send(server, secrets[ADAPTY], sent)) == "applied"
    assert identifiers(server, profile=one) == {"branch_id": "b"}
    after = PLAIN.get(f"{server.url}/metrics", headers=METRICS).text
    line = "knownas_ignored_keys_total "
    [before, now] = [
        float(it.removeprefix(line))
        for one_text in (text, after)
        for it in one_text.splitlines()
        if it.startswith(line)
    ]
    assert now == before + 1


def test_hostile_texts_are_stored_as_they_are(server: Server, secrets: dict[str, str]) -> None:
    """Texts that would be code elsewhere come back unchanged."""
    for text in INJECTIONS:
        one = new_profile()
        sent = event(one, f"customer {text}", integration_ids={"branch_id": text})
        assert result(send(server, secrets[ADAPTY], sent)) == "applied"
        assert identifiers(server, profile=one) == {"branch_id": text.strip()}


# --- Who is let in ------------------------------------------------------------------------------


def test_wrong_authorization_is_to_come_again(server: Server, secrets: dict[str, str]) -> None:
    """Whoever has no good secret gets the same 503, and nothing is stored."""
    secret = secrets[ADAPTY]
    body = event(new_profile())
    answers = [
        send(server, given, body)
        for given in (None, "", "wrong", f"Bearer {secret}", secret[:-1], secret.swapcase())
    ]
    answers += [
        send(server, secret, body, path)
        for path in ("/webhooks/adapty/none", REVENUECAT, "/webhooks/adapty/Default")
    ]
    twice = [("Authorization", secret), ("Authorization", secret)]
    keyless = server._replace(key="")
    answers.append(exchange(server, raw_request(keyless, "POST", ADAPTY, twice, body)))
    answers.append(send(server, f"Api-Key {server.key}", body))
    for answer in answers:
        assert error_code(answer) == (503, "service_unavailable")
        assert answer.headers["retry-after"] == "60"
    assert len({answer.content for answer in answers}) == 1
    assert ask(server, "GET", NATIVE_PATH, profile=body["profile_id"]).status_code == 404
    assert letters(server) == []


def test_refusals_are_shown(server: Server, secrets: dict[str, str]) -> None:
    """The operator sees them in the list, in the metrics and in the log, without the secret."""
    del secrets
    before = counted(server, "revenuecat", "refused")
    for _ in range(3):
        assert send(server, f"wrong {CANARY}", {}, REVENUECAT).status_code == 503
    assert counted(server, "revenuecat", "refused") == before + 3
    [_, state] = ask(server, "GET", STATE).json()["data"]
    assert (state["sender"], state["path"]) == ("revenuecat", "/webhooks/revenuecat/default/")
    assert state["refused"] >= 1
    assert state["refused_at"] > 1_700_000_000_000
    listed = knownas("webhook-in", "list", database=server.database)
    assert "revenuecat was refused" in listed
    log = logged(server)
    assert b"webhook_refused" in log
    assert CANARY.encode() not in log


def logged(server: Server) -> bytes:
    """Return what a server has logged."""
    path = server.database.removeprefix("sqlite:///")
    if path == server.database:
        path = f"{tempfile.gettempdir()}/knownas-tests-{httpx2.URL(server.url).port}"
    return Path(path).with_suffix(".log").read_bytes()


def test_guessing_is_limited_by_address(database: str) -> None:
    """Past so many distinct wrong secrets an address gets 429; a good one is still let in."""
    port = free_port()
    process = start(database, port, KNOWNAS_BAD_KEYS_PER_MINUTE="2")
    guessed = Server(f"http://127.0.0.1:{port}", "", "", database)
    knownas("app", "create", "guessed", database=database)
    secret = created(guessed, "adapty", "guessed")["secret"]
    path = "/webhooks/adapty/guessed"
    statuses = [
        send(guessed, text, {}, path).status_code for text in ("a", "b", "a", "c", "b", secret)
    ]
    assert statuses == [503, 503, 503, 429, 503, 200]
    assert stop(process) == 0


def test_two_secrets_are_good_at_once(server: Server) -> None:
    """A sender has two, of one app alone; each is good until the moment it is revoked."""
    app = f"rotating-{next(numbers)}"
    path = f"/webhooks/adapty/{app}"
    knownas("app", "create", app, database=server.database)
    first, second = created(server, "adapty", app), created(server, "adapty", app)
    for made in (first, second):
        assert send(server, made["secret"], {}, path).status_code == 200
        assert send(server, made["secret"], {}).status_code == 503
    run = ("webhook-in", "revoke", first["id"], "--app", app)
    assert knownas(*run, database=server.database) == f"Revoked {first['id']}.\n"
    assert send(server, first["secret"], {}, path).status_code == 503
    assert send(server, second["secret"], {}, path).status_code == 200
    content = stored(server.database)
    assert first["secret"].encode() not in content
    assert second["secret"].encode() not in content


def test_events_are_of_one_app(server: Server, secrets: dict[str, str], other: Server) -> None:
    """An event changes nothing of another app, whose events may have the same ids."""
    one = new_profile()
    sent = event(one, "of-one-app")
    assert result(send(server, secrets[ADAPTY], sent)) == "applied"
    assert ask(other, "GET", NATIVE_PATH, profile=one).status_code == 404
    theirs = created(server, "adapty", "other")["secret"]
    assert result(send(server, theirs, sent, "/webhooks/adapty/other")) == "applied"
    assert identifiers(other, profile=one) == {"branch_id": f"branch-{one}"}
    assert result(send(server, theirs, {"profile_id": 1}, "/webhooks/adapty/other")) == "malformed"
    assert letters(server) == []
    [letter] = letters(other)
    for method, path, body in (
        ("DELETE", f"{LETTERS}?id={letter['id']}", None),
        ("POST", REPLAY, {"id": letter["id"]}),
    ):
        assert error_code(ask(server, method, path, body=body)) == (404, "dead_letter_not_found")


@pytest.mark.parametrize("path", ["/webhooks/nobody/default", "/webhooks/adapty", "/webhooks/"])
def test_unknown_sender_is_no_path(server: Server, path: str) -> None:
    """Nothing is served for a sender that is not known."""
    assert error_code(send(server, "secret", {}, path)) == (404, "not_found")
    assert error_code(send(server, "x", {}, "/webhooks/{sender}/{app}/")) == (404, "not_found")
    assert error_code(ask(server, "GET", ADAPTY)) == (405, "method_not_allowed")


# --- What cannot be stored ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"x",
        b"[]",
        b"null",
        b"\xff\xfe{\0}\0",
        b'{"profile_id": "a"} x',
        b'{"profile_id": "a", "profile_id": "b"}',
        b'{"a":' * 50_000,
        b'{"a": ' + b"[" * 40 + b"]" * 40 + b"}",
        b'{"a": ' + b"9" * 5_000 + b"}",
        b'{"a": NaN}',
        b'{"profile_id": "\\ud800"}',
        b'{"profile_id": "00000000-0000-4000-8000-00000000000"}',
        b'{"a": "' + b"x" * 100_000 + b'"}',
    ],
    ids=range(14),
)
def test_malformed_event_is_a_dead_letter(
    server: Server, secrets: dict[str, str], body: bytes
) -> None:
    """What cannot be understood is answered 200, since it would come again as it is, and kept."""
    before = counted(server, "adapty", "malformed")
    for _ in range(2):
        answer = send(server, secrets[ADAPTY], body)
        assert result(answer) == "malformed"
    assert counted(server, "adapty", "malformed") == before + 2
    [letter] = letters(server)
    assert letter["id"] == answer.json()["data"]["dead_letter"]
    assert letter["size"] == len(body)
    assert letter["whole"] == (len(body) <= 65_536)
    assert letter["body"] == body[:65_536].decode(errors="replace")
    assert letter["reason"]
    replayed = ask(server, "POST", REPLAY, body={"id": letter["id"]}).json()
    assert replayed == {"data": {"stored": 0, "failed": 1}}


def test_what_came_is_in_no_log(server: Server, secrets: dict[str, str]) -> None:
    """Of a dead letter the log has the id, and nothing of what stands in it."""
    sent = {"profile_id": CANARY, CANARY: CANARY}
    letter_id = send(server, secrets[ADAPTY], sent).json()["data"]["dead_letter"]
    assert CANARY not in letters(server)[0]["reason"]
    log = logged(server)
    assert letter_id.encode() in log
    assert CANARY.encode() not in log


def test_event_that_is_too_large(server: Server, secrets: dict[str, str]) -> None:
    """Up to 1 MiB is taken; beyond that it is 413, by its length or as it comes."""
    one = new_profile()
    body = msgspec.json.encode(event(one, user_attributes={"x": "x" * (MIB - 600)}))
    assert len(body) <= MIB
    assert result(send(server, secrets[ADAPTY], body)) == "applied"
    over = b"{" + b" " * MIB
    assert error_code(send(server, secrets[ADAPTY], over)) == (413, "payload_too_large")
    chunked = raw_request(
        server._replace(key=""),
        "POST",
        ADAPTY,
        [("Authorization", secrets[ADAPTY]), ("Transfer-Encoding", "chunked")],
    )
    chunks = b"".join(b"10000\r\n" + b" " * 65_536 + b"\r\n" for _ in range(17))
    answer = exchange(server, chunked + chunks)
    assert error_code(answer) == (413, "payload_too_large")


def test_part_that_is_wrong_is_a_dead_letter(server: Server, secrets: dict[str, str]) -> None:
    """The good identifiers of an event are stored, and what is wrong with the others is kept."""
    one = new_profile()
    ids = {"branch_id": "good", "adjust_device_id": 7, "appsflyer_id": "x" * 256}
    sent = event(one, integration_ids=ids)
    assert result(send(server, secrets[ADAPTY], sent)) == "partly"
    assert identifiers(server, profile=one) == {"branch_id": "good"}
    [letter] = letters(server)
    assert msgspec.json.decode(letter["body"]) == sent
    assert "integration_ids.adjust_device_id: Must be a string." in letter["reason"]
    assert result(send(server, secrets[ADAPTY], sent)) == "repeated"


def test_customer_of_another_profile_stays_there(server: Server, secrets: dict[str, str]) -> None:
    """An event never takes a customer; it is told, and stored in whole once that is possible."""
    owner = make_profile(server, "taken-customer")["profile_id"]
    one = new_profile()
    sent = event(one, "taken-customer")
    assert result(send(server, secrets[ADAPTY], sent)) == "partly"
    assert identifiers(server, profile=one) == {"branch_id": f"branch-{one}"}
    assert identifiers(server, customer="taken-customer", profile=owner) == {}
    [letter] = letters(server)
    assert letter["reason"].startswith("customer_user_id: The customer has another profile")
    assert ask(server, "POST", REPLAY).json() == {"data": {"stored": 0, "failed": 1}}
    merged = {"survivor": {"profile_id": owner}, "source": {"profile_id": one}}
    assert ask(server, "POST", MERGE, body=merged).status_code == 200
    assert ask(server, "POST", REPLAY).json() == {"data": {"stored": 1, "failed": 0}}
    assert letters(server) == []
    assert identifiers(server, customer="taken-customer") == {"branch_id": f"branch-{one}"}


def test_profile_keeps_its_customer(server: Server, secrets: dict[str, str]) -> None:
    """A profile that has a customer does not get another one by an event."""
    owner = make_profile(server, "first-customer")["profile_id"]
    assert result(send(server, secrets[ADAPTY], event(owner, "second-customer"))) == "partly"
    assert identifiers(server, customer="first-customer")
    assert ask(server, "GET", NATIVE_PATH, customer="second-customer").status_code == 404
    two = new_profile()
    sharing = [{"profile_id": two, "customer_user_id": "first-customer"}]
    sent = event(owner, profiles_sharing_access_level=sharing)
    assert result(send(server, secrets[ADAPTY], sent)) == "partly"
    assert identifiers(server, profile=two) == {}


def test_event_of_a_merged_profile_changes_the_survivor(
    server: Server, secrets: dict[str, str]
) -> None:
    """The id of a profile that was merged goes on leading to the one that there is."""
    survivor = make_profile(server, "survivor")["profile_id"]
    merged = make_profile(server, "merged")["profile_id"]
    both = {"survivor": {"profile_id": survivor}, "source": {"profile_id": merged}}
    assert ask(server, "POST", MERGE, body=both).status_code == 200
    assert result(send(server, secrets[ADAPTY], event(merged, "merged"))) == "applied"
    assert identifiers(server, profile=survivor) == {"branch_id": f"branch-{merged}"}


def test_policies_count_for_events(server: Server, secrets: dict[str, str]) -> None:
    """What a policy rejects is told and all else stored; what it moves is taken from the other."""
    make_profile(server, "has-both", appsflyer_id="taken", adjust_device_id="moves")
    policies = {"appsflyer_id": "reject", "adjust_device_id": "move"}
    assert ask(server, "PUT", POLICIES, body=policies).status_code == 200
    one = new_profile()
    ids = {"appsflyer_id": "taken", "adjust_device_id": "moves", "branch_id": "b"}
    assert result(send(server, secrets[ADAPTY], event(one, integration_ids=ids))) == "partly"
    assert identifiers(server, profile=one) == {"adjust_device_id": "moves", "branch_id": "b"}
    assert identifiers(server, customer="has-both") == {"appsflyer_id": "taken"}
    assert letters(server)[0]["reason"].startswith("appsflyer_id: Another profile has this")
    assert ask(server, "PUT", POLICIES, body={}).status_code == 200


def test_erased_person_does_not_come_back(server: Server, secrets: dict[str, str]) -> None:
    """An event about one who was erased is answered 200 and stores nothing, by id or customer."""
    one = new_profile()
    assert result(send(server, secrets[ADAPTY], event(one, "erased"))) == "applied"
    wrong = {"event": {"id": "x", "about": "erased"}}
    assert result(send(server, secrets[REVENUECAT], wrong, REVENUECAT)) == "malformed"
    erased = ask(server, "POST", ERASURES, body={"customer_user_id": "erased"})
    assert erased.status_code == 200, erased.text
    assert letters(server) == []
    two = new_profile()
    before = counted(server, "adapty", "erased")
    for sent in (event(one), event(two, "erased"), event(one, "someone-else")):
        assert result(send(server, secrets[ADAPTY], sent)) == "erased"
    assert counted(server, "adapty", "erased") == before + 3
    cat = {"event": {"id": "erased-1", "app_user_id": "erased"}}
    assert result(send(server, secrets[REVENUECAT], cat, REVENUECAT)) == "erased"
    sharing = [{"profile_id": one, "customer_user_id": "erased"}]
    three = event(new_profile(), profiles_sharing_access_level=sharing)
    assert result(send(server, secrets[ADAPTY], three)) == "applied"
    for who in ({"profile": one}, {"profile": two}, {"customer": "erased"}):
        assert ask(server, "GET", NATIVE_PATH, **who).status_code == 404  # type: ignore[arg-type] # as `Who` has it
    assert letters(server) == []


def test_dead_letters_are_listed_and_deleted(server: Server, secrets: dict[str, str]) -> None:
    """They come by pages, newest first, and go one by one or all at once."""
    for number in range(5):
        assert result(send(server, secrets[ADAPTY], {"number": number})) == "malformed"
    first = ask(server, "GET", f"{LETTERS}?limit=3").json()
    rest = ask(server, "GET", f"{LETTERS}?limit=3&cursor={first['next']}").json()
    assert rest["next"] is None
    bodies = [msgspec.json.decode(it["body"])["number"] for it in first["data"] + rest["data"]]
    assert sorted(bodies) == [0, 1, 2, 3, 4]
    times = [it["at"] for it in first["data"] + rest["data"]]
    assert times == sorted(times, reverse=True)
    one = first["data"][0]["id"]
    assert ask(server, "DELETE", f"{LETTERS}?id={one}").status_code == 204
    assert error_code(ask(server, "DELETE", f"{LETTERS}?id={one}"))[0] == 404
    assert len(letters(server)) == 4


@pytest.mark.parametrize(
    ("method", "path", "body", "source"),
    [
        ("GET", f"{STATE}?a=1", None, "a"),
        ("GET", f"{LETTERS}?limit=101", None, "limit"),
        ("GET", f"{LETTERS}?cursor=x", None, "cursor"),
        ("DELETE", LETTERS, None, None),
        ("DELETE", f"{LETTERS}?all=false", None, None),
        ("DELETE", f"{LETTERS}?all=yes", None, "all"),
        ("DELETE", f"{LETTERS}?id=ltr_x", None, "id"),
        ("DELETE", f"{LETTERS}?all=true&id=ltr_0000000000000000", None, None),
        ("POST", REPLAY, {"id": 1}, "id"),
        ("POST", REPLAY, {"ids": []}, "ids"),
    ],
)
def test_what_is_asked_wrongly(
    server: Server, method: str, path: str, body: object, source: str | None
) -> None:
    """Each gets 400, which names what is wrong."""
    assert sources(ask(server, method, path, body=body)) == [source]


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", STATE), ("GET", LETTERS), ("DELETE", f"{LETTERS}?all=true"), ("POST", REPLAY)],
)
def test_native_calls_need_a_secret_key(server: Server, method: str, path: str) -> None:
    """Without a key, and with one that is public, each gets 401."""
    public = knownas("key", "create", "--type", "public", database=server.database).strip()
    for key in ("", public):
        assert ask(server._replace(key=key), method, path).status_code == 401


# --- Commands -----------------------------------------------------------------------------------


def test_commands(tmp_path: Path) -> None:
    """Secrets are made, adopted, listed and revoked; dead letters listed, replayed, discarded."""
    shell = Shell(tmp_path / "knownas.db")
    shell("app", "create", "default")
    assert "nobody was refused" in shell("webhook-in", "list")
    made = shell.json("webhook-in", "create", "adapty")
    assert made["path"] == ADAPTY
    assert "/webhooks/revenuecat/default" in shell("webhook-in", "create", "revenuecat")
    adopted = "a secret that the team has"
    taken = shell("webhook-in", "adopt", "adapty", "--stdin", stdin=adopted)
    assert taken.startswith("Adopted as whs_")
    assert "at most 2 secrets" in shell.fails("webhook-in", "create", "adapty")
    again = shell.fails("webhook-in", "adopt", "adapty", "--stdin", stdin=adopted)
    assert "has this secret here already" in again
    for bad in ("short", "x" * 256, "é" * 20):
        said = shell.fails("webhook-in", "adopt", "adapty", "--stdin", stdin=bad)
        assert "16 to 255 visible ASCII characters" in said
    [adapty, cat] = shell.json("webhook-in", "list")
    assert [len(it["secrets"]) for it in (adapty, cat)] == [2, 1]
    assert "no secret 'whs_x'" in shell.fails("webhook-in", "revoke", "whs_x")
    shell("webhook-in", "revoke", made["id"])
    assert made["id"] not in shell("webhook-in", "list")
    assert shell("webhook-in", "dead") == "There is no dead letter.\n"
    assert shell.json("webhook-in", "replay") == {"stored": 0, "failed": 0}
    assert "no such dead letter" in shell.fails("webhook-in", "replay", "ltr_0")
    assert "or --all" in shell.fails("webhook-in", "discard")
    assert shell.json("webhook-in", "discard", "--all") == {"deleted": 0}


def test_commands_see_what_came(server: Server, secrets: dict[str, str]) -> None:
    """A command shows, replays and deletes the dead letters of a server."""
    sent = {"profile_id": "x"}
    letter_id = send(server, secrets[ADAPTY], sent).json()["data"]["dead_letter"]
    shown = knownas("webhook-in", "dead", database=server.database)
    assert shown.startswith(f"{letter_id}  ")
    assert "profile_id: Must be a UUID" in shown
    [as_json] = msgspec.json.decode(
        knownas("webhook-in", "dead", "--json", database=server.database)
    )
    assert (as_json["body"], as_json["whole"]) == ('{"profile_id":"x"}', True)
    replayed = knownas("webhook-in", "replay", letter_id, database=server.database)
    assert replayed == "0 are stored, 1 stay dead letters.\n"
    knownas("webhook-in", "discard", letter_id, database=server.database)
    assert letters(server) == []


def test_senders_are_those_of_the_contract() -> None:
    """The document names each sender, and no other."""
    schemas = openapi.document()["components"]["schemas"]
    path = openapi.document()["paths"]["/webhooks/{sender}/{app}/"]["post"]["parameters"][0]
    for schema in (
        path["schema"],
        schemas["SenderState"]["properties"]["sender"],
        schemas["DeadLetter"]["properties"]["sender"],
    ):
        assert schema["enum"] == list(SENDERS)


# --- A database that is away --------------------------------------------------------------------


def test_event_is_to_come_again_while_the_database_is_away() -> None:
    """Without its database a server answers 503, and takes the event once it is back."""
    with postgres.cluster() as cluster:
        database = postgres.new_database(cluster.url)
        process = start(database, port := free_port(), KNOWNAS_DATABASE_SECONDS="1")
        key = knownas("key", "create", database=database).strip()
        away = Server(f"http://127.0.0.1:{port}", key, "", database)
        secret = created(away, "adapty")["secret"]
        one = new_profile()
        sent = event(one, "away")
        with cluster.paused():
            answer = send(away, secret, sent)
            assert error_code(answer) == (503, "service_unavailable")
            assert "retry-after" in answer.headers
            assert error_code(send(away, secret, {"a": 1}))[0] == 503
        cluster.kill()
        assert error_code(send(away, secret, sent))[0] == 503
        cluster.start()
        deadline = time.monotonic() + BACK_SECONDS
        while (answer := send(away, secret, sent)).status_code == 503:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert result(answer) in {"applied", "repeated"}
        assert identifiers(away, customer="away") == {"branch_id": f"branch-{one}"}
        assert stop(process) == 0
