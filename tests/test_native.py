"""The native API: reverse look-ups, whole profiles, clearing. Batches are in `test_batch.py`.

Threat rows 5, 7, 8, 10 and 24 stand here for these routes.
"""

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, quote_plus

import httpx2
import pytest

from conftest import (
    IDENTIFIERS_PATH,
    INJECTIONS,
    LOOKALIKES,
    NATIVE_PATH,
    PROFILE_PATH,
    Server,
    Who,
    ask,
    error_code,
    make_profile,
    sources,
)
from knownas.model import KINDS

DATABASES = ("sqlite", "postgresql")

FIND = "/api/v1/profiles/"
CLEAR = "/api/v1/profile/clear/"
ID = "00000001-aaaa-4bbb-8ccc-000000000000"


def make(server: Server, customer: str, **values: str) -> str:
    """Make a profile with identifiers and return its id."""
    profile_id: str = make_profile(server, customer, **values)["profile_id"]
    return profile_id


def find(server: Server, **parameters: object) -> httpx2.Response:
    """Look profiles up; the parameters are encoded."""
    query = "&".join(f"{name}={quote(str(value))}" for name, value in parameters.items())
    return ask(server, "GET", f"{FIND}?{query}")


def found(server: Server, **parameters: object) -> list[tuple[str, str]]:
    """Return the kind and the customer of each holder that is found."""
    answer = find(server, **parameters)
    assert answer.status_code == 200, answer.text
    return [(it["kind"], it["profile"]["customer_user_id"]) for it in answer.json()["data"]]


# --- Reverse look-ups -----------------------------------------------------------------------


def test_profile_is_found_by_kind_and_value(server: Server) -> None:
    """The answer has the kind and the whole profile, its set identifiers only."""
    profile_id = make(server, "by-kind", appsflyer_id="1741-31", branch_id="b-by-kind")
    attributes = {"custom_attributes": [{"key": "plan", "value": "gold"}]}
    assert ask(server, "PATCH", PROFILE_PATH, body=attributes, customer="by-kind").is_success
    answer = find(server, kind="appsflyer_id", value="1741-31")
    assert answer.headers["content-type"] == "application/json"
    (holder,) = answer.json()["data"]
    profile = holder["profile"]
    assert isinstance(profile.pop("created_at"), int)
    assert isinstance(profile.pop("updated_at"), int)
    assert isinstance(profile.pop("revision"), int)
    assert answer.json()["next"] is None
    assert holder == {
        "kind": "appsflyer_id",
        "profile": {
            "profile_id": profile_id,
            "customer_user_id": "by-kind",
            "identifiers": {"appsflyer_id": "1741-31", "branch_id": "b-by-kind"},
            "custom_attributes": [{"key": "plan", "value": "gold"}],
        },
    }


def test_value_alone_is_looked_for_as_every_kind(server: Server) -> None:
    """Each profile is there once for each kind as which it has the value."""
    make(server, "alone-1", branch_id="alone", appsflyer_id="alone")
    make(server, "alone-2", posthog_distinct_user_id="alone")
    assert found(server, value="alone") == [
        ("appsflyer_id", "alone-1"),
        ("branch_id", "alone-1"),
        ("posthog_distinct_user_id", "alone-2"),
    ]
    assert found(server, value="alone", kind="branch_id") == [("branch_id", "alone-1")]


def test_nobody_is_no_error(server: Server) -> None:
    """A value that no profile has is answered with an empty list."""
    for parameters in ({"value": "nobody"}, {"value": "nobody", "kind": "branch_id"}):
        answer = find(server, **parameters)
        assert (answer.status_code, answer.content) == (200, b'{"data":[],"next":null}')


def test_value_is_trimmed_as_a_stored_one(server: Server) -> None:
    """White space at the ends is no part of a value, as in a write."""
    make(server, "trimmed", branch_id=" tri mmed\t")
    assert found(server, value="\ttri mmed \n") == [("branch_id", "trimmed")]


