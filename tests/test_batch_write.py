"""Batches of writes: a result for each item in order, or all of them or nothing.

Threat rows 5, 7, 8, 9, 10 and 24 stand here for this route.
"""

import json
import secrets
from typing import Any

import httpx2
import msgspec
import pytest

from conftest import (
    IDENTIFIERS_PATH,
    INJECTIONS,
    LOOKALIKES,
    NATIVE_PATH,
    PLAIN,
    PROFILE_PATH,
    Server,
    ask,
    error_code,
    make_profile,
    sources,
)
from knownas.model import KINDS

DATABASES = ("sqlite", "postgresql")

BATCH = "/api/v1/batch/write/"
HISTORY = "/api/v1/profile/history/"
LIMIT = 4 * 1024 * 1024
LINES = "application/x-ndjson"
ABSENT_ID = "00000009-aaaa-4bbb-8ccc-000000000000"


def post(server: Server, items: object, query: str = "", **headers: str) -> httpx2.Response:
    """Send items, or a body as it is."""
    body = items if isinstance(items, bytes) else {"items": items}
    named = [(name.replace("_", "-"), value) for name, value in headers.items()]
    return ask(server, "POST", f"{BATCH}?{query}", named, body)


def write(server: Server, *items: object, query: str = "") -> list[Any]:
    """Return the results of a batch."""
    answer = post(server, list(items), query)
    assert answer.status_code == 200, answer.text
    results: list[Any] = answer.json()["data"]
    assert len(results) == len(items)
    return results


def item(customer: str, *clear: str, **identifiers: str) -> dict[str, Any]:
    """Return an item that sets identifiers of a customer's profile, and clears kinds."""
    made: dict[str, Any] = {"customer_user_id": customer}
    if identifiers:
        made["identifiers"] = identifiers
    if clear:
        made["clear"] = list(clear)
    return made


def identifiers(server: Server, customer: str) -> dict[str, str]:
    """Return the identifiers of a customer's profile that are set."""
    found = ask(server, "GET", NATIVE_PATH, customer=customer).json()
    values: dict[str, str] = found["data"]["identifiers"]
    return values


# --- Results ----------------------------------------------------------------------------------


def test_each_item_is_done_in_order(server: Server) -> None:
    """By id, customer or both: each result is the profile's id and its revision then."""
    one = make_profile(server, "one", branch_id="old")
    two = make_profile(server, "two", branch_id="old", appsflyer_id="old")
    both = {"profile_id": two["profile_id"], "customer_user_id": "two"}
    results = write(
        server,
        item("one", branch_id=" new\t", adjust_device_id="d"),
        {"profile_id": two["profile_id"].upper(), "clear": ["branch_id", "branch_id"]},
        {**both, "identifiers": {"mixpanel_user_id": "m", "branch_id": None}},
        item("one", "adjust_device_id"),
    )
    assert results == [
        {"profile_id": one["profile_id"], "revision": 3},
        {"profile_id": two["profile_id"], "revision": 3},
        {"profile_id": two["profile_id"], "revision": 4},
        {"profile_id": one["profile_id"], "revision": 4},
    ]
    assert identifiers(server, "one") == {"branch_id": "new"}
    assert identifiers(server, "two") == {"appsflyer_id": "old", "mixpanel_user_id": "m"}


def test_each_change_is_in_the_history(server: Server) -> None:
    """A profile that three items change has three changes, by the API and its key."""
    made = make_profile(server, "thrice")
    write(server, *(item("thrice", branch_id=str(number)) for number in range(3)))
    found = ask(server, "GET", HISTORY, profile=made["profile_id"]).json()["data"][:3]
    assert [it["revision"] for it in found] == [4, 3, 2]
    assert [it["changes"]["identifiers"]["branch_id"]["new"] for it in found] == ["2", "1", "0"]
    assert {it["source"]["via"] for it in found} == {"api"}


def test_what_is_so_already_changes_nothing(server: Server) -> None:
    """An item that sets what is there, or clears what is not, answers the revision as it is."""
    made = make_profile(server, "still", branch_id="b")
    results = write(server, item("still", branch_id="b"), item("still", "appsflyer_id"))
    assert results == [{"profile_id": made["profile_id"], "revision": 2}] * 2
    assert ask(server, "GET", NATIVE_PATH, customer="still").json()["data"] == made


def test_clearing_comes_before_setting(server: Server) -> None:
    """With `all` an item replaces every identifier; a kind that is in both is set."""
    make_profile(server, "replaced", branch_id="b", appsflyer_id="a")
    write(server, {**item("replaced", branch_id="new"), "clear": "all"})
    assert identifiers(server, "replaced") == {"branch_id": "new"}
    write(server, item("replaced", "branch_id", branch_id="newer"))
    assert identifiers(server, "replaced") == {"branch_id": "newer"}
    write(server, {"customer_user_id": "replaced", "clear": "all"})
    assert identifiers(server, "replaced") == {}


