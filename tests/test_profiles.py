"""Profiles: making, reading, changing and deleting them, whom the headers name, the SDK's path.

The wire contract, sections 1, 2, 3 (settings and the SDK's body) and 5.
"""

import itertools
import time
import uuid
from collections.abc import Iterator
from typing import Any, Unpack

import msgspec
import pytest

from conftest import (
    IDENTIFIERS_PATH,
    PROFILE_PATH,
    SDK_PATH,
    Server,
    Who,
    ask,
    error_code,
    free_port,
    knownas,
    sources,
    start,
    stop,
    stored,
)

DATABASES = ("sqlite", "postgresql")

A, B, ANONYMOUS, ABSENT = (f"0000000{digit}-aaaa-4bbb-8ccc-000000000000" for digit in "1234")
MALFORMED = [
    "{00000001-aaaa-4bbb-8ccc-000000000000}",
    "urn:uuid:00000001-aaaa-4bbb-8ccc-000000000000",
    "00000001aaaa4bbb8ccc000000000000",
    "00000001-aaaa-4bbb-8ccc-00000000000",
    "00000001-aaaa-4bbb-8ccc-0000000000000",
    "00000001-aaaa-4bbb-8cc-0000000000000",
    "0000000g-aaaa-4bbb-8ccc-000000000000",
    "\uff10\uff10\uff10\uff10\uff10\uff10\uff10\uff11-aaaa-4bbb-8ccc-000000000000",
    "00000001_aaaa_4bbb_8ccc_000000000000",
    "00000001-aaaa-4bbb-8ccc-00000000 000",
    "user-1",
]


def unused() -> str:
    """Return a customer id that no test has used."""
    return f"user-{uuid.uuid4()}"


def put(server: Server, body: object = None, **who: Unpack[Who]) -> dict[str, Any]:
    """Create a profile, or return the one that is there."""
    answer = ask(server, "POST", PROFILE_PATH, body=body, **who)
    assert answer.status_code == 200, answer.text
    data: dict[str, Any] = answer.json()["data"]
    return data


def get(server: Server, **who: Unpack[Who]) -> dict[str, Any]:
    """Return a profile, without the time of the answer."""
    answer = ask(server, "GET", PROFILE_PATH, **who)
    assert answer.status_code == 200, answer.text
    data: dict[str, Any] = answer.json()["data"]
    del data["timestamp"]
    return data


def attributes(data: dict[str, Any]) -> dict[str, object]:
    """Return a profile's custom attributes as a mapping."""
    return {item["key"]: item["value"] for item in data["custom_attributes"]}


def items(patch: dict[str, object]) -> dict[str, object]:
    """Return the body that sets custom attributes."""
    return {"custom_attributes": [{"key": key, "value": value} for key, value in patch.items()]}


@pytest.fixture(scope="module")
def known(server: Server) -> Server:
    """Give the server with the customers a and b and an anonymous profile."""
    put(server, customer="a", profile=A)
    put(server, customer="b", profile=B)
    put(server, profile=ANONYMOUS)
    return server


@pytest.fixture(scope="module")
def strict(server: Server) -> Iterator[Server]:
    """Give a server on the same database that creates profiles and refuses unknown keys."""
    port = free_port()
    process = start(
        server.database,
        port,
        KNOWNAS_AUTO_CREATE_PROFILES="on",
        KNOWNAS_UNKNOWN_KEYS="reject",
    )
    yield server._replace(url=f"http://127.0.0.1:{port}")
    assert stop(process) == 0


# --- The profile --------------------------------------------------------------------------------


def test_profile_has_every_member_of_adaptys(server: Server) -> None:
    """The answer has all members in their order; what this server does not keep is empty."""
    before = time.time_ns() // 1_000_000
    customer = unused()
    answer = ask(server, "POST", PROFILE_PATH, customer=customer)
    after = time.time_ns() // 1_000_000
    assert answer.headers["content-type"] == "application/json"
    assert list(answer.json()) == ["data"]
    data = answer.json()["data"]
    assert before <= data["timestamp"] <= after
    assert str(uuid.UUID(data["profile_id"])) == data["profile_id"]
    assert list(data.items()) == [
        (
            "app_id",
            msgspec.json.decode(knownas("app", "list", "--json", database=server.database))[0][
                "app_id"
            ],
        ),
        ("profile_id", data["profile_id"]),
        ("customer_user_id", customer),
        ("total_revenue_usd", 0.0),
        ("segment_hash", ""),
        ("timestamp", data["timestamp"]),
        ("custom_attributes", []),
        ("access_levels", []),
        ("subscriptions", []),
        ("non_subscriptions", []),
    ]


