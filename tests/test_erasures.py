"""Erasure and access over HTTP: who is erased, what is answered, and who stays away."""

import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from conftest import (
    IDENTIFIERS_PATH,
    PLAIN,
    PROFILE_PATH,
    SDK_PATH,
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
from knownas import receipts, vault
from knownas.errors import ValidationError
from knownas.model import KINDS

DATABASES = ("sqlite", "postgresql")

ERASURES: Final = "/api/v1/erasures/"
CHECK: Final = "/api/v1/erasures/check/"
KEY: Final = "/api/v1/erasures/key/"
EXPORT: Final = "/api/v1/profile/export/"
MERGE: Final = "/api/v1/merge/"
CHANGES: Final = "/api/v1/changes/"
NOBODY: Final = "00000000-0000-4000-8000-000000000000"
COMPLETE_SECONDS: Final = 60

numbers = itertools.count(1)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give all servers and commands of the module a master key and a ledger, in this folder."""
    folder = tmp_path_factory.mktemp("erasures")
    vault.create(str(folder / "master.key"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KNOWNAS_MASTER_KEY_FILE", str(folder / "master.key"))
        yield folder


@pytest.fixture(scope="module")
def server(database: str, environment: Path) -> Iterator[Server]:
    """Give a server that can erase, and creates profiles without being asked to."""
    port = free_port()
    name = "sqlite" if database.startswith("sqlite") else "postgresql"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KNOWNAS_ERASURE_LEDGER", str(environment / f"{name}.ledger"))
        process = start(database, port, KNOWNAS_AUTO_CREATE_PROFILES="on")
        keys = [
            msgspec.json.decode(knownas("key", "create", "--type", it, "--json", database=database))
            for it in ("secret", "public")
        ]
        yield Server(f"http://127.0.0.1:{port}", keys[0]["key"], keys[1]["key"], database)
        assert stop(process) == 0


def a_person(server: Server, **identifiers: str) -> tuple[str, str]:
    """Make a profile, and return its customer and its id."""
    customer = f"kim-{next(numbers)}"
    made = ask(server, "POST", PROFILE_PATH, body={}, customer=customer)
    assert made.status_code == 200, made.text
    if identifiers:
        answer = ask(server, "POST", IDENTIFIERS_PATH, body=identifiers, customer=customer)
        assert answer.status_code == 200, answer.text
    return customer, made.json()["data"]["profile_id"]


def erased(server: Server, **body: object) -> dict[str, Any]:
    """Erase a person, and return what is answered."""
    answer = ask(server, "POST", ERASURES, body=body)
    assert answer.status_code == 200, answer.text
    data: dict[str, Any] = answer.json()["data"]
    return data


def receipt(server: Server, erasure_id: str) -> dict[str, Any]:
    """Return a receipt as it is now."""
    found: dict[str, Any] = ask(server, "GET", f"{ERASURES}?id={erasure_id}").json()["data"]
    return found


def test_person_is_erased_by_each_name(server: Server) -> None:
    """By customer, by profile id, by an identifier and its kind, and by its value alone."""
    for name in ("customer_user_id", "profile_id", "kind", "value"):
        value = f"branch-{next(numbers)}"
        customer, profile_id = a_person(server, branch_id=value)
        body = {
            "customer_user_id": {"customer_user_id": customer},
            "profile_id": {"profile_id": profile_id.upper()},
            "kind": {"kind": "branch_id", "value": f" {value} "},
            "value": {"value": value},
        }[name]
        data = erased(server, **body)
        assert data.keys() == {"receipt", "signed"}
        assert data["receipt"]["erased"]["identifiers"] == {"branch_id": 1}
        for who in ({"customer": customer}, {"profile": profile_id}):
            answer = ask(server, "GET", IDENTIFIERS_PATH, **who)  # type: ignore[arg-type]
            assert error_code(answer) == (404, "profile_not_found")
        again = ask(server, "POST", ERASURES, body=body)
        assert error_code(again) == (404, "profile_not_found")


def test_who_it_was_is_answered_on_request_alone(server: Server) -> None:
    """With "reveal" the answer has the ids and values; nothing else ever has them again."""
    customer, profile_id = a_person(server, branch_id="revealed-1", appsflyer_id="revealed-2")
    data = erased(server, profile_id=profile_id, reveal=True)
    assert data["person"] == {
        "profile_ids": [profile_id],
        "customer_user_ids": [customer],
        "identifiers": {"appsflyer_id": ["revealed-2"], "branch_id": ["revealed-1"]},
    }
    later = msgspec.json.encode(receipt(server, data["receipt"]["id"])).decode()
    listed = ask(server, "GET", ERASURES).text
    for told in (later, listed, msgspec.json.encode(data["receipt"]).decode()):
        assert not any(it in told for it in (customer, profile_id, "revealed"))


def test_receipt_is_signed_and_becomes_complete(server: Server) -> None:
    """Whoever has the public key can check it; some time later nothing waits for the server."""
    customer, _ = a_person(server, **{kind.name: f"v-{next(numbers)}" for kind in KINDS})
    data = erased(server, customer_user_id=customer)
    key = ask(server, "GET", KEY).json()["data"]
    assert key["algorithm"] == "Ed25519"
    content = receipts.verified(data["signed"], key["public_key"])
    assert msgspec.to_builtins(content) == data["receipt"]
    assert {it["vendor"] for it in data["receipt"]["erased"]["vendors"]} == {
        kind.vendor for kind in KINDS
    }
    body, _, signature = data["signed"].partition(".")
    other_key = "A" * len(key["public_key"])
    for text, public_key in (
        (f"{body[:-2]}AA.{signature}", key["public_key"]),
        (data["signed"], other_key),
    ):
        with pytest.raises(ValidationError):
            receipts.verified(text, public_key)
    deadline = time.monotonic() + COMPLETE_SECONDS
    while not (now := receipt(server, data["receipt"]["id"]))["receipt"]["complete"]:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert now["receipt"]["completed_at"] >= now["receipt"]["erased_at"]
    assert {it["who"] for it in now["receipt"]["waits"]} == {"operator"}
    assert receipts.verified(now["signed"], key["public_key"]).complete


def test_receipts_are_listed_by_pages(server: Server, other: Server) -> None:
    """The newest first, each once, and none of another app's."""
    made = [erased(server, profile_id=a_person(server)[1])["receipt"]["id"] for _ in range(3)]
    found: list[str] = []
    path = f"{ERASURES}?limit=1"
    while len(found) < len(made):
        page = ask(server, "GET", path).json()
        found += [it["id"] for it in page["data"]]
        place = page["next"]
        path = f"{ERASURES}?limit=1&before={place['before']}&before_id={place['before_id']}"
    assert sorted(found) == sorted(made)
    assert ask(other, "GET", ERASURES).json() == {"data": [], "next": None}
    assert error_code(ask(other, "GET", f"{ERASURES}?id={made[0]}")) == (404, "erasure_not_found")
    assert error_code(ask(server, "GET", f"{ERASURES}?id={NOBODY}")) == (404, "erasure_not_found")


def test_shared_identifier_erases_nobody(server: Server) -> None:
    """What several profiles have is no way to one of them."""
    people = [a_person(server, branch_id="shared-by-two") for _ in range(2)]
    for body in ({"value": "shared-by-two"}, {"kind": "branch_id", "value": "shared-by-two"}):
        answer = ask(server, "POST", ERASURES, body=body)
        assert error_code(answer) == (409, "identifier_shared")
    for customer, _ in people:
        assert ask(server, "GET", IDENTIFIERS_PATH, customer=customer).status_code == 200


def test_another_apps_person_is_nobody(server: Server, other: Server) -> None:
    """Neither to be erased, nor exported, nor known as erased."""
    customer, profile_id = a_person(server, branch_id="of-the-app")
    for body in (
        {"customer_user_id": customer},
        {"profile_id": profile_id},
        {"value": "of-the-app"},
    ):
        assert error_code(ask(other, "POST", ERASURES, body=body)) == (404, "profile_not_found")
    assert error_code(ask(other, "GET", EXPORT, customer=customer)) == (404, "profile_not_found")
    erased(server, profile_id=profile_id)
    names = {"profile_ids": [profile_id], "customer_user_ids": [customer]}
    assert ask(other, "POST", CHECK, body=names).json() == {
        "data": {"profile_ids": [], "customer_user_ids": []}
    }


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (b"", [None]),
        ({}, [None]),
        ({"kind": "branch_id"}, [None]),
        ({"profile_id": NOBODY, "value": "a"}, [None]),
        ({"profile_id": NOBODY, "kind": "branch_id"}, [None]),
        ({"profile_id": None}, [None]),
        ({"profile_id": "x"}, ["profile_id"]),
        ({"profile_id": 1}, ["profile_id"]),
        ({"customer_user_id": ""}, ["customer_user_id"]),
        ({"customer_user_id": "a\u0000"}, ["customer_user_id"]),
        ({"kind": "branch", "value": "a"}, ["kind"]),
        ({"value": " "}, ["value"]),
        ({"value": "a" * 256}, ["value"]),
        ({"value": "a", "reveal": 1}, ["reveal"]),
        ({"value": "a", "force": True}, ["force"]),
    ],
)
def test_wrong_request_is_named(server: Server, body: object, named: list[str | None]) -> None:
    """What is wrong with it is said, and nobody is erased."""
    assert sources(ask(server, "POST", ERASURES, body=body)) == named


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("id=x", ["id"]),
        (f"id={NOBODY}&limit=1", ["id"]),
        ("limit=0", ["limit"]),
        ("limit=1001", ["limit"]),
        ("before=1", ["before"]),
        (f"before_id={NOBODY}", ["before"]),
        ("before=1&before_id=x", ["before_id"]),
        ("who=x", ["who"]),
    ],
)
def test_wrong_page_is_named(server: Server, query: str, named: list[str]) -> None:
    """So it is with what a list is asked for."""
    assert sources(ask(server, "GET", f"{ERASURES}?{query}")) == named


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"profile_ids": "x"}, ["profile_ids"]),
        ({"profile_ids": ["x", 1, NOBODY]}, ["profile_ids[0]", "profile_ids[1]"]),
        ({"customer_user_ids": ["a"] * 1_001}, ["customer_user_ids"]),
        ({"customer_user_ids": [""], "more": 1}, ["more", "customer_user_ids[0]"]),
    ],
)
def test_wrong_names_are_named(server: Server, body: object, named: list[str]) -> None:
    """So it is with names that are asked about."""
    assert sources(ask(server, "POST", CHECK, body=body)) == named