BAD: list[tuple[object, str, list[str | None]]] = [
    ({}, "validation_error", [None]),
    (None, "validation_error", [None]),
    ([], "validation_error", [None]),
    ("kept", "validation_error", [None]),
    (item("kept"), "validation_error", [None]),
    (item("kept", branch_id="x") | {"customer_user_id": None}, "validation_error", [None]),
    (item("kept") | {"identifiers": {}}, "validation_error", ["identifiers"]),
    (item("kept") | {"identifiers": {"branch_id": None}}, "validation_error", ["identifiers"]),
    (item("kept") | {"identifiers": "x"}, "validation_error", ["identifiers"]),
    (item("kept") | {"identifiers": []}, "validation_error", ["identifiers"]),
    (item("kept", branch_id=" "), "validation_error", ["identifiers.branch_id"]),
    (item("kept", branch_id="x" * 256), "validation_error", ["identifiers.branch_id"]),
    (item("kept", branch_id="a\u0000b"), "validation_error", ["identifiers.branch_id"]),
    (item("kept", brunch_id="x", branch_id="x"), "validation_error", ["identifiers.brunch_id"]),
    (
        item("kept") | {"identifiers": {"branch_id": 1}},
        "validation_error",
        ["identifiers.branch_id"],
    ),
    (item("kept") | {"clear": []}, "validation_error", ["clear"]),
    (item("kept") | {"clear": "branch_id"}, "validation_error", ["clear"]),
    (item("kept", "branch_id", "x"), "validation_error", ["clear[1]"]),
    (item("kept", branch_id="x") | {"atomic": True}, "validation_error", ["atomic"]),
    (item("x" * 256, branch_id="x"), "validation_error", ["customer_user_id"]),
    (
        item("kept", "x", branch_id="") | {"y": 1, "profile_id": "no"},
        "validation_error",
        ["y", "profile_id", "identifiers.branch_id", "clear[0]"],
    ),
    (item("absent", branch_id="x"), "profile_not_found", [None]),
    (item("absent", "branch_id"), "profile_not_found", [None]),
    ({"profile_id": ABSENT_ID, "clear": "all"}, "profile_not_found", [None]),
    (item("kept", branch_id="x") | {"profile_id": ABSENT_ID}, "profile_not_found", [None]),
]
bad_items = pytest.mark.parametrize(("bad", "code", "expected"), BAD)


@bad_items
@pytest.mark.parametrize("as_lines", [False, True])
def test_bad_item_fails_alone(
    server: Server, bad: object, code: str, expected: list[str | None], *, as_lines: bool
) -> None:
    """It gets the contract's error in its place; its neighbours are done."""
    make_profile(server, "kept", branch_id="kept")
    make_profile(server, "neighbour")
    value = secrets.token_hex(4)
    items = [item("neighbour", branch_id=value), bad, item("neighbour", appsflyer_id=value)]
    if as_lines:
        body = b"".join(msgspec.json.encode(it) + b"\n" for it in items)
        first, error, last = post(server, body, Content_Type=LINES).json()["data"]
    else:
        first, error, last = write(server, *items)
    assert last["revision"] == first["revision"] + 1
    assert (error["error_code"], error["status_code"]) == (
        code,
        404 if code == "profile_not_found" else 400,
    )
    assert [it["source"] for it in error["errors"]] == expected
    assert identifiers(server, "neighbour") == {"branch_id": value, "appsflyer_id": value}
    assert identifiers(server, "kept") == {"branch_id": "kept"}


@bad_items
def test_atomic_batch_does_all_or_nothing(
    server: Server, bad: object, code: str, expected: list[str | None]
) -> None:
    """One item that cannot be done fails the batch, which says which and why."""
    del code
    make_profile(server, "kept", branch_id="kept")
    before = make_profile(server, "whole")
    items = [item("whole", branch_id="x"), bad, item("whole", appsflyer_id="x")]
    answer = post(server, items, "atomic=true")
    assert error_code(answer) == (409, "batch_failed")
    assert [it["source"] for it in answer.json()["errors"]] == [
        "items[1]" if it is None else f"items[1].{it}" for it in expected
    ]
    assert ask(server, "GET", NATIVE_PATH, customer="whole").json()["data"] == before


def test_every_failure_of_an_atomic_batch_is_told(server: Server) -> None:
    """Of several items that cannot be done each has its entry, with its position."""
    make_profile(server, "fine")
    items = [
        item("nobody", branch_id="x"),
        item("fine", branch_id="x"),
        item("no-one", "branch_id"),
    ]
    answer = post(server, items, "atomic=true")
    assert [it["source"] for it in answer.json()["errors"]] == ["items[0]", "items[2]"]
    assert identifiers(server, "fine") == {}


