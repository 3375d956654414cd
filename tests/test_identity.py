"""Who is who: customers that change hands, profiles that are merged and split again."""

from typing import Any

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

DATABASES = ("sqlite", "postgresql")

CUSTOMER = "/api/v1/profile/customer/"
MERGE = "/api/v1/merge/"
UNDO = "/api/v1/merge/undo/"
FIND = "/api/v1/profiles/"
HISTORY = "/api/v1/profile/history/"
CLEAR = "/api/v1/profile/clear/"
ABSENT_ID = "00000009-aaaa-4bbb-8ccc-000000000000"


def bind(server: Server, profile_id: str, customer: str | None, **more: object) -> httpx2.Response:
    """Have a customer be that of a profile."""
    body = {"customer_user_id": customer, **more}
    return ask(server, "POST", CUSTOMER, body=body, profile=profile_id)


def merge(server: Server, survivor: object, source: object, **more: object) -> httpx2.Response:
    """Merge two profiles, each named as the API has it or by its customer."""
    body = {
        name: {"customer_user_id": it} if isinstance(it, str) else it
        for name, it in (("survivor", survivor), ("source", source))
    }
    return ask(server, "POST", MERGE, body={**body, **more})


def merged(server: Server, survivor: object, source: object, **more: object) -> dict[str, Any]:
    """Return what came of a merge."""
    answer = merge(server, survivor, source, **more)
    assert answer.status_code == 200, answer.text
    data: dict[str, Any] = answer.json()["data"]
    return data


def undo(server: Server, profile_id: str) -> httpx2.Response:
    """Undo the merge of a profile."""
    return ask(server, "POST", UNDO, body={"source": profile_id})


def profile(server: Server, **who: str) -> dict[str, Any]:
    """Return a profile by `customer=` or `profile=`."""
    answer = ask(server, "GET", NATIVE_PATH, **Who(**who))  # type: ignore[typeddict-item] # as said
    assert answer.status_code == 200, answer.text
    data: dict[str, Any] = answer.json()["data"]
    return data


def without_times(data: dict[str, Any]) -> dict[str, Any]:
    """Return a profile but for when, and how often, it was changed."""
    return {name: value for name, value in data.items() if name not in {"updated_at", "revision"}}


def set_attributes(server: Server, customer: str, **attributes: object) -> None:
    """Set attributes of a customer's profile."""
    body = {"custom_attributes": [{"key": k, "value": v} for k, v in attributes.items()]}
    assert ask(server, "PATCH", PROFILE_PATH, body=body, customer=customer).is_success


# --- Customers --------------------------------------------------------------------------------


def test_customer_is_bound_and_taken_away(server: Server) -> None:
    """A profile gets a customer, keeps all else, and is found by it; null leaves it without one."""
    made = ask(server, "POST", PROFILE_PATH, profile="00000001-aaaa-4bbb-8ccc-000000000000")
    profile_id = made.json()["data"]["profile_id"]
    assert ask(
        server, "POST", IDENTIFIERS_PATH, body={"branch_id": "b"}, profile=profile_id
    ).is_success
    answer = bind(server, profile_id, " bound\t")
    assert answer.status_code == 200
    assert answer.json()["data"]["customer_user_id"] == "bound"
    assert answer.json()["data"] == profile(server, customer="bound")
    # What is so already changes nothing.
    assert bind(server, profile_id, "bound").content == answer.content
    freed = bind(server, profile_id, None).json()["data"]
    assert (freed["customer_user_id"], freed["identifiers"]) == (None, {"branch_id": "b"})
    assert error_code(ask(server, "GET", NATIVE_PATH, customer="bound")) == (
        404,
        "profile_not_found",
    )
    assert bind(server, profile_id, None).json()["data"] == freed