def test_public_key_erases_nobody(server: Server) -> None:
    """Only a secret key may erase, list, check and export."""
    public = server._replace(key=server.public_key)
    for method, path, body in (
        ("POST", ERASURES, {"value": "a"}),
        ("GET", ERASURES, None),
        ("GET", KEY, None),
        ("POST", CHECK, {"profile_ids": []}),
        ("GET", EXPORT, None),
    ):
        assert error_code(ask(public, method, path, body=body)) == (401, "unauthorized")


def test_erased_person_comes_back_by_an_express_create_alone(server: Server) -> None:
    """An SDK, and who sets identifiers, find nobody; a create makes somebody new."""
    customer, profile_id = a_person(server, branch_id="old")
    erased(server, customer_user_id=customer)
    sdk = {"data": {"profile_id": profile_id, "branch_id": "new"}}
    write = {"items": [{"customer_user_id": customer, "identifiers": {"branch_id": "new"}}]}
    for answer in (
        ask(server, "POST", IDENTIFIERS_PATH, body={"branch_id": "new"}, customer=customer),
        ask(server, "POST", IDENTIFIERS_PATH, body={"branch_id": "new"}, profile=profile_id),
        ask(server._replace(key=server.public_key), "POST", SDK_PATH, body=sdk),
    ):
        assert error_code(answer) == (404, "profile_not_found")
    item = ask(server, "POST", "/api/v1/batch/write/?create=true", body=write).json()["data"][0]
    assert item["error_code"] == "profile_not_found"
    assert checked(server, customer, profile_id) == ([(profile_id, False)], [(customer, False)])
    made = ask(server, "POST", PROFILE_PATH, body={}, customer=customer).json()["data"]
    assert made["profile_id"] != profile_id
    now = ask(server, "GET", IDENTIFIERS_PATH, customer=customer).json()
    assert set(now.values()) == {None}
    assert checked(server, customer, profile_id) == ([(profile_id, False)], [(customer, True)])


