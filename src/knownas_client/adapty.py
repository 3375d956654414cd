"""The calls of the compatible API: knownas and Adapty's own host answer them alike."""

from collections.abc import Mapping
from typing import Any, Final, Unpack

from knownas_client.calls import (
    JSON,
    Answer,
    Call,
    ConditionalWriteOf,
    Who,
    condition_headers,
    json_body,
    nothing,
    reading,
    reading_data,
    who_headers,
)
from knownas_client.models import AdaptyProfile, Tagged

_BASE: Final = "/api/v2/server-side-api"
IDENTIFIERS: Final = f"{_BASE}/integration/profile/set/integration-identifiers/"
PROFILE: Final = f"{_BASE}/profile/"

_NO_TAG: Final = '"-"'
"""A tag that nothing has: it asks for the first one."""

_read_identifiers = reading(dict[str, str | None])
_read_profile = reading_data(AdaptyProfile)


def get_identifiers(**who: Unpack[Who]) -> Call[dict[str, str | None]]:
    """Read the identifiers of a profile."""
    return Call(
        method="GET",
        path=IDENTIFIERS,
        headers=who_headers(who),
        read=_read_identifiers,
        of_standby=True,
    )


def get_identifiers_if_changed(
    etag: str | None, **who: Unpack[Who]
) -> Call[Tagged[dict[str, str | None]] | None]:
    """Read the identifiers of a profile unless they have this tag."""

    def read(answer: Answer) -> Tagged[dict[str, str | None]] | None:
        if answer.is_not_modified:
            return None
        return Tagged(_read_identifiers(answer), answer.headers["etag"])

    headers = {**who_headers(who), "if-none-match": etag or _NO_TAG}
    return Call(method="GET", path=IDENTIFIERS, headers=headers, read=read, of_standby=True)


def set_identifiers(
    values: Mapping[str, str | None], **terms: Unpack[ConditionalWriteOf]
) -> Call[list[str]]:
    """Set identifiers of a profile."""
    return Call(
        method="POST",
        path=IDENTIFIERS,
        headers={**_headers(terms), "content-type": JSON},
        read=_ignored,
        writes=True,
        idempotency_key=terms.get("idempotency_key"),
        **json_body(values),
    )


def get_profile(**who: Unpack[Who]) -> Call[AdaptyProfile]:
    """Read a profile."""
    return Call(method="GET", path=PROFILE, headers=who_headers(who), read=_read_profile)


def get_profile_if_changed(
    etag: str | None, **who: Unpack[Who]
) -> Call[Tagged[AdaptyProfile] | None]:
    """Read a profile unless it has this tag."""

    def read(answer: Answer) -> Tagged[AdaptyProfile] | None:
        if answer.is_not_modified:
            return None
        return Tagged(_read_profile(answer), answer.headers["etag"])

    headers = {**who_headers(who), "if-none-match": etag or _NO_TAG}
    return Call(method="GET", path=PROFILE, headers=headers, read=read)


def create_profile(
    fields: Mapping[str, Any] | None, **terms: Unpack[ConditionalWriteOf]
) -> Call[AdaptyProfile]:
    """Make a profile, or change the fields of the one that is there."""
    return _put("POST", fields, terms)


def update_profile(
    fields: Mapping[str, Any], **terms: Unpack[ConditionalWriteOf]
) -> Call[AdaptyProfile]:
    """Change fields of a profile."""
    return _put("PATCH", fields, terms)


def delete_profile(**terms: Unpack[ConditionalWriteOf]) -> Call[None]:
    """Delete a profile."""
    return Call(
        method="DELETE",
        path=PROFILE,
        headers=_headers(terms),
        read=nothing,
        writes=True,
        idempotency_key=terms.get("idempotency_key"),
        repeatable=False,
    )


def _put(
    method: str, fields: Mapping[str, Any] | None, terms: ConditionalWriteOf
) -> Call[AdaptyProfile]:
    return Call(
        method=method,
        path=PROFILE,
        headers={**_headers(terms), "content-type": JSON},
        read=_read_profile,
        writes=True,
        idempotency_key=terms.get("idempotency_key"),
        **json_body(_body(fields or {})),
    )


def _body(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the body of a profile, in which attributes may be given as a mapping."""
    body = dict(fields)
    attributes = body.get("custom_attributes")
    if isinstance(attributes, Mapping):
        body["custom_attributes"] = [
            {"key": key, "value": value} for key, value in attributes.items()
        ]
    return body


def _headers(terms: ConditionalWriteOf) -> dict[str, str | bytes]:
    who = Who(customer_user_id=terms.get("customer_user_id"), profile_id=terms.get("profile_id"))
    return who_headers(who) | condition_headers(terms)


def _ignored(answer: Answer) -> list[str]:
    """Return what of a body was left out."""
    names = answer.headers.get("knownas-ignored", "").split(",")
    return [name.strip() for name in names if name.strip()]
