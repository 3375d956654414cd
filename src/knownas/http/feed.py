"""The change feed: pages, long polls, and a stream of server-sent events."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from knownas.errors import KnownasError, ValidationError
from knownas.events import LOOK_SECONDS, event
from knownas.history import ChangesPage
from knownas.http import query, wire
from knownas.http.asking import authenticated, registry_of
from knownas.model import AppId
from knownas.registry import Registry

MAX_CHANGES: Final = 1_000
DEFAULT_CHANGES: Final = 100
MAX_WAIT_SECONDS: Final = 60
GONE_SECONDS: Final = 5.0
"""How late it may be noticed that a client has gone that waits for a page."""
READS_AT_ONCE: Final = 8
"""Of those who waited: what they do not read yet leaves other reads their turn."""
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


class Watch:
    """Looks whether the feed has gone on, once for all who wait in a process.

    So that who waits costs nothing, however many they are.
    """

    def __init__(self, registry: Registry, draining: asyncio.Event) -> None:
        """Watch the feed of a registry until the server is `draining`."""
        self.draining = draining
        self.reading = asyncio.Semaphore(READS_AT_ONCE)
        self._registry = registry
        self._waiting: dict[asyncio.Future[None], str] = {}
        self._looking: asyncio.Future[None] | None = None

    async def beyond(self, cursor: str, seconds: float) -> bool:
        """Wait until the feed may go on after a cursor, or the server stops; False in vain."""
        moved = asyncio.get_running_loop().create_future()
        self._waiting[moved] = cursor
        if self._looking is None or self._looking.done():
            self._looking = asyncio.ensure_future(self._look())
        try:
            await asyncio.wait_for(moved, seconds)
        except TimeoutError:
            return False
        finally:
            del self._waiting[moved]
        return True

    async def _look(self) -> None:
        while self._waiting:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.draining.wait(), LOOK_SECONDS)
            end = None
            # Who waits is to meet the error himself, and so is woken.
            with contextlib.suppress(KnownasError):
                end = None if self.draining.is_set() else await self._registry.end_of_changes()
            for moved, cursor in self._waiting.items():
                if cursor != end and not moved.done():
                    moved.set_result(None)


class _Follower:
    """Reads the feed of one app, and waits where there is nothing."""

    def __init__(self, request: Request, app: AppId, limit: int) -> None:
        self._request = request
        self._registry = registry_of(request)
        self._watch: Watch = request.app.state.watch
        self._app = app
        self._limit = limit

    @property
    def is_to_stop(self) -> bool:
        """Whether the server stops."""
        return self._watch.draining.is_set()

    async def read(self, after: str | None, seconds: float) -> ChangesPage:
        """Return what came after a cursor, or nothing when that many seconds are over.

        It is also nothing when the server stops, or nobody is there any more to be answered.
        """
        deadline = time.monotonic() + seconds
        page = await self._registry.changes(self._app, after, self._limit)
        while not page.changes and not self.is_to_stop:
            left = deadline - time.monotonic()
            if left <= 0:
                break
            has_moved = await self._watch.beyond(page.cursor, min(left, GONE_SECONDS))
            if await self._request.is_disconnected():
                break
            if has_moved:
                async with self._watch.reading:
                    page = await self._registry.changes(self._app, page.cursor, self._limit)
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
        if follower.is_to_stop:
            return
        try:
            page = await follower.read(page.cursor, HEARTBEAT_SECONDS)
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
