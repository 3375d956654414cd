"""Batches of reads: a result for each item in order, as one object or as lines.

Threat rows 5, 7, 8, 9, 10, 24 and 39 stand here for this route.
"""

import json
import socket
import time
from collections.abc import Iterable
from typing import Any

import httpx2
import msgspec
import pytest

from conftest import (
    INJECTIONS,
    LOOKALIKES,
    NATIVE_PATH,
    Server,
    ask,
    error_code,
    make_profile,
    raw_request,
    sources,
)

DATABASES = ("sqlite", "postgresql")

BATCH = "/api/v1/batch/read/"
LIMIT = 4 * 1024 * 1024
JSON, LINES = "application/json", "application/x-ndjson"
ABSENT_ID = "00000009-aaaa-4bbb-8ccc-000000000000"


def read(server: Server, *items: object) -> list[Any]:
    """Return the results of a batch."""
    answer = ask(server, "POST", BATCH, body={"items": items})
    assert (answer.status_code, answer.headers["content-type"]) == (200, JSON), answer.text
    results: list[Any] = answer.json()["data"]
    assert len(results) == len(items)
    return results


def post(server: Server, body: bytes, **headers: str) -> httpx2.Response:
    """Send a body with the headers that are given, underscores being dashes."""
    named = [(name.replace("_", "-"), value) for name, value in headers.items()]
    return ask(server, "POST", BATCH, named, body)


def lines(items: Iterable[object]) -> bytes:
    """Return items as lines."""
    return b"".join(msgspec.json.encode(item) + b"\n" for item in items)


# --- Results ----------------------------------------------------------------------------------


def test_each_item_has_its_result_in_order(server: Server) -> None:
    """A profile by id, customer or both, an identifier by kind or alone: each as asked."""
    one = make_profile(server, "one", branch_id="b-one", appsflyer_id="a-one")
    two = make_profile(server, "two", mixpanel_user_id="a-one")
    assert read(
        server,
        {"customer_user_id": "two"},
        {"profile_id": one["profile_id"].upper()},
        {"profile_id": one["profile_id"], "customer_user_id": "one"},
        {"kind": "branch_id", "value": " b-one "},
        {"value": "a-one"},
        {"kind": "branch_id", "value": "a-one"},
        {"customer_user_id": "two", "profile_id": None, "kind": None},
    ) == [
        {"profile": two},
        {"profile": one},
        {"profile": one},
        {"profiles": [one], "more": False},
        {"profiles": [two, one], "more": False},
        {"profiles": [], "more": False},
        {"profile": two},
    ]


def test_profile_with_one_value_as_two_kinds_comes_once(server: Server) -> None:
    """By a value alone a profile is one result, whatever it has the value as."""
    both = make_profile(server, "both", branch_id="twice", appsflyer_id="twice")
    assert read(server, {"value": "twice"}) == [{"profiles": [both], "more": False}]


def test_many_holders_are_cut_at_ten(server: Server) -> None:
    """Of more than ten holders ten come, and it is said that there are more."""
    for number in range(11):
        make_profile(
            server, f"crowd-{number}", branch_id="eleven", appsflyer_id=f"ten-{number == 10}"
        )
    eleven, ten = read(server, {"value": "eleven"}, {"kind": "appsflyer_id", "value": "ten-False"})
    assert (len(eleven["profiles"]), eleven["more"]) == (10, True)
    assert (len(ten["profiles"]), ten["more"]) == (10, False)
    assert len({profile["profile_id"] for profile in eleven["profiles"]}) == 10


