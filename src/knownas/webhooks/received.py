"""What a sender's event says, in this server's own words."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from knownas.errors import FieldError, ValidationError, noting
from knownas.model import ProfileId, clean_customer_text, clean_profile_id, clean_value


class Told(NamedTuple):
    """An identifier that an event tells."""

    value: str
    at: int
    """Since when it is so, as the sender says: milliseconds since 1970."""


class Party(NamedTuple):
    """A profile that an event is about: by its id, or by its customer alone."""

    profile_id: ProfileId | None
    customer: str | None


class Event(NamedTuple):
    """One event of a sender."""

    id: str | None
    """The same each time that it is sent; None where the sender gives none."""
    party: Party | None
    """Whom it is about; None where it is about nobody."""
    identifiers: Mapping[str, Told] = {}
    """By the name of the kind."""
    others: Sequence[Party] = ()
    """Other profiles of the same person, who are to be there as well."""
    problems: Sequence[FieldError] = ()
    """What of it cannot be stored, and why."""
    ignored: int = 0
    """How many identifiers it has of kinds that are not known here."""


class Greeting(NamedTuple):
    """No event: the sender asks whether it is listened to."""

    answer: Mapping[str, object]


def text_in(body: Mapping[str, Any], name: str) -> str | None:
    """Return a member that is a text, None where it is blank or not there.

    Raises ValidationError for anything else.
    """
    given = body.get(name)
    if given is not None and not isinstance(given, str):
        raise ValidationError("Must be a string or null.", source=name)
    return given or None


def party(body: Mapping[str, Any], problems: list[FieldError], place: str | None = None) -> Party:
    """Return whom `profile_id` and `customer_user_id` name.

    A customer that cannot be one is a problem of its own. Raises ValidationError without a good
    profile id.
    """
    named = text_in(body, "profile_id")
    if named is None:
        raise ValidationError("Must be a UUID.", source="profile_id")
    profile_id = clean_profile_id(named, source="profile_id")
    customer = None
    with noting(problems, place):
        given = text_in(body, "customer_user_id")
        customer = given and clean_customer_text(given, source="customer_user_id")
    return Party(profile_id, customer)


def identifier(value: object, *, source: str) -> str | None:
    """Return an identifier as it is stored, None for a blank one. Raises ValidationError."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise ValidationError("Must be a string.", source=source)
    return clean_value(value, source=source) if value.strip() else None