def test_customer_changes_hands_only_where_that_is_asked_for(server: Server) -> None:
    """A customer of another profile, and a profile of another customer, need `rebind`."""
    one, two = make_profile(server, "one"), make_profile(server, "two")
    for more in ({}, {"rebind": False}, {"rebind": None}):
        answer = bind(server, one["profile_id"], "two", **more)
        assert error_code(answer) == (400, "profile_conflict")
        assert "rebind" in answer.text
        assert error_code(bind(server, one["profile_id"], "new", **more)) == (
            400,
            "profile_conflict",
        )
    assert (profile(server, customer="one"), profile(server, customer="two")) == (one, two)
    taken = bind(server, one["profile_id"], "two", rebind=True).json()["data"]
    assert taken["customer_user_id"] == "two"
    assert profile(server, customer="two")["profile_id"] == one["profile_id"]
    assert profile(server, profile=two["profile_id"])["customer_user_id"] is None
    assert ask(server, "GET", NATIVE_PATH, customer="one").status_code == 404


def test_customer_of_a_merged_profile_can_be_bound_anew(server: Server) -> None:
    """A customer that leads to a survivor leads to the profile that it is bound to, afterwards."""
    make_profile(server, "stays")
    make_profile(server, "goes")
    merged(server, "stays", "goes")
    assert profile(server, customer="goes")["customer_user_id"] == "stays"
    new = make_profile(server, "new-one")
    assert error_code(bind(server, new["profile_id"], "goes")) == (400, "profile_conflict")
    assert bind(server, new["profile_id"], "goes", rebind=True).status_code == 200
    assert profile(server, customer="goes")["profile_id"] == new["profile_id"]
    assert profile(server, customer="stays")["customer_user_id"] == "stays"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, ["customer_user_id"]),
        ({"customer_user_id": 1}, ["customer_user_id"]),
        ({"customer_user_id": ""}, ["customer_user_id"]),
        ({"customer_user_id": " \t"}, ["customer_user_id"]),
        ({"customer_user_id": "x" * 256}, ["customer_user_id"]),
        ({"customer_user_id": "a\u0000b"}, ["customer_user_id"]),
        ({"customer_user_id": "a", "rebind": "yes"}, ["rebind"]),
        ({"customer_user_id": "a", "rebind": 1, "x": 1}, ["x", "rebind"]),
        ({"customer_user_id": "a", "profile_id": ABSENT_ID}, ["profile_id"]),
        (b"", [None]),
        (b"[]", [None]),
    ],
)
def test_bad_binding_is_named(server: Server, body: object, expected: list[str | None]) -> None:
    """Every bad part of the body is named, and nothing is changed."""
    before = make_profile(server, "unbound")
    answer = ask(server, "POST", CUSTOMER, body=body, profile=before["profile_id"])
    assert error_code(answer) == (400, "validation_error")
    assert sources(answer) == expected
    assert profile(server, customer="unbound") == before


def test_profile_is_named_by_its_id_alone(server: Server) -> None:
    """The header with the customer is refused, since the customer stands in the body."""
    made = make_profile(server, "headed")
    body = {"customer_user_id": "headed"}
    cases: list[tuple[Who, list[str | None]]] = [
        ({}, [None]),
        ({"customer": "headed"}, ["adapty-profile-id"]),
        ({"customer": "headed", "profile": made["profile_id"]}, ["adapty-profile-id"]),
        ({"profile": "no"}, ["adapty-profile-id"]),
    ]
    for who, expected in cases:
        assert sources(ask(server, "POST", CUSTOMER, body=body, **who)) == expected
    assert error_code(bind(server, ABSENT_ID, "headed")) == (404, "profile_not_found")


# --- Merging ----------------------------------------------------------------------------------


