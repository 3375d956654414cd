"""An app's upstream in the native API: shown, set and removed."""

from typing import Any, Final

from msgspec import UNSET
from starlette.requests import Request
from starlette.responses import Response

from knownas.errors import FieldError, ValidationError
from knownas.http import hooks, query, wire
from knownas.http.asking import authenticated, registry_of
from knownas.model import AppId
from knownas.shadows import counts_by_name
from knownas.upstream.shadow import MOST_KEPT
from knownas.upstream.terms import Terms
from knownas.upstreams import Upstream

_NO_URL: Final = 'The body is empty. Send {"url": "https://…", "key": "…"}.'
_SWITCHES: Final = ("read_through", "write_through", "paused")
_DEFAULT_LIMIT: Final = 100
_ON_FAILURE: Final = ("not_found", "unavailable")


async def get_upstream(request: Request) -> Response:
    """Answer the app's upstream; its key is never shown."""
    key, _ = await authenticated(request, "secret")
    query.refuse_any(request)
    return await _shown(request, key.app.id, await registry_of(request).upstreams.one(key.app.id))


async def put_upstream(request: Request) -> Response:
    """Give the app an upstream, or change what is given of the one that it has."""
    key, headers = await authenticated(request, "secret")
    query.refuse_any(request)
    body = await wire.json_object(request, headers, if_empty=_NO_URL)
    terms = _terms(body)
    upstream = await registry_of(request).upstreams.set(key.app, terms)
    registry_of(request).keyring.forget()
    return await _shown(request, key.app.id, upstream)


async def delete_upstream(request: Request) -> Response:
    """Have the app have no upstream."""
    key, _ = await authenticated(request, "secret")
    query.refuse_any(request)
    await registry_of(request).upstreams.remove(key.app.id)
    registry_of(request).keyring.forget()
    return Response(status_code=204)


async def get_deliveries(request: Request) -> Response:
    """Answer what the upstream was not told at once: what waits, or was given up."""
    key, _ = await authenticated(request, "secret")
    given = query.parameters(request.scope["query_string"], {"state", "limit", "cursor"})
    problems: list[FieldError] = []
    page = hooks.page_of(given, problems)
    if problems:
        raise ValidationError(fields=problems)
    found = await registry_of(request).upstreams.deliveries(key.app.id, *page)
    return hooks.deliveries_response(found, page.limit)


async def replay(request: Request) -> Response:
    """Tell the upstream again what was given up: all of it, or one."""
    key, headers = await authenticated(request, "secret")
    query.refuse_any(request)
    body = await wire.json_object(request, headers)
    problems = wire.unknown_fields(body, "profile_id", "revision")
    only = hooks.only_of(body, problems)
    if problems:
        raise ValidationError(fields=problems)
    replayed, dead = await registry_of(request).upstreams.replay(key.app.id, only)
    return wire.json_response({"data": {"replayed": replayed, "dead": dead}})


async def get_differences(request: Request) -> Response:
    """Answer how often this server and the upstream were the same, and which profiles differ."""
    key, _ = await authenticated(request, "secret")
    given = query.parameters(request.scope["query_string"], {"limit"})
    limit = query.number(given, "limit", 1, MOST_KEPT) or _DEFAULT_LIMIT
    counts, differing = await registry_of(request).upstreams.differing(key.app.id, limit)
    return wire.json_response(
        {
            "data": [one._asdict() for one in differing],
            "counts": counts_by_name(counts),
        }
    )


async def delete_differences(request: Request) -> Response:
    """Begin to count anew."""
    key, _ = await authenticated(request, "secret")
    query.refuse_any(request)
    await registry_of(request).upstreams.compare_anew(key.app.id)
    return Response(status_code=204)


def _terms(body: dict[str, Any]) -> Terms:
    """Return what a body says an upstream is to be. Raises ValidationError."""
    problems = wire.unknown_fields(body, "url", "key", "on_failure", "shadow_percent", *_SWITCHES)
    for name in ("url", "key"):
        if not isinstance(body.get(name, "" if name == "key" else None), str):
            problems.append(FieldError(name, "Must be a string."))
    for name in _SWITCHES:
        if not isinstance(body.get(name, False), bool):
            problems.append(FieldError(name, "Must be true or false."))
    percent = body.get("shadow_percent", 0)
    if isinstance(percent, bool) or not isinstance(percent, int) or not 0 <= percent <= 100:  # noqa: PLR2004 - in a hundred
        problems.append(FieldError("shadow_percent", "Must be a whole number from 0 to 100."))
    if body.get("on_failure", _ON_FAILURE[0]) not in _ON_FAILURE:
        problems.append(FieldError("on_failure", "Must be not_found or unavailable."))
    if problems:
        raise ValidationError(fields=problems)
    return Terms(
        url=body["url"],
        key=body.get("key", UNSET),
        on_failure=body.get("on_failure", UNSET),
        shadow_percent=body.get("shadow_percent", UNSET),
        **{name: body.get(name, UNSET) for name in _SWITCHES},
    )


async def _shown(request: Request, app: AppId, upstream: Upstream) -> Response:
    told = await registry_of(request).upstreams.forwarding(app)
    return wire.json_response(
        {
            "data": {
                "url": upstream.url,
                "key_from": "stored" if upstream.key_from is None else "operator",
                "read_through": upstream.read_through,
                "on_failure": upstream.on_failure,
                "shadow_percent": upstream.shadow_percent,
                "write_through": upstream.write_through,
                "paused": upstream.paused,
                "changed_at": upstream.changed_at,
                "forwarding": None if told is None else hooks.progress(told),
            }
        }
    )
