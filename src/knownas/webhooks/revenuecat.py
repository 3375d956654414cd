"""RevenueCat's webhook.

Each subscriber attribute has a time of its own. The names of those that are reserved for other
systems' ids are those of RevenueCat's SDKs; `$onesignalUserId` is not among them here, since
OneSignal's user is neither its player nor its subscription.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from knownas.errors import FieldError, ValidationError, noting
from knownas.model import clean_customer_text
from knownas.webhooks.received import Event, Party, Told, identifier, text_in

KINDS: Final = {
    "$adjustId": "adjust_device_id",
    "$airbridgeDeviceId": "airbridge_device_id",
    "$amplitudeDeviceId": "amplitude_device_id",
    "$amplitudeUserId": "amplitude_user_id",
    "$appsflyerId": "appsflyer_id",
    "$branchId": "branch_id",
    "$fbAnonId": "facebook_anonymous_id",
    "$firebaseAppInstanceId": "firebase_app_instance_id",
    "$mixpanelDistinctId": "mixpanel_user_id",
    "$onesignalId": "one_signal_player_id",
    "$posthogUserId": "posthog_distinct_user_id",
    "$tenjinId": "tenjin_analytics_installation_id",
}
"""The kind of each attribute that has one."""

ANONYMOUS: Final = "$RCAnonymousID:"
"""How the ids begin that the SDK makes for whoever has not said who it is."""

_MAX_TIME: Final = 2**53


def read(body: Mapping[str, Any]) -> Event:
    """Return what a request says. Raises ValidationError where it names no customer."""
    event = body.get("event")
    if not isinstance(event, dict):
        raise ValidationError("Must be an object.", source="event")
    event_id = text_in(event, "id")
    if event.get("type") == "TEST":  # it is of a customer that is made up
        return Event(event_id, None)
    problems: list[FieldError] = []
    attributes = event.get("subscriber_attributes")
    identifiers = {} if attributes is None else _identifiers(attributes, event, problems)
    return Event(event_id, Party(None, _customer(event)), identifiers, problems=problems)


def _customer(event: Mapping[str, Any]) -> str:
    """Return the id by which the team knows the customer; one of the SDK's only without another."""
    named = [event.get("app_user_id"), event.get("original_app_user_id")]
    for several in ("aliases", "transferred_to"):
        more = event.get(several)
        named += more if isinstance(more, list) else []
    known = list(_good(named))
    if not known:
        raise ValidationError("Must name a customer.", source="event.app_user_id")
    return next((one for one in known if not one.startswith(ANONYMOUS)), known[0])


def _good(named: Iterable[object]) -> Iterable[str]:
    for one in named:
        problems: list[FieldError] = []
        with noting(problems):
            if isinstance(one, str):
                yield clean_customer_text(one, source="event.app_user_id")


def _identifiers(
    attributes: object, event: Mapping[str, Any], problems: list[FieldError]
) -> dict[str, Told]:
    place = "event.subscriber_attributes"
    if not isinstance(attributes, dict):
        problems.append(FieldError(place, "Must be an object."))
        return {}
    found: dict[str, Told] = {}
    for attribute, kind in KINDS.items():
        with noting(problems, place):
            one = attributes.get(attribute)
            if one is None:
                continue
            if not isinstance(one, dict):
                raise ValidationError("Must be an object.", source=attribute)
            value = identifier(one.get("value"), source=attribute)
            if value is not None:
                found[kind] = Told(value, _time(one, event, attribute))
    return found


def _time(one: Mapping[str, Any], event: Mapping[str, Any], source: str) -> int:
    """Return since when an attribute is what it is, or else when the event was."""
    for at in (one.get("updated_at_ms"), event.get("event_timestamp_ms")):
        if isinstance(at, int) and not isinstance(at, bool) and 0 <= at <= _MAX_TIME:
            return at
    raise ValidationError("Must have updated_at_ms, in milliseconds since 1970.", source=source)
