"""The history of a profile, and the profile as it was: `/profile/history/`, `/profile/?at=`."""

import asyncio
import time
from collections.abc import Iterator
from typing import Any, NamedTuple, Unpack

import httpx2
import pytest

from conftest import (
    IDENTIFIERS_PATH,
    NATIVE_PATH,
    PROFILE_PATH,
    Server,
    Who,
    ask,
    error_code,
    make_profile,
    sources,
)
from knownas import bootstrap

DATABASES = ("sqlite", "postgresql")

HISTORY = "/api/v1/profile/history/"
CLEAR = "/api/v1/profile/clear/"
FUTURE = 2**53


def history(server: Server, query: str = "", **who: Unpack[Who]) -> list[dict[str, Any]]:
    """Return the changes of a profile, the newest first."""
    answer = ask(server, "GET", f"{HISTORY}?{query}", **who)
    assert answer.status_code == 200, answer.text
    data: list[dict[str, Any]] = answer.json()["data"]
    return data


def as_of(server: Server, query: str, **who: Unpack[Who]) -> httpx2.Response:
    """Ask for a profile as it was."""
    return ask(server, "GET", f"{NATIVE_PATH}?{query}", **who)


class Past(NamedTuple):
    """A profile with a past: what it was after each of its changes, the first first."""

    server: Server
    profile_id: str
    states: list[dict[str, Any]]

    @property
    def who(self) -> Who:
        """How it is named."""
        return Who(profile=self.profile_id)


@pytest.fixture(scope="module")
def past(server: Server) -> Past:
    """Give a profile that was made, given an identifier and an attribute, changed, cleared."""
    states = [make_profile(server, "past")]
    attributes = {"custom_attributes": [{"key": "plan", "value": "gold"}]}
    for method, path, body in (
        ("POST", IDENTIFIERS_PATH, {"branch_id": "one", "appsflyer_id": "a"}),
        ("PATCH", PROFILE_PATH, attributes),
        ("POST", IDENTIFIERS_PATH, {"branch_id": "two"}),
        ("POST", CLEAR, {"kinds": "all"}),
    ):
        time.sleep(0.002)  # each has a time of its own
        assert ask(server, method, path, body=body, customer="past").is_success
        states.append(ask(server, "GET", NATIVE_PATH, customer="past").json()["data"])
    return Past(server, states[0]["profile_id"], states)


# --- History ----------------------------------------------------------------------------------


def test_history_has_every_change_newest_first(past: Past) -> None:
    """Each change has what it was before and after, its time, its revision, and who made it."""
    found = history(past.server, customer="past")
    assert [it["revision"] for it in found] == [5, 4, 3, 2, 1]
    assert [it["type"] for it in found] == ["profile.changed"] * 4 + ["profile.created"]
    assert [it["at"] for it in found] == [it["updated_at"] for it in reversed(past.states)]
    assert {it["profile_id"] for it in found} == {past.profile_id}
    assert [it["changes"] for it in found] == [
        {
            "identifiers": {
                "appsflyer_id": {"old": "a", "new": None},
                "branch_id": {"old": "two", "new": None},
            }
        },
        {"identifiers": {"branch_id": {"old": "one", "new": "two"}}},
        {"custom_attributes": {"old": [], "new": [{"key": "plan", "value": "gold"}]}},
        {
            "identifiers": {
                "appsflyer_id": {"old": None, "new": "a"},
                "branch_id": {"old": None, "new": "one"},
            }
        },
        {"customer_user_id": {"old": None, "new": "past"}},
    ]
    assert [it["shared"] for it in found] == [[]] * 5
    (source,) = {tuple(it["source"].items()) for it in found}
    assert dict(source) == {"via": "api", "key_id": dict(source)["key_id"]}
    assert str(dict(source)["key_id"]).startswith("key_")


def test_history_is_had_by_pages(past: Past) -> None:
    """`next` is the `before` of the next page, and null on the last one."""
    whole = history(past.server, **past.who)
    for limit in (1, 2, 5, 1_000):
        seen: list[dict[str, Any]] = []
        query = f"limit={limit}"
        while True:
            answer = ask(past.server, "GET", f"{HISTORY}?{query}", **past.who).json()
            seen += answer["data"]
            assert len(answer["data"]) == min(limit, 5 - len(seen) + len(answer["data"]))
            if answer["next"] is None:
                break
            query = f"limit={limit}&before={answer['next']}"
        assert seen == whole
    assert history(past.server, "before=1", **past.who) == []


