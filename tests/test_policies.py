"""One identifier on several profiles: policies and conflicts; and how many profiles have which."""

import asyncio
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import httpx2
import pytest

from conftest import (
    IDENTIFIERS_PATH,
    INJECTIONS,
    LOOKALIKES,
    NATIVE_PATH,
    PROFILE_PATH,
    SDK_PATH,
    Server,
    ask,
    error_code,
    make_profile,
    sources,
)
from knownas.model import KINDS

DATABASES = ("sqlite", "postgresql")

POLICIES = "/api/v1/policies/"
CONFLICTS = "/api/v1/conflicts/"
COVERAGE = "/api/v1/coverage/"
CHANGES = "/api/v1/changes/"
BATCH = "/api/v1/batch/write/"
MERGE = "/api/v1/merge/"
KNOWN_SECONDS = 1.0
"""A policy is known to every process half a second after its answer; here with slack."""

ALLOW = {kind.name: "allow" for kind in KINDS}


def put(server: Server, **policies: str) -> httpx2.Response:
    """Set the policies of the app."""
    return ask(server, "PUT", POLICIES, body=policies)


@pytest.fixture
def strict(server: Server) -> Iterator[Server]:
    """Give the server with an app that rejects shared branch ids and moves AppsFlyer's."""
    assert put(server, branch_id="reject", appsflyer_id="move").status_code == 200
    yield server
    assert ask(server, "PUT", POLICIES, body={}).status_code == 200


def set_values(server: Server, customer: str, **values: str) -> httpx2.Response:
    """Set identifiers of a customer's profile by the compatible API."""
    return ask(server, "POST", IDENTIFIERS_PATH, body=values, customer=customer)


def identifiers(server: Server, customer: str) -> dict[str, str]:
    """Return the identifiers of a customer's profile that are set."""
    values: dict[str, str] = ask(server, "GET", NATIVE_PATH, customer=customer).json()["data"][
        "identifiers"
    ]
    return values


# --- Policies ---------------------------------------------------------------------------------


def test_everything_is_allowed_at_first(server: Server) -> None:
    """An app has a policy for each kind, `allow` where none was set."""
    assert ask(server, "GET", POLICIES).json() == {"data": ALLOW}


def test_policies_are_set_whole(server: Server) -> None:
    """PUT answers, and GET afterwards, what was named; all else is allowed again."""
    answer = put(server, branch_id="reject", appsflyer_id="move", adjust_device_id="allow")
    expected = {"data": ALLOW | {"branch_id": "reject", "appsflyer_id": "move"}}
    assert (answer.status_code, answer.json()) == (200, expected)
    assert ask(server, "GET", POLICIES).json() == expected
    assert ask(server, "PUT", POLICIES, body={}).json() == {"data": ALLOW}
    assert ask(server, "GET", POLICIES).json() == {"data": ALLOW}


def test_taken_identifier_is_refused(strict: Server) -> None:
    """With `reject` a value of another profile is a 409 that names its kind; nothing is stored."""
    make_profile(strict, "has", branch_id="taken", adjust_device_id="shared")
    make_profile(strict, "wants", branch_id="own")
    answer = set_values(strict, "wants", branch_id="taken", adjust_device_id="shared")
    assert error_code(answer) == (409, "identifier_taken")
    assert [it["source"] for it in answer.json()["errors"]] == ["branch_id"]
    assert identifiers(strict, "wants") == {"branch_id": "own"}
    # Its own value is no other's, and a free one is free.
    assert set_values(strict, "has", branch_id="taken").status_code == 200
    assert set_values(strict, "wants", branch_id="free", adjust_device_id="shared").is_success
    assert set_values(strict, "has", branch_id="own").status_code == 200


def test_taken_identifier_is_refused_whichever_way_it_comes(strict: Server) -> None:
    """By an SDK and in a batch it is the same; a merge brings together and takes nobody's."""
    has = make_profile(strict, "way-1", branch_id="way")
    wants = make_profile(strict, "way-2")
    body = {"data": {"profile_id": wants["profile_id"], "branch_id": "way"}}
    answer = ask(strict._replace(key=strict.public_key), "POST", SDK_PATH, body=body)
    assert error_code(answer) == (409, "identifier_taken")
    items = [{"customer_user_id": "way-2", "identifiers": {"branch_id": "way"}}]
    (error,) = ask(strict, "POST", BATCH, body={"items": items}).json()["data"]
    assert (error["error_code"], error["errors"][0]["source"]) == ("identifier_taken", "branch_id")
    answer = ask(strict, "POST", f"{BATCH}?atomic=true", body={"items": items})
    assert error_code(answer) == (409, "batch_failed")
    assert [it["source"] for it in answer.json()["errors"]] == ["items[0].branch_id"]
    both = {"survivor": {"customer_user_id": "way-2"}, "source": {"customer_user_id": "way-1"}}
    merged = ask(strict, "POST", MERGE, body=both).json()["data"]
    assert merged["survivor"]["identifiers"] == has["identifiers"]