def test_head_and_no_last_slash_do_as_the_path(server: Server) -> None:
    """HEAD answers without a body, and the path without its slash the same."""
    make(server, "spelt", branch_id="spelt")
    path = f"{FIND}?kind=branch_id&value=spelt"
    whole = ask(server, "GET", path)
    assert ask(server, "GET", path.replace("/?", "?")).content == whole.content
    head = ask(server, "HEAD", path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == whole.headers["content-length"]


def test_rows_07_and_24_values_are_found_byte_by_byte(server: Server) -> None:
    """Whatever a value looks like, it finds the one profile that has it, however it is encoded."""
    texts = [text for text in (*LOOKALIKES, *INJECTIONS) if text == text.strip()]
    for number, text in enumerate(texts):
        make(server, f"text-{number}", branch_id=text)
    for number, text in enumerate(texts):
        expected = [("branch_id", f"text-{number}")]
        assert found(server, kind="branch_id", value=text) == expected, text
        for encoded in (quote_plus(text), "".join(f"%{byte:02X}" for byte in text.encode())):
            answer = ask(server, "GET", f"{FIND}?value={encoded}&kind=branch_id")
            assert [
                (it["kind"], it["profile"]["customer_user_id"]) for it in answer.json()["data"]
            ] == expected


@pytest.mark.parametrize("parameters", [{}, {"kind": "mixpanel_user_id"}])
@pytest.mark.parametrize("limit", [None, 1, 7, 24, 25, 99, 100])
def test_pages_hold_each_holder_once(
    shared: Server, parameters: dict[str, str], limit: int | None
) -> None:
    """From page to page each holder comes once; the last page has no next."""
    query: dict[str, object] = {**parameters, "value": "shared"}
    if limit is not None:
        query["limit"] = limit
    seen: list[tuple[str, str]] = []
    while True:
        answer = find(shared, **query).json()
        page = [(it["kind"], it["profile"]["customer_user_id"]) for it in answer["data"]]
        seen += page
        if answer["next"] is None:
            break
        assert len(page) == (limit or 20)
        query["cursor"] = answer["next"]
    expected = [("mixpanel_user_id", f"shared-{n}") for n in range(25)]
    if not parameters:
        expected += [("branch_id", "shared-0"), ("branch_id", "shared-1")]
    assert sorted(seen) == sorted(expected)


@pytest.fixture(scope="module")
def shared(server: Server) -> Server:
    """Give the server with 25 profiles that share a value, two of them as another kind, too."""
    for n in range(25):
        values = {"mixpanel_user_id": "shared"} | ({"branch_id": "shared"} if n < 2 else {})
        make(server, f"shared-{n}", **values)
    return server


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", ["value"]),
        ("kind=branch_id", ["value"]),
        ("value", ["value"]),
        ("value=", ["value"]),
        ("value=%20%09", ["value"]),
        ("value=" + "x" * 256, ["value"]),
        ("value=" + "%C3%A9" * 256, ["value"]),
        ("value=a%00b", ["value"]),
        ("value=a%0Ab", ["value"]),
        ("value=a%C2%85b", ["value"]),
        ("value=%", ["value"]),
        ("value=%4", ["value"]),
        ("value=a%zzb", ["value"]),
        ("value=%E9", ["value"]),
        ("value=%ED%A0%80", ["value"]),
        ("value=%C0%80", ["value"]),
        ("value=a&value=a", ["value"]),
        ("value=a&%76alue=b", ["value"]),
        ("value=a&kind=", ["kind"]),
        ("value=a&kind=brunch_id", ["kind"]),
        ("value=a&kind=branch_id&kind=branch_id", ["kind"]),
        ("value=a&kind=Branch_id", ["kind"]),
        *((f"value=a&limit={limit}", ["limit"]) for limit in ("", "0", "101", "-1", "1e1", "07")),
        ("value=a&limit=%D9%A1", ["limit"]),
        *((f"value=a&cursor={cursor}", ["cursor"]) for cursor in ("", "x", "0" * 33, "A" * 34)),
        ("value=a&values=b", ["values"]),
        ("value=a&%FF=b", ["\ufffd"]),
        ("value=a&value=b&limit=1&limit=2&x=1", ["value", "limit", "x"]),
    ],
)
def test_bad_parameter_is_named(server: Server, query: str, expected: list[str]) -> None:
    """A parameter that is missing, unknown, doubled or no valid text is a 400 that names it."""
    answer = ask(server, "GET", f"{FIND}?{query}")
    assert error_code(answer) == (400, "validation_error")
    assert sources(answer) == expected