def test_survivor_takes_over_what_the_source_has(server: Server) -> None:
    """What only one has is kept; the source ends, and its id and customer lead to the survivor."""
    stays = make_profile(server, "s-1", branch_id="b", appsflyer_id="same")
    goes = make_profile(server, "s-2", adjust_device_id="a", appsflyer_id="same")
    set_attributes(server, "s-1", plan="gold", age=1)
    set_attributes(server, "s-2", plan="gold", town="Ulm")
    data = merged(server, "s-1", {"profile_id": goes["profile_id"].upper()})
    assert data["dry_run"] is False
    assert [it["field"] for it in data["conflicts"]] == ["customer_user_id"]
    assert data["source"]["profile_id"] == goes["profile_id"]
    survivor = data["survivor"]
    assert survivor["identifiers"] == {
        "appsflyer_id": "same",
        "branch_id": "b",
        "adjust_device_id": "a",
    }
    assert {it["key"]: it["value"] for it in survivor["custom_attributes"]} == {
        "plan": "gold",
        "age": 1,
        "town": "Ulm",
    }
    assert (survivor["profile_id"], survivor["customer_user_id"]) == (stays["profile_id"], "s-1")
    for who in ({"customer": "s-1"}, {"customer": "s-2"}, {"profile": goes["profile_id"]}):
        assert profile(server, **who) == survivor
    found = ask(server, "GET", f"{FIND}?value=same").json()["data"]
    assert [it["profile"]["profile_id"] for it in found] == [stays["profile_id"]]


def test_rules_say_whose_value_is_kept(server: Server) -> None:
    """Of what both have, each its own, a rule or else the default decides; all of it is told."""
    make_profile(server, "r-1", branch_id="b1", appsflyer_id="a1")
    make_profile(server, "r-2", branch_id="b2", appsflyer_id="a2")
    set_attributes(server, "r-1", plan="gold", n=1)
    set_attributes(server, "r-2", plan="silver", n=1)
    rules = {"branch_id": "survivor", "customer_user_id": "source"}
    data = merged(server, "r-1", "r-2", rules=rules, default="source")
    assert data["survivor"]["identifiers"] == {"branch_id": "b1", "appsflyer_id": "a2"}
    assert data["survivor"]["customer_user_id"] == "r-2"
    assert {"key": "plan", "value": "silver"} in data["survivor"]["custom_attributes"]
    assert sorted(data["conflicts"], key=lambda it: str(it["field"])) == [
        {"field": "appsflyer_id", "survivor": "a1", "source": "a2", "kept": "source"},
        {"field": "branch_id", "survivor": "b1", "source": "b2", "kept": "survivor"},
        {
            "field": "custom_attributes.plan",
            "survivor": "gold",
            "source": "silver",
            "kept": "source",
        },
        {"field": "customer_user_id", "survivor": "r-1", "source": "r-2", "kept": "source"},
    ]
    for customer in ("r-1", "r-2"):
        assert profile(server, customer=customer) == data["survivor"]


def test_dry_run_says_what_would_come_of_it(server: Server) -> None:
    """It answers what the merge then answers, and changes nothing."""
    one = make_profile(server, "d-1", branch_id="b1")
    two = make_profile(server, "d-2", branch_id="b2", appsflyer_id="a2")
    more = {"rules": {"branch_id": "source"}, "default": None}
    dry = merged(server, "d-1", "d-2", dry_run=True, **more)
    assert dry["dry_run"] is True
    assert any("ends the undo" in note for note in dry["notes"])
    assert (profile(server, customer="d-1"), profile(server, customer="d-2")) == (one, two)
    wet = merged(server, "d-1", "d-2", **more)
    assert without_times(dry.pop("survivor")) == without_times(wet.pop("survivor"))
    assert dry | {"dry_run": False} == wet


def test_merge_is_in_the_history_of_both(server: Server) -> None:
    """The source has its end, the survivor its gain, both by the merge and the key."""
    make_profile(server, "h-1")
    goes = make_profile(server, "h-2", branch_id="b")
    merged(server, "h-1", "h-2")
    end = ask(server, "GET", HISTORY, profile=goes["profile_id"]).json()["data"][0]
    gain = ask(server, "GET", HISTORY, customer="h-1").json()["data"][0]
    assert (end["type"], gain["type"]) == ("profile.deleted", "profile.changed")
    assert gain["changes"] == {"identifiers": {"branch_id": {"old": None, "new": "b"}}}
    assert {it["source"]["via"] for it in (end, gain)} == {"merge"}
    assert all(it["source"]["key_id"].startswith("key_") for it in (end, gain))