def test_deleted_profile_has_its_history_by_its_id(server: Server) -> None:
    """By its customer it is a 404; by its id what it was and its end are there, and stay."""
    profile_id = make_profile(server, "ended", branch_id="kept")["profile_id"]
    assert ask(server, "DELETE", PROFILE_PATH, customer="ended").status_code == 204
    answer = ask(server, "GET", HISTORY, customer="ended")
    assert error_code(answer) == (404, "profile_not_found")
    end, *_ = history(server, profile=profile_id)
    assert (end["type"], end["revision"]) == ("profile.deleted", 3)
    assert end["changes"] == {
        "customer_user_id": {"old": "ended", "new": None},
        "identifiers": {"branch_id": {"old": "kept", "new": None}},
    }
    assert ask(server, "POST", PROFILE_PATH, profile=profile_id).is_success
    assert [it["revision"] for it in history(server, profile=profile_id)] == [4, 3, 2, 1]


def test_what_changes_nothing_has_no_history(server: Server) -> None:
    """Setting what is there already, or clearing what is not, is no change."""
    make_profile(server, "still", branch_id="b")
    assert ask(
        server, "POST", IDENTIFIERS_PATH, body={"branch_id": "b"}, customer="still"
    ).is_success
    assert ask(
        server, "POST", CLEAR, body={"kinds": ["adjust_device_id"]}, customer="still"
    ).is_success
    assert len(history(server, customer="still")) == 2


def test_head_and_no_last_slash_do_as_the_path(past: Past) -> None:
    """HEAD answers without a body, and the path without its slash the same."""
    whole = ask(past.server, "GET", HISTORY, **past.who)
    assert ask(past.server, "GET", HISTORY[:-1], **past.who).content == whole.content
    head = ask(past.server, "HEAD", HISTORY, **past.who)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == whole.headers["content-length"]


# --- As of ------------------------------------------------------------------------------------


def test_profile_is_had_as_of_each_revision(past: Past) -> None:
    """As of a revision the answer is what GET answered then, to the letter."""
    for number, state in enumerate(past.states, start=1):
        answer = as_of(past.server, f"revision={number}", **past.who)
        assert answer.json() == {"data": state}
        assert as_of(past.server, f"revision={number}", customer="past").content == answer.content


def test_profile_is_had_as_of_any_time(past: Past) -> None:
    """As of a time the answer is the last state that had begun by then."""
    states = past.states
    for state, later in zip(states, [*states[1:], None], strict=True):
        last = FUTURE if later is None else later["updated_at"] - 1
        for at in (state["updated_at"], last):
            assert as_of(past.server, f"at={at}", **past.who).json() == {"data": state}


def test_before_its_beginning_there_is_no_profile(past: Past) -> None:
    """As of a time before it was made, and of a revision that it never had, it is a 404."""
    began = past.states[0]["updated_at"]
    for query in ("at=0", f"at={began - 1}", "revision=6", f"revision={FUTURE}"):
        answer = as_of(past.server, query, **past.who)
        assert error_code(answer) == (404, "profile_not_found")
    assert "did not exist then" in as_of(past.server, "at=0", **past.who).text
    assert "no such revision yet" in as_of(past.server, "revision=6", **past.who).text


def test_deleted_profile_is_had_as_of_its_life(server: Server) -> None:
    """By its id it is there as of any time of its life, and gone as of its end and after."""
    alive = make_profile(server, "mortal", branch_id="kept")
    who = Who(profile=alive["profile_id"])
    assert ask(server, "DELETE", PROFILE_PATH, **who).status_code == 204
    assert as_of(server, "revision=2", **who).json() == {"data": alive}
    for query in ("revision=3", f"at={FUTURE}"):
        assert error_code(as_of(server, query, **who)) == (404, "profile_not_found")
    # A new one of this id begins after it.
    assert ask(server, "POST", PROFILE_PATH, **who).is_success
    assert as_of(server, "revision=2", **who).json() == {"data": alive}
    assert as_of(server, "revision=3", **who).status_code == 404
    assert (
        as_of(server, "revision=4", **who).json() == ask(server, "GET", NATIVE_PATH, **who).json()
    )