def test_identifier_moves(strict: Server) -> None:
    """With `move` the other profile loses the value, and nothing else; both changes are told."""
    after = ask(strict, "GET", f"{CHANGES}?after=now").json()["next"]
    loses = make_profile(strict, "loses", appsflyer_id="moved", branch_id="stays")
    gains = make_profile(strict, "gains")
    assert set_values(strict, "gains", appsflyer_id="moved").status_code == 200
    assert identifiers(strict, "loses") == {"branch_id": "stays"}
    assert identifiers(strict, "gains") == {"appsflyer_id": "moved"}
    told = ask(strict, "GET", f"{CHANGES}?after={after}").json()["data"][-2:]
    # One write's changes are in no order that is promised.
    assert {it["profile_id"]: (it["changes"], it["shared"]) for it in told} == {
        loses["profile_id"]: (
            {"identifiers": {"appsflyer_id": {"old": "moved", "new": None}}},
            [],
        ),
        gains["profile_id"]: (
            {"identifiers": {"appsflyer_id": {"old": None, "new": "moved"}}},
            [],
        ),
    }
    assert told[0]["source"] == told[1]["source"]


def test_identifier_moves_from_all_that_share_it(server: Server) -> None:
    """Values that were shared before the policy stay so until they are set again."""
    for number in range(3):
        make_profile(server, f"shares-{number}", appsflyer_id="by-three")
    assert put(server, appsflyer_id="move").status_code == 200
    assert identifiers(server, "shares-0") == {"appsflyer_id": "by-three"}
    make_profile(server, "takes-all")
    assert set_values(server, "takes-all", appsflyer_id="by-three").status_code == 200
    assert [identifiers(server, f"shares-{number}") for number in range(3)] == [{}] * 3
    assert put(server).status_code == 200


def test_items_of_one_batch_see_each_other(strict: Server) -> None:
    """Of two items that want one value the second is refused, or gets it, as the policy has it."""
    items = [
        {"customer_user_id": f"batched-{n}", "identifiers": {kind: "wanted"}}
        for kind in ("branch_id", "appsflyer_id")
        for n in (1, 2)
    ]
    results = ask(strict, "POST", f"{BATCH}?create=true", body={"items": items}).json()["data"]
    assert [it.get("error_code") for it in results] == [None, "identifier_taken", None, None]
    assert identifiers(strict, "batched-1") == {"branch_id": "wanted"}
    assert identifiers(strict, "batched-2") == {"appsflyer_id": "wanted"}


def test_of_simultaneous_claims_one_wins(strict: Server, second: Server) -> None:
    """Of 32 profiles that set one value at once, over two processes, one has it in the end."""
    customers = [f"claims-{number}" for number in range(32)]
    for customer in customers:
        make_profile(strict, customer)
    time.sleep(KNOWN_SECONDS)

    async def claim(kind: str) -> list[int]:
        async with httpx2.AsyncClient(headers={"Authorization": f"Api-Key {strict.key}"}) as http:
            answers = await asyncio.gather(
                *(
                    http.post(
                        (strict, second)[number % 2].url + IDENTIFIERS_PATH,
                        headers={"adapty-customer-user-id": customer},
                        json={kind: "claimed"},
                    )
                    for number, customer in enumerate(customers)
                )
            )
        return sorted(answer.status_code for answer in answers)

    def holders(kind: str) -> int:
        found = ask(strict, "GET", f"/api/v1/profiles/?kind={kind}&value=claimed&limit=100").json()
        return len(found["data"])

    assert asyncio.run(claim("branch_id")) == [200] + [409] * 31
    assert holders("branch_id") == 1
    assert asyncio.run(claim("appsflyer_id")) == [200] * 32
    assert holders("appsflyer_id") == 1


