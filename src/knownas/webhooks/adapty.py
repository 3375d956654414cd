"""Adapty's webhook (wire contract, section 6).

The types of events can be renamed by whoever sets the webhook up, so nothing here asks for them:
whatever an event is about, it tells who has which identifiers.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from knownas.errors import FieldError, ValidationError, noting
from knownas.model import KIND_NUMBER
from knownas.webhooks.received import Event, Greeting, Party, Told, identifier, party, text_in

_MOST_OTHERS: Final = 100


def read(body: Mapping[str, Any]) -> Event | Greeting:
    """Return what a request says. Raises ValidationError where it names no profile or time."""
    if not body:
        return Greeting({})
    if body.keys() == {"adapty_check"}:
        return Greeting({"adapty_check_response": body["adapty_check"]})
    problems: list[FieldError] = []
    who = party(body, problems)
    given = body.get("integration_ids")
    ids = {} if given is None else _object(given, "integration_ids")
    at = _time(body) if ids else 0
    identifiers: dict[str, Told] = {}
    for name in KIND_NUMBER.keys() & ids.keys():
        with noting(problems, "integration_ids"):
            value = identifier(ids[name], source=name)
            if value is not None:
                identifiers[name] = Told(value, at)
    return Event(
        _event_id(body),
        who,
        dict(sorted(identifiers.items())),
        _others(body, who, problems),
        problems,
        ignored=len(ids.keys() - KIND_NUMBER.keys()),
    )


def _others(body: Mapping[str, Any], who: Party, problems: list[FieldError]) -> list[Party]:
    """Return the other profiles of the person."""
    name = "profiles_sharing_access_level"
    given = body.get(name)
    if given is None:
        return []
    if not isinstance(given, list) or len(given) > _MOST_OTHERS:
        problems.append(FieldError(name, f"Must be a list of at most {_MOST_OTHERS}, or null."))
        return []
    others: dict[str | None, Party] = {}
    for position, one in enumerate(given):
        place = f"{name}[{position}]"
        with noting(problems, place):
            found = party(_object(one, None), problems, place)
            if found.profile_id != who.profile_id:
                others[found.profile_id] = found
    return list(others.values())


def _event_id(body: Mapping[str, Any]) -> str | None:
    properties = body.get("event_properties")
    if not isinstance(properties, dict):
        return None
    return text_in(properties, "profile_event_id")


def _time(body: Mapping[str, Any]) -> int:
    """Return when the event happened, as `2000-01-31T00:00:00.000000+0000` has it."""
    source = "event_datetime"
    return time_of(text_in(body, source) or "", source=source)


def time_of(text: str, *, source: str) -> int:
    """Return a time as Adapty writes it, in milliseconds since 1970. Raises ValidationError."""
    try:
        said = datetime.fromisoformat(text)
        at = said if said.tzinfo else said.replace(tzinfo=UTC)
        milliseconds = int(at.timestamp() * 1_000)
    except (ValueError, OverflowError):
        milliseconds = -1
    if milliseconds < 0:
        raise ValidationError("Must be a time as 2000-01-31T00:00:00.000000+0000.", source=source)
    return milliseconds


def _object(given: object, source: str | None) -> Mapping[str, Any]:
    if not isinstance(given, dict):
        raise ValidationError("Must be an object.", source=source)
    return given
