"""What senders of webhooks send, as recorded, and what is understood of it."""

import copy
from collections.abc import Callable
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from knownas.errors import FieldError, ValidationError
from knownas.model import KIND_NUMBER, ProfileId
from knownas.webhooks import revenuecat
from knownas.webhooks.received import Event, Greeting, Party, Told
from knownas.webhooks.senders import SENDERS

PROFILE: Final = ProfileId("00000000-0000-4000-8000-000000000001")
SHARING: Final = ProfileId("00000000-0000-4000-8000-000000000002")
ANONYMOUS: Final = "$RCAnonymousID:87c6049c58069238dce29853916d624c"
AT: Final = 1_704_067_200_123

ADAPTY: Final[dict[str, Any]] = {
    "profile_id": PROFILE.upper(),
    "customer_user_id": " user-1 ",
    "idfv": "00000000-0000-0000-0000-00000000beef",
    "idfa": None,
    "advertising_id": None,
    "profile_install_datetime": "2000-01-31T00:00:00.000000+0000",
    "user_agent": "ExampleUserAgent/1.0 (Device; OS Version) Browser/Engine",
    "email": "john.doe@company.com",
    "event_type": "whatever the team calls it",
    "event_datetime": "2024-01-01T02:00:00.123000+0200",
    "event_properties": {
        "store": "play_store",
        "currency": "USD",
        "price_usd": 4.99,
        "profile_id": "00000000-0000-0000-0000-000000000000",
        "environment": "Production",
        "vendor_product_id": "onemonth_no_trial",
        "profile_event_id": "00000000-0000-0000-0000-0000000000ee",
        "profile_has_access_level": False,
    },
    "event_api_version": 1,
    "profiles_sharing_access_level": [
        {"profile_id": PROFILE, "customer_user_id": "user-1"},
        {"profile_id": SHARING, "customer_user_id": None},
    ],
    "attributions": {"appsflyer": {"ad_set": "Keywords 1.12", "status": "non_organic"}},
    "user_attributes": {"Favourite_color": "Violet", "Pet_name": "Fluffy"},
    "integration_ids": {
        "firebase_app_instance_id": "val1",
        "branch_id": " val2 ",
        "one_signal_player_id": None,
        "mixpanel_user_id": "  ",
        "a_kind_of_tomorrow": "val4",
    },
    "play_store_purchase_token": {"product_id": "product_123", "is_subscription": True},
}

REVENUECAT: Final[dict[str, Any]] = {
    "event": {
        "event_timestamp_ms": AT,
        "product_id": "com.subscription.weekly",
        "period_type": "NORMAL",
        "purchased_at_ms": AT - 5_000,
        "environment": "PRODUCTION",
        "app_user_id": "1234567890",
        "aliases": [ANONYMOUS, "1234567890"],
        "original_app_user_id": ANONYMOUS,
        "currency": "USD",
        "price": 4.99,
        "subscriber_attributes": {
            "$email": {"updated_at_ms": AT - 3_000, "value": "firstlast@gmail.com"},
            "$appsflyerId": {"updated_at_ms": AT - 2_000, "value": "1741933337626-3179568"},
            "$onesignalId": {"updated_at_ms": AT - 1_000, "value": "player"},
            "$onesignalUserId": {"updated_at_ms": AT - 1_000, "value": "user"},
            "$adjustId": {"updated_at_ms": AT - 1_000, "value": ""},
            "$tenjinId": {"value": "tenjin"},
            "Favorite Cat": {"updated_at_ms": AT, "value": "Garfield"},
        },
        "store": "APP_STORE",
        "type": "INITIAL_PURCHASE",
        "id": "12345678-1234-1234-1234-123456789012",
        "app_id": "1234567890",
    },
    "api_version": "1.0",
}

Change = Callable[[dict[str, Any]], object]


def changed(body: dict[str, Any], change: Change) -> dict[str, Any]:
    """Return a payload with something changed in it."""
    other = copy.deepcopy(body)
    change(other)
    return other


def read(sender: str, body: dict[str, Any]) -> Event:
    """Return the event that a sender sends."""
    told = SENDERS[sender](body)
    assert isinstance(told, Event)
    return told


