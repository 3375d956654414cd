"""The compatible API: the handlers of the wire contract, sections 1 to 3 and 5."""

import inspect
from collections.abc import Iterable
from functools import partial
from typing import Any, Final, NamedTuple

from starlette.requests import Request
from starlette.responses import Response

from knownas.editing import Check
from knownas.errors import FieldError, ProfileNotFound, ValidationError
from knownas.history import Source
from knownas.http import conditional, wire
from knownas.http.asking import authenticated as _authenticated
from knownas.http.asking import bring, once_of
from knownas.http.asking import registry_of as _registry
from knownas.model import (
    ApiKey,
    Profile,
    ProfileId,
    ProfileRef,
    clean_attributes,
    clean_identifiers,
    clean_profile_id,
    unknown_kinds,
)
from knownas.writes import Once

_USE_GET: Final = (
    "The body is empty. To read identifiers use GET (curl's --data makes it a POST; leave it out); "
    "to set them send a JSON object."
)


async def get_identifiers(request: Request) -> Response:
    """Answer all identifiers of a profile, unset ones as null."""
    key, headers = await _authenticated(request, "secret")
    ref = headers.profile_ref()
    position = headers.log_position()
    conditions = conditional.conditions(headers)
    try:
        if position is not None:
            identifiers = await _registry(request).identifiers_after(key.app.id, ref, position)
        else:
            found = _registry(request).identifiers(key.app.id, ref)
            identifiers = await found if inspect.isawaitable(found) else found
    except ProfileNotFound:
        identifiers = (await _registry(request).upstreams.fetch(key.app, ref)).identifiers
    else:
        _registry(request).upstreams.shadow.observe(key.app, ref)
    body = wire.identifiers_body(identifiers)
    if conditions is None:
        # Byte for byte what the fast lane answers: no tag is made for who does not ask for one.
        return Response(body, media_type="application/json")
    tag = wire.etag(body)
    return conditions.of_read(tag) or Response(
        body, headers={"ETag": tag}, media_type="application/json"
    )


async def set_identifiers(request: Request) -> Response:
    """Merge the identifiers of the body into a profile's."""
    key, headers = await _authenticated(request, "secret")
    ref = headers.profile_ref()
    check = conditional.check(headers, _identifiers_tag)
    body = await wire.json_object(request, headers, if_empty=_USE_GET)
    once = once_of(request, headers, key, body)
    return await _set_identifiers(
        request, key, ref, body, by=Source("api", key.id), once=once, check=check
    )


async def set_identifiers_from_sdk(request: Request) -> Response:
    """Do the same for a mobile SDK, which names the profile in the body.

    It knows no If-Match: a public key, which may not read, could guess with it what is stored.
    """
    key, headers = await _authenticated(request, "secret", "public")
    in_header = headers.sdk_profile_id()
    body = await wire.json_object(request, headers, if_empty="The body is empty.")
    once = once_of(request, headers, key, body)
    data = body.pop("data", None)
    if not isinstance(data, dict):
        raise ValidationError("Must be an object.", source="data")
    ref = _sdk_profile_ref(in_header, data)
    by = Source("sdk", key.id)
    return await _set_identifiers(request, key, ref, data, by=by, once=once, beside_data=body)


async def put_profile(request: Request) -> Response:
    """Create a profile, or return the one that is there."""
    key, headers = await _authenticated(request, "secret")
    ref = headers.profile_ref()
    check = conditional.check(headers, partial(_profile_tag, key))
    body = await wire.json_object(request, headers)
    once = once_of(request, headers, key, body)
    attributes, ignored = _profile_fields(request, body)
    await bring(request, key, ref)
    profile = await _registry(request).put_profile(
        key.app.id, ref, attributes, by=Source("api", key.id), once=once, check=check
    )
    return _profile_response(request, key, profile, ignored)


async def get_profile(request: Request) -> Response:
    """Answer a profile."""
    key, headers = await _authenticated(request, "secret")
    ref = headers.profile_ref()
    conditions = conditional.conditions(headers)
    profile = await _registry(request).profile_from_anywhere(key.app, ref)
    if conditions and (answer := conditions.of_read(_profile_tag(key, profile))):
        return answer
    return _profile_response(request, key, profile, [])


async def update_profile(request: Request) -> Response:
    """Change the fields of the body in a profile."""
    key, headers = await _authenticated(request, "secret")
    ref = headers.profile_ref()
    check = conditional.check(headers, partial(_profile_tag, key))
    body = await wire.json_object(request, headers)
    once = once_of(request, headers, key, body)
    attributes, ignored = _profile_fields(request, body)
    await bring(request, key, ref)
    profile = await _registry(request).update_profile(
        key.app.id, ref, attributes, by=Source("api", key.id), once=once, check=check
    )
    return _profile_response(request, key, profile, ignored)


async def delete_profile(request: Request) -> Response:
    """Delete a profile with its identifiers."""
    key, headers = await _authenticated(request, "secret")
    ref = headers.profile_ref()
    check = conditional.check(headers, partial(_profile_tag, key))
    once = once_of(request, headers, key, None)
    await bring(request, key, ref)
    await _registry(request).delete_profile(
        key.app.id, ref, by=Source("api", key.id), once=once, check=check
    )
    return Response(status_code=204)


