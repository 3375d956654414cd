"""The native API: reverse look-ups, whole profiles, clearing. Batches are in `batch.py`."""

import inspect
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from knownas.as_of import Moment
from knownas.errors import ValidationError
from knownas.history import Source
from knownas.http import query, wire
from knownas.http.asking import authenticated, bring, once_of, registry_of
from knownas.lookups import Sought
from knownas.model import ALL_KINDS, clean_kind, clean_kinds, clean_value

DEFAULT_LIMIT: Final = 20
"""How many profiles a page of a reverse look-up has at most."""
_MAX_LIMIT: Final = 100
_MAX_NUMBER: Final = 2**53

_NO_KINDS: Final = (
    'The body is empty. Send {"kinds": ["appsflyer_id"]}, or {"kinds": "all"} to clear them all.'
)


async def find_profiles(request: Request) -> Response:
    """Answer which profiles have an identifier, a page of them."""
    key, _ = await authenticated(request, "secret")
    sought = _sought(request.scope["query_string"])
    found = registry_of(request).holders(key.app.id, sought)
    holders = await found if inspect.isawaitable(found) else found
    return Response(wire.holders_body(holders), media_type="application/json")


async def get_profile(request: Request) -> Response:
    """Answer a profile with its identifiers and attributes, as it is or as it was."""
    key, headers = await authenticated(request, "secret")
    ref = headers.profile_ref()
    given = query.parameters(request.scope["query_string"], {"at", "revision"})
    moment = Moment(
        query.number(given, "at", 0, _MAX_NUMBER), query.number(given, "revision", 1, _MAX_NUMBER)
    )
    if len(given) > 1:
        raise ValidationError("Send at or revision, not both.", source="revision")
    if given:
        profile = await registry_of(request).profile_as_of(key.app.id, ref, moment)
    else:
        profile = await registry_of(request).profile_from_anywhere(key.app, ref)
    return wire.json_response({"data": wire.native_profile(profile)})


async def clear_identifiers(request: Request) -> Response:
    """Clear identifiers of a profile, and answer what it is then."""
    key, headers = await authenticated(request, "secret")
    ref = headers.profile_ref()
    query.refuse_any(request)
    body = await wire.json_object(request, headers, if_empty=_NO_KINDS)
    once = once_of(request, headers, key, body)
    problems = wire.unknown_fields(body, "kinds")
    kinds: tuple[int, ...] = ()
    try:
        kinds = clean_kinds(body.get("kinds"), source="kinds")
    except ValidationError as error:
        problems += error.fields
    if problems:
        raise ValidationError(fields=problems)
    await bring(request, key, ref)
    profile = await registry_of(request).clear_identifiers(
        key.app.id, ref, kinds, by=Source("api", key.id), once=once
    )
    return wire.json_response({"data": wire.native_profile(profile)})


def _sought(query_string: bytes) -> Sought:
    """Return what the query string of a reverse look-up asks. Raises ValidationError."""
    given = query.parameters(query_string, {"kind", "value", "limit", "cursor"})
    if "value" not in given:
        raise ValidationError("Must be given.", source="value")
    return Sought(
        (clean_kind(given["kind"], source="kind"),) if "kind" in given else ALL_KINDS,
        clean_value(given["value"], source="value"),
        query.number(given, "limit", 1, _MAX_LIMIT) or DEFAULT_LIMIT,
        wire.cursor(given["cursor"], source="cursor") if "cursor" in given else None,
    )