# --- Adapty -----------------------------------------------------------------------------------


def test_adapty_event_is_understood() -> None:
    """An event tells its id, its profile, the set kinds with its time, and who shares access."""
    assert read("adapty", ADAPTY) == Event(
        "00000000-0000-0000-0000-0000000000ee",
        Party(PROFILE, "user-1"),
        {"branch_id": Told("val2", AT), "firebase_app_instance_id": Told("val1", AT)},
        [Party(SHARING, None)],
        [],
        ignored=1,
    )


def test_adapty_event_of_an_anonymous_profile_without_ids() -> None:
    """What an event does not have is neither a problem nor a change."""
    bare = {"profile_id": PROFILE, "customer_user_id": None, "integration_ids": None}
    assert read("adapty", bare) == Event(None, Party(PROFILE, None), {}, [], [], 0)


def test_adapty_asks_whether_it_is_listened_to() -> None:
    """Both requests by which an endpoint is verified are answered as their sender wants it."""
    assert SENDERS["adapty"]({}) == Greeting({})
    assert SENDERS["adapty"]({"adapty_check": "s"}) == Greeting({"adapty_check_response": "s"})


@pytest.mark.parametrize(
    ("change", "source"),
    [
        (lambda body: body.pop("profile_id"), "profile_id"),
        (lambda body: body.update(profile_id=None), "profile_id"),
        (lambda body: body.update(profile_id=""), "profile_id"),
        (lambda body: body.update(profile_id="user-1"), "profile_id"),
        (lambda body: body.update(profile_id=[]), "profile_id"),
        (lambda body: body.pop("event_datetime"), "event_datetime"),
        (lambda body: body.update(event_datetime=1), "event_datetime"),
        (lambda body: body.update(event_datetime="yesterday"), "event_datetime"),
        (lambda body: body.update(event_datetime="0001-01-01T00:00:00+2359"), "event_datetime"),
        (lambda body: body.update(event_datetime="1969-12-31T00:00:00Z"), "event_datetime"),
        (lambda body: body.update(integration_ids=[]), "integration_ids"),
        (lambda body: body["event_properties"].update(profile_event_id=7), "profile_event_id"),
    ],
    ids=range(12),
)
def test_adapty_event_that_is_malformed(change: Change, source: str) -> None:
    """Without a profile, or without a time for its identifiers, an event is not understood."""
    with pytest.raises(ValidationError) as caught:
        SENDERS["adapty"](changed(ADAPTY, change))
    assert [one for one, _ in caught.value.fields] == [source]


@pytest.mark.parametrize(
    ("change", "source"),
    [
        (lambda body: body.update(customer_user_id=7), "customer_user_id"),
        (lambda body: body.update(customer_user_id="x" * 256), "customer_user_id"),
        (lambda body: body["integration_ids"].update(branch_id=7), "integration_ids.branch_id"),
        (lambda body: body["integration_ids"].update(branch_id="\0"), "integration_ids.branch_id"),
        (
            lambda body: body.update(profiles_sharing_access_level={}),
            "profiles_sharing_access_level",
        ),
        (
            lambda body: body.update(profiles_sharing_access_level=[{}] * 101),
            "profiles_sharing_access_level",
        ),
        (
            lambda body: body.update(profiles_sharing_access_level=["x"]),
            "profiles_sharing_access_level[0]",
        ),
        (
            lambda body: body["profiles_sharing_access_level"][1].update(profile_id="x"),
            "profiles_sharing_access_level[1].profile_id",
        ),
    ],
    ids=range(8),
)
def test_adapty_event_of_which_a_part_is_wrong(change: Change, source: str) -> None:
    """A part that cannot be stored is named, and all else of the event is told as it is."""
    told = read("adapty", changed(ADAPTY, change))
    assert [one for one, _ in told.problems] == [source]
    assert told.identifiers["firebase_app_instance_id"] == Told("val1", AT)


# --- RevenueCat -------------------------------------------------------------------------------


def test_revenuecat_event_is_understood() -> None:
    """An event tells its customer, and each attribute that has a kind, with its own time."""
    assert read("revenuecat", REVENUECAT) == Event(
        "12345678-1234-1234-1234-123456789012",
        Party(None, "1234567890"),
        {
            "appsflyer_id": Told("1741933337626-3179568", AT - 2_000),
            "one_signal_player_id": Told("player", AT - 1_000),
            "tenjin_analytics_installation_id": Told("tenjin", AT),
        },
        (),
        [],
        0,
    )


