"""Webhooks that others send: taken, and in the native API how they fare and what failed."""

import contextlib
import re
from collections.abc import Mapping
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from knownas import logs
from knownas.errors import FieldError, NotFound, ValidationError, noting
from knownas.http import query, wire
from knownas.http.asking import authenticated, registry_of
from knownas.receiving import DeadLetter
from knownas.webhooks.inbound import Refused, SenderState
from knownas.webhooks.senders import SENDERS

PATH: Final = "/webhooks/{sender}/{app}/"

BODY_LIMIT: Final = 1024 * 1024
"""Bytes of the largest event."""

_MAX_PAGE: Final = 100
_DEFAULT_PAGE: Final = 20

_is_id: Final = re.compile(r"ltr_[0-9a-f]{16}").fullmatch
_is_place: Final = re.compile(r"([0-9]{1,18}):(ltr_[0-9a-f]{16})").fullmatch


async def receive(request: Request) -> Response:
    """Take an event of a sender; an answer of 200 says that it is not to be sent again."""
    sender = request.path_params.get("sender", "")
    if sender not in SENDERS:
        raise NotFound
    headers = wire.Headers(request.scope["headers"])
    reception, metrics = registry_of(request).reception, request.app.state.metrics
    try:
        app = await reception.admit(request.path_params["app"], sender, headers.authorization)
        body = await wire.bounded_body(request, headers)
        taken = await reception.receive(app, sender, body)
    except Refused as refused:
        metrics.count_inbound(sender, "refused")
        # A name that is no app's may be anything, so it is not told.
        _tell("webhook_refused", sender=sender, app=refused.app)
        request.app.state.guard.bad_key(request.client, headers.authorization)
        raise
    metrics.count_inbound(sender, taken.outcome)
    metrics.count_ignored_keys(taken.ignored)
    if taken.letter_id is not None:
        _tell("webhook_dead_letter", sender=sender, app=app.name, letter=taken.letter_id)
    return wire.json_response(taken.answer)


def _tell(event: str, **values: object) -> None:
    with contextlib.suppress(OSError):  # a reader of the log that died is not the sender's fault
        logs.get().warning(event, **values)


async def get_state(request: Request) -> Response:
    """Answer how each sender fares that has a secret, or was refused."""
    key, _ = await authenticated(request, "secret")
    query.refuse_any(request)
    found = await registry_of(request).reception.state(key.app.id)
    return wire.json_response({"data": [_state(one, key.app.name) for one in found]})


async def get_letters(request: Request) -> Response:
    """Answer a page of the dead letters, newest first."""
    key, _ = await authenticated(request, "secret")
    given = query.parameters(request.scope["query_string"], {"limit", "cursor"})
    problems: list[FieldError] = []
    limit, place = _DEFAULT_PAGE, None
    with noting(problems):
        limit = query.number(given, "limit", 1, _MAX_PAGE) or limit
    with noting(problems):
        place = _place(given.get("cursor"))
    if problems:
        raise ValidationError(fields=problems)
    found = await registry_of(request).reception.letters(key.app.id, place, limit)
    last = found[-1] if len(found) == limit else None
    return wire.json_response(
        {
            "data": list(map(letter_data, found)),
            "next": None if last is None else f"{last.at}:{last.id}",
        }
    )


async def delete_letters(request: Request) -> Response:
    """Delete one dead letter, or all."""
    key, _ = await authenticated(request, "secret")
    given = query.parameters(request.scope["query_string"], {"id", "all"})
    everything = query.switch(given, "all")
    letter_id = _id(given)
    if everything == (letter_id is not None):
        raise ValidationError("Give either the id of a dead letter, or all=true.")
    await registry_of(request).reception.discard(key.app.id, letter_id)
    return Response(status_code=204)


async def replay(request: Request) -> Response:
    """Have dead letters taken as if they came now: one, or up to a hundred."""
    key, headers = await authenticated(request, "secret")
    query.refuse_any(request)
    body = await wire.json_object(request, headers)
    if problems := wire.unknown_fields(body, "id"):
        raise ValidationError(fields=problems)
    stored, failed = await registry_of(request).reception.replay(key.app, _id(body))
    return wire.json_response({"data": {"stored": stored, "failed": failed}})


def _id(given: Mapping[str, Any]) -> str | None:
    letter_id = given.get("id")
    if letter_id is None or (isinstance(letter_id, str) and _is_id(letter_id)):
        return letter_id
    raise ValidationError("Must be the id of a dead letter, ltr_ and 16 hex digits.", source="id")


def _place(text: str | None) -> tuple[int, str] | None:
    if text is None:
        return None
    if (match := _is_place(text)) is None:
        raise ValidationError("Must be as `next` of an answer had it.", source="cursor")
    return int(match[1]), match[2]


def _state(state: SenderState, app_name: str) -> dict[str, Any]:
    return {
        "sender": state.sender,
        "path": PATH.format(sender=state.sender, app=app_name),
        "secrets": [{"id": one.id, "created_at": one.created_at} for one in state.secrets],
        "refused": state.refusals.times,
        "refused_at": state.refusals.last_at or None,
    }


def letter_data(letter: DeadLetter) -> dict[str, Any]:
    """Return a dead letter as it is shown; what is no text in it is replaced."""
    return {
        "id": letter.id,
        "sender": letter.sender,
        "at": letter.at,
        "reason": letter.reason,
        "size": letter.size,
        "whole": letter.is_whole,
        "body": letter.body.decode(errors="replace"),
    }