@pytest.mark.parametrize(
    ("item", "code", "expected"),
    [
        ({"customer_user_id": "absent"}, "profile_not_found", [None]),
        ({"profile_id": ABSENT_ID}, "profile_not_found", [None]),
        ({"profile_id": ABSENT_ID, "customer_user_id": "kept"}, "profile_not_found", [None]),
        ({}, "validation_error", [None]),
        (None, "validation_error", [None]),
        ([], "validation_error", [None]),
        ("kept", "validation_error", [None]),
        ({"profile_id": None}, "validation_error", [None]),
        ({"customer_user_id": "kept", "value": "x"}, "validation_error", [None]),
        ({"kind": "branch_id"}, "validation_error", ["value"]),
        ({"kind": "brunch_id", "value": "x"}, "validation_error", ["kind"]),
        ({"customer_user_id": "kept", "x": 1}, "validation_error", ["x"]),
        (
            {"customer_user_id": 1, "profile_id": "no"},
            "validation_error",
            ["customer_user_id", "profile_id"],
        ),
        ({"customer_user_id": ""}, "validation_error", ["customer_user_id"]),
        ({"customer_user_id": "x" * 256}, "validation_error", ["customer_user_id"]),
        ({"customer_user_id": "a\u0000b"}, "validation_error", ["customer_user_id"]),
        ({"value": "a\nb"}, "validation_error", ["value"]),
        ({"value": "\u00e9" * 256}, "validation_error", ["value"]),
        ({"value": " "}, "validation_error", ["value"]),
        ({"profile_id": "{" + ABSENT_ID + "}"}, "validation_error", ["profile_id"]),
    ],
)
@pytest.mark.parametrize("as_lines", [False, True])
def test_bad_item_fails_alone(
    server: Server, item: object, code: str, expected: list[str | None], *, as_lines: bool
) -> None:
    """It gets the contract's error in its place; its neighbours are served."""
    good = {"customer_user_id": "kept"}
    kept = make_profile(server, "kept")
    if as_lines:
        answer = post(server, lines([good, item, good]), Content_Type=LINES)
        first, error, last = answer.json()["data"]
    else:
        first, error, last = read(server, good, item, good)
    assert first == last == {"profile": kept}
    status = 404 if code == "profile_not_found" else 400
    assert (error["error_code"], error["status_code"]) == (code, status)
    assert [entry["source"] for entry in error["errors"]] == expected


def test_two_profiles_named_are_a_conflict(server: Server) -> None:
    """An item whose two halves name two profiles is refused as the headers would be."""
    make_profile(server, "left")
    right = make_profile(server, "right")
    (error,) = read(server, {"customer_user_id": "left", "profile_id": right["profile_id"]})
    assert (error["error_code"], error["status_code"]) == ("profile_conflict", 400)


def test_near_kind_is_named(server: Server) -> None:
    """A kind that is none is told which one is near."""
    (error,) = read(server, {"kind": "mixpanel_distinct_id", "value": "x"})
    assert "did you mean mixpanel_user_id?" in error["errors"][0]["errors"][0]


def test_row_05_what_another_app_has_is_absent(server: Server, other: Server) -> None:
    """Through another app's key every item answers what nobody has."""
    mine = make_profile(server, "of-one-app", branch_id="of-one-app")
    assert read(
        other,
        {"customer_user_id": "of-one-app"},
        {"profile_id": mine["profile_id"]},
        {"customer_user_id": "of-one-app", "profile_id": mine["profile_id"]},
        {"value": "of-one-app"},
        {"kind": "branch_id", "value": "of-one-app"},
    ) == read(
        other,
        {"customer_user_id": "absent"},
        {"profile_id": ABSENT_ID},
        {"customer_user_id": "absent", "profile_id": ABSENT_ID},
        {"value": "absent"},
        {"kind": "branch_id", "value": "absent"},
    )


def test_rows_07_and_24_texts_are_kept_apart(server: Server) -> None:
    """Customers and values that look alike, or like code, each find their own profile."""
    texts = [*LOOKALIKES, *INJECTIONS]
    made = [make_profile(server, text, branch_id=f"-{text}-") for text in texts]
    assert read(server, *({"customer_user_id": text} for text in texts)) == [
        {"profile": one} for one in made
    ]
    assert read(server, *({"value": f"-{text}-"} for text in texts)) == [
        {"profiles": [one], "more": False} for one in made
    ]


