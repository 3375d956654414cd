"""What was, how many, and what stands twice: history, coverage and conflicts of the native API."""

from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from knownas.errors import ValidationError
from knownas.events import event
from knownas.history import DAY_MS
from knownas.http import query, wire
from knownas.http.asking import authenticated, registry_of
from knownas.model import (
    KINDS,
    Policies,
    clean_kind,
    clean_policies,
    clean_value,
    policies_by_name,
)

_MAX_PAGE: Final = 1_000
_DEFAULT_PAGE: Final = 100
_MAX_REVISION: Final = 2**53

_NO_POLICIES: Final = 'The body is empty. Send {"appsflyer_id": "reject"}, or {} for none.'


async def get_history(request: Request) -> Response:
    """Answer what happened to a profile, the newest first."""
    key, headers = await authenticated(request, "secret")
    ref = headers.profile_ref()
    given = query.parameters(request.scope["query_string"], {"before", "limit"})
    before = query.number(given, "before", 1, _MAX_REVISION)
    limit = query.number(given, "limit", 1, _MAX_PAGE) or _DEFAULT_PAGE
    found = await registry_of(request).history(key.app.id, ref, before=before, limit=limit)
    oldest = found[-1].revision if len(found) == limit else 1
    return wire.json_response(
        {"data": list(map(event, found)), "next": oldest if oldest > 1 else None}
    )


async def get_coverage(request: Request) -> Response:
    """Answer how many profiles have each kind, at the end of each day."""
    key, _ = await authenticated(request, "secret")
    query.refuse_any(request)
    now, days = await registry_of(request).coverage(key.app.id)
    return wire.json_response(
        {
            "data": now,
            "days": [
                {"day": _date(day), "profiles": was.profiles, "identifiers": was.identifiers}
                for day, was in days.items()
            ],
        }
    )


async def get_conflicts(request: Request) -> Response:
    """Answer which identifiers stand on several profiles, a page of them, and how many of each."""
    key, _ = await authenticated(request, "secret")
    given = query.parameters(request.scope["query_string"], {"after_kind", "after_value", "limit"})
    limit = query.number(given, "limit", 1, _MAX_PAGE) or _DEFAULT_PAGE
    after = None
    if given.keys() & {"after_kind", "after_value"}:
        for name in ("after_kind", "after_value"):
            if name not in given:
                raise ValidationError("Must be given with the other one.", source=name)
        after = (
            clean_kind(given["after_kind"], source="after_kind"),
            clean_value(given["after_value"], source="after_value"),
        )
    registry = registry_of(request)
    found = await registry.shared(key.app.id, after, limit)
    counts = await registry.count_shared(key.app.id)
    last = found[-1] if len(found) == limit else None
    return wire.json_response(
        {
            "data": [
                {"kind": KINDS[kind].name, "value": value, "profiles": profiles}
                for kind, value, profiles in found
            ],
            "counts": {KINDS[kind].name: count for kind, count in counts.items()},
            "next": None
            if last is None
            else {"after_kind": KINDS[last.kind].name, "after_value": last.value},
        }
    )


async def get_policies(request: Request) -> Response:
    """Answer what becomes of an identifier that another profile has, for each kind."""
    key, _ = await authenticated(request, "secret")
    query.refuse_any(request)
    return _policies(key.app.policies)


async def put_policies(request: Request) -> Response:
    """Have kinds follow other policies; a kind that is not named is allowed on several profiles."""
    key, headers = await authenticated(request, "secret")
    query.refuse_any(request)
    body = await wire.json_object(request, headers, if_empty=_NO_POLICIES)
    policies = clean_policies(body)
    await registry_of(request).set_policies(key.app.id, policies)
    return _policies(policies)


def _policies(policies: Policies) -> Response:
    return wire.json_response({"data": policies_by_name(policies)})


def _date(day: int) -> str | None:
    """Return a day as RFC 3339 has it; None for all that was before coverage was counted."""
    return wire.date(day * DAY_MS) if day else None