def checked(
    server: Server, customer: str, profile_id: str
) -> tuple[list[tuple[str, bool]], list[tuple[str, bool]]]:
    """Return which of two names, among some others, were erased, and whether someone began anew."""
    body = {"profile_ids": [NOBODY, profile_id], "customer_user_ids": ["never", customer]}
    data = ask(server, "POST", CHECK, body=body).json()["data"]
    ids, customers = (
        [(it["id"], it["revived_at"] is not None) for it in data[sort]]
        for sort in ("profile_ids", "customer_user_ids")
    )
    return ids, customers


def test_followers_are_told(server: Server) -> None:
    """The feed has an event of the erasure, with whose key it was and not whose person."""
    customer, profile_id = a_person(server)
    cursor = ask(server, "GET", f"{CHANGES}?after=now").json()["next"]
    erasure_id = erased(server, profile_id=profile_id)["receipt"]["id"]
    [told] = ask(server, "GET", f"{CHANGES}?after={cursor}&wait=5").json()["data"]
    assert (told["type"], told["erasure_id"]) == ("profile.erased", erasure_id)
    assert told["source"]["via"] == "erasure"
    assert told["source"]["key_id"].startswith("key_")
    assert profile_id not in str(told)
    assert customer not in str(told)


def test_all_is_exported_that_is_kept(server: Server) -> None:
    """Profile, what was merged into it, identifiers with their vendors, the whole history."""
    customer, profile_id = a_person(server, branch_id="branch-of-mine")
    merged, merged_id = a_person(server, appsflyer_id="appsflyer-of-mine")
    body = {"survivor": {"profile_id": profile_id}, "source": {"profile_id": merged_id}}
    assert ask(server, "POST", MERGE, body=body).status_code == 200
    for who in ({"customer": customer}, {"profile": merged_id}):
        answer = ask(server, "GET", EXPORT, **who)  # type: ignore[arg-type]
        assert answer.headers["content-disposition"] == 'attachment; filename="profile.json"'
        data = answer.json()["data"]
        assert data["profile_ids"] == [profile_id, merged_id]
        assert sorted(data["customer_user_ids"]) == sorted([customer, merged])
        live, ended = data["profiles"]
        assert (live["state"], ended["state"]) == ("live", "ended")
        assert {"kind": "branch_id", "vendor": "Branch", "value": "branch-of-mine"} in live[
            "identifiers"
        ]
        assert ended["identifiers"] == [
            {"kind": "appsflyer_id", "vendor": "AppsFlyer", "value": "appsflyer-of-mine"}
        ]
        assert {it["profile_id"] for it in data["history"]} == {profile_id, merged_id}
        assert {it["source"]["via"] for it in data["history"]} == {"api", "merge"}
    erased(server, profile_id=merged_id)
    assert error_code(ask(server, "GET", EXPORT, customer=customer)) == (404, "profile_not_found")
    assert sources(ask(server, "GET", EXPORT)) == [None]