def test_every_call_follows_a_merged_name(server: Server) -> None:
    """Reads, writes, creates, batches: by its id or its customer the source is the survivor."""
    stays = make_profile(server, "e-1")
    goes = make_profile(server, "e-2")
    merged(server, "e-1", "e-2")
    survivor = stays["profile_id"]
    names: list[Who] = [{"customer": "e-2"}, {"profile": goes["profile_id"]}]
    for number, who in enumerate(names):
        body = {"branch_id": f"e-{number}"}
        assert ask(server, "POST", IDENTIFIERS_PATH, body=body, **who).is_success
        assert ask(server, "GET", IDENTIFIERS_PATH, **who).json()["branch_id"] == f"e-{number}"
        made = ask(server, "POST", PROFILE_PATH, **who).json()["data"]
        assert (made["profile_id"], made["customer_user_id"]) == (survivor, "e-1")
        assert ask(server, "GET", PROFILE_PATH, **who).json()["data"]["profile_id"] == survivor
        assert ask(server, "POST", CLEAR, body={"kinds": "all"}, **who).is_success
    items = [{"customer_user_id": "e-2"}, {"profile_id": goes["profile_id"]}]
    read = ask(server, "POST", "/api/v1/batch/read/", body={"items": items}).json()["data"]
    assert [it["profile"]["profile_id"] for it in read] == [survivor] * 2
    written = ask(
        server,
        "POST",
        "/api/v1/batch/write/?create=true",
        body={"items": [it | {"identifiers": {"branch_id": "x"}} for it in items]},
    ).json()["data"]
    assert [it["profile_id"] for it in written] == [survivor] * 2


def test_one_profile_is_not_merged_with_itself(server: Server) -> None:
    """Two names of one profile are a conflict, also once they were merged."""
    one = make_profile(server, "self")
    make_profile(server, "other-self")
    for source in ("self", {"profile_id": one["profile_id"]}):
        assert error_code(merge(server, "self", source)) == (400, "profile_conflict")
    merged(server, "self", "other-self")
    answer = merge(server, "self", "other-self")
    assert error_code(answer) == (400, "profile_conflict")
    assert "same profile already" in answer.text


def test_merge_keeps_to_the_limit_of_attributes(server: Server) -> None:
    """Over 30 attributes are refused, dry or not, and nothing is merged."""
    for number in (1, 2):
        make_profile(server, f"full-{number}")
        set_attributes(server, f"full-{number}", **{f"{number}-{key}": "x" for key in range(16)})
    for dry_run in (True, False):
        answer = merge(server, "full-1", "full-2", dry_run=dry_run)
        assert error_code(answer) == (400, "validation_error")
        assert sources(answer) == ["custom_attributes"]
        assert "32" in answer.text
    assert profile(server, customer="full-2")["customer_user_id"] == "full-2"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, ["survivor", "source"]),
        ({"survivor": None, "source": []}, ["survivor", "source"]),
        ({"survivor": {}, "source": "x"}, ["survivor", "source"]),
        (
            {"survivor": {"profile_id": None}, "source": {"customer_user_id": ""}},
            ["survivor", "source.customer_user_id"],
        ),
        (
            {"survivor": {"profile_id": "no", "x": 1}, "source": {"profile_id": 1}},
            ["survivor.profile_id", "survivor.x", "source.profile_id"],
        ),
        ({"rules": []}, ["rules"]),
        (
            {"rules": {"branch_id": "both", "brunch_id": "source"}},
            ["rules.branch_id", "rules.brunch_id"],
        ),
        ({"rules": {"custom_attributes.plan": "source"}}, ["rules.custom_attributes.plan"]),
        ({"rules": {"branch_id": None}}, ["rules.branch_id"]),
        ({"default": ""}, ["default"]),
        ({"default": "newest"}, ["default"]),
        ({"default": False}, ["default"]),
        ({"default": {}}, ["default"]),
        ({"dry_run": "true"}, ["dry_run"]),
        ({"dryrun": True}, ["dryrun"]),
        (b"", [None]),
        (b"[]", [None]),
    ],
)
def test_bad_merge_is_named(server: Server, body: object, expected: list[str | None]) -> None:
    """Every bad part of the body is named, and nothing is merged."""
    make_profile(server, "m-1")
    two = make_profile(server, "m-2")
    if isinstance(body, dict) and body and "survivor" not in body:
        names = {"survivor": {"customer_user_id": "m-1"}, "source": {"customer_user_id": "m-2"}}
        body = {**names, **body}
    answer = ask(server, "POST", MERGE, body=body)
    assert error_code(answer) == (400, "validation_error")
    assert sources(answer) == expected
    assert profile(server, customer="m-2") == two


