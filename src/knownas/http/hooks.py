"""Webhooks in the native API: made, listed, changed, rotated, tried, deleted, and replayed."""

import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from msgspec import UNSET, UnsetType
from starlette.requests import Request
from starlette.responses import Response

from knownas.deliveries import Delivery, DeliveryKey, Failure, State, WebhookState
from knownas.errors import FieldError, ValidationError, noting
from knownas.http import query, wire
from knownas.http.asking import authenticated, registry_of
from knownas.model import ProfileId, clean_profile_id
from knownas.webhooks.endpoints import MAX_OVERLAP_SECONDS, OVERLAP_SECONDS, clean_types

_MAX_PAGE: Final = 1_000
_DEFAULT_PAGE: Final = 100
_MAX_REVISION: Final = 2**53

_NOTHING: Final = 'The body is empty. Send {"id": "whk_…"}.'
_NO_URL: Final = 'The body is empty. Send {"url": "https://…"}.'
_is_id: Final = re.compile(r"whk_[0-9a-f]{16}").fullmatch
_is_place: Final = re.compile(
    r"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}):([0-9]{1,18})"
).fullmatch


async def get_webhooks(request: Request) -> Response:
    """Answer the webhooks of the app, and how far each has come."""
    key, _ = await authenticated(request, "secret")
    query.parameters(request.scope["query_string"], ())
    found = await registry_of(request).webhooks.all(key.app.id)
    return wire.json_response({"data": list(map(_webhook, found))})


async def add_webhook(request: Request) -> Response:
    """Make a webhook, and show its secret this once."""
    key, headers = await authenticated(request, "secret")
    query.parameters(request.scope["query_string"], ())
    body = await wire.json_object(request, headers, if_empty=_NO_URL)
    problems = wire.unknown_fields(body, "url", "types")
    url = _text(body, "url", problems)
    types = None
    with noting(problems):
        types = clean_types(body.get("types"))
    if problems:
        raise ValidationError(fields=problems)
    state, secret = await registry_of(request).webhooks.add(key.app.id, url, types)
    return wire.json_response({"data": _webhook(state) | {"secret": secret}})


async def change_webhook(request: Request) -> Response:
    """Change where a webhook goes and what it is sent, or disable or enable it."""
    key, headers = await authenticated(request, "secret")
    query.parameters(request.scope["query_string"], ())
    body = await wire.json_object(request, headers, if_empty=_NOTHING)
    problems = wire.unknown_fields(body, "id", "url", "types", "enabled")
    webhook_id = _id(body, problems)
    url = _text(body, "url", problems) if "url" in body else UNSET
    enabled = body.get("enabled", UNSET)
    if not isinstance(enabled, bool | UnsetType):
        problems.append(FieldError("enabled", "Must be true or false."))
    types: Any = UNSET
    if "types" in body:
        with noting(problems):
            types = clean_types(body["types"])
    if not problems and not body.keys() & {"url", "types", "enabled"}:
        problems.append(FieldError(None, "Give at least one of url, types and enabled."))
    if problems:
        raise ValidationError(fields=problems)
    state = await registry_of(request).webhooks.change(
        key.app.id, webhook_id, url=url, types=types, enabled=enabled
    )
    return wire.json_response({"data": _webhook(state)})


async def delete_webhook(request: Request) -> Response:
    """Delete a webhook with all that was still to do for it."""
    key, _ = await authenticated(request, "secret")
    given = query.parameters(request.scope["query_string"], {"id"})
    problems: list[FieldError] = []
    webhook_id = _id(given, problems)
    if problems:
        raise ValidationError(fields=problems)
    await registry_of(request).webhooks.delete(key.app.id, webhook_id)
    return Response(status_code=204)


async def rotate_secret(request: Request) -> Response:
    """Give a webhook another secret; the one before signs beside it for a while."""
    key, headers = await authenticated(request, "secret")
    query.parameters(request.scope["query_string"], ())
    body = await wire.json_object(request, headers, if_empty=_NOTHING)
    problems = wire.unknown_fields(body, "id", "overlap_seconds")
    webhook_id = _id(body, problems)
    overlap = _number(body, "overlap_seconds", (0, MAX_OVERLAP_SECONDS), problems)
    if problems:
        raise ValidationError(fields=problems)
    state, secret = await registry_of(request).webhooks.rotate(
        key.app.id,
        webhook_id,
        overlap_seconds=OVERLAP_SECONDS if overlap is None else overlap,
    )
    return wire.json_response({"data": _webhook(state) | {"secret": secret}})


async def test_webhook(request: Request) -> Response:
    """Send a message now, and answer how that ended."""
    key, headers = await authenticated(request, "secret")
    query.parameters(request.scope["query_string"], ())
    body = await wire.json_object(request, headers, if_empty=_NOTHING)
    problems = wire.unknown_fields(body, "id")
    webhook_id = _id(body, problems)
    if problems:
        raise ValidationError(fields=problems)
    outcome = await registry_of(request).webhooks.test(key.app.id, webhook_id)
    return wire.json_response(
        {
            "data": {
                "result": outcome.result,
                "status": outcome.status,
                "reason": outcome.reason or None,
            }
        }
    )