def test_nothing_of_the_person_is_left_in_the_database(server: Server, environment: Path) -> None:
    """A canary in every field is in no table, index, history, answer or ledger any more."""
    canary = "CANARY"
    customer = f"{canary}-customer"
    identifiers = {kind.name: f"{canary}-{number}" for number, kind in enumerate(KINDS)}
    attributes = {"custom_attributes": [{"key": "k", "value": f"{canary}-attribute"}]}
    headers = [("Idempotency-Key", f"once-{next(numbers)}")]
    made = ask(server, "POST", PROFILE_PATH, headers, attributes, customer=customer).json()["data"]
    assert (
        ask(
            server, "POST", IDENTIFIERS_PATH, headers=[], body=identifiers, customer=customer
        ).status_code
        == 200
    )
    keeper, keeper_id = a_person(server, branch_id="kept")
    body = {"survivor": {"profile_id": keeper_id}, "source": {"customer_user_id": customer}}
    assert ask(server, "POST", MERGE, body=body).status_code == 200
    undo = {"source": made["profile_id"]}
    assert ask(server, "POST", f"{MERGE}undo/", body=undo).status_code == 200
    assert canary.encode() in stored(server.database)
    erasure_id = erased(server, customer_user_id=customer)["receipt"]["id"]
    if server.database.startswith("sqlite"):
        deadline = time.monotonic() + COMPLETE_SECONDS
        while not receipt(server, erasure_id)["receipt"]["complete"]:
            assert time.monotonic() < deadline
            time.sleep(0.2)
    marks = [canary, made["profile_id"], made["profile_id"].replace("-", "")]
    content = stored(server.database)
    kept = b"".join(it.read_bytes() for it in environment.iterdir())
    for mark in marks:
        assert mark.encode() not in content
        assert mark.encode() not in kept
    if server.database.startswith("sqlite"):
        assert bytes.fromhex(marks[2]) not in content
    assert ask(server, "GET", IDENTIFIERS_PATH, customer=keeper).json()["branch_id"] == "kept"


