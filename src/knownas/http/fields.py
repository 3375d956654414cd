"""The members of a JSON object that a client sent: each cleaned, and each that is wrong named."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from knownas.errors import FieldError, ValidationError
from knownas.model import ProfileRef, clean_customer_text, clean_profile_id

Cleaners = Mapping[str, Callable[..., Any]]
"""The members that an object may have, each with what makes a valid value of its text."""

WHO: Final[Cleaners] = {"profile_id": clean_profile_id, "customer_user_id": clean_customer_text}
"""The members that name a profile."""


def cleaned(given: Mapping[str, Any], fields: Cleaners) -> dict[str, Any]:
    """Return the members that are not null. Raises ValidationError with one entry per bad one."""
    values: dict[str, Any] = {}
    problems: list[FieldError] = []
    for name, value in given.items():
        clean = fields.get(name)
        if clean is None:
            problems.append(FieldError(name, "Unknown field."))
        elif isinstance(value, str):
            try:
                values[name] = clean(value, source=name)
            except ValidationError as error:
                problems += error.fields
        elif value is not None:
            problems.append(FieldError(name, "Must be a string."))
    if problems:
        raise ValidationError(fields=problems)
    return values


def profile_ref(given: object) -> ProfileRef:
    """Return the profile that an object names. Raises ValidationError."""
    if not isinstance(given, dict):
        raise ValidationError('Must be an object: {"profile_id": …} or {"customer_user_id": …}.')
    who = cleaned(given, WHO)
    if not who:
        raise ValidationError("Name a profile by profile_id or customer_user_id.")
    return ProfileRef(who.get("customer_user_id"), who.get("profile_id"))


def switch(body: Mapping[str, Any], name: str, problems: list[FieldError]) -> bool:
    """Tell whether a member is true; what is no boolean is added to `problems`."""
    given = body.get(name)
    if given is not None and not isinstance(given, bool):
        problems.append(FieldError(name, "Must be true or false."))
    return given is True