async def get_deliveries(request: Request) -> Response:
    """Answer what waits for another attempt, or was given up: a page of it."""
    key, _ = await authenticated(request, "secret")
    given = query.parameters(request.scope["query_string"], {"id", "state", "limit", "cursor"})
    problems: list[FieldError] = []
    webhook_id = _id(given, problems)
    page = page_of(given, problems)
    if problems:
        raise ValidationError(fields=problems)
    found = await registry_of(request).webhooks.deliveries(key.app.id, webhook_id, *page)
    return deliveries_response(found, page.limit)


async def replay(request: Request) -> Response:
    """Have what was given up tried again: all of it, or one."""
    key, headers = await authenticated(request, "secret")
    query.parameters(request.scope["query_string"], ())
    body = await wire.json_object(request, headers, if_empty=_NOTHING)
    problems = wire.unknown_fields(body, "id", "profile_id", "revision")
    webhook_id = _id(body, problems)
    only = only_of(body, problems)
    if problems:
        raise ValidationError(fields=problems)
    replayed, dead = await registry_of(request).webhooks.replay(key.app.id, webhook_id, only)
    return wire.json_response({"data": {"replayed": replayed, "dead": dead}})


class Page(NamedTuple):
    """Which deliveries are asked for."""

    state: State | None
    after: DeliveryKey | None
    limit: int


def page_of(given: Mapping[str, str], problems: list[FieldError]) -> Page:
    """Return which page of deliveries is asked for; what is wrong is added to `problems`."""
    limit, state, place = _DEFAULT_PAGE, None, None
    with noting(problems):
        limit = query.number(given, "limit", 1, _MAX_PAGE) or limit
    with noting(problems):
        state = _state(given.get("state"))
    with noting(problems):
        place = _place(given.get("cursor"))
    return Page(state, place, limit)


def deliveries_response(found: list[Delivery], limit: int) -> Response:
    """Return the answer with a page of deliveries."""
    last = found[-1] if len(found) == limit else None
    return wire.json_response(
        {
            "data": list(map(_delivery, found)),
            "next": None if last is None else f"{last.profile_id}:{last.revision}",
        }
    )


def only_of(body: dict[str, Any], problems: list[FieldError]) -> DeliveryKey | None:
    """Return which delivery is meant, None for all of them."""
    if not body.keys() & {"profile_id", "revision"}:
        return None
    revision = _number(body, "revision", (1, _MAX_REVISION), problems)
    if revision is None and "revision" not in {one.source for one in problems}:
        problems.append(FieldError("revision", "Must be given with profile_id."))
    profile_id = ProfileId("")
    with noting(problems):
        text = _text(body, "profile_id", problems)
        profile_id = clean_profile_id(text, source="profile_id") if text else profile_id
    return profile_id, revision or 0


def _text(body: dict[str, Any], name: str, problems: list[FieldError]) -> str:
    given = body.get(name)
    if isinstance(given, str) and given:
        return given
    problems.append(FieldError(name, "Must be a string."))
    return ""


def _number(
    body: dict[str, Any], name: str, limits: tuple[int, int], problems: list[FieldError]
) -> int | None:
    given = body.get(name)
    least, most = limits
    if given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, int) or not least <= given <= most:
        problems.append(FieldError(name, f"Must be a whole number from {least} to {most}."))
        return None
    return given


def _id(given: Mapping[str, Any], problems: list[FieldError]) -> str:
    webhook_id = given.get("id")
    if isinstance(webhook_id, str) and _is_id(webhook_id):
        return webhook_id
    problems.append(FieldError("id", "Must be the id of a webhook, whk_ and 16 hex digits."))
    return ""


def _state(text: str | None) -> State | None:
    states: dict[str | None, State | None] = {None: None, "pending": "pending", "dead": "dead"}
    if text not in states:
        raise ValidationError("Must be pending or dead.", source="state")
    return states[text]


def _place(text: str | None) -> DeliveryKey | None:
    if text is None:
        return None
    if (match := _is_place(text)) is None:
        raise ValidationError("Must be as `next` of an answer had it.", source="cursor")
    return ProfileId(match[1]), int(match[2])


def _webhook(state: WebhookState) -> dict[str, Any]:
    webhook = state.webhook
    return {
        "id": webhook.id,
        "url": webhook.url,
        "types": webhook.types,
        "created_at": webhook.created_at,
        "enabled": webhook.disabled_at is None,
        "disabled_at": webhook.disabled_at,
        "disabled_because": webhook.disabled_because,
        **progress(state),
    }


def progress(state: WebhookState) -> dict[str, Any]:
    """Return how far a webhook has come, as it is answered."""
    return {
        "cursor": state.cursor,
        "pending": state.pending,
        "dead": state.dead,
        "lost_at": state.webhook.lost_at,
        "last_failure": _failure(state.last_failure),
    }


def _delivery(delivery: Delivery) -> dict[str, Any]:
    return {
        "profile_id": delivery.profile_id,
        "revision": delivery.revision,
        "state": delivery.state,
        "attempts": delivery.attempts,
        "next_at": delivery.next_at,
        "last_failure": _failure(delivery.failure),
    }


def _failure(failure: Failure | None) -> dict[str, Any] | None:
    return None if failure is None else failure._asdict()