def test_profile_is_created_once(server: Server) -> None:
    """A second POST returns the profile as it is but for the fields sent."""
    customer = unused()
    first = put(server, items({"a": 1.5, "b": "x"}), customer=customer)
    second = put(server, items({"b": "y"}), customer=customer)
    assert second["profile_id"] == first["profile_id"]
    assert attributes(second) == {"a": 1.5, "b": "y"}
    bodies: list[object] = [None, {}, {"custom_attributes": None}, {"custom_attributes": []}]
    for body in bodies:
        assert attributes(put(server, body, customer=customer)) == {"a": 1.5, "b": "y"}


def test_profile_id_is_answered_in_lower_case(server: Server) -> None:
    """A profile created by id in any case is anonymous, and found in any case."""
    profile = str(uuid.uuid4())
    assert put(server, profile=profile.upper())["profile_id"] == profile
    found = get(server, profile=profile)
    assert (found["profile_id"], found["customer_user_id"]) == (profile, None)
    assert get(server, profile=profile.upper()) == found


def test_form_of_curl_without_a_body_creates(server: Server) -> None:
    """What `curl --data ''` sends is an empty body, whatever its media type."""
    form = [("Content-Type", "application/x-www-form-urlencoded")]
    answer = ask(server, "POST", PROFILE_PATH, form, b"", customer=unused())
    assert answer.status_code == 200


@pytest.mark.parametrize("method", ["GET", "POST", "PATCH", "DELETE"])
def test_public_key_opens_no_profile(known: Server, method: str) -> None:
    """A public key gets the 401 of an unknown one."""
    public = known._replace(key=known.public_key)
    answer = ask(public, method, PROFILE_PATH, customer="a")
    assert error_code(answer) == (401, "unauthorized")
    nobody = ask(known._replace(key="unknown"), method, PROFILE_PATH, customer="a")
    assert answer.content == nobody.content


# --- Whom the headers name ----------------------------------------------------------------------

Use = tuple[str, str, object]
USES: list[Use] = [
    ("GET", PROFILE_PATH, None),
    ("PATCH", PROFILE_PATH, items({"changed": "yes"})),
    ("DELETE", PROFILE_PATH, None),
    ("GET", IDENTIFIERS_PATH, None),
    ("POST", IDENTIFIERS_PATH, {"branch_id": "changed"}),
]
of_each_use = pytest.mark.parametrize("use", USES, ids=lambda use: f"{use[0]} {use[1][24:35]}")


@of_each_use
@pytest.mark.parametrize(
    ("who", "expected"),
    [
        ({}, (400, "validation_error")),
        ({"customer": "", "profile": ""}, (400, "validation_error")),
        ({"customer": "nobody"}, (404, "profile_not_found")),
        ({"customer": "A"}, (404, "profile_not_found")),
        ({"profile": ABSENT}, (404, "profile_not_found")),
        ({"customer": "a", "profile": ABSENT}, (404, "profile_not_found")),
        ({"customer": "nobody", "profile": A}, (404, "profile_not_found")),
        ({"customer": "nobody", "profile": ANONYMOUS}, (404, "profile_not_found")),
        ({"customer": "a", "profile": B}, (400, "profile_conflict")),
        ({"customer": "a", "profile": ANONYMOUS}, (400, "profile_conflict")),
    ],
)
def test_headers_that_name_no_profile(
    known: Server, use: Use, who: Who, expected: tuple[int, str]
) -> None:
    """Every use refuses them alike, and changes nothing."""
    method, path, body = use
    everyone: list[Who] = [{"customer": "a"}, {"customer": "b"}, {"profile": ANONYMOUS}]
    before = [get(known, **one) for one in everyone]
    assert error_code(ask(known, method, path, body=body, **who)) == expected
    assert [get(known, **one) for one in everyone] == before


