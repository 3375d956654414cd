"""Who is who: customers that change hands, and profiles that become one, in the native API."""

from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from knownas.errors import FieldError, ValidationError, noting
from knownas.history import MERGE, UNDO, Source
from knownas.http import fields, query, wire
from knownas.http.asking import authenticated, once_of, registry_of
from knownas.merging import RULES, Clash, Side
from knownas.model import clean_customer_text, clean_profile_id

_NO_CUSTOMER: Final = (
    'The body is empty. Send {"customer_user_id": "user-42"}, or null to take it away.'
)
_NO_MERGE: Final = (
    'The body is empty. Send {"survivor": {"profile_id": "…"}, "source": {"profile_id": "…"}}.'
)
_NO_UNDO: Final = 'The body is empty. Send {"source": "…"}, the id of the profile that was merged.'
_ERASURE: Final = (
    "Erasing the survivor erases the source with it, and ends the undo. Undo is possible as long "
    "as the history of both is kept."
)


async def bind_customer(request: Request) -> Response:
    """Have a customer be that of a profile, or of none."""
    key, headers = await authenticated(request, "secret")
    ref = headers.profile_ref()
    query.refuse_any(request)
    if ref.profile_id is None or ref.customer_user_id is not None:
        raise ValidationError(
            "Name the profile by this header alone; the customer stands in the body.",
            source=wire.PROFILE_HEADER,
        )
    body = await wire.json_object(request, headers, if_empty=_NO_CUSTOMER)
    once = once_of(request, headers, key, body)
    problems = wire.unknown_fields(body, "customer_user_id", "rebind")
    customer = None
    with noting(problems):
        customer = _customer(body)
    rebind = fields.switch(body, "rebind", problems)
    if problems:
        raise ValidationError(fields=problems)
    profile = await registry_of(request).bind_customer(
        key.app.id, ref.profile_id, customer, rebind=rebind, by=Source("api", key.id), once=once
    )
    return wire.json_response({"data": wire.native_profile(profile)})


async def merge(request: Request) -> Response:
    """Make one profile of two, or say what would come of it."""
    key, headers = await authenticated(request, "secret")
    query.refuse_any(request)
    body = await wire.json_object(request, headers, if_empty=_NO_MERGE)
    once = once_of(request, headers, key, body)
    problems = wire.unknown_fields(body, "survivor", "source", "rules", "default", "dry_run")
    refs = []
    for name in ("survivor", "source"):
        with noting(problems, name):
            refs.append(fields.profile_ref(body.get(name)))
    rules = _rules(body.get("rules"), problems)
    given = body.get("default")
    default = "survivor" if given is None else _side(given, "default", problems)
    dry_run = fields.switch(body, "dry_run", problems)
    if problems:
        raise ValidationError(fields=problems)
    merged = await registry_of(request).merge(
        key.app,
        *refs,
        rules=rules,
        default=default,
        dry_run=dry_run,
        by=MERGE._replace(key_id=key.id),
        once=once,
    )
    return wire.json_response(
        {
            "data": {
                "dry_run": dry_run,
                "survivor": wire.native_profile(merged.survivor),
                "source": wire.native_profile(merged.source),
                "conflicts": list(map(_clash, merged.clashes)),
                "notes": [_ERASURE],
            }
        }
    )


async def undo_merge(request: Request) -> Response:
    """Make two profiles of one again."""
    key, headers = await authenticated(request, "secret")
    query.refuse_any(request)
    body = await wire.json_object(request, headers, if_empty=_NO_UNDO)
    once = once_of(request, headers, key, body)
    problems = wire.unknown_fields(body, "source")
    source = body.get("source")
    if not isinstance(source, str):
        problems.append(FieldError("source", "Must be the id of the profile that was merged."))
    if problems:
        raise ValidationError(fields=problems)
    undone = await registry_of(request).undo_merge(
        key.app.id,
        clean_profile_id(str(source), source="source"),
        by=UNDO._replace(key_id=key.id),
        once=once,
    )
    return wire.json_response(
        {
            "data": {
                "survivor": wire.native_profile(undone.survivor),
                "source": wire.native_profile(undone.source),
            }
        }
    )


def _customer(body: dict[str, Any]) -> str | None:
    if "customer_user_id" not in body:
        raise ValidationError("Must be given; null takes it away.", source="customer_user_id")
    given = body["customer_user_id"]
    if given is None:
        return None
    if not isinstance(given, str):
        raise ValidationError("Must be a string or null.", source="customer_user_id")
    return clean_customer_text(given, source="customer_user_id")


def _rules(given: object, problems: list[FieldError]) -> dict[str, Side]:
    """Return whose value is kept of each field that is named."""
    if given is None:
        return {}
    if not isinstance(given, dict):
        problems.append(FieldError("rules", "Must be an object of fields and sides."))
        return {}
    rules: dict[str, Side] = {}
    for field, side in given.items():
        if field not in RULES:
            problems.append(FieldError(f"rules.{field}", "There is no such field to have a rule."))
        else:
            rules[field] = _side(side, f"rules.{field}", problems)
    return rules


def _side(given: object, source: str, problems: list[FieldError]) -> Side:
    if given == "source":
        return "source"
    if given != "survivor":
        problems.append(FieldError(source, "Must be survivor or source."))
    return "survivor"


def _clash(clash: Clash) -> dict[str, Any]:
    return {
        "field": clash.field,
        "survivor": clash.survivor,
        "source": clash.source,
        "kept": clash.kept,
    }
