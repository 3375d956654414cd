"""Batches of the native API: many profiles in one request, a result for each item in order."""

from collections.abc import AsyncIterator, Iterable
from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from knownas.errors import (
    BatchFailed,
    FieldError,
    KnownasError,
    ValidationError,
    kept_error,
    noting,
)
from knownas.history import Source
from knownas.http import fields, query, wire
from knownas.http.asking import authenticated, once_of, registry_of
from knownas.lookups import Holders, Sought
from knownas.model import (
    ALL_KINDS,
    KINDS,
    AppId,
    Profile,
    ProfileRef,
    clean_identifiers,
    clean_kind,
    clean_kinds,
    clean_value,
)
from knownas.strict_json import parse_object
from knownas.writes import Done, Setting

BODY_LIMIT: Final = 4 * 1024 * 1024
"""Bytes of the largest batch."""
MAX_ITEMS: Final = 1_000
HOLDERS_AN_ITEM: Final = 10
"""How many profiles an item finds by an identifier, at most."""
_LINES_A_PIECE: Final = 100

_NO_ITEMS: Final = 'The body is empty. Send {"items": [{"customer_user_id": "user-42"}]}.'
_NO_SETTINGS: Final = (
    'The body is empty. Send {"items": [{"customer_user_id": "user-42", '
    '"identifiers": {"appsflyer_id": "1741933337626-3179568"}}]}.'
)
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
    query.refuse_any(request)
    questions = _questions(await _given(request, headers, _NO_ITEMS))
    return _answer(request, await _answers(request, key.app.id, questions))


async def write(request: Request) -> Response:
    """Set and clear identifiers of many profiles; an item that fails fails alone, unless atomic."""
    key, headers = await authenticated(request, "secret")
    given = query.parameters(request.scope["query_string"], {"atomic", "create"})
    atomic, create = query.switch(given, "atomic"), query.switch(given, "create")
    items = await _given(request, headers, _NO_SETTINGS)
    settings: list[Setting | KnownasError] = []
    for item in items:
        try:
            settings.append(_setting(item))
        except KnownasError as error:
            settings.append(error)
    once = once_of(request, headers, key, [_told(item) for item in items])
    if atomic:
        _refuse_wrong(settings)
    sound = [one for one in settings if isinstance(one, Setting)]
    done = iter(
        await registry_of(request).write_batch(
            key.app, sound, atomic=atomic, create=create, by=Source("api", key.id), once=once
        )
        if sound
        else ()
    )
    dialect = request.app.state.settings.error_dialect
    return _answer(
        request,
        [
            _result(next(done), dialect)
            if isinstance(one, Setting)
            else wire.error_object(one, dialect)
            for one in settings
        ],
    )


async def _given(request: Request, headers: wire.Headers, if_empty: str) -> list[Any]:
    """Return the items of a body, of either form."""
    body = await wire.bounded_body(request, headers)
    media_type = wire.media_type_of(headers, body, if_empty, wire.JSON, wire.NDJSON)
    return _lines(body) if media_type == wire.NDJSON else _items(body)


def _told(item: Any) -> Any:  # noqa: ANN401 - what a client sent
    return str(item) if isinstance(item, KnownasError) else item


def _setting(item: Any) -> Setting:  # noqa: ANN401 - what a client sent
    """Return what an item sets and clears. Raises ValidationError with one entry per bad field."""
    if isinstance(item, KnownasError):
        raise item
    if not isinstance(item, dict):
        raise ValidationError("Must be an object.")
    named = {name: value for name, value in item.items() if name not in {"identifiers", "clear"}}
    problems: list[FieldError] = []
    ref = ProfileRef()
    values: dict[str, str] = {}
    cleared: tuple[int, ...] = ()
    with noting(problems):
        ref = fields.profile_ref(named)
    if item.get("identifiers") is not None:
        with noting(problems, "identifiers"):
            values, _ = clean_identifiers(_object(item["identifiers"]), reject_unknown=True)
    if item.get("clear") is not None:
        with noting(problems):
            cleared = clean_kinds(item["clear"], source="clear")
    if problems:
        raise ValidationError(fields=problems)
    if not values and not cleared:
        raise ValidationError("Say what to set by identifiers, or what to clear by clear.")
    return Setting(ref, values, [KINDS[kind].name for kind in cleared])


def _object(given: object) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise ValidationError("Must be an object of identifiers.")
    return given


def _refuse_wrong(settings: list[Setting | KnownasError]) -> None:
    """Raise BatchFailed when an item of a batch that is all or nothing is wrong."""
    failed = [
        problem
        for position, one in enumerate(settings)
        if isinstance(one, KnownasError)
        for problem in one.within(f"items[{position}]")
    ]
    if failed:
        raise BatchFailed(fields=failed)


def _result(done: Done, dialect: str) -> Any:  # noqa: ANN401 - one of two shapes
    if done.error is not None:
        return wire.error_object(kept_error(*done.error), dialect)
    return {"profile_id": done.profile_id, "revision": done.revision}


def _answer(request: Request, results: list[Any]) -> Response:
    if wire.accepts(request, wire.NDJSON.decode()):
        return StreamingResponse(_as_lines(results), media_type=wire.NDJSON.decode())
    return wire.json_response({"data": results})


def _items(body: bytes) -> list[Any]:
    """Return the items of a JSON body."""
    parsed = parse_object(body)
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
            items.append(parse_object(line))
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
    given = fields.cleaned(item, _ASKED)
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


_ASKED: Final[fields.Cleaners] = {**fields.WHO, "kind": clean_kind, "value": clean_value}


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


async def _as_lines(results: list[Any]) -> AsyncIterator[bytes]:
    """Yield results as lines, some at a time, as fast as the client takes them."""
    for start in range(0, len(results), _LINES_A_PIECE):
        yield b"".join(wire.encode(one) + b"\n" for one in results[start : start + _LINES_A_PIECE])