@of_each_use
@pytest.mark.parametrize("both", [True, False])
def test_headers_that_name_a_profile(server: Server, use: Use, *, both: bool) -> None:
    """The id alone, and with its own customer, is served."""
    method, path, body = use
    profile, customer = str(uuid.uuid4()), unused()
    put(server, customer=customer, profile=profile)
    who: Who = {"customer": customer, "profile": profile} if both else {"profile": profile}
    assert ask(server, method, path, body=body, **who).is_success


@pytest.mark.parametrize("method", ["GET", "POST", "PATCH", "DELETE"])
@pytest.mark.parametrize("malformed", MALFORMED)
def test_profile_id_has_one_form(known: Server, method: str, malformed: str) -> None:
    """Whatever else uuid.UUID would accept is refused, beside a good customer too."""
    for who in (Who(profile=malformed), Who(customer="a", profile=malformed)):
        answer = ask(known, method, PROFILE_PATH, **who)
        assert sources(answer) == ["adapty-profile-id"]


def test_post_makes_a_profile_with_both(server: Server) -> None:
    """With an unknown customer and an unknown id, the profile has both."""
    customer, profile = unused(), str(uuid.uuid4())
    made = put(server, customer=customer, profile=profile)
    assert (made["customer_user_id"], made["profile_id"]) == (customer, profile)
    assert get(server, customer=customer) == get(server, profile=profile)


def test_post_binds_a_customer_to_an_anonymous_profile(server: Server) -> None:
    """The anonymous profile keeps its id, attributes and identifiers, and is the customer's."""
    customer, profile = unused(), str(uuid.uuid4())
    put(server, items({"k": "v"}), profile=profile)
    ask(server, "POST", IDENTIFIERS_PATH, body={"branch_id": "b"}, profile=profile)
    bound = put(server, customer=customer, profile=profile)
    assert (bound["customer_user_id"], bound["profile_id"]) == (customer, profile)
    assert attributes(get(server, customer=customer)) == {"k": "v"}
    found = ask(server, "GET", IDENTIFIERS_PATH, customer=customer).json()
    assert found["branch_id"] == "b"
    assert put(server, customer=customer, profile=profile)["profile_id"] == profile


@pytest.mark.parametrize(
    "who",
    [
        {"customer": "a", "profile": B},
        {"customer": "a", "profile": ANONYMOUS},
        {"customer": "a", "profile": ABSENT},
        {"customer": "new", "profile": A},
    ],
)
def test_post_takes_nothing_from_another(known: Server, who: Who) -> None:
    """A customer with another profile, or a profile with another customer, is a conflict."""
    answer = ask(known, "POST", PROFILE_PATH, body=items({"k": "v"}), **who)
    assert error_code(answer) == (400, "profile_conflict")
    assert attributes(get(known, customer="a")) == {}
    assert get(known, profile=ANONYMOUS)["customer_user_id"] is None
    assert ask(known, "GET", PROFILE_PATH, profile=ABSENT).status_code == 404
    assert ask(known, "GET", PROFILE_PATH, customer="new").status_code == 404


@pytest.mark.parametrize("who", [{}, {"customer": " ", "profile": "\t"}])
def test_post_needs_somebody(server: Server, who: Who) -> None:
    """Without a header, or with blank ones, no profile is created."""
    assert error_code(ask(server, "POST", PROFILE_PATH, **who)) == (400, "validation_error")


def test_apps_may_have_the_same_customer_and_id(server: Server, other: Server) -> None:
    """The same customer and id in another app are another profile, whatever the first does."""
    who: Who = {"customer": unused(), "profile": str(uuid.uuid4())}
    put(server, items({"k": "first"}), **who)
    theirs = put(other, items({"k": "second"}), **who)
    assert theirs["app_id"] != get(server, **who)["app_id"]
    assert attributes(get(server, **who)) == {"k": "first"}
    assert ask(server, "DELETE", PROFILE_PATH, **who).status_code == 204
    assert attributes(get(other, **who)) == {"k": "second"}


