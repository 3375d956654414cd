"""The change feed: pages, long polls, and a stream of server-sent events."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from knownas.errors import ValidationError
from knownas.events import event
from knownas.history import ChangesPage
from knownas.http import query, wire
from knownas.http.asking import authenticated, registry_of
from knownas.model import AppId
from knownas.registry import Registry

MAX_CHANGES: Final = 1_000
DEFAULT_CHANGES: Final = 100
MAX_WAIT_SECONDS: Final = 60
LOOK_SECONDS: Final = 0.25
"""How often a follower that waits looks for what another process may have written."""
HEARTBEAT_SECONDS: Final = 15.0
"""How long a stream may be silent: proxies take a silent one for dead."""
NOW: Final = "now"
"""The `after` of whoever wants only what is still to come."""

_EVENT_STREAM: Final = "text/event-stream"
_MAX_CURSOR: Final = 200


async def get_changes(request: Request) -> Response:
    """Answer what changed after a cursor; wait for it, or stream it, where that is asked for."""
    key, _ = await authenticated(request, "secret")
    given = query.parameters(request.scope["query_string"], {"after", "limit", "wait"})
    limit = query.number(given, "limit", 1, MAX_CHANGES) or DEFAULT_CHANGES
    wait = query.number(given, "wait", 0, MAX_WAIT_SECONDS) or 0
    streams = request.method == "GET" and wire.accepts(request, _EVENT_STREAM)
    after = given.get("after") or (request.headers.get("last-event-id") if streams else None)
    if after is not None and len(after) > _MAX_CURSOR:
        raise ValidationError("Must be as `next` of an answer had it.", source="after")
    registry = registry_of(request)
    if after == NOW:
        after = await registry.end_of_changes()
    follower = _Follower(registry, key.app.id, limit, request.app.state.draining)
    page = await follower.read(after, 0 if streams else wait)
    if streams:
        return StreamingResponse(
            _stream(follower, page, limit),
            media_type=_EVENT_STREAM,
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )
    return wire.json_response({"data": list(map(event, page.changes)), "next": page.cursor})


class _Follower:
    """Reads the feed of one app, and waits where there is nothing."""

    def __init__(self, registry: Registry, app: AppId, limit: int, draining: asyncio.Event) -> None:
        self._registry = registry
        self._app = app
        self._limit = limit
        self.draining = draining

    async def read(self, after: str | None, seconds: float) -> ChangesPage:
        """Return what came after a cursor, or nothing when that many seconds are over.

        It is also nothing when the server stops.
        """
        deadline = time.monotonic() + seconds
        while True:
            page = await self._registry.changes(self._app, after, self._limit)
            left = deadline - time.monotonic()
            if page.changes or left <= 0 or self.draining.is_set():
                return page
            after = page.cursor
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.draining.wait(), min(LOOK_SECONDS, left))


async def _stream(follower: _Follower, page: ChangesPage, limit: int) -> AsyncIterator[bytes]:
    """Yield changes as server-sent events until the client is gone or the server stops."""
    yield _heartbeat(page.cursor)
    while True:
        if page.changes:
            yield b"".join(_as_event(event(change)) for change in page.changes)
        elif not follower.draining.is_set():
            yield _heartbeat(page.cursor)
        if follower.draining.is_set():
            return
        full = len(page.changes) == limit
        page = await follower.read(page.cursor, 0 if full else HEARTBEAT_SECONDS)


def _as_event(change: dict[str, Any]) -> bytes:
    return b"id: %b\nevent: %b\ndata: %b\n\n" % (
        change["cursor"].encode(),
        change["type"].encode(),
        wire.encode(change),
    )


def _heartbeat(cursor: str) -> bytes:
    """Return what is no event, but keeps the connection and moves the reader's Last-Event-ID on."""
    return b": waiting\nid: %b\n\n" % cursor.encode()
