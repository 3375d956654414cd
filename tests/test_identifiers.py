"""Reading and setting identifiers: the seed's bytes, the merge, and what is refused."""

import re
from pathlib import Path

import httpx2
import pytest
import yaml

from conftest import IDENTIFIERS_PATH, PLAIN, PROFILE_PATH, SDK_PATH, Server
from knownas.model import KINDS

DATABASES = ("sqlite", "postgresql")

SEED = Path(__file__).parent / "seed.txt"


def client(server: Server, customer: str) -> httpx2.Client:
    """Return a client that asks for one customer, whose profile is made first."""
    headers = {
        "Authorization": f"Api-Key {server.key}",
        "adapty-customer-user-id": customer,
    }
    assert PLAIN.post(server.url + PROFILE_PATH, headers=headers).status_code == 200
    return httpx2.Client(base_url=server.url, headers=headers)


def seed_example() -> dict[str, str | None]:
    """Return the 200 example of the seed document."""
    text = SEED.read_text(encoding="utf-8")
    document = re.search(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert document is not None
    loaded = yaml.safe_load(document[1].partition("\n")[2])
    operation = loaded["paths"][IDENTIFIERS_PATH]["get"]
    example: dict[str, str | None] = operation["responses"]["200"]["content"]["application/json"][
        "example"
    ]
    return example


def test_seed_example_is_answered_byte_for_byte(server: Server) -> None:
    """What was set through POST comes back as the seed's example: its order, its nulls."""
    example = seed_example()
    expected = (
        "{"
        + ",".join(
            f'"{key}":' + ("null" if value is None else f'"{value}"')
            for key, value in example.items()
        )
        + "}"
    )
    with client(server, "seed") as http:
        answer = http.post(IDENTIFIERS_PATH, json=example)
        assert (answer.status_code, answer.content) == (200, b"")
        answer = http.get(IDENTIFIERS_PATH)
        assert answer.text == expected
        assert answer.headers["content-type"] == "application/json"


def test_kinds_are_those_of_the_seed() -> None:
    """The one table of kinds has the seed's keys in the seed's order."""
    assert [kind.name for kind in KINDS] == list(seed_example())


def test_set_merges_and_null_is_not_given(server: Server) -> None:
    """A key that is absent or null stays as it was."""
    with client(server, "merge") as http:
        http.post(IDENTIFIERS_PATH, json={"appsflyer_id": "a", "branch_id": "b"})
        http.post(IDENTIFIERS_PATH, json={"appsflyer_id": " c ", "branch_id": None})
        found = http.get(IDENTIFIERS_PATH).json()
    assert (found["appsflyer_id"], found["branch_id"]) == ("c", "b")


@pytest.mark.parametrize(
    ("body", "status", "code", "source"),
    [
        (b"", 400, "validation_error", None),
        (b"{}", 400, "validation_error", None),
        (b"[]", 400, "validation_error", None),
        (b"{", 400, "parse_error", None),
        (b"\xff", 400, "parse_error", None),
        (b"\xef\xbb\xbf{}", 400, "parse_error", None),
        ('{"branch_id":"x"}'.encode("utf-16"), 400, "parse_error", None),
        (b'{"branch_id":"x"} x', 400, "parse_error", None),
        (b'{"branch_id":"x","branch_id":"y"}', 400, "parse_error", None),
        (b'{"branch_id":"x","\\u0062ranch_id":"y"}', 400, "parse_error", None),
        (b'{"a":{"b":1,"b":2},"branch_id":"x"}', 400, "parse_error", None),
        (b'{"branch_id":NaN}', 400, "parse_error", None),
        (b'{"branch_id":"\\ud800"}', 400, "parse_error", None),
        (b'{"a":' + b"9" * 5000 + b"}", 400, "parse_error", None),
        (b'{"a":' + b"[" * 40 + b"]" * 40 + b',"branch_id":"x"}', 400, "parse_error", None),
        (b"[" * 60_000, 400, "parse_error", None),
        (b'{"branch_id":"\\u0000"}', 400, "validation_error", "branch_id"),
        (b'{"branch_id":" "}', 400, "validation_error", "branch_id"),
        (b'{"branch_id":1,"appsflyer_id":"x"}', 400, "validation_error", "branch_id"),
        (b'{"branch_id":"' + b"x" * 256 + b'"}', 400, "validation_error", "branch_id"),
        (b'{"mixpanel_user_i":"x"}', 400, "validation_error", "mixpanel_user_i"),
        (b'{"app_id":"x"}', 400, "validation_error", "app_id"),
        (b'{"branch_id":"' + b"x" * 65_536 + b'"}', 413, "payload_too_large", None),
    ],
)
def test_bad_body_is_refused_and_nothing_is_stored(
    server: Server, body: bytes, status: int, code: str, source: str | None
) -> None:
    """Every bad body gets the contract's error, and leaves the profile as it was."""
    with client(server, "bad-bodies") as http:
        before = http.get(IDENTIFIERS_PATH).content
        answer = http.post(
            IDENTIFIERS_PATH, content=body, headers={"Content-Type": "application/json"}
        )
        assert (answer.status_code, answer.json()["error_code"]) == (status, code)
        assert answer.json()["errors"][0]["source"] == source
        assert http.get(IDENTIFIERS_PATH).content == before


def test_unknown_keys_are_named(server: Server) -> None:
    """Beside a known key an unknown one is left out and named, or counted where it is odd."""
    with client(server, "unknown") as http:
        answer = http.post(
            IDENTIFIERS_PATH, json={"branch_id": "b", "mixpanel_distinct_id": 1, "x\r\ny": 2}
        )
    assert answer.status_code == 200
    assert answer.headers["Knownas-Ignored"] == "mixpanel_distinct_id, +1"


def test_unknown_key_alone_names_the_near_one(server: Server) -> None:
    """The error for a near miss says what was meant."""
    with client(server, "near") as http:
        answer = http.post(IDENTIFIERS_PATH, json={"mixpanel_distinct_id": "x"})
    assert "mixpanel_user_id" in answer.json()["errors"][0]["errors"][0]


@pytest.mark.parametrize(
    "authorization", [None, "", "Bearer x", "Api-Key", "Api-Key nope", "Api-Key secret_live_ka_x"]
)
def test_bad_key_gets_the_same_401(server: Server, authorization: str | None) -> None:
    """However a key is bad, the answer is the same bytes."""
    headers = {} if authorization is None else {"Authorization": authorization}
    answer = PLAIN.get(server.url + IDENTIFIERS_PATH, headers=headers)
    assert answer.status_code == 401
    assert answer.content == (
        b'{"errors":[{"source":null,"errors":["Invalid API key"]}],'
        b'"error_code":"unauthorized","status_code":401}'
    )


def test_public_key_only_writes_on_the_sdk_path(server: Server) -> None:
    """A mobile SDK's key sets identifiers, and reads nothing."""
    with client(server, "sdk") as http:
        profile_id = http.get(PROFILE_PATH).json()["data"]["profile_id"]
        public = {"Authorization": f"Api-Key {server.public_key}"}
        body = {"data": {"profile_id": profile_id, "adjust_device_id": "from-the-sdk"}}
        assert PLAIN.post(server.url + SDK_PATH, json=body, headers=public).status_code == 200
        assert http.get(IDENTIFIERS_PATH, headers=public).status_code == 401
        assert http.get(IDENTIFIERS_PATH).json()["adjust_device_id"] == "from-the-sdk"


def test_paths_and_methods(server: Server) -> None:
    """No last slash is the same path; encoded, doubled or unknown ones are not; 405 says Allow."""
    with client(server, "paths") as http:
        assert http.get(IDENTIFIERS_PATH.rstrip("/")).content == http.get(IDENTIFIERS_PATH).content
        assert http.get(IDENTIFIERS_PATH.replace("/profile/", "%2fprofile/")).status_code == 404
        assert http.get("/" + IDENTIFIERS_PATH).status_code == 404
        assert http.head(IDENTIFIERS_PATH).headers["content-length"] == str(
            len(http.get(IDENTIFIERS_PATH).content)
        )
        answer = http.put(IDENTIFIERS_PATH)
        assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD, POST")
        assert answer.json()["error_code"] == "method_not_allowed"


def test_headers_that_name_two_profiles_conflict(server: Server) -> None:
    """A customer and a profile id of two profiles are refused; an absent one is a 404."""
    with client(server, "one") as one, client(server, "two") as two:
        other = two.get(PROFILE_PATH).json()["data"]["profile_id"]
        answer = one.get(IDENTIFIERS_PATH, headers={"adapty-profile-id": other.upper()})
        assert (answer.status_code, answer.json()["error_code"]) == (400, "profile_conflict")
        absent = "00000000-0000-4000-8000-000000000000"
        assert one.get(IDENTIFIERS_PATH, headers={"adapty-profile-id": absent}).status_code == 404
        assert (
            one.get(IDENTIFIERS_PATH, headers={"adapty-profile-id": "{" + absent + "}"}).status_code
            == 400
        )


def test_profile_is_deleted(server: Server) -> None:
    """A deleted profile is gone with its identifiers."""
    with client(server, "gone") as http:
        http.post(IDENTIFIERS_PATH, json={"branch_id": "b"})
        assert http.delete(PROFILE_PATH).status_code == 204
        assert http.get(IDENTIFIERS_PATH).status_code == 404
        http.post(PROFILE_PATH)
        assert http.get(IDENTIFIERS_PATH).json()["branch_id"] is None