def test_near_kind_is_named(server: Server) -> None:
    """A kind that is none is told which one is near."""
    answer = find(server, value="a", kind="mixpanel_distinct_id")
    (entry,) = answer.json()["errors"]
    assert "did you mean mixpanel_user_id?" in entry["errors"][0]


def test_what_means_nothing_in_a_query_is_left_out(server: Server) -> None:
    """Empty parts of a query ask nothing."""
    make(server, "parts", branch_id="parts")
    answer = ask(server, "GET", f"{FIND}?&&value=parts&")
    assert len(answer.json()["data"]) == 1


def test_any_cursor_of_the_form_is_a_place(server: Server) -> None:
    """A cursor that no answer gave finds what comes after it, if only nothing."""
    make(server, "placed", branch_id="placed")
    for cursor in ("0" * 34, "f" * 34, "0c" + "f" * 32, "ff" + "0" * 32):
        answer = find(server, value="placed", cursor=cursor)
        assert (answer.status_code, answer.json()["next"]) == (200, None)
        assert len(answer.json()["data"]) == (cursor == "0" * 34)


def test_row_05_another_apps_holder_is_nobody(server: Server, other: Server) -> None:
    """Through another app's key a value finds the bytes of one that nobody has."""
    make(server, "mine", branch_id="of-one-app")
    nobody = find(other, value="absent")
    for parameters in ({}, {"kind": "branch_id"}, {"limit": "1"}, {"cursor": "0" * 34}):
        answer = find(other, value="of-one-app", **parameters)
        assert (answer.status_code, answer.content) == (200, nobody.content)
        assert set(answer.headers) == set(nobody.headers)
    make(other, "theirs", branch_id="of-one-app")
    assert found(other, value="of-one-app") == [("branch_id", "theirs")]
    assert found(server, value="of-one-app") == [("branch_id", "mine")]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", f"{FIND}?value=x"),
        ("GET", f"{FIND}?bad"),
        ("GET", NATIVE_PATH),
        ("POST", CLEAR),
        ("POST", "/api/v1/batch/read/"),
    ],
)
def test_only_a_secret_key_is_served(server: Server, method: str, path: str) -> None:
    """Without a key, with an unknown or a public one, the answer is 401, whatever is asked."""
    for key in ("", "unknown", server.public_key):
        answer = ask(server._replace(key=key), method, path, body={"bad": 1}, customer="c")
        assert error_code(answer) == (401, "unauthorized")


# --- A profile ------------------------------------------------------------------------------


def test_profile_is_answered_whole(server: Server) -> None:
    """A profile has its ids, set identifiers in their order, attributes and times."""
    profile_id = make(server, "whole", **{kind.name: f"v-{kind.name}" for kind in KINDS})
    for who in (Who(customer="whole"), Who(profile=profile_id.upper())):
        data = ask(server, "GET", NATIVE_PATH, **who).json()["data"]
        assert list(data) == [
            *("profile_id", "customer_user_id", "identifiers"),
            *("custom_attributes", "created_at", "updated_at", "revision"),
        ]
        assert (data["profile_id"], data["customer_user_id"]) == (profile_id, "whole")
        assert list(data["identifiers"].items()) == [
            (kind.name, f"v-{kind.name}") for kind in KINDS
        ]
        assert data["custom_attributes"] == []
        assert data["created_at"] <= data["updated_at"]