def test_who_is_to_be_merged_must_be_there(server: Server) -> None:
    """An unknown profile is a 404, two that one name means a 400."""
    one = make_profile(server, "there")
    two = make_profile(server, "there-too")
    both = {"profile_id": one["profile_id"], "customer_user_id": "there-too"}
    for survivor, source, expected in (
        ("there", "absent", (404, "profile_not_found")),
        ({"profile_id": ABSENT_ID}, "there", (404, "profile_not_found")),
        (both, "there", (400, "profile_conflict")),
    ):
        for dry_run in (True, False):
            answer = merge(server, survivor, source, dry_run=dry_run)
            assert error_code(answer) == expected
    assert profile(server, customer="there-too") == two


# --- Undoing ----------------------------------------------------------------------------------


@pytest.mark.parametrize("default", ["survivor", "source"])
def test_undo_makes_both_as_they_were(server: Server, default: str) -> None:
    """Whichever side was kept, afterwards both have what they had, their times of making too."""
    one = f"u-{default}-1"
    two = f"u-{default}-2"
    make_profile(server, one, branch_id="b1", appsflyer_id="same", adjust_device_id="only")
    make_profile(server, two, branch_id="b2", appsflyer_id="same", mixpanel_user_id="only")
    set_attributes(server, one, plan="gold", age=1)
    set_attributes(server, two, plan="silver", town="Ulm")
    before = [profile(server, customer=it) for it in (one, two)]
    merged(server, one, two, default=default)
    answer = undo(server, before[1]["profile_id"])
    assert answer.status_code == 200
    data = answer.json()["data"]
    assert [without_times(it) for it in (data["survivor"], data["source"])] == [
        without_times(it) for it in before
    ]
    assert profile(server, customer=one) == data["survivor"]
    assert profile(server, customer=two) == data["source"]
    assert profile(server, profile=before[1]["profile_id"]) == data["source"]
    newest = ask(server, "GET", HISTORY, customer=two).json()["data"][0]
    assert (newest["type"], newest["source"]["via"]) == ("profile.created", "undo")


def test_what_was_written_since_stays_with_the_survivor(server: Server) -> None:
    """The source comes back as it was at the merge; later values are the survivor's."""
    make_profile(server, "w-1", branch_id="b1")
    goes = make_profile(server, "w-2", appsflyer_id="a2", adjust_device_id="d2")
    merged(server, "w-1", "w-2")
    late = {"appsflyer_id": "late", "mixpanel_user_id": "new"}
    assert ask(server, "POST", IDENTIFIERS_PATH, body=late, customer="w-2").is_success
    data = undo(server, goes["profile_id"]).json()["data"]
    assert data["survivor"]["identifiers"] == {
        "branch_id": "b1",
        "appsflyer_id": "late",
        "mixpanel_user_id": "new",
    }
    assert data["source"]["identifiers"] == goes["identifiers"]