def test_two_profiles_named_are_a_conflict(server: Server) -> None:
    """An item whose two halves name two profiles is refused as the headers would be."""
    make_profile(server, "left")
    right = make_profile(server, "right")
    both = item("left", branch_id="x") | {"profile_id": right["profile_id"]}
    (error,) = write(server, both)
    assert (error["error_code"], error["status_code"]) == ("profile_conflict", 400)


def test_profiles_are_made_where_that_is_asked_for(server: Server) -> None:
    """With `create` an unknown profile is made, bound or found as POST /profile/ would do it."""
    bound_id = "00000001-aaaa-4bbb-8ccc-000000000001"
    made_id = "00000001-aaaa-4bbb-8ccc-000000000002"
    assert ask(server, "POST", PROFILE_PATH, profile=bound_id).is_success
    value = {"identifiers": {"branch_id": "made"}}
    results = write(
        server,
        item("made-1", branch_id="one"),
        {"profile_id": made_id, **value},
        {"profile_id": bound_id, "customer_user_id": "made-2", **value},
        item("made-1", branch_id="again"),
        item("made-3", "branch_id"),
        {"profile_id": bound_id, "customer_user_id": "made-1", **value},
        query="create=true",
    )
    assert [it.get("revision") for it in results] == [1, 1, 2, 2, 1, None]
    assert results[5]["error_code"] == "profile_conflict"
    assert [it["profile_id"] for it in results[1:4]] == [
        made_id,
        bound_id,
        results[0]["profile_id"],
    ]
    assert identifiers(server, "made-1") == {"branch_id": "again"}
    assert identifiers(server, "made-2") == {"branch_id": "made"}
    assert identifiers(server, "made-3") == {}
    assert (
        write(server, item("nobody-yet", branch_id="x"), query="create=false")[0]["status_code"]
        == 404
    )


def test_atomic_batch_makes_no_profile_where_it_fails(server: Server) -> None:
    """What a failed batch would have made is not there."""
    both = {"profile_id": make_profile(server, "has")["profile_id"], "customer_user_id": "unmade"}
    items = [item("unmade", branch_id="x"), {**both, "identifiers": {"branch_id": "x"}}]
    assert error_code(post(server, items, "atomic=true&create=true")) == (409, "batch_failed")
    assert ask(server, "GET", NATIVE_PATH, customer="unmade").status_code == 404


def test_row_05_another_apps_profile_is_absent(server: Server, other: Server) -> None:
    """Through another app's key an item answers what an unknown profile would, and changes none."""
    mine = make_profile(server, "of-one-app", branch_id="kept")
    results = write(
        other,
        item("of-one-app", branch_id="changed"),
        {"profile_id": mine["profile_id"], "clear": "all"},
        item("absent", branch_id="changed"),
    )
    assert results[0] == results[1] == results[2]
    assert results[0]["status_code"] == 404
    assert identifiers(server, "of-one-app") == {"branch_id": "kept"}


def test_rows_07_and_24_texts_are_kept_apart(server: Server) -> None:
    """Customers and values that look alike, or like code, are stored as they are."""
    texts = [*LOOKALIKES, *INJECTIONS]
    write(server, *(item(text, branch_id=f"-{text}-") for text in texts), query="create=true")
    for text in texts:
        assert ask(server, "GET", IDENTIFIERS_PATH, customer=text.encode()).json()["branch_id"] == (
            f"-{text}-"
        )


# --- The request ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "code", "expected"),
    [
        (b"", "validation_error", None),
        (b"{}", "validation_error", "items"),
        (b"[]", "validation_error", None),
        (b'{"items":[]}', "validation_error", "items"),
        (b'{"items":[' + b"{}," * 1_000 + b"{}]}", "validation_error", "items"),
        (b'{"items":[{}],"atomic":true}', "validation_error", "atomic"),
        (b'{"items":[{}]', "parse_error", None),
        (b'{"items":[{"clear":"all","clear":"all"}]}', "parse_error", None),
        (b'{"items":[{"identifiers":{"branch_id":"\\ud800"}}]}', "parse_error", None),
        (b'{"items":' + b"[" * 40 + b"]" * 40 + b"}", "parse_error", None),
    ],
    ids=lambda it: f"{it[:40]!a} {len(it)}" if isinstance(it, bytes) else None,
)
@pytest.mark.parametrize("query", ["", "atomic=true"])
def test_row_10_bad_body_is_refused(
    server: Server, body: bytes, code: str, expected: str | None, query: str
) -> None:
    """What is no object of 1 to 1,000 items, in strict JSON, is a 400."""
    answer = post(server, body, query)
    assert error_code(answer) == (400, code)
    assert sources(answer) == [expected]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        *((f"atomic={value}", ["atomic"]) for value in ("", "1", "True", "yes")),
        *((f"create={value}", ["create"]) for value in ("", "1", "TRUE", "no")),
        ("atomic=true&atomic=true", ["atomic"]),
        ("dry_run=true", ["dry_run"]),
    ],
)
def test_bad_parameter_is_named(server: Server, query: str, expected: list[str]) -> None:
    """A parameter that is unknown, doubled, or neither true nor false is a 400."""
    make_profile(server, "asked")
    answer = post(server, [item("asked", branch_id="x")], query)
    assert error_code(answer) == (400, "validation_error")
    assert sources(answer) == expected
    assert identifiers(server, "asked") == {}


