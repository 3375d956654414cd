"""Persons: erased, known again as erased, and shown all that is kept of them."""

from collections.abc import Callable
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from knownas.eraser import Checked, Erased
from knownas.erasing import Person, Whom, customer_name, profile_name
from knownas.errors import FieldError, ValidationError, noting
from knownas.history import Source
from knownas.http import fields, query, wire
from knownas.http.asking import authenticated, registry_of
from knownas.model import (
    ALL_KINDS,
    KINDS,
    ProfileRef,
    clean_customer_text,
    clean_kind,
    clean_profile_id,
    clean_value,
)

BODY_LIMIT: Final = 1024 * 1024
"""Bytes of a body that asks of up to 1,000 names of each sort."""

_MAX_NAMES: Final = 1_000
_DEFAULT_PAGE: Final = 100
_MAX_PAGE: Final = 1_000
_MAX_TIME: Final = 2**53

_WHOM: Final[fields.Cleaners] = {**fields.WHO, "kind": clean_kind, "value": clean_value}

_NO_WHOM: Final = (
    'The body is empty. Send {"profile_id": "…"}, {"customer_user_id": "…"}, or {"kind": "…", '
    '"value": "…"}.'
)
_ONE_OF: Final = (
    "Say whom by one of profile_id, customer_user_id and value; kind goes with value alone."
)
_NO_NAMES: Final = (
    'The body is empty. Send {"profile_ids": ["…"]}, {"customer_user_ids": ["…"]}, or both.'
)


async def erase(request: Request) -> Response:
    """Erase a person, and answer with the receipt."""
    key, headers = await authenticated(request, "secret")
    query.refuse_any(request)
    body = await wire.json_object(request, headers, if_empty=_NO_WHOM)
    problems: list[FieldError] = []
    reveal = fields.switch(body, "reveal", problems)
    body.pop("reveal", None)
    whom = Whom(None)
    with noting(problems):
        whom = _whom(fields.cleaned(body, _WHOM))
    if problems:
        raise ValidationError(fields=problems)
    erased = await registry_of(request).eraser.erase(key.app, whom, by=Source("erasure", key.id))
    return wire.json_response({"data": _told(erased, reveal=reveal)})


async def get_erasures(request: Request) -> Response:
    """Answer one receipt, or a page of an app's receipts, newest first."""
    key, _ = await authenticated(request, "secret")
    given = query.parameters(request.scope["query_string"], {"id", "limit", "before", "before_id"})
    eraser = registry_of(request).eraser
    if "id" in given:
        if len(given) > 1:
            raise ValidationError("Must be sent alone.", source="id")
        signed = await eraser.receipt(key.app, clean_profile_id(given["id"], source="id"))
        return wire.json_response({"data": {"receipt": signed.receipt, "signed": signed.text}})
    limit = query.number(given, "limit", 1, _MAX_PAGE) or _DEFAULT_PAGE
    before = None
    if given.keys() & {"before", "before_id"}:
        time = query.number(given, "before", 0, _MAX_TIME)
        if time is None or "before_id" not in given:
            raise ValidationError("Must be given together with before_id.", source="before")
        before = (time, clean_profile_id(given["before_id"], source="before_id"))
    found = await eraser.receipts(key.app, before, limit)
    last = found[-1] if len(found) == limit else None
    following = None if last is None else {"before": last.erased_at, "before_id": last.id}
    return wire.json_response({"data": found, "next": following})


async def get_key(request: Request) -> Response:
    """Answer the public key by which receipts can be checked."""
    await authenticated(request, "secret")
    query.refuse_any(request)
    public_key = await registry_of(request).eraser.public_key()
    return wire.json_response({"data": {"algorithm": "Ed25519", "public_key": public_key}})


async def check(request: Request) -> Response:
    """Answer which of some ids and customers were erased."""
    key, headers = await authenticated(request, "secret")
    query.refuse_any(request)
    body = await wire.json_object(request, headers, if_empty=_NO_NAMES)
    problems = wire.unknown_fields(body, "profile_ids", "customer_user_ids")
    ids = _texts(body, "profile_ids", clean_profile_id, problems)
    customers = _texts(body, "customer_user_ids", clean_customer_text, problems)
    if problems:
        raise ValidationError(fields=problems)
    by_name = {profile_name(one): text for text, one in ids}
    by_name |= {customer_name(one): text for text, one in customers}
    told: dict[str, list[dict[str, Any]]] = {"profile_ids": [], "customer_user_ids": []}
    for one in await registry_of(request).eraser.check(key.app, list(by_name)):
        sort = "profile_ids" if one.name.startswith("p:") else "customer_user_ids"
        told[sort].append(_checked(one, by_name[one.name]))
    return wire.json_response({"data": told})


async def export_person(request: Request) -> Response:
    """Answer all that is kept of a person, as a file."""
    key, headers = await authenticated(request, "secret")
    ref = headers.profile_ref()
    query.refuse_any(request)
    export = await registry_of(request).eraser.export(key.app, ref)
    response = wire.json_response({"data": export})
    response.headers["Content-Disposition"] = 'attachment; filename="profile.json"'
    return response


def _whom(given: dict[str, Any]) -> Whom:
    if len(given.keys() - {"kind"}) != 1 or ("kind" in given and "value" not in given):
        raise ValidationError(_ONE_OF)
    if "value" in given:
        return Whom(None, (given["kind"],) if "kind" in given else ALL_KINDS, given["value"])
    return Whom(ProfileRef(given.get("customer_user_id"), given.get("profile_id")))


def _texts(
    body: dict[str, Any], name: str, clean: Callable[..., Any], problems: list[FieldError]
) -> list[tuple[str, Any]]:
    """Return the texts of a list in a body, each as it was sent and cleaned; add what is wrong."""
    given = body.get(name)
    if given is None:
        return []
    if not isinstance(given, list) or len(given) > _MAX_NAMES:
        problems.append(FieldError(name, f"Must be a list of at most {_MAX_NAMES:,} strings."))
        return []
    found = []
    for position, text in enumerate(given):
        source = f"{name}[{position}]"
        if not isinstance(text, str):
            problems.append(FieldError(source, "Must be a string."))
            continue
        with noting(problems):
            found.append((text, clean(text, source=source)))
    return found


def _checked(one: Checked, text: str) -> dict[str, Any]:
    return {"id": text, "erased_at": one.erased_at, "revived_at": one.revived_at}


def _told(erased: Erased, *, reveal: bool) -> dict[str, Any]:
    told: dict[str, Any] = {"receipt": erased.signed.receipt, "signed": erased.signed.text}
    if reveal:
        told["person"] = _person(erased.person)
    return told


def _person(person: Person) -> dict[str, Any]:
    return {
        "profile_ids": person.profile_ids,
        "customer_user_ids": person.customers,
        "identifiers": {
            KINDS[kind].name: sorted(values) for kind, values in person.identifiers.items()
        },
    }