def test_merges_are_undone_one_after_another(server: Server) -> None:
    """Of a survivor that was merged itself the later merge has to be undone first."""
    names = ["c-1", "c-2", "c-3"]
    before = [make_profile(server, it, branch_id=it) for it in names]
    first, second, third = (it["profile_id"] for it in before)
    merged(server, "c-2", "c-3")
    merged(server, "c-1", "c-2")
    for customer in names:
        assert profile(server, customer=customer)["profile_id"] == first
    answer = undo(server, third)
    assert error_code(answer) == (400, "validation_error")
    assert sources(answer) == ["source"]
    assert "undo the later merge first" in answer.text
    assert undo(server, second).is_success
    assert undo(server, third).is_success
    assert [without_times(profile(server, customer=it)) for it in names] == [
        without_times(it) for it in before
    ]


def test_what_was_not_merged_is_not_undone(server: Server) -> None:
    """A profile that is not merged, or is so no more, is a 404."""
    one = make_profile(server, "n-1")
    two = make_profile(server, "n-2")
    merged(server, "n-1", "n-2")
    assert undo(server, two["profile_id"]).is_success
    for profile_id in (one["profile_id"], two["profile_id"], ABSENT_ID):
        answer = undo(server, profile_id)
        assert error_code(answer) == (404, "profile_not_found")
        assert "No merge of this profile is known" in answer.text


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, ["source"]),
        ({"source": None}, ["source"]),
        ({"source": {"profile_id": ABSENT_ID}}, ["source"]),
        ({"source": "no"}, ["source"]),
        ({"source": ABSENT_ID, "survivor": ABSENT_ID}, ["survivor"]),
        (b"", [None]),
        (b"[]", [None]),
    ],
)
def test_bad_undo_is_named(server: Server, body: object, expected: list[str | None]) -> None:
    """Every bad part of the body is named."""
    answer = ask(server, "POST", UNDO, body=body)
    assert error_code(answer) == (400, "validation_error")
    assert sources(answer) == expected


# --- All of them ------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [CUSTOMER, MERGE, UNDO])
def test_parameters_and_media_types_are_refused(server: Server, path: str) -> None:
    """A query parameter is a 400 that names it, another media type a 415, a large body a 413."""
    who = Who(profile=ABSENT_ID)
    assert sources(ask(server, "POST", f"{path}?dry_run=true", body={}, **who)) == ["dry_run"]
    answer = ask(server, "POST", path, [("Content-Type", "text/plain")], b"{}", **who)
    assert error_code(answer) == (415, "unsupported_media_type")
    answer = ask(server, "POST", path, body=b" " * 65_537, **who)
    assert error_code(answer) == (413, "payload_too_large")
    assert ask(server, "GET", path, **who).status_code == 405


def test_row_05_another_apps_profiles_are_absent(server: Server, other: Server) -> None:
    """Through another app's key nothing of one app can be bound, merged or split."""
    one = make_profile(server, "x-1")
    two = make_profile(server, "x-2")
    make_profile(other, "theirs")
    absent = {"profile_id": ABSENT_ID}
    assert bind(other, one["profile_id"], "x").content == bind(other, ABSENT_ID, "x").content
    expected = merge(other, "theirs", absent).content
    for source in ("x-1", {"profile_id": one["profile_id"]}):
        answer = merge(other, "theirs", source)
        assert (answer.status_code, answer.content) == (404, expected)
        assert merge(other, source, "theirs").content == expected
    merged(server, "x-1", "x-2")
    answer = undo(other, two["profile_id"])
    assert (answer.status_code, answer.content) == (404, undo(other, ABSENT_ID).content)
    assert ask(other, "GET", NATIVE_PATH, customer="x-2").status_code == 404
    # A customer of the same name is another one.
    assert make_profile(other, "x-2")["profile_id"] != one["profile_id"]
    assert undo(server, two["profile_id"]).is_success


@pytest.mark.parametrize("path", [CUSTOMER, MERGE, UNDO])
def test_only_a_secret_key_is_served(server: Server, path: str) -> None:
    """Without a key, with an unknown or a public one, the answer is 401, whatever is asked."""
    for key in ("", "unknown", server.public_key):
        answer = ask(server._replace(key=key), "POST", path, body={"bad": 1})
        assert error_code(answer) == (401, "unauthorized")