# --- The body ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "code", "expected"),
    [
        (b"", "validation_error", None),
        (b"{}", "validation_error", "items"),
        (b"[]", "validation_error", None),
        (b'{"items":null}', "validation_error", "items"),
        (b'{"items":[]}', "validation_error", "items"),
        (b'{"items":{}}', "validation_error", "items"),
        (b'{"items":[' + b"{}," * 1_000 + b"{}]}", "validation_error", "items"),
        (b'{"items":[{}],"atomic":true}', "validation_error", "atomic"),
        (b'{"items":[{}]', "parse_error", None),
        (b'{"items":[{}]} x', "parse_error", None),
        (b'{"items":[{}],"items":[{}]}', "parse_error", None),
        (b'{"items":[{"value":"a","value":"b"}]}', "parse_error", None),
        (b'{"items":[{"value":"a","v\\u0061lue":"b"}]}', "parse_error", None),
        (b'{"items":[{"x":1,"x":2}]}', "parse_error", None),
        (b'{"items":[{"value":"\\ud800"}]}', "parse_error", None),
        (b'{"items":[{"value":"\xff"}]}', "parse_error", None),
        (b'{"items":[NaN]}', "parse_error", None),
        (b'{"items":' + b"[" * 40 + b"]" * 40 + b"}", "parse_error", None),
        (b'{"items":' + b"[" * 100_000, "parse_error", None),
        (b'\xef\xbb\xbf{"items":[{}]}', "parse_error", None),
    ],
    ids=lambda it: f"{it[:40]!a} {len(it)}" if isinstance(it, bytes) else None,
)
def test_row_10_bad_body_is_refused(
    server: Server, body: bytes, code: str, expected: str | None
) -> None:
    """What is no object of 1 to 1,000 items, in strict JSON, is a 400."""
    answer = post(server, body, Content_Type=JSON)
    assert error_code(answer) == (400, code)
    assert sources(answer) == [expected]


def test_thousand_items_are_taken(server: Server) -> None:
    """A thousand items of all sorts have a thousand results."""
    thousand = make_profile(server, "thousand", branch_id="thousand")
    sorts = [
        ({"customer_user_id": "thousand"}, {"profile": thousand}),
        ({"value": "thousand"}, {"profiles": [thousand], "more": False}),
        ({"kind": "appsflyer_id", "value": "thousand"}, {"profiles": [], "more": False}),
    ]
    chosen = [sorts[number % 3] for number in range(1_000)]
    assert read(server, *(item for item, _ in chosen)) == [result for _, result in chosen]


def test_row_09_body_has_at_most_4_mib(server: Server) -> None:
    """A body of just 4 MiB is taken, one byte more is a 413, also without an announced length."""
    make_profile(server, "large")
    head, tail = b'{"items":[{"customer_user_id":"large"}', b"]}"
    body = head + b" " * (LIMIT - len(head + tail)) + tail
    assert post(server, body).status_code == 200
    assert error_code(post(server, body + b" ")) == (413, "payload_too_large")
    with httpx2.Client() as http:
        for extra, status in ((b"", 200), (b" ", 413)):
            pieces = ((body + extra)[at : at + 50_000] for at in range(0, LIMIT + 1, 50_000))
            answer = http.post(
                server.url + BATCH,
                headers={"Authorization": f"Api-Key {server.key}"},
                content=pieces,
            )
            assert answer.status_code == status


def test_row_12_media_types(server: Server) -> None:
    """JSON and lines are taken, with any parameters; anything else is a 415 that says so."""
    make_profile(server, "typed")
    item = b'{"customer_user_id":"typed"}'
    for media_type, body in (
        (f"{JSON}; charset=utf-8", b'{"items":[' + item + b"]}"),
        (f"{LINES.upper()};x=y", item),
    ):
        assert post(server, body, Content_Type=media_type).status_code == 200
    for headers in (
        {"Content_Type": "text/plain"},
        {"Content_Type": "application/jsonl"},
        {"Content_Type": LINES, "Content_Encoding": "gzip"},
    ):
        answer = post(server, item, **headers)
        assert error_code(answer) == (415, "unsupported_media_type")
        assert LINES in answer.json()["errors"][0]["errors"][0]