def test_policies_are_known_to_every_process(server: Server, second: Server) -> None:
    """What is set through one server holds through another within a second."""
    make_profile(server, "known-1", branch_id="known")
    make_profile(server, "known-2")
    time.sleep(KNOWN_SECONDS)  # another test may just have set some
    assert ask(second, "GET", POLICIES).json() == {"data": ALLOW}
    assert put(server, branch_id="reject").status_code == 200
    time.sleep(KNOWN_SECONDS)
    assert ask(second, "GET", POLICIES).json()["data"]["branch_id"] == "reject"
    answer = set_values(second, "known-2", branch_id="known")
    assert error_code(answer) == (409, "identifier_taken")
    assert put(second).status_code == 200
    time.sleep(KNOWN_SECONDS)
    assert set_values(server, "known-2", branch_id="known").status_code == 200


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"brunch_id": "reject"}, ["brunch_id"]),
        ({"branch_id": "REJECT"}, ["branch_id"]),
        ({"branch_id": None}, ["branch_id"]),
        ({"branch_id": ["reject"]}, ["branch_id"]),
        ({"x": 1, "branch_id": "deny", "adjust_device_id": "move"}, ["x", "branch_id"]),
        (b"", [None]),
        (b"[]", [None]),
    ],
)
def test_bad_policy_is_named(server: Server, body: object, expected: list[str | None]) -> None:
    """Every bad kind or policy is named, and none is set."""
    answer = ask(server, "PUT", POLICIES, body=body)
    assert error_code(answer) == (400, "validation_error")
    assert sources(answer) == expected
    assert ask(server, "GET", POLICIES).json() == {"data": ALLOW}


def test_near_kind_is_named(server: Server) -> None:
    """A kind that is none is told which one is near."""
    answer = put(server, mixpanel_distinct_id="reject")
    assert "did you mean mixpanel_user_id?" in answer.text


# --- Conflicts --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clashing(server: Server, other: Server) -> Iterator[Server]:
    """Give the server with another app, in which identifiers stand on two or three profiles."""
    del server
    for number in range(3):
        make_profile(other, f"clash-{number}", branch_id="three", appsflyer_id=f"own-{number}")
    for number in range(2):
        values = {"appsflyer_id": f"two-{number}", "adjust_device_id": "two"}
        for twin in range(2):
            customer = f"twin-{number}-{twin}"
            assert ask(other, "POST", PROFILE_PATH, customer=customer).is_success
            assert ask(other, "POST", IDENTIFIERS_PATH, body=values, customer=customer).is_success
    yield other
    for customer in (
        *(f"clash-{n}" for n in range(3)),
        *(f"twin-{n}-{t}" for n in range(2) for t in range(2)),
    ):
        assert ask(other, "DELETE", PROFILE_PATH, customer=customer).status_code == 204


CLASHES = [
    ("appsflyer_id", "two-0", 2),
    ("appsflyer_id", "two-1", 2),
    ("branch_id", "three", 3),
    ("adjust_device_id", "two", 4),
]


def clashes(server: Server, query: str = "") -> dict[str, Any]:
    """Return a page of conflicts."""
    answer = ask(server, "GET", f"{CONFLICTS}?{query}")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_conflicts_are_listed_and_counted(clashing: Server) -> None:
    """Each identifier that several profiles have, in order, with how many; of how many kinds."""
    found = clashes(clashing)
    assert [tuple(it.values()) for it in found["data"]] == CLASHES
    assert list(found["data"][0]) == ["kind", "value", "profiles"]
    assert found["counts"] == {"appsflyer_id": 2, "branch_id": 1, "adjust_device_id": 1}
    assert found["next"] is None


def test_conflicts_are_had_by_pages(clashing: Server) -> None:
    """`next` has the parameters of the next page; each conflict is on one page."""
    for limit in (1, 2, 3, 4, 1_000):
        seen: list[tuple[str, str, int]] = []
        query = f"limit={limit}"
        while True:
            found = clashes(clashing, query)
            seen += [tuple(it.values()) for it in found["data"]]
            if found["next"] is None:
                break
            assert len(found["data"]) == limit
            query = "&".join(
                [f"limit={limit}", *(f"{k}={quote(v)}" for k, v in found["next"].items())]
            )
        assert seen == CLASHES


def test_conflict_ends_with_its_last_but_one_profile(clashing: Server) -> None:
    """Whoever changes, clears or deletes is counted down; what one profile has is none."""
    for customer in ("end-1", "end-2"):
        make_profile(clashing, customer, mixpanel_user_id="end")
    assert clashes(clashing)["counts"]["mixpanel_user_id"] == 1
    assert set_values(clashing, "end-1", mixpanel_user_id="other").is_success
    assert "mixpanel_user_id" not in clashes(clashing)["counts"]
    assert set_values(clashing, "end-1", mixpanel_user_id="end").is_success
    assert ask(clashing, "DELETE", PROFILE_PATH, customer="end-2").is_success
    assert "mixpanel_user_id" not in clashes(clashing)["counts"]
    assert ask(clashing, "DELETE", PROFILE_PATH, customer="end-1").is_success