def test_erasing_needs_a_master_key_and_a_ledger(
    database: str, environment: Path, tmp_path: Path
) -> None:
    """Without either it is refused, with the setting that is missing; the rest works."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    key_file = str(environment / "master.key")
    ledger = {"KNOWNAS_ERASURE_LEDGER": str(tmp_path / "ledger")}
    cases = [({**ledger, "KNOWNAS_MASTER_KEY_FILE": ""}, "KNOWNAS_MASTER_KEY_FILE")]
    if not database.startswith("sqlite"):  # where it stands beside the file
        without = {"KNOWNAS_MASTER_KEY_FILE": key_file, "KNOWNAS_ERASURE_LEDGER": ""}
        cases.append((without, "KNOWNAS_ERASURE_LEDGER"))
    fresh = f"sqlite:///{tmp_path}/fresh.db" if database.startswith("sqlite") else database
    key = msgspec.json.decode(
        knownas("key", "create", "--app", app_in(fresh), "--json", database=fresh)
    )["key"]
    server = Server(url, key, key, fresh)
    for settings, named in cases:
        process = start(fresh, port, **settings)
        try:
            customer, _ = a_person(server)
            answer = ask(server, "POST", ERASURES, body={"customer_user_id": customer})
            assert error_code(answer) == (501, "feature_not_configured")
            assert named in answer.text
            assert ask(server, "GET", EXPORT, customer=customer).status_code == 200
        finally:
            stop(process)


def app_in(database: str) -> str:
    """Make an app of its own, and return its name."""
    name = f"app-{next(numbers)}"
    knownas("app", "create", name, database=database)
    return name


def test_http_answer_is_json(server: Server) -> None:
    """An export is JSON that a person's own program can read."""
    customer, _ = a_person(server)
    answer = PLAIN.get(
        server.url + EXPORT,
        headers={
            "Authorization": f"Api-Key {server.key}",
            "adapty-customer-user-id": customer,
        },
    )
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["data"]["app_id"]