async def _set_identifiers(  # noqa: PLR0913 - what the two callers differ in
    request: Request,
    key: ApiKey,
    ref: ProfileRef,
    body: dict[str, Any],
    *,
    by: Source,
    once: Once | None,
    beside_data: Iterable[str] = (),
    check: Check | None = None,
) -> Response:
    reject = _rejects_unknown(request)
    values, unknown = clean_identifiers(body, reject_unknown=reject)
    unknown += beside_data
    if reject and unknown:
        raise ValidationError(fields=unknown_kinds(unknown))
    await bring(request, key, ref)
    await _registry(request).set_identifiers(key.app, ref, values, by=by, once=once, check=check)
    request.app.state.metrics.count_ignored_keys(len(unknown))
    return Response(headers=wire.ignored_header(unknown))


def _rejects_unknown(request: Request) -> bool:
    return bool(request.app.state.settings.unknown_keys == "reject")


def _sdk_profile_ref(in_header: ProfileId | None, data: dict[str, Any]) -> ProfileRef:
    """Take the profile id out of the SDK's body; the header, when given, must agree."""
    given = data.pop("profile_id", None)
    if given is None:
        if in_header is None:
            raise ValidationError("Must be given.", source="profile_id")
        return ProfileRef(profile_id=in_header)
    if not isinstance(given, str):
        raise ValidationError("Must be a string.", source="profile_id")
    profile_id = clean_profile_id(given, source="profile_id")
    if in_header not in {None, profile_id}:
        raise ValidationError(
            f"Must be the same as the header {wire.SDK_PROFILE_HEADER}.", source="profile_id"
        )
    return ProfileRef(profile_id=profile_id)


def _profile_response(
    request: Request, key: ApiKey, profile: Profile, ignored: list[str]
) -> Response:
    request.app.state.metrics.count_ignored_keys(len(ignored))
    return Response(
        _profile_body(key, profile, _registry(request).now()),
        headers={**wire.ignored_header(ignored), "ETag": _profile_tag(key, profile)},
        media_type="application/json",
    )


def _identifiers_tag(profile: Profile) -> str:
    return wire.etag(wire.identifiers_body(profile.identifiers))


def _profile_tag(key: ApiKey, profile: Profile) -> str:
    """Return the tag of a profile's body, of which the time of the answer is no part."""
    return wire.etag(_profile_body(key, profile, 0))


def _profile_body(key: ApiKey, profile: Profile, timestamp: int) -> bytes:
    data = {
        "app_id": key.app.uuid,
        "profile_id": profile.profile_id,
        "customer_user_id": profile.customer_user_id,
        "total_revenue_usd": 0.0,
        "segment_hash": "",
        "timestamp": timestamp,
        "custom_attributes": [{"key": name, "value": value} for name, value in profile.attributes],
        "access_levels": [],
        "subscriptions": [],
        "non_subscriptions": [],
    }
    return wire.encode({"data": data})


class _NotKept(NamedTuple):
    """What a field of Adapty's profile must be that this server does not keep."""

    json_type: str
    types: tuple[type, ...]
    allowed: tuple[object, ...] | None = None


_TEXT: Final = _NotKept("a string", (str,))
_NOT_KEPT: Final = {
    "first_name": _TEXT,
    "last_name": _TEXT,
    "gender": _NotKept("a string", (str,), ("f", "m", "o")),
    "email": _TEXT,
    "phone_number": _TEXT,
    "birthday": _TEXT,
    "ip_country": _TEXT,
    "ip_v4_address": _TEXT,
    "store_country": _TEXT,
    "store": _TEXT,
    "store_account_token": _TEXT,
    "att_status": _NotKept("an integer", (int, float), (0, 1, 2, 3)),  # to JSON, 2.0 is one
    "analytics_disabled": _NotKept("a boolean", (bool,)),
    "installation_meta": _NotKept("an object", (dict,)),
}


def _profile_fields(
    request: Request, body: dict[str, Any]
) -> tuple[dict[str, str | float | None], list[str]]:
    """Return the attribute patch of a profile's body, and the names of what is not kept."""
    attributes: dict[str, str | float | None] = {}
    ignored: list[str] = []
    problems: list[FieldError] = []
    for name, value in body.items():
        if name == "custom_attributes":
            try:
                attributes = clean_attributes(value) if value is not None else {}
            except ValidationError as error:
                problems += error.fields
            continue
        not_kept = _NOT_KEPT.get(name)
        if not_kept is None:
            ignored.append(name)
            if _rejects_unknown(request):
                problems.append(FieldError(name, "Unknown field."))
        elif value is not None:
            ignored.append(name)
            if type(value) not in not_kept.types:
                problems.append(FieldError(name, f"Must be {not_kept.json_type}."))
            elif not_kept.allowed is not None and value not in not_kept.allowed:
                allowed = ", ".join(map(str, not_kept.allowed))
                problems.append(FieldError(name, f"Must be one of {allowed}."))
    if problems:
        raise ValidationError(fields=problems)
    return attributes, ignored