def test_rows_07_and_24_conflicting_texts_are_kept_apart(clashing: Server) -> None:
    """Values that look alike, or like code, are listed as they are, each once."""
    texts = [f"-{text}-" for text in (*LOOKALIKES, *INJECTIONS)]
    items = [
        {
            "customer_user_id": f"alike-{twin}-{number}",
            "identifiers": {"posthog_distinct_user_id": text},
        }
        for twin in range(2)
        for number, text in enumerate(texts)
    ]
    made = ask(clashing, "POST", f"{BATCH}?create=true&atomic=true", body={"items": items})
    assert made.status_code == 200
    seen: list[str] = []
    query = "after_kind=posthog_distinct_user_id&after_value=%21"
    while True:
        found = clashes(clashing, f"limit=7&{query}")
        seen += [it["value"] for it in found["data"]]
        if found["next"] is None:
            break
        query = "&".join(f"{k}={quote(v)}" for k, v in found["next"].items())
    assert sorted(seen) == sorted(set(texts))
    for one in items:
        customer = str(one["customer_user_id"])
        assert ask(clashing, "DELETE", PROFILE_PATH, customer=customer).status_code == 204


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("after_kind=branch_id", ["after_value"]),
        ("after_value=x", ["after_kind"]),
        ("after_kind=brunch_id&after_value=x", ["after_kind"]),
        ("after_kind=branch_id&after_value=", ["after_value"]),
        ("after_kind=branch_id&after_value=a%00b", ["after_value"]),
        *((f"limit={limit}", ["limit"]) for limit in ("", "0", "1001", "-1", "07", "x")),
        ("kind=branch_id", ["kind"]),
    ],
)
def test_bad_parameter_is_named(clashing: Server, query: str, expected: list[str]) -> None:
    """A parameter that is missing, unknown, doubled, or not within its bounds is a 400."""
    answer = ask(clashing, "GET", f"{CONFLICTS}?{query}")
    assert error_code(answer) == (400, "validation_error")
    assert sources(answer) == expected


# --- Coverage ---------------------------------------------------------------------------------


def test_coverage_counts_profiles_and_kinds(server: Server, other: Server) -> None:
    """It goes up and down with each write, today, and knows nothing of another app."""
    before = ask(server, "GET", COVERAGE).json()["data"]
    theirs = ask(other, "GET", COVERAGE).json()
    make_profile(server, "covered", branch_id="1", appsflyer_id="1")
    assert set_values(server, "covered", branch_id="2").is_success
    found = ask(server, "GET", COVERAGE).json()
    expected = before["identifiers"] | {
        name: before["identifiers"][name] + 1 for name in ("branch_id", "appsflyer_id")
    }
    assert found["data"] == {"profiles": before["profiles"] + 1, "identifiers": expected}
    assert list(found["data"]["identifiers"]) == [kind.name for kind in KINDS]
    assert found["days"][-1] == found["data"] | {"day": datetime.now(UTC).date().isoformat()}
    assert ask(server, "DELETE", PROFILE_PATH, customer="covered").is_success
    assert ask(server, "GET", COVERAGE).json()["data"] == before
    assert ask(other, "GET", COVERAGE).json() == theirs


# --- All of them ------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [POLICIES, CONFLICTS, COVERAGE])
def test_head_and_no_last_slash_do_as_the_path(server: Server, path: str) -> None:
    """HEAD answers without a body, and the path without its slash the same."""
    whole = ask(server, "GET", path)
    assert ask(server, "GET", path[:-1]).content == whole.content
    head = ask(server, "HEAD", path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == whole.headers["content-length"]


@pytest.mark.parametrize(
    ("method", "path"), [("GET", POLICIES), ("PUT", POLICIES), ("GET", COVERAGE)]
)
def test_parameters_are_refused(server: Server, method: str, path: str) -> None:
    """A query parameter is a 400 that names it."""
    answer = ask(server, method, f"{path}?app=other", body={} if method == "PUT" else None)
    assert sources(answer) == ["app"]


def test_row_05_another_app_has_its_own(strict: Server, other: Server) -> None:
    """Another app's policies, conflicts and identifiers are none of this one's business."""
    assert ask(other, "GET", POLICIES).json() == {"data": ALLOW}
    make_profile(strict, "row-05", branch_id="row-05", appsflyer_id="row-05")
    make_profile(other, "row-05", branch_id="row-05", appsflyer_id="row-05")
    assert identifiers(strict, "row-05") == {"branch_id": "row-05", "appsflyer_id": "row-05"}
    for server in (strict, other):
        shared = {it["value"] for it in clashes(server, "limit=1000")["data"]}
        assert "row-05" not in shared


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", POLICIES), ("PUT", POLICIES), ("GET", CONFLICTS), ("GET", COVERAGE)],
)
def test_only_a_secret_key_is_served(server: Server, method: str, path: str) -> None:
    """Without a key, with an unknown or a public one, the answer is 401, whatever is asked."""
    for key in ("", "unknown", server.public_key):
        answer = ask(server._replace(key=key), method, f"{path}?bad", body={"bad": 1})
        assert error_code(answer) == (401, "unauthorized")
