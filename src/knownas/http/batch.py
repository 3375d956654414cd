"""Batches of the native API: many profiles in one request, a result for each item in order."""

from collections.abc import AsyncIterator, Iterable
from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from knownas.errors import FieldError, KnownasError, ValidationError
from knownas.http import wire
from knownas.http.asking import authenticated, registry_of
from knownas.lookups import Holders, Sought
from knownas.model import (
    ALL_KINDS,
    AppId,
    Profile,
    ProfileRef,
    clean_customer_text,
    clean_kind,
    clean_profile_id,
    clean_value,
)

BODY_LIMIT: Final = 4 * 1024 * 1024
"""Bytes of the largest batch."""
MAX_ITEMS: Final = 1_000
HOLDERS_AN_ITEM: Final = 10
"""How many profiles an item finds by an identifier, at most."""
_LINES_A_PIECE: Final = 100

_NO_ITEMS: Final = 'The body is empty. Send {"items": [{"customer_user_id": "user-42"}]}.'
_HOW_TO_ASK: Final = (
    "Name a profile by profile_id or customer_user_id, or an identifier by value or kind and value."
)

_Question = ProfileRef | Sought | KnownasError


class _One(msgspec.Struct, frozen=True, gc=False):
    profile: wire.NativeProfile


class _Several(msgspec.Struct, frozen=True, gc=False):
    profiles: list[wire.NativeProfile]
    more: bool


async def read(request: Request) -> Response:
    """Answer many profiles, by whatever each item names them; an item that fails fails alone."""
    key, headers = await authenticated(request, "secret")
    body = await wire.bounded_body(request, headers)
    media_type = wire.media_type_of(headers, body, _NO_ITEMS, wire.JSON, wire.NDJSON)
    questions = _questions(_lines(body) if media_type == wire.NDJSON else _items(body))
    results = await _answers(request, key.app.id, questions)
    if _takes_lines(request):
        return StreamingResponse(_as_lines(results), media_type=wire.NDJSON.decode())
    return wire.json_response({"data": results})


def _items(body: bytes) -> list[Any]:
    """Return the items of a JSON body."""
    parsed = wire.parse_object(body)
    problems = wire.unknown_fields(parsed, "items")
    items: Any = parsed.get("items")
    if not isinstance(items, list) or not 1 <= len(items) <= MAX_ITEMS:
        problems.append(FieldError("items", f"Must be a list of 1 to {MAX_ITEMS} objects."))
    if problems:
        raise ValidationError(fields=problems)
    return list(items)


def _lines(body: bytes) -> list[Any]:
    """Return the items of a body of lines, of which blank ones do not count.

    A line that is no JSON object is an item that is an error.
    """
    lines = [line for line in body.split(b"\n") if line.strip()]
    if not 1 <= len(lines) <= MAX_ITEMS:
        raise ValidationError(f"Send 1 to {MAX_ITEMS} lines, each a JSON object.")
    items: list[Any] = []
    for line in lines:
        try:
            items.append(wire.parse_object(line))
        except KnownasError as error:
            items.append(error)
    return items


def _questions(items: Iterable[Any]) -> list[_Question]:
    questions: list[_Question] = []
    for item in items:
        try:
            questions.append(_question(item))
        except KnownasError as error:
            questions.append(error)
    return questions


def _question(item: Any) -> _Question:  # noqa: ANN401 - what a client sent
    """Return what an item asks. Raises ValidationError with one entry per bad field."""
    if isinstance(item, KnownasError):
        return item
    if not isinstance(item, dict):
        raise ValidationError("Must be an object.")
    given = _cleaned(item)
    customer, profile_id = given.get("customer_user_id"), given.get("profile_id")
    kind, value = given.get("kind"), given.get("value")
    by_profile = customer is not None or profile_id is not None
    if by_profile == (kind is not None or value is not None):
        raise ValidationError(_HOW_TO_ASK)
    if by_profile:
        return ProfileRef(customer, profile_id)
    if value is None:
        raise ValidationError("Must be given.", source="value")
    return Sought(ALL_KINDS if kind is None else (kind,), value, HOLDERS_AN_ITEM)


def _cleaned(item: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of an item that are not null."""
    given: dict[str, Any] = {}
    problems: list[FieldError] = []
    for name, value in item.items():
        clean = _CLEAN.get(name)
        if clean is None:
            problems.append(FieldError(name, "Unknown field."))
        elif isinstance(value, str):
            try:
                given[name] = clean(value, source=name)
            except ValidationError as error:
                problems += error.fields
        elif value is not None:
            problems.append(FieldError(name, "Must be a string."))
    if problems:
        raise ValidationError(fields=problems)
    return given


_CLEAN: Final = {
    "profile_id": clean_profile_id,
    "customer_user_id": clean_customer_text,
    "kind": clean_kind,
    "value": clean_value,
}
"""The fields of an item, each with what makes a valid value of its text."""


async def _answers(request: Request, app: AppId, questions: list[_Question]) -> list[Any]:
    """Return the result of each item."""
    registry = registry_of(request)
    dialect = request.app.state.settings.error_dialect
    refs = [one for one in questions if isinstance(one, ProfileRef)]
    wanted = [one for one in questions if isinstance(one, Sought)]
    profiles = iter(await registry.profiles(app, refs) if refs else ())
    holders = iter(await registry.holders_of_each(app, wanted) if wanted else ())
    results: list[Any] = []
    for question in questions:
        if isinstance(question, Sought):
            results.append(_several(next(holders)))
            continue
        found = next(profiles) if isinstance(question, ProfileRef) else question
        results.append(
            _One(wire.native_profile(found))
            if isinstance(found, Profile)
            else wire.error_object(found, dialect)
        )
    return results


def _several(holders: Holders) -> _Several:
    """Return the profiles among holders, each once, even where it has the value as two kinds."""
    by_id = {holder.profile.profile_id: holder.profile for holder in holders.found}
    return _Several(
        [wire.native_profile(profile) for profile in by_id.values()], holders.next is not None
    )


def _takes_lines(request: Request) -> bool:
    """Tell whether the client asks for lines instead of one object."""
    accepted = ",".join(request.headers.getlist("accept")).split(",")
    return wire.NDJSON.decode() in {one.partition(";")[0].strip().lower() for one in accepted}


async def _as_lines(results: list[Any]) -> AsyncIterator[bytes]:
    """Yield results as lines, some at a time, as fast as the client takes them."""
    for start in range(0, len(results), _LINES_A_PIECE):
        yield b"".join(wire.encode(one) + b"\n" for one in results[start : start + _LINES_A_PIECE])
