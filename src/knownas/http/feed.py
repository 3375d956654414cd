"""The change feed: pages, long polls, and a stream of server-sent events."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from knownas.errors import KnownasError, ValidationError
from knownas.events import event
from knownas.history import ChangesPage
from knownas.http import query, wire
from knownas.http.asking import authenticated, registry_of
from knownas.model import AppId

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
_LAST_EVENT_ID: Final = "last-event-id"
_MAX_CURSOR: Final = 200


async def get_changes(request: Request) -> Response:
    """Answer what changed after a cursor; wait for it, or stream it, where that is asked for."""
    key, _ = await authenticated(request, "secret")
    given = query.parameters(request.scope["query_string"], {"after", "limit", "wait"})
    limit = query.number(given, "limit", 1, MAX_CHANGES) or DEFAULT_CHANGES
    wait = query.number(given, "wait", 0, MAX_WAIT_SECONDS) or 0
    streams = request.method == "GET" and wire.accepts(request, _EVENT_STREAM)
    follower = _Follower(request, key.app.id, limit)
    page = await follower.read(
        await _after(request, given, streams=streams), 0 if streams else wait
    )
    if streams:
        return StreamingResponse(
            _stream(follower, page),
            media_type=_EVENT_STREAM,
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )
    return wire.json_response({"data": list(map(event, page.changes)), "next": page.cursor})


async def _after(request: Request, given: dict[str, str], *, streams: bool) -> str | None:
    """Return the cursor to begin after; None for the beginning.

    Who opens a stream again sends the address of the first time, so the header counts then.
    """
    source, after = "after", given.get("after")
    if streams and (last := request.headers.get(_LAST_EVENT_ID, "").strip()):
        source, after = _LAST_EVENT_ID, last
    if after is None:
        return None
    if not 1 <= len(after) <= _MAX_CURSOR:
        raise ValidationError("Must be as `next` of an answer had it.", source=source)
    return await registry_of(request).end_of_changes() if after == NOW else after


class _Follower:
    """Reads the feed of one app, and waits where there is nothing."""

    def __init__(self, request: Request, app: AppId, limit: int) -> None:
        self._request = request
        self._registry = registry_of(request)
        self._app = app
        self.limit = limit
        self.draining: asyncio.Event = request.app.state.draining

    async def read(self, after: str | None, seconds: float) -> ChangesPage:
        """Return what came after a cursor, or nothing when that many seconds are over.

        It is also nothing when the server stops, or nobody is there any more to be answered.
        """
        deadline = time.monotonic() + seconds
        while True:
            page = await self._registry.changes(self._app, after, self.limit)
            left = deadline - time.monotonic()
            if page.changes or left <= 0 or self.draining.is_set():
                return page
            after = page.cursor
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.draining.wait(), min(LOOK_SECONDS, left))
            if await self._request.is_disconnected():
                return page


async def _stream(follower: _Follower, page: ChangesPage) -> AsyncIterator[bytes]:
    """Yield changes as server-sent events until the client is gone or the server stops.

    What cannot be read any more ends the stream: whoever opens it again is told why.
    """
    while True:
        if page.changes:
            yield b"".join(_as_event(event(change)) for change in page.changes)
        else:
            yield _heartbeat(page.cursor)
        if follower.draining.is_set():
            return
        full = len(page.changes) == follower.limit
        try:
            page = await follower.read(page.cursor, 0 if full else HEARTBEAT_SECONDS)
        except KnownasError:
            return


def _as_event(change: dict[str, Any]) -> bytes:
    return b"id: %b\nevent: %b\ndata: %b\n\n" % (
        change["cursor"].encode(),
        change["type"].encode(),
        wire.encode(change),
    )


def _heartbeat(cursor: str) -> bytes:
    """Return what is no event, but keeps the connection and moves the reader's Last-Event-ID on."""
    return b": waiting\nid: %b\n\n" % cursor.encode()