# --- Lines ------------------------------------------------------------------------------------


def test_lines_are_taken_and_given(server: Server) -> None:
    """A line in is a line out, each as it would be in an object; either way round, too."""
    make_profile(server, "line-1", branch_id="line")
    make_profile(server, "line-2", branch_id="line")
    items: list[object] = [
        {"customer_user_id": "line-1"},
        {"customer_user_id": "absent"},
        {"value": "line"},
        {"bad": 1},
    ]
    expected = read(server, *items)
    body = msgspec.json.encode({"items": items})
    for answer in (
        post(server, lines(items), Content_Type=LINES, Accept=LINES),
        post(server, body, Accept=f"text/html, {LINES};q=0.9, */*"),
    ):
        assert (answer.status_code, answer.headers["content-type"]) == (200, LINES)
        assert "request-id" in answer.headers
        got = dechunked(answer.content).splitlines(keepends=True)
        assert all(line.endswith(b"\n") for line in got)
        assert [json.loads(line) for line in got] == expected
    assert post(server, lines(items), Content_Type=LINES).json()["data"] == expected


def dechunked(content: bytes) -> bytes:
    """Return a body that was sent in chunks."""
    body = b""
    while content:
        size, _, content = content.partition(b"\r\n")
        body += content[: int(size, 16)]
        content = content[int(size, 16) + 2 :]
    return body


def test_line_that_is_no_json_fails_alone(server: Server) -> None:
    """Each line is parsed by itself, as strictly as a body; blank ones do not count."""
    make_profile(server, "lonely")
    good = b'{"customer_user_id":"lonely"}'
    bad = (
        (b"{", "parse_error"),
        (b"[]", "validation_error"),
        (b'{"value":"a","value":"b"}', "parse_error"),
        (b'{"value":"\xff"}', "parse_error"),
        (b"[" * 5_000, "parse_error"),
    )
    body = b"\r\n\n".join([good, *(line for line, _ in bad), b"  ", good])
    results = post(server, body, Content_Type=LINES).json()["data"]
    assert results[0] == results[-1]
    assert results[0]["profile"]["customer_user_id"] == "lonely"
    assert [it["error_code"] for it in results[1:-1]] == [code for _, code in bad]


@pytest.mark.parametrize("body", [b"\n", b" \r\n\n", b"{}\n" * 1_001])
def test_number_of_lines_is_bounded(server: Server, body: bytes) -> None:
    """No line at all, and more than a thousand, are a 400."""
    answer = post(server, body, Content_Type=LINES, Accept=LINES)
    assert error_code(answer) == (400, "validation_error")
    assert answer.headers["content-type"] == JSON


def test_row_39_lines_wait_for_a_client_that_reads_slowly(server: Server) -> None:
    """A large answer comes whole to who pauses, and the server goes on meanwhile."""
    value = "x" * 255
    make_profile(
        server, "slow", **dict.fromkeys(("branch_id", "appsflyer_id", "adjust_device_id"), value)
    )
    body = lines([{"customer_user_id": "slow"}] * 1_000)
    request = raw_request(server, "POST", BATCH, [("Content-Type", LINES), ("Accept", LINES)], body)
    url = httpx2.URL(server.url)
    received = b""
    with socket.create_connection((url.host, url.port), timeout=10) as connection:
        connection.sendall(request)
        time.sleep(0.5)
        assert ask(server, "GET", NATIVE_PATH, customer="slow").status_code == 200
        while chunk := connection.recv(65_536):
            received += chunk
    body = dechunked(received.partition(b"\r\n\r\n")[2])
    assert body.count(b"\n") == 1_000
    assert len(set(body.splitlines())) == 1