def test_anonymous_profile_has_no_customer(server: Server) -> None:
    """Without a customer and identifiers a profile has null and an empty object."""
    assert ask(server, "POST", PROFILE_PATH, profile=ID).is_success
    data = ask(server, "GET", NATIVE_PATH, profile=ID).json()["data"]
    assert (data["customer_user_id"], data["identifiers"]) == (None, {})


@pytest.mark.parametrize(("method", "path"), [("GET", NATIVE_PATH), ("POST", CLEAR)])
def test_who_is_named_as_in_the_compatible_api(server: Server, method: str, path: str) -> None:
    """Nobody named, somebody unknown, two different profiles: the contract's errors."""
    one, two = make(server, "who-1"), make(server, "who-2")
    body = {"kinds": "all"} if method == "POST" else None
    cases: list[tuple[Who, tuple[int, str]]] = [
        ({}, (400, "validation_error")),
        ({"customer": "x" * 256}, (400, "validation_error")),
        ({"profile": "{" + one + "}"}, (400, "validation_error")),
        ({"customer": "who-0"}, (404, "profile_not_found")),
        ({"customer": "who-0", "profile": one}, (404, "profile_not_found")),
        ({"customer": "who-1", "profile": two}, (400, "profile_conflict")),
    ]
    for who, expected in cases:
        assert error_code(ask(server, method, path, body=body, **who)) == expected
    answer = ask(server, method, path, body=body, customer="who-1", profile=one)
    assert answer.json()["data"]["profile_id"] == one


@pytest.mark.parametrize(
    ("method", "path", "body"), [("GET", NATIVE_PATH, None), ("POST", CLEAR, {"kinds": "all"})]
)
def test_row_05_another_apps_profile_is_absent(
    server: Server, other: Server, method: str, path: str, body: object
) -> None:
    """Through another app's key a profile answers the bytes of one that nobody has."""
    profile_id = make(server, "apart", branch_id="kept")
    absent = ask(other, method, path, body=body, customer="absent")
    assert error_code(absent) == (404, "profile_not_found")
    cases: list[Who] = [{"customer": "apart"}, {"profile": profile_id}]
    for who in cases:
        answer = ask(other, method, path, body=body, **who)
        assert (answer.status_code, answer.content) == (404, absent.content)
    assert found(server, kind="branch_id", value="kept") == [("branch_id", "apart")]


# --- Clearing -------------------------------------------------------------------------------


@pytest.fixture
def full(server: Server) -> Iterator[Server]:
    """Give the server with a customer who has two identifiers."""
    make(server, "full", branch_id="full-b", appsflyer_id="full-a")
    yield server
    assert ask(server, "DELETE", PROFILE_PATH, customer="full").status_code == 204


def test_named_kinds_are_cleared(full: Server) -> None:
    """What is named is cleared, also if it is named twice or not set; all else stays."""
    body = {"kinds": ["branch_id", "branch_id", "mixpanel_user_id"]}
    answer = ask(full, "POST", CLEAR, body=body, customer="full")
    assert answer.status_code == 200
    assert answer.json()["data"]["identifiers"] == {"appsflyer_id": "full-a"}
    assert answer.json() == ask(full, "GET", NATIVE_PATH, customer="full").json()
    assert found(full, value="full-b") == []
    assert found(full, value="full-a") == [("appsflyer_id", "full")]


