"""The compatible API: the handlers of the wire contract, sections 1 to 3 and 5."""

import inspect
from collections.abc import Iterable
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from knownas.errors import FieldError, Unauthorized, ValidationError
from knownas.http import wire
from knownas.model import (
    ApiKey,
    Profile,
    ProfileRef,
    clean_attributes,
    clean_identifiers,
    clean_profile_id,
    unknown_kinds,
)
from knownas.registry import Registry, system_clock

_USE_GET: Final = ValidationError(
    "The body is empty. To read identifiers use GET (curl's --data makes it a POST; leave it out); "
    "to set them send a JSON object."
)


async def get_identifiers(request: Request) -> Response:
    """Answer all identifiers of a profile, unset ones as null."""
    key, ref = await _secret_key(request), wire.profile_ref(request.scope["headers"])
    found = _registry(request).identifiers(key.app.id, ref)
    identifiers = await found if inspect.isawaitable(found) else found
    return Response(wire.identifiers_body(identifiers), media_type="application/json")


async def set_identifiers(request: Request) -> Response:
    """Merge the identifiers of the body into a profile's."""
    key, ref = await _secret_key(request), wire.profile_ref(request.scope["headers"])
    body = await wire.json_object(request, if_empty=_USE_GET)
    return await _set_identifiers(request, key, ref, body)


async def set_identifiers_from_sdk(request: Request) -> Response:
    """Do the same for a mobile SDK, which names the profile in the body."""
    key = await _key(request)
    body = await wire.json_object(request, if_empty=ValidationError("The body is empty."))
    data = body.get("data")
    if not isinstance(data, dict):
        raise ValidationError("Must be an object.", source="data")
    ref = _sdk_profile_ref(request, data)
    beside_data = [name for name in body if name != "data"]
    return await _set_identifiers(request, key, ref, data, beside_data)


async def put_profile(request: Request) -> Response:
    """Create a profile, or return the one that is there."""
    key, ref = await _secret_key(request), wire.profile_ref(request.scope["headers"])
    attributes, ignored = _profile_fields(await wire.json_object(request))
    profile = await _registry(request).put_profile(key.app.id, ref, attributes)
    return _profile_response(key, profile, ignored)


async def get_profile(request: Request) -> Response:
    """Answer a profile."""
    key, ref = await _secret_key(request), wire.profile_ref(request.scope["headers"])
    return _profile_response(key, await _registry(request).profile(key.app.id, ref), [])


async def update_profile(request: Request) -> Response:
    """Change the fields of the body in a profile."""
    key, ref = await _secret_key(request), wire.profile_ref(request.scope["headers"])
    attributes, ignored = _profile_fields(await wire.json_object(request))
    profile = await _registry(request).update_profile(key.app.id, ref, attributes)
    return _profile_response(key, profile, ignored)


async def delete_profile(request: Request) -> Response:
    """Delete a profile with its identifiers."""
    key, ref = await _secret_key(request), wire.profile_ref(request.scope["headers"])
    await _registry(request).delete_profile(key.app.id, ref)
    return Response(status_code=204)


def _registry(request: Request) -> Registry:
    registry: Registry = request.app.state.registry
    return registry


async def _key(request: Request) -> ApiKey:
    authorization = wire.authorization(request.scope["headers"])
    try:
        return await _registry(request).authenticate(authorization)
    except Unauthorized:
        request.app.state.guard.bad_key(request.client, authorization)
        raise


async def _secret_key(request: Request) -> ApiKey:
    key = await _key(request)
    if key.type != "secret":
        raise Unauthorized
    return key


async def _set_identifiers(
    request: Request,
    key: ApiKey,
    ref: ProfileRef,
    body: dict[str, Any],
    more_unknown: Iterable[str] = (),
) -> Response:
    values, unknown = clean_identifiers(body)
    unknown += more_unknown
    if unknown and request.app.state.settings.unknown_keys == "reject":
        raise unknown_kinds(unknown)
    await _registry(request).set_identifiers(key.app.id, ref, values)
    request.app.state.metrics.count_ignored_keys(len(unknown))
    return Response(headers=wire.ignored_header(unknown))


def _sdk_profile_ref(request: Request, data: dict[str, Any]) -> ProfileRef:
    """Take the profile id out of the SDK's body; the header, when given, must agree."""
    header = wire.single_header(request.scope["headers"], wire.SDK_PROFILE_HEADER)
    in_body = data.pop("profile_id", None)
    if in_body is not None and not isinstance(in_body, str):
        raise ValidationError("Must be a string.", source="profile_id")
    ids = []
    if header:
        ids.append(clean_profile_id(header.decode("latin-1"), source=wire.SDK_PROFILE_HEADER))
    if in_body is not None:
        ids.append(clean_profile_id(in_body, source="profile_id"))
    if not ids:
        raise ValidationError("Must be given.", source="profile_id")
    if len(set(ids)) > 1:
        raise ValidationError(
            f"Must be the same as the header {wire.SDK_PROFILE_HEADER}.", source="profile_id"
        )
    return ProfileRef(profile_id=ids[0])


def _profile_response(key: ApiKey, profile: Profile, ignored: list[str]) -> Response:
    data = {
        "app_id": key.app.uuid,
        "profile_id": profile.profile_id,
        "customer_user_id": profile.customer_user_id,
        "total_revenue_usd": 0.0,
        "segment_hash": "",
        "timestamp": system_clock(),
        "custom_attributes": [{"key": name, "value": value} for name, value in profile.attributes],
        "access_levels": [],
        "subscriptions": [],
        "non_subscriptions": [],
    }
    return wire.json_response({"data": data}, headers=wire.ignored_header(ignored))


# The fields that Adapty's profile has and this server does not keep: what each must be.
_TEXT: Final = ((str,), None)
_NOT_KEPT: Final[dict[str, tuple[tuple[type, ...], tuple[object, ...] | None]]] = {
    "first_name": _TEXT,
    "last_name": _TEXT,
    "gender": ((str,), ("f", "m", "o")),
    "email": _TEXT,
    "phone_number": _TEXT,
    "birthday": _TEXT,
    "ip_country": _TEXT,
    "ip_v4_address": _TEXT,
    "store_country": _TEXT,
    "store": _TEXT,
    "store_account_token": _TEXT,
    "att_status": ((int, float), (0, 1, 2, 3)),  # to JSON, 2.0 is an integer
    "analytics_disabled": ((bool,), None),
    "installation_meta": ((dict,), None),
}


def _profile_fields(body: dict[str, Any]) -> tuple[dict[str, str | float | None], list[str]]:
    """Return the attribute patch of a profile's body, and the names of what is not kept."""
    attributes: dict[str, str | float | None] = {}
    ignored: list[str] = []
    problems: list[FieldError] = []
    for name, value in body.items():
        if value is None:
            continue
        if name == "custom_attributes":
            try:
                attributes = clean_attributes(value)
            except ValidationError as error:
                problems += error.fields
            continue
        ignored.append(name)
        if name in _NOT_KEPT:
            types, allowed = _NOT_KEPT[name]
            if type(value) not in types:
                problems.append(FieldError(name, f"Must be of type {types[0].__name__}."))
            elif allowed is not None and value not in allowed:
                problems.append(FieldError(name, f"Must be one of {', '.join(map(str, allowed))}."))
    if problems:
        raise ValidationError(fields=problems)
    return attributes, ignored