# --- Custom attributes --------------------------------------------------------------------------

BAD_KEYS: list[object] = ["", "x" * 31, "a b", "\u00e9", "a\n", "a/b", "\u0660", 1, None, ["a"]]
BAD_VALUES: list[object] = ["x" * 51, "\x00", "a\nb", "\x7f", "\x85", True, False, [], {}, 10**400]


@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_attributes_are_merged(server: Server, method: str) -> None:
    """What is sent is set, null or an empty text removes, what is absent stays."""
    customer = unused()
    put(server, items({"a": "1", "b": "2", "c": "3", "d": "4"}), customer=customer)
    patch = items({"b": "two", "c": None, "d": "", "never": None, "e": "5"})
    answer = ask(server, method, PROFILE_PATH, body=patch, customer=customer)
    assert answer.status_code == 200
    assert list(attributes(answer.json()["data"]).items()) == [("a", "1"), ("b", "two"), ("e", "5")]
    assert attributes(get(server, customer=customer)) == {"a": "1", "b": "two", "e": "5"}


@pytest.mark.parametrize(
    "value", ["x", " ", "x" * 50, "\U0001f600" * 50, "1", 1.5, -0.25, 1e308, 5e-324, 0.0]
)
def test_attribute_values_are_kept(server: Server, value: object) -> None:
    """A text of up to 50 characters, and any number, is returned as it was sent."""
    customer = unused()
    put(server, items({"k": value}), customer=customer)
    found = attributes(get(server, customer=customer))["k"]
    assert (type(found), found) == (type(value), value)


@pytest.mark.parametrize("value", [0, 5, -5, 2**53])
def test_whole_number_is_answered_as_one(server: Server, value: int) -> None:
    """A whole number is sent back without a fraction, by the POST and by every later GET."""
    customer = unused()
    ask(server, "POST", PROFILE_PATH, body=items({"k": value}), customer=customer)
    expected = f'"custom_attributes":[{{"key":"k","value":{value}}}]'
    assert expected in ask(server, "POST", PROFILE_PATH, customer=customer).text
    assert expected in ask(server, "GET", PROFILE_PATH, customer=customer).text


def test_whole_number_beyond_exactness_is_a_float(server: Server) -> None:
    """An integer that a 64-bit float does not hold exactly is kept as the nearest one."""
    customer = unused()
    put(server, items({"k": 10**30}), customer=customer)
    assert attributes(get(server, customer=customer)) == {"k": 1e30}


@pytest.mark.parametrize("key", ["k", "x" * 30, "A-Z_a.z-09", ".", "_", "-"])
def test_attribute_keys_are_kept(server: Server, key: str) -> None:
    """A key of 1 to 30 letters, digits, dashes, underscores and points is returned as sent."""
    customer = unused()
    put(server, items({key: "v"}), customer=customer)
    assert attributes(get(server, customer=customer)) == {key: "v"}


@pytest.mark.parametrize(
    "item",
    [
        *({"key": key, "value": "v"} for key in BAD_KEYS),
        *({"key": "k", "value": value} for value in BAD_VALUES),
        {"key": "k"},
        {"value": "v"},
        {"key": "k", "value": "v", "more": 1},
        "k",
        ["k", "v"],
        None,
    ],
)
@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_bad_attribute_is_named_and_nothing_is_stored(
    server: Server, method: str, item: object
) -> None:
    """Each bad item is named by its position, and the good ones beside it are not stored."""
    customer = unused()
    put(server, items({"old": "1"}), customer=customer)
    good = {"key": "good", "value": "1"}
    body = {"custom_attributes": [good, item]}
    answer = ask(server, method, PROFILE_PATH, body=body, customer=customer)
    assert sources(answer) == ["custom_attributes[1]"]
    assert attributes(get(server, customer=customer)) == {"old": "1"}


@pytest.mark.parametrize("value", [{}, "k", 1, True])
def test_attributes_are_a_list(server: Server, value: object) -> None:
    """Anything but a list is refused."""
    body = {"custom_attributes": value}
    answer = ask(server, "POST", PROFILE_PATH, body=body, customer=unused())
    assert sources(answer) == ["custom_attributes"]


