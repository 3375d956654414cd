"""Both clients against the real server, on both databases."""

import itertools
import threading
import time
import uuid
from collections.abc import Callable
from typing import Final

import pytest

from conftest import LOOKALIKES, Server
from knownas_client import Client, errors
from knownas_client.calls import Who
from knownas_client.models import Found, Profile, ReadItem, WriteItem, Written

DATABASES = ("sqlite", "postgresql")

Connect = Callable[..., Client]

numbers = itertools.count(1)
NOBODY: Final = "00000000-0000-4000-8000-000000000000"


@pytest.fixture
def client(server: Server, connect: Connect) -> Client:
    """Give a client of the server's app."""
    return connect(server.url, server.key)


def new_customer(client: Client, **identifiers: str) -> str:
    """Make a customer's profile with identifiers, and return the customer."""
    customer = f"customer-{next(numbers)}"
    client.create_profile(customer_user_id=customer)
    if identifiers:
        client.set_identifiers(identifiers, customer_user_id=customer)
    return customer


# --- Adapty's server-side API -------------------------------------------------------------------


def test_identifiers_are_set_and_read(client: Client) -> None:
    """What is set is read back, None leaves alone, and unknown names are told."""
    customer = new_customer(client, branch_id="kept")
    ignored = client.set_identifiers(
        {"appsflyer_id": "1-2", "branch_id": None, "new_kind": "3"}, customer_user_id=customer
    )
    assert ignored == ["new_kind"]
    found = client.get_identifiers(customer_user_id=customer)
    assert len(found) == 16
    assert {kind: value for kind, value in found.items() if value} == {
        "appsflyer_id": "1-2",
        "branch_id": "kept",
    }


def test_customers_are_sent_as_they_are(client: Client) -> None:
    """Texts that look alike, in any script, stay different customers."""
    texts = {text.strip(" \t") for text in LOOKALIKES}
    for text in texts:
        client.create_profile(customer_user_id=text)
        client.set_identifiers({"branch_id": f"b {text}"}, customer_user_id=text)
    for text in texts:
        found = client.get_identifiers(customer_user_id=text)
        assert found["branch_id"] == f"b {text}".strip()


def test_profile_lives(client: Client) -> None:
    """A profile is made, changed, read and deleted; its attributes may be given as a mapping."""
    who = Who(profile_id=uuid.uuid4())
    made = client.create_profile({"custom_attributes": {"plan": "gold", "age": 7}}, **who)
    assert made.profile_id == str(who["profile_id"])
    changed = client.update_profile({"custom_attributes": {"age": None}, "gender": "f"}, **who)
    assert changed.custom_attributes == [{"key": "plan", "value": "gold"}]
    assert client.get_profile(**who).custom_attributes == changed.custom_attributes
    client.delete_profile(**who)
    with pytest.raises(errors.ProfileNotFound) as raised:
        client.get_profile(**who)
    assert (raised.value.status, raised.value.code) == (404, "profile_not_found")
    assert raised.value.request_id


def test_what_is_unchanged_is_not_sent_again(client: Client) -> None:
    """With the tag of what is there the answer is None, and a write with a stale tag fails."""
    customer = Who(customer_user_id=new_customer(client, branch_id="1"))
    first = client.get_identifiers_if_changed(None, **customer)
    assert first is not None
    assert first.value["branch_id"] == "1"
    assert client.get_identifiers_if_changed(first.etag, **customer) is None
    client.set_identifiers({"branch_id": "2"}, if_match=first.etag, **customer)
    second = client.get_identifiers_if_changed(first.etag, **customer)
    assert second is not None
    assert second.value["branch_id"] == "2"
    with pytest.raises(errors.PreconditionFailed):
        client.set_identifiers({"branch_id": "3"}, if_match=first.etag, **customer)
    profile = client.get_profile_if_changed(None, **customer)
    assert profile is not None
    assert client.get_profile_if_changed(profile.etag, **customer) is None
    with pytest.raises(errors.PreconditionFailed):
        client.create_profile(if_none_match="*", **customer)


def test_one_idempotency_key_is_one_write(client: Client) -> None:
    """The same write under one key is done once; another one under it is a conflict."""
    customer = Who(customer_user_id=new_customer(client, branch_id="1"))
    key = f"key-{next(numbers)}"
    for _ in range(2):
        client.set_identifiers({"branch_id": "2"}, idempotency_key=key, **customer)
    with pytest.raises(errors.IdempotencyConflict):
        client.set_identifiers({"branch_id": "3"}, idempotency_key=key, **customer)
    assert client.whole_profile(**customer).identifiers == {"branch_id": "2"}


def test_errors_name_the_field(client: Client, server: Server, connect: Connect) -> None:
    """A value that is not allowed is a ValidationError that says where; a wrong key is 401."""
    customer = Who(customer_user_id=new_customer(client))
    with pytest.raises(errors.ValidationError) as raised:
        client.set_identifiers({"branch_id": "x" * 300}, **customer)
    assert [one.source for one in raised.value.errors] == ["branch_id"]
    with pytest.raises(errors.Unauthorized):
        connect(server.url, "secret_live_unknown").get_identifiers(**customer)