def test_all_kinds_are_cleared_by_one_word(full: Server) -> None:
    """`all` leaves no identifier, and the profile with its attributes."""
    attributes = {"custom_attributes": [{"key": "plan", "value": "gold"}]}
    assert ask(full, "PATCH", PROFILE_PATH, body=attributes, customer="full").is_success
    data = ask(full, "POST", CLEAR, body={"kinds": "all"}, customer="full").json()["data"]
    assert (data["identifiers"], len(data["custom_attributes"])) == ({}, 1)
    assert found(full, value="full-a") == []
    identifiers = ask(full, "GET", IDENTIFIERS_PATH, customer="full").json()
    assert set(identifiers.values()) == {None}


def test_clearing_what_is_not_set_changes_nothing(full: Server) -> None:
    """Clearing twice is as once: the profile stays as it is, its time of change too."""
    before = ask(full, "GET", NATIVE_PATH, customer="full").content
    body = {"kinds": ["mixpanel_user_id"]}
    answer = ask(full, "POST", CLEAR, body=body, customer="full")
    assert (answer.status_code, answer.content) == (200, before)


@pytest.mark.parametrize(
    ("body", "code", "expected"),
    [
        (b"", "validation_error", [None]),
        (b"{}", "validation_error", ["kinds"]),
        (b"[]", "validation_error", [None]),
        (b'{"kinds":null}', "validation_error", ["kinds"]),
        (b'{"kinds":[]}', "validation_error", ["kinds"]),
        (b'{"kinds":"branch_id"}', "validation_error", ["kinds"]),
        (b'{"kinds":"ALL"}', "validation_error", ["kinds"]),
        (b'{"kinds":{"branch_id":1}}', "validation_error", ["kinds"]),
        (
            b'{"kinds":["branch_id","x",1,null]}',
            "validation_error",
            ["kinds[1]", "kinds[2]", "kinds[3]"],
        ),
        (b'{"kinds":["all"]}', "validation_error", ["kinds[0]"]),
        (b'{"kinds":["branch_id"],"app_id":1}', "validation_error", ["app_id"]),
        (b'{"x":1,"kinds":["y"]}', "validation_error", ["x", "kinds[0]"]),
        (b'{"kinds":["\\ud800"]}', "parse_error", [None]),
        (b'{"kinds":["branch_id"],"kinds":"all"}', "parse_error", [None]),
        (b'{"kinds":["branch_id"]} x', "parse_error", [None]),
        (b'{"kinds":' + b"[" * 40 + b"]" * 40 + b"}", "parse_error", [None]),
        (b'\xef\xbb\xbf{"kinds":"all"}', "parse_error", [None]),
    ],
)
def test_bad_clearing_is_refused_whole(
    full: Server, body: bytes, code: str, expected: list[str | None]
) -> None:
    """Every bad body is a 400 with an entry for each bad part, and nothing is cleared."""
    answer = ask(full, "POST", CLEAR, body=body, customer="full")
    assert error_code(answer) == (400, code)
    assert sources(answer) == expected
    kept: dict[str, Any] = ask(full, "GET", NATIVE_PATH, customer="full").json()["data"]
    assert kept["identifiers"] == {"appsflyer_id": "full-a", "branch_id": "full-b"}


def test_clearing_makes_no_profile(server: Server) -> None:
    """Clearing for somebody unknown is a 404, and he stays unknown."""
    body = {"kinds": "all"}
    for _ in range(2):
        answer = ask(server, "POST", CLEAR, body=body, customer="never-made")
        assert error_code(answer) == (404, "profile_not_found")


def test_row_09_body_of_clearing_is_bounded(full: Server) -> None:
    """A body over 64 KiB is a 413, of another media type a 415."""
    answer = ask(full, "POST", CLEAR, body=b" " * 65_537, customer="full")
    assert error_code(answer) == (413, "payload_too_large")
    for media_type in ("text/plain", "application/x-ndjson"):
        headers = [("Content-Type", media_type)]
        answer = ask(full, "POST", CLEAR, headers, b'{"kinds":"all"}', customer="full")
        assert error_code(answer) == (415, "unsupported_media_type")