def test_attribute_twice_in_a_list_is_refused(server: Server) -> None:
    """One key with two values says nothing certain."""
    body = {"custom_attributes": [{"key": "k", "value": "1"}, {"key": "k", "value": "2"}]}
    customer = unused()
    answer = ask(server, "POST", PROFILE_PATH, body=body, customer=customer)
    assert sources(answer) == ["custom_attributes[1]"]
    assert ask(server, "GET", PROFILE_PATH, customer=customer).status_code == 404


def test_profile_has_at_most_thirty_attributes(server: Server) -> None:
    """30 in one body or in all are kept; a 31st is refused unless another goes."""
    customer = unused()
    thirty = {f"k{number}": number + 0.5 for number in range(30)}
    too_many = items({**thirty, "more": "x"})
    answer = ask(server, "POST", PROFILE_PATH, body=too_many, customer=customer)
    assert sources(answer) == ["custom_attributes"]
    assert ask(server, "GET", PROFILE_PATH, customer=customer).status_code == 404
    assert attributes(put(server, items({**thirty}), customer=customer)) == thirty
    for method in ("POST", "PATCH"):
        answer = ask(server, method, PROFILE_PATH, body=items({"more": "x"}), customer=customer)
        assert sources(answer) == ["custom_attributes"]
    assert attributes(get(server, customer=customer)) == thirty
    assert attributes(put(server, items({"k0": "new"}), customer=customer))["k0"] == "new"
    swapped = attributes(put(server, items({"more": "x", "k0": None}), customer=customer))
    assert (len(swapped), swapped["more"]) == (30, "x")
    others = {f"other{number}": "x" for number in range(30)}
    all_new = items({**dict.fromkeys(swapped), **others})
    assert attributes(put(server, all_new, customer=customer)) == others


# --- What is not kept ---------------------------------------------------------------------------

NOT_KEPT: dict[str, list[object]] = {
    "first_name": ["Ada"],
    "last_name": ["Lovelace"],
    "gender": ["f", "m", "o"],
    "email": ["ada@example.com"],
    "phone_number": ["+1"],
    "birthday": ["1815-12-10"],
    "ip_country": ["GB"],
    "ip_v4_address": ["192.0.2.1"],
    "store_country": ["GB"],
    "store": ["app_store"],
    "store_account_token": ["token"],
    "att_status": [0, 1, 2, 3],
    "analytics_disabled": [True, False],
    "installation_meta": [{}, {"device_id": "x"}],
}
WRONG: dict[str, list[object]] = {
    **{name: [1, True, [], {}] for name, values in NOT_KEPT.items() if isinstance(values[0], str)},
    "gender": ["x", "F", "", 1],
    "att_status": [4, -1, 1.5, True, "1", []],
    "analytics_disabled": [0, 1, "true", []],
    "installation_meta": ["x", [], 1, True],
}


def pairs(table: dict[str, list[object]]) -> list[tuple[str, object]]:
    """Return each field with each of its values."""
    return [(name, value) for name, values in table.items() for value in values]


@pytest.mark.parametrize("method", ["POST", "PATCH"])
@pytest.mark.parametrize(("name", "value"), pairs(NOT_KEPT))
def test_field_that_is_not_kept_is_named(
    known: Server, method: str, name: str, value: object
) -> None:
    """A valid field that this server does not keep is named, and is in no answer."""
    before = get(known, customer="a")
    answer = ask(known, method, PROFILE_PATH, body={name: value}, customer="a")
    assert (answer.status_code, answer.headers["knownas-ignored"]) == (200, name)
    assert get(known, customer="a") == before


@pytest.mark.parametrize(("name", "value"), pairs(WRONG))
def test_field_that_is_not_kept_is_checked(known: Server, name: str, value: object) -> None:
    """A field of the wrong type is refused, and the attributes beside it are not stored."""
    body = {name: value, **items({"k": "v"})}
    answer = ask(known, "PATCH", PROFILE_PATH, body=body, customer="a")
    assert sources(answer) == [name]
    assert attributes(get(known, customer="a")) == {}