# --- Reading --------------------------------------------------------------------------------------


def test_finding_goes_through_all_pages(client: Client) -> None:
    """Who has an identifier is found, however many they are and as whichever kind."""
    value = f"shared-{next(numbers)}"
    customers = [new_customer(client, branch_id=value) for _ in range(5)]
    customers.append(new_customer(client, amplitude_user_id=value))
    found = list(client.find(value, page_size=2))
    assert sorted(str(one.profile.customer_user_id) for one in found) == sorted(customers)
    assert len(list(client.find(value, "branch_id"))) == 5
    assert list(client.find("nobody has this")) == []


def test_history_and_what_was(client: Client) -> None:
    """Every change is there, the newest first, and the profile as of each."""
    customer = Who(customer_user_id=new_customer(client))
    for number in range(5):
        client.set_identifiers({"branch_id": str(number)}, **customer)
    told = list(client.history(page_size=2, **customer))
    assert [change.revision for change in told] == [6, 5, 4, 3, 2, 1]
    assert told[0].type == "profile.changed"
    assert told[0].changes.identifiers["branch_id"].old == "3"
    assert told[0].source.via == "api"
    assert [one.revision for one in client.history(before=3, **customer)] == [2, 1]
    assert client.whole_profile(revision=2, **customer).identifiers == {"branch_id": "0"}
    assert client.whole_profile(at=told[0].at, **customer).identifiers == {"branch_id": "4"}
    with pytest.raises(errors.ProfileNotFound):
        client.whole_profile(at=1, **customer)


def test_changes_are_read_to_their_end(client: Client) -> None:
    """Without following, the feed ends; from a change's cursor it goes on after that change."""
    start = next_cursor(client)
    customer = new_customer(client, branch_id="1", appsflyer_id="2")
    client.clear("all", customer_user_id=customer)
    told = list(client.changes(start, follow=False, page_size=2))
    assert [one.revision for one in told] == [1, 2, 3]
    feed = client.changes(start, follow=False)
    assert next(feed).cursor == feed.cursor == told[0].cursor
    again = client.changes(told[1].cursor, follow=False)
    assert [one.revision for one in again] == [3]
    assert list(client.changes(again.cursor, follow=False)) == []


def next_cursor(client: Client) -> str:
    """Return where the feed is now."""
    feed = client.changes("now", follow=False)
    assert list(feed) == []
    assert feed.cursor is not None
    return feed.cursor


def test_changes_are_waited_for(client: Client, server: Server, connect: Connect) -> None:
    """Who follows gets what is written while it waits."""
    customer = new_customer(client)
    feed = client.changes(next_cursor(client), wait=20)
    writer = connect(server.url, server.key)

    def write() -> None:
        time.sleep(0.5)
        writer.set_identifiers({"branch_id": "late"}, customer_user_id=customer)

    thread = threading.Thread(target=write)
    thread.start()
    change = next(feed)
    thread.join()
    assert change.changes.identifiers["branch_id"].new == "late"


def test_cursor_of_another_feed_is_refused(client: Client) -> None:
    """A cursor that is none is an error of the request, not an empty feed."""
    with pytest.raises((errors.ValidationError, errors.CursorExpired)):
        next(client.changes("no-cursor"))


def test_coverage_and_conflicts(client: Client) -> None:
    """How many have which kind is counted, and identifiers on several profiles are listed."""
    before = client.coverage().now
    values = [f"both-{next(numbers)}" for _ in range(3)]
    for value in values:
        for _ in range(2):
            new_customer(client, tenjin_analytics_installation_id=value)
    kind = "tenjin_analytics_installation_id"
    after = client.coverage()
    assert after.now.profiles - before.profiles == 6
    assert after.now.identifiers[kind] - before.identifiers[kind] == 6
    assert after.days[-1].day
    found = {one.value: one.profiles for one in client.conflicts(page_size=1) if one.kind == kind}
    assert all(found[value] == 2 for value in values)
    assert client.conflict_counts()[kind] == len(found)


# --- Batches --------------------------------------------------------------------------------------


def test_many_are_written_and_read(client: Client) -> None:
    """Any number of items goes by requests of 1,000, and each has its own result, in order."""
    first = next(numbers)
    customers = [f"many-{first}-{number}" for number in range(2_001)]
    items: list[WriteItem] = [
        {"customer_user_id": customer, "identifiers": {"branch_id": customer}}
        for customer in customers
    ]
    items[1_500] = {"customer_user_id": customers[1_500], "identifiers": {"brunch_id": "1"}}
    written = client.write_many(iter(items), create=True)
    assert len(written) == 2_001
    wrong = written.pop(1_500)
    assert isinstance(wrong, errors.ValidationError)
    assert all(isinstance(one, Written) for one in written)
    asked: list[ReadItem] = [{"customer_user_id": customer} for customer in customers]
    found = list(client.read_many([*asked, {"value": customers[0]}, {"value": "nobody's"}]))
    assert isinstance(found[1_500], errors.ProfileNotFound)
    known = [one.customer_user_id for one in found if isinstance(one, Profile)]
    assert known == [one for one in customers if one != customers[1_500]]
    *_, somebody, nobody = found
    assert isinstance(somebody, Found)
    assert [one.customer_user_id for one in somebody.profiles] == customers[:1]
    assert nobody == Found([], more=False)