@pytest.mark.parametrize(
    ("named", "customer"),
    [
        ({"app_user_id": "u"}, "u"),
        ({"app_user_id": ANONYMOUS, "original_app_user_id": "o", "aliases": ["a"]}, "o"),
        ({"app_user_id": ANONYMOUS, "aliases": [7, "", "x" * 256, "a", "b"]}, "a"),
        ({"app_user_id": ANONYMOUS, "aliases": "a"}, ANONYMOUS),
        ({"transferred_from": ["f"], "transferred_to": [ANONYMOUS, "t"]}, "t"),
    ],
)
def test_revenuecat_customer(named: dict[str, object], customer: str) -> None:
    """The first id that is not anonymous is the customer; an anonymous one only without another."""
    assert read("revenuecat", {"event": {"id": "1", **named}}).party == Party(None, customer)


def test_revenuecat_test_is_about_nobody() -> None:
    """A test event makes no profile of the customer that it invents."""
    told = read("revenuecat", changed(REVENUECAT, lambda body: body["event"].update(type="TEST")))
    assert told == Event("12345678-1234-1234-1234-123456789012", None)


@pytest.mark.parametrize(
    "body", [{}, {"event": None}, {"event": {}}, {"event": {"id": 1}}, {"event": {"id": "1"}}]
)
def test_revenuecat_event_that_is_malformed(body: dict[str, Any]) -> None:
    """Without a customer an event is not understood."""
    with pytest.raises(ValidationError):
        SENDERS["revenuecat"](body)


@pytest.mark.parametrize(
    "attribute",
    ["value", {"value": 7, "updated_at_ms": 1}, {"value": "x" * 256, "updated_at_ms": 1}],
)
def test_revenuecat_attribute_that_is_wrong(attribute: object) -> None:
    """An attribute that cannot be stored is named, and the others are told."""
    told = read(
        "revenuecat",
        changed(
            REVENUECAT,
            lambda body: body["event"]["subscriber_attributes"].update({"$branchId": attribute}),
        ),
    )
    place = "event.subscriber_attributes"
    assert [one for one, _ in told.problems] == [f"{place}.$branchId"]
    assert len(told.identifiers) == 3


def test_revenuecat_attributes_without_any_time() -> None:
    """An attribute needs a time, its own or that of the event."""
    told = read(
        "revenuecat",
        changed(REVENUECAT, lambda body: body["event"].update(event_timestamp_ms="now")),
    )
    assert [one for one, _ in told.problems] == ["event.subscriber_attributes.$tenjinId"]
    told = read(
        "revenuecat",
        changed(REVENUECAT, lambda body: body["event"].update(subscriber_attributes=[])),
    )
    assert told.problems == [FieldError("event.subscriber_attributes", "Must be an object.")]


def test_revenuecat_kinds_are_kinds() -> None:
    """Each attribute leads to a kind of its own."""
    assert set(revenuecat.KINDS.values()) <= KIND_NUMBER.keys()
    assert len(set(revenuecat.KINDS.values())) == len(revenuecat.KINDS)


# --- Both -------------------------------------------------------------------------------------

ANYTHING: Final = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=5,
)


@pytest.mark.parametrize(("sender", "payload"), [("adapty", ADAPTY), ("revenuecat", REVENUECAT)])
@given(data=st.data())
def test_whatever_is_sent_is_an_event_or_malformed(
    sender: str, payload: dict[str, Any], data: st.DataObject
) -> None:
    """A payload with anything in the place of any of its parts is read, or refused as malformed."""
    body = copy.deepcopy(payload)
    inner = body
    while True:
        name = data.draw(st.sampled_from(sorted(inner)))
        if not isinstance(inner[name], dict) or not inner[name] or data.draw(st.booleans()):
            break
        inner = inner[name]
    inner[name] = data.draw(ANYTHING)
    try:
        told = SENDERS[sender](body)
    except ValidationError:
        return
    assert isinstance(told, Event)