def test_every_bad_field_is_told_at_once(known: Server) -> None:
    """One answer has an entry for each bad field, in the order of the body."""
    body = {"gender": "x", "email": 1, "custom_attributes": [{}, {"key": "k", "value": []}]}
    answer = ask(known, "PATCH", PROFILE_PATH, body=body, customer="a")
    expected = ["gender", "email", "custom_attributes[0]", "custom_attributes[1]"]
    assert sources(answer) == expected


def test_null_fields_are_not_given(known: Server) -> None:
    """A generated client that sends null for every field sets nothing, and is told nothing."""
    body = dict.fromkeys([*NOT_KEPT, "custom_attributes"])
    answer = ask(known, "PATCH", PROFILE_PATH, body=body, customer="a")
    assert answer.status_code == 200
    assert "knownas-ignored" not in answer.headers


def test_ten_ignored_fields_are_named_and_the_others_counted(known: Server) -> None:
    """The header stays short however much was left out."""
    body = {name: values[0] for name, values in NOT_KEPT.items()}
    answer = ask(known, "PATCH", PROFILE_PATH, body=body, customer="a")
    shown = [*itertools.islice(NOT_KEPT, 10), f"+{len(NOT_KEPT) - 10}"]
    assert answer.headers["knownas-ignored"] == ", ".join(shown)


@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_body_assigns_no_id(known: Server, method: str) -> None:
    """Ids in the body are unknown fields like any other: named, and of no effect."""
    before = get(known, customer="a")
    body = {"profile_id": B, "customer_user_id": "b", "app_id": ABSENT, "total_revenue_usd": 9}
    answer = ask(known, method, PROFILE_PATH, body=body, customer="a")
    assert answer.status_code == 200
    assert answer.headers["knownas-ignored"] == ", ".join(body)
    assert get(known, customer="a") == before


def test_personal_data_is_not_stored(known: Server) -> None:
    """What is not kept is nowhere in the database."""
    canary = "canary-of-personal-data"
    body = {"email": canary, "installation_meta": {"device_id": canary}, "unknown": canary}
    answer = ask(
        known, "PATCH", PROFILE_PATH, body={**body, **items({"k": "kept-canary"})}, customer="b"
    )
    assert answer.status_code == 200
    kept = stored(known.database)
    assert b"kept-canary" in kept
    assert canary.encode() not in kept


# --- Changing and deleting ----------------------------------------------------------------------


@pytest.mark.parametrize("body", [None, b"", {}, items({"k": "v"})])
def test_patch_creates_nothing(server: Server, body: object) -> None:
    """An unknown profile is 404, and stays unknown."""
    customer = unused()
    answer = ask(server, "PATCH", PROFILE_PATH, body=body, customer=customer)
    assert error_code(answer) == (404, "profile_not_found")
    assert ask(server, "GET", PROFILE_PATH, customer=customer).status_code == 404


@pytest.mark.parametrize("body", [None, b"", {}])
def test_patch_of_nothing_answers_the_profile(known: Server, body: object) -> None:
    """A PATCH without fields is a read."""
    answer = ask(known, "PATCH", PROFILE_PATH, body=body, customer="a")
    assert answer.status_code == 200
    assert answer.json()["data"]["profile_id"] == A


@pytest.mark.parametrize("by_customer", [True, False])
def test_deleted_profile_is_gone(server: Server, *, by_customer: bool) -> None:
    """DELETE answers 204 without a body; customer and id are then unknown to every use."""
    both = Who(customer=unused(), profile=str(uuid.uuid4()))
    customer, profile = Who(customer=both["customer"]), Who(profile=both["profile"])
    put(server, items({"k": "v"}), **both)
    answer = ask(server, "DELETE", PROFILE_PATH, **(customer if by_customer else profile))
    assert (answer.status_code, answer.content) == (204, b"")
    assert not {"content-type", "content-length"} & set(answer.headers)
    for who in (customer, profile):
        for method, path, body in USES:
            again = ask(server, method, path, body=body, **who)
            assert error_code(again) == (404, "profile_not_found")
    made = put(server, **customer)
    assert made["profile_id"] != profile["profile"]
    assert attributes(made) == {}