def test_batches_are_bounded_by_bytes_too(client: Client) -> None:
    """Items that are long together go by several requests."""
    first = next(numbers)
    kinds = [kind for kind in client.policies() if kind != "branch_id"]
    items: list[WriteItem] = [
        {
            "customer_user_id": f"long-{first}-{number}",
            "identifiers": dict.fromkeys(kinds, f"{number:05}" + 250 * "\U0001f600"),
        }
        for number in range(400)
    ]
    written = client.write_many(items, create=True)
    assert [type(one) for one in written] == [Written] * 400


def test_all_or_nothing(client: Client) -> None:
    """An atomic batch with one wrong item does nothing; one that is too long is not sent."""
    customer = new_customer(client)
    items: list[WriteItem] = [
        {"customer_user_id": customer, "identifiers": {"branch_id": "1"}},
        {"customer_user_id": "not there", "identifiers": {"branch_id": "1"}},
    ]
    with pytest.raises(errors.BatchFailed) as raised:
        client.write_many(items, atomic=True)
    assert [one.source for one in raised.value.errors] == ["items[1]"]
    assert client.whole_profile(customer_user_id=customer).identifiers == {}
    with pytest.raises(ValueError, match="1,000"):
        client.write_many([items[0]] * 1_001, atomic=True)
    assert client.write_many([], atomic=True) == []
    [written] = client.write_many(items[:1], atomic=True)
    assert isinstance(written, Written)
    assert written.revision == 2


# --- Changing -------------------------------------------------------------------------------------


def test_identifiers_are_cleared(client: Client) -> None:
    """Some kinds, or all, are cleared, and the profile is returned as it is then."""
    customer = new_customer(client, branch_id="1", appsflyer_id="2", adjust_device_id="3")
    left = client.clear(["branch_id"], customer_user_id=customer)
    assert isinstance(left, Profile)
    assert left.identifiers == {"appsflyer_id": "2", "adjust_device_id": "3"}
    assert client.clear("all", customer_user_id=customer).identifiers == {}


def test_customers_change_hands(client: Client) -> None:
    """A customer is bound, taken away, and taken from another profile where that is said."""
    profiles = [client.create_profile(profile_id=uuid.uuid4()).profile_id for _ in range(2)]
    customer = f"bound-{next(numbers)}"
    assert client.bind_customer(customer, profiles[0]).customer_user_id == customer
    with pytest.raises(errors.ProfileConflict):
        client.bind_customer(customer, profiles[1])
    assert client.bind_customer(customer, profiles[1], rebind=True).profile_id == profiles[1]
    assert client.bind_customer(None, profiles[1], rebind=True).customer_user_id is None


def test_two_profiles_become_one_and_two_again(client: Client) -> None:
    """A merge says what it would do, does it, and is undone."""
    survivor = Who(customer_user_id=new_customer(client, branch_id="1", appsflyer_id="a"))
    source = Who(customer_user_id=new_customer(client, branch_id="2", adjust_device_id="3"))
    dry = client.merge(survivor, source, rules={"branch_id": "source"}, dry_run=True)
    assert dry.dry_run
    clashes = {one.field: one.kept for one in dry.conflicts}
    assert clashes == {"branch_id": "source", "customer_user_id": "survivor"}
    merged = client.merge(survivor, source, default="source")
    assert merged.survivor.identifiers["branch_id"] == "2"
    assert client.whole_profile(**source).profile_id == merged.survivor.profile_id
    undone = client.undo_merge(merged.source.profile_id)
    assert undone.source.profile_id == merged.source.profile_id
    assert client.whole_profile(**source).profile_id == merged.source.profile_id


def test_policies_are_kept(client: Client, other: Server, connect: Connect) -> None:
    """A policy is set by kind, and what it refuses is an error of its own."""
    theirs = connect(other.url, other.key)
    assert set(theirs.set_policies({"appsflyer_id": "reject"}).values()) == {"allow", "reject"}
    time.sleep(0.6)  # until every server knows it
    value = f"one-{next(numbers)}"
    new_customer(theirs, appsflyer_id=value)
    with pytest.raises(errors.IdentifierTaken) as raised:
        new_customer(theirs, appsflyer_id=value)
    assert raised.value.status == 409
    assert theirs.set_policies({})["appsflyer_id"] == "allow"
    assert client.policies()["appsflyer_id"] == "allow"


def test_erasing_needs_the_operator(client: Client) -> None:
    """Where the server cannot erase, the error says what its operator has to do."""
    with pytest.raises(errors.FeatureNotConfigured, match="its operator"):
        client.erase(customer_user_id=new_customer(client))