def test_thousand_items_are_done(server: Server) -> None:
    """A thousand profiles are made and set in one request, each in its place."""
    customers = [f"thousand-{number}" for number in range(1_000)]
    results = write(
        server, *(item(it, branch_id=it) for it in customers), query="create=true&atomic=true"
    )
    assert len({it["profile_id"] for it in results}) == 1_000
    assert {it["revision"] for it in results} == {1}
    found = ask(
        server,
        "POST",
        "/api/v1/batch/read/",
        body={"items": [{"customer_user_id": it} for it in customers]},
    ).json()["data"]
    assert [it["profile"]["identifiers"]["branch_id"] for it in found] == customers
    assert [it["profile"]["profile_id"] for it in found] == [it["profile_id"] for it in results]


def test_row_09_body_has_at_most_4_mib(server: Server) -> None:
    """A body of just 4 MiB is taken, one byte more is a 413."""
    make_profile(server, "large")
    head, tail = b'{"items":[{"customer_user_id":"large","clear":"all"}', b"]}"
    body = head + b" " * (LIMIT - len(head + tail)) + tail
    assert post(server, body).status_code == 200
    assert error_code(post(server, body + b" ")) == (413, "payload_too_large")


def test_row_12_media_types(server: Server) -> None:
    """JSON and lines are taken; anything else is a 415."""
    make_profile(server, "typed")
    line = msgspec.json.encode(item("typed", "branch_id"))
    assert post(server, line, Content_Type=f"{LINES}; charset=utf-8").status_code == 200
    for headers in (
        {"Content_Type": "text/csv"},
        {"Content_Type": LINES, "Content_Encoding": "gzip"},
    ):
        assert error_code(post(server, line, **headers)) == (415, "unsupported_media_type")


def test_results_are_had_as_lines(server: Server) -> None:
    """With `Accept` the results come one a line, as they are in a list."""
    make_profile(server, "lined", branch_id="b")
    items = [item("lined", branch_id="b"), item("absent", branch_id="b"), {}]
    expected = write(server, *items)
    body = msgspec.json.encode({"items": items})
    headers = {"Authorization": f"Api-Key {server.key}", "Accept": LINES}
    answer = PLAIN.post(server.url + BATCH, headers=headers, content=body)
    assert (answer.status_code, answer.headers["content-type"]) == (200, LINES)
    assert [json.loads(line) for line in answer.content.splitlines()] == expected


def test_line_that_is_no_json_fails_alone_unless_atomic(server: Server) -> None:
    """Each line is parsed by itself; in an atomic batch one that is no JSON fails all."""
    make_profile(server, "parsed")
    body = b"\n".join([msgspec.json.encode(item("parsed", branch_id="x")), b"{", b"[]"])
    answer = post(server, body, "atomic=true", Content_Type=LINES)
    assert error_code(answer) == (409, "batch_failed")
    assert [it["source"] for it in answer.json()["errors"]] == ["items[1]", "items[2]"]
    assert identifiers(server, "parsed") == {}
    results = post(server, body, Content_Type=LINES).json()["data"]
    assert [it.get("error_code") for it in results] == [None, "parse_error", "validation_error"]
    assert identifiers(server, "parsed") == {"branch_id": "x"}


def test_batch_of_bad_items_alone_does_nothing(server: Server) -> None:
    """Where no item is sound the answer is their errors."""
    assert [it["error_code"] for it in write(server, {}, [])] == ["validation_error"] * 2


def test_every_kind_can_be_set_and_cleared(server: Server) -> None:
    """All kinds in one item, set and then cleared by name."""
    values = {kind.name: f"every-{kind.name}" for kind in KINDS}
    write(server, item("every", **values), query="create=true")
    assert identifiers(server, "every") == values
    write(server, item("every", *values))
    assert identifiers(server, "every") == {}


def test_only_a_secret_key_is_served(server: Server) -> None:
    """Without a key, with an unknown or a public one, the answer is 401, whatever is asked."""
    for key in ("", "unknown", server.public_key):
        answer = post(server._replace(key=key), b"bad", "bad")
        assert error_code(answer) == (401, "unauthorized")
