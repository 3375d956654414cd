"""Who is who: customers that change hands, and profiles that become one, in the native API."""

from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from knownas.errors import FieldError, ValidationError, noting
from knownas.history import Source
from knownas.http import query, wire
from knownas.http.asking import authenticated, registry_of
from knownas.merging import RULES, Clash, Side
from knownas.model import ProfileRef, clean_customer_text, clean_profile_id

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
    query.parameters(request.scope["query_string"], ())
    if ref.profile_id is None or ref.customer_user_id is not None:
        raise ValidationError(
            "Name the profile by this header alone; the customer stands in the body.",
            source=wire.PROFILE_HEADER,
        )
    body = await wire.json_object(request, headers, if_empty=_NO_CUSTOMER)
    problems = wire.unknown_fields(body, "customer_user_id", "rebind")
    customer = None
    with noting(problems):
        customer = _customer(body)
    rebind = _switch(body, "rebind", problems)
    if problems:
        raise ValidationError(fields=problems)
    profile = await registry_of(request).bind_customer(
        key.app.id, ref.profile_id, customer, rebind=rebind, by=Source("api", key.id)
    )
    return wire.json_response({"data": wire.native_profile(profile)})


async def merge(request: Request) -> Response:
    """Make one profile of two, or say what would come of it."""
    key, headers = await authenticated(request, "secret")
    query.parameters(request.scope["query_string"], ())
    body = await wire.json_object(request, headers, if_empty=_NO_MERGE)
    problems = wire.unknown_fields(body, "survivor", "source", "rules", "default", "dry_run")
    refs = [_ref(body, name, problems) for name in ("survivor", "source")]
    rules = _rules(body.get("rules"), problems)
    default = _side(body.get("default") or "survivor", "default", problems)
    dry_run = _switch(body, "dry_run", problems)
    if problems:
        raise ValidationError(fields=problems)
    merged = await registry_of(request).merge(
        key.app, *refs, rules=rules, default=default, dry_run=dry_run, key_id=key.id
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
    query.parameters(request.scope["query_string"], ())
    body = await wire.json_object(request, headers, if_empty=_NO_UNDO)
    problems = wire.unknown_fields(body, "source")
    source = body.get("source")
    if not isinstance(source, str):
        problems.append(FieldError("source", "Must be the id of the profile that was merged."))
    if problems:
        raise ValidationError(fields=problems)
    undone = await registry_of(request).undo_merge(
        key.app.id, clean_profile_id(str(source), source="source"), key_id=key.id
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


def _ref(body: dict[str, Any], name: str, problems: list[FieldError]) -> ProfileRef:
    """Return the profile that a member names; what is wrong with it is added to `problems`."""
    given = body.get(name)
    if not isinstance(given, dict) or not given:
        problems.append(
            FieldError(name, 'Must be an object: {"profile_id": …} or {"customer_user_id": …}.')
        )
        return ProfileRef()
    texts: dict[str, str] = {}
    for field, value in given.items():
        clean = _NAMES.get(field)
        if clean is None:
            problems.append(FieldError(f"{name}.{field}", "Unknown field."))
        elif not isinstance(value, str):
            problems.append(FieldError(f"{name}.{field}", "Must be a string."))
        else:
            with noting(problems):
                texts[field] = clean(value, source=f"{name}.{field}")
    return ProfileRef(**texts)  # type: ignore[arg-type] # each was cleaned to its own type


_NAMES: Final = {"profile_id": clean_profile_id, "customer_user_id": clean_customer_text}


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


def _switch(body: dict[str, Any], name: str, problems: list[FieldError]) -> bool:
    given = body.get(name)
    if given is not None and not isinstance(given, bool):
        problems.append(FieldError(name, "Must be true or false."))
    return given is True


def _clash(clash: Clash) -> dict[str, Any]:
    return {
        "field": clash.field,
        "survivor": clash.survivor,
        "source": clash.source,
        "kept": clash.kept,
    }