# --- Settings -----------------------------------------------------------------------------------


def test_unknown_profile_is_created_only_where_set(server: Server, strict: Server) -> None:
    """Setting identifiers is 404 for an unknown profile, or creates it if the operator says so."""
    customer, profile = unused(), str(uuid.uuid4())
    set_one = ("POST", IDENTIFIERS_PATH, (), {"branch_id": "b"})
    for who in (Who(customer=customer), Who(profile=profile)):
        assert ask(server, *set_one, **who).status_code == 404
        assert ask(server, "GET", PROFILE_PATH, **who).status_code == 404
        answer = ask(strict, *set_one, **who)
        assert (answer.status_code, answer.content) == (200, b"")
        assert ask(server, "GET", IDENTIFIERS_PATH, **who).json()["branch_id"] == "b"
    assert get(server, customer=customer)["profile_id"] != profile


def test_created_profile_is_bound_as_by_post(known: Server, strict: Server) -> None:
    """With both headers it is created, bound or refused by the rules of POST /profile/."""
    customer, profile = unused(), str(uuid.uuid4())
    set_one = ("POST", IDENTIFIERS_PATH, (), {"branch_id": "b"})
    assert ask(strict, *set_one, customer=customer, profile=profile).status_code == 200
    assert get(known, customer=customer)["profile_id"] == profile
    answer = ask(strict, *set_one, customer="a", profile=ABSENT)
    assert error_code(answer) == (400, "profile_conflict")


def test_only_writes_create(strict: Server) -> None:
    """A read, a change or a deletion of an unknown profile is 404 all the same."""
    customer = unused()
    for method, path, body in USES[:-1]:
        assert ask(strict, method, path, body=body, customer=customer).status_code == 404
    bad = ask(strict, "POST", IDENTIFIERS_PATH, body={"branch_id": 1}, customer=customer)
    assert sources(bad) == ["branch_id"]
    assert ask(strict, "GET", PROFILE_PATH, customer=customer).status_code == 404


def test_unknown_keys_are_refused_where_set(strict: Server, known: Server) -> None:
    """One unknown key makes the body a 400 that names it, and nothing is stored."""
    body = {"branch_id": "refused", "mixpanel_distinct_id": "x", "app_id": "y"}
    who = Who(customer="b")
    answer = ask(strict, "POST", IDENTIFIERS_PATH, body=body, **who)
    assert sources(answer) == ["mixpanel_distinct_id", "app_id"]
    assert "mixpanel_user_id" in answer.json()["errors"][0]["errors"][0]
    sdk_body = {"data": {"profile_id": B, "branch_id": "refused", "other": "x"}}
    assert sources(ask(strict, "POST", SDK_PATH, body=sdk_body)) == ["other"]
    for method in ("POST", "PATCH"):
        patch = {**items({"refused": "x"}), "email": "x", "more": None}
        assert sources(ask(strict, method, PROFILE_PATH, body=patch, **who)) == ["more"]
    assert "refused" not in attributes(get(known, **who))
    assert ask(known, "GET", IDENTIFIERS_PATH, **who).json()["branch_id"] is None
    assert ask(strict, "POST", IDENTIFIERS_PATH, body={"branch_id": None}, **who).status_code == 400


# --- The SDK's path -----------------------------------------------------------------------------


def sdk(server: Server, data: object, *headers: str) -> Any:  # noqa: ANN401 - httpx2's response
    """Set identifiers as a mobile SDK does, with its header once for each of `headers`."""
    named = [("adapty-sdk-profile-id", value) for value in headers]
    return ask(server, "POST", SDK_PATH, named, {"data": data})