@pytest.fixture
def forgotten(database: str, server: Server) -> Iterator[Server]:
    """Give the server with the customer `forgotten`, of whose three states the history has one."""
    make_profile(server, "forgotten", branch_id="1")

    async def forget() -> None:
        storage = bootstrap.open_storage(database)
        now = time.time_ns() // 1_000_000
        while await storage.prune(now=now, before=now + 1, limit=100):
            pass
        await storage.close()

    asyncio.run(forget())
    assert ask(
        server, "POST", IDENTIFIERS_PATH, body={"branch_id": "2"}, customer="forgotten"
    ).is_success
    yield server
    assert ask(server, "DELETE", PROFILE_PATH, customer="forgotten").is_success


def test_history_that_is_not_kept_is_told(forgotten: Server) -> None:
    """What the kept history tells is answered; what it does not tell is a 410."""
    who = Who(customer="forgotten")
    now = ask(forgotten, "GET", NATIVE_PATH, **who).json()["data"]
    assert [it["revision"] for it in history(forgotten, **who)] == [3]
    assert as_of(forgotten, "revision=3", **who).json() == {"data": now}
    known = as_of(forgotten, "revision=2", **who).json()["data"]
    assert known["identifiers"] == {"branch_id": "1"}
    for query in ("revision=1", "at=0", f"at={known['updated_at'] - 1}"):
        assert error_code(as_of(forgotten, query, **who)) == (410, "history_expired")


# --- What is refused --------------------------------------------------------------------------

NUMBERS = ("", "-1", "1.0", "07", "x", "%D9%A1", str(2**53 + 1), "9" * 30)


@pytest.mark.parametrize(
    ("path", "query", "expected"),
    [
        *((NATIVE_PATH, f"at={number}", ["at"]) for number in NUMBERS),
        *((NATIVE_PATH, f"revision={number}", ["revision"]) for number in ("0", *NUMBERS)),
        (NATIVE_PATH, "at=1&revision=1", ["revision"]),
        (NATIVE_PATH, "at=1&at=1", ["at"]),
        (NATIVE_PATH, "asof=1", ["asof"]),
        *((HISTORY, f"before={number}", ["before"]) for number in ("0", *NUMBERS)),
        *((HISTORY, f"limit={number}", ["limit"]) for number in ("0", "1001", *NUMBERS)),
        (HISTORY, "before=2&x=1", ["x"]),
    ],
)
def test_bad_parameter_is_named(past: Past, path: str, query: str, expected: list[str]) -> None:
    """A parameter that is unknown, doubled, or no number within its bounds is a 400."""
    answer = ask(past.server, "GET", f"{path}?{query}", **past.who)
    assert error_code(answer) == (400, "validation_error")
    assert sources(answer) == expected


@pytest.mark.parametrize(
    "path", [HISTORY, f"{NATIVE_PATH}?revision=1", f"{NATIVE_PATH}?at={FUTURE}"]
)
def test_who_is_named_as_in_the_compatible_api(past: Past, path: str) -> None:
    """Nobody named, somebody unknown, two different profiles: the contract's errors."""
    make_profile(past.server, "someone")
    cases: list[tuple[Who, tuple[int, str]]] = [
        ({}, (400, "validation_error")),
        ({"profile": "no"}, (400, "validation_error")),
        ({"customer": "absent"}, (404, "profile_not_found")),
        ({"customer": "absent", "profile": past.profile_id}, (404, "profile_not_found")),
        ({"customer": "someone", "profile": past.profile_id}, (400, "profile_conflict")),
    ]
    for who, expected in cases:
        assert error_code(ask(past.server, "GET", path, **who)) == expected


@pytest.mark.parametrize(
    "path", [HISTORY, f"{NATIVE_PATH}?revision=1", f"{NATIVE_PATH}?at={FUTURE}"]
)
def test_row_05_another_apps_profile_is_absent(past: Past, other: Server, path: str) -> None:
    """Through another app's key a profile's past answers the bytes of one that never was."""
    absent = ask(other, "GET", path, customer="absent")
    assert error_code(absent) == (404, "profile_not_found")
    cases: list[Who] = [{"customer": "past"}, past.who]
    for who in cases:
        answer = ask(other, "GET", path, **who)
        assert (answer.status_code, answer.content) == (404, absent.content)


def test_only_a_secret_key_is_served(past: Past) -> None:
    """Without a key, with an unknown or a public one, the answer is 401, whatever is asked."""
    for key in ("", "unknown", past.server.public_key):
        answer = ask(past.server._replace(key=key), "GET", f"{HISTORY}?bad", **past.who)
        assert error_code(answer) == (401, "unauthorized")
