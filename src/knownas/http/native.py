"""The native API: reverse look-ups, whole profiles, clearing. Batches are in `batch.py`."""

import inspect
import re
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from knownas.errors import ValidationError
from knownas.http import query, wire
from knownas.http.asking import authenticated, registry_of
from knownas.lookups import Sought
from knownas.model import ALL_KINDS, clean_kind, clean_kinds, clean_value

DEFAULT_LIMIT: Final = 20
"""How many profiles a page of a reverse look-up has at most."""
_is_limit: Final = re.compile(r"[1-9][0-9]?|100").fullmatch

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
    """Answer a profile with its identifiers and attributes."""
    key, headers = await authenticated(request, "secret")
    profile = await registry_of(request).profile(key.app.id, headers.profile_ref())
    return wire.json_response({"data": wire.native_profile(profile)})


async def clear_identifiers(request: Request) -> Response:
    """Clear identifiers of a profile, and answer what it is then."""
    key, headers = await authenticated(request, "secret")
    ref = headers.profile_ref()
    body = await wire.json_object(request, headers, if_empty=_NO_KINDS)
    problems = wire.unknown_fields(body, "kinds")
    kinds: tuple[int, ...] = ()
    try:
        kinds = clean_kinds(body.get("kinds"), source="kinds")
    except ValidationError as error:
        problems += error.fields
    if problems:
        raise ValidationError(fields=problems)
    profile = await registry_of(request).clear_identifiers(key.app.id, ref, kinds)
    return wire.json_response({"data": wire.native_profile(profile)})


def _sought(query_string: bytes) -> Sought:
    """Return what the query string of a reverse look-up asks. Raises ValidationError."""
    given = query.parameters(query_string, {"kind", "value", "limit", "cursor"})
    if "value" not in given:
        raise ValidationError("Must be given.", source="value")
    limit = given.get("limit")
    if limit is not None and not _is_limit(limit):
        raise ValidationError("Must be a whole number from 1 to 100.", source="limit")
    return Sought(
        (clean_kind(given["kind"], source="kind"),) if "kind" in given else ALL_KINDS,
        clean_value(given["value"], source="value"),
        DEFAULT_LIMIT if limit is None else int(limit),
        wire.cursor(given["cursor"], source="cursor") if "cursor" in given else None,
    )