@pytest.mark.parametrize("key_type", ["public", "secret"])
@pytest.mark.parametrize(
    ("in_body", "headers"),
    [
        ({"profile_id": A}, []),
        ({"profile_id": A.upper()}, []),
        ({}, [A]),
        ({"profile_id": None}, [A.upper()]),
        ({"profile_id": A}, [A]),
        ({"profile_id": A}, [A.upper()]),
        ({"profile_id": A}, [A, A]),
        ({"profile_id": A}, [" "]),
    ],
)
def test_sdk_names_the_profile_in_body_or_header(
    known: Server, key_type: str, in_body: dict[str, object], headers: list[str]
) -> None:
    """Either is enough, both must agree, and both types of key may write."""
    value = unused()
    caller = known._replace(key=known.public_key) if key_type == "public" else known
    answer = sdk(caller, {**in_body, "adjust_device_id": value}, *headers)
    assert (answer.status_code, answer.content) == (200, b"")
    found = ask(known, "GET", IDENTIFIERS_PATH, customer="a").json()
    assert found["adjust_device_id"] == value


@pytest.mark.parametrize(
    ("data", "headers", "expected"),
    [
        ({"branch_id": "x"}, [], ["profile_id"]),
        ({"branch_id": "x", "profile_id": None}, [""], ["profile_id"]),
        ({"branch_id": "x", "profile_id": A}, [B], ["profile_id"]),
        ({"branch_id": "x", "profile_id": 1}, [A], ["profile_id"]),
        ({"branch_id": "x", "profile_id": ""}, [A], ["profile_id"]),
        ({"branch_id": "x", "profile_id": MALFORMED[0]}, [], ["profile_id"]),
        ({"branch_id": "x"}, [MALFORMED[0]], ["adapty-sdk-profile-id"]),
        ({"branch_id": "x", "profile_id": A}, [A, B], ["adapty-sdk-profile-id"]),
        ({"profile_id": A}, [], [None]),
        ({"profile_id": A, "branch_id": None}, [], [None]),
        ({"profile_id": A, "branch_id": 1, "appsflyer_id": ""}, [], ["branch_id", "appsflyer_id"]),
        ({"profile_id": A, "customer_user_id": "b"}, [], ["customer_user_id"]),
        ([], [], ["data"]),
        ("x", [], ["data"]),
        (None, [A], ["data"]),
    ],
)
def test_sdk_body_that_is_refused(
    known: Server, data: object, headers: list[str], expected: list[str | None]
) -> None:
    """Each is a 400 that names what is wrong, and nothing is stored."""
    before = ask(known, "GET", IDENTIFIERS_PATH, customer="a").content
    assert sources(sdk(known, data, *headers)) == expected
    assert ask(known, "GET", IDENTIFIERS_PATH, customer="a").content == before


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b'{"branch_id":"x"}'])
def test_sdk_body_without_data_is_refused(known: Server, body: bytes) -> None:
    """A body that is not {"data": {…}} is a 400."""
    headers = [("adapty-sdk-profile-id", A)]
    answer = ask(known, "POST", SDK_PATH, headers, body)
    assert error_code(answer) == (400, "validation_error")


def test_sdk_body_has_its_unknown_keys_named(known: Server) -> None:
    """Unknown keys in the data and beside it are left out and named."""
    body = {"data": {"profile_id": B, "tenjin_analytics_installation_id": "x", "z": 1}, "more": 2}
    answer = ask(known, "POST", SDK_PATH, body=body)
    assert (answer.status_code, answer.headers["knownas-ignored"]) == (200, "z, more")


def test_sdk_profile_is_created_only_where_set(known: Server, strict: Server) -> None:
    """The SDK's write for an unknown profile is 404 unless the operator says otherwise."""
    profile = str(uuid.uuid4())
    data = {"profile_id": profile, "branch_id": "x"}
    assert error_code(sdk(known, data)) == (404, "profile_not_found")
    assert sdk(strict, data).status_code == 200
    assert get(known, profile=profile)["customer_user_id"] is None


def test_sdk_path_knows_no_customer(known: Server) -> None:
    """The headers of the other paths name nobody here."""
    data = {"data": {"branch_id": "x"}}
    answer = ask(known, "POST", SDK_PATH, body=data, customer="a", profile=A)
    assert sources(answer) == ["profile_id"]


@pytest.mark.usefixtures("known")
def test_sdk_writes_in_the_app_of_its_key(other: Server) -> None:
    """A profile of another app is 404 here too."""
    public = other._replace(key=other.public_key)
    assert error_code(sdk(public, {"profile_id": A, "branch_id": "x"})) == (
        404,
        "profile_not_found",
    )
