"""The edge: what the connections of one process share, and the clock that they are held to.

One sweep over all connections stands for all timers: a timer per request would cost more than
the request.
"""

import asyncio
import itertools
import time
from typing import TYPE_CHECKING, Any, Final

import uvicorn
from uvicorn.server import ServerState

from knownas.http import wire
from knownas.http.app import FIND_ROUTE, HOT_ROUTE
from knownas.http.fast_lane import FastLane, raw_answer
from knownas.metrics import UNKNOWN_ROUTE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from knownas.errors import KnownasError
    from knownas.http.protocol import Protocol

SWEEP_SECONDS: Final = 0.5
"""How late a limit of time may be noticed."""
LOOKS_A_TURN: Final = 256
"""How many connections are looked at without a pause: about half a millisecond."""


class Edge:
    """What the connections of one process share."""

    def __init__(self, state: Any) -> None:  # noqa: ANN401 - Starlette's state is untyped
        """Take what the application was made of."""
        settings = state.settings
        self.metrics = state.metrics
        self.new_request_id: Callable[[], bytes] = state.new_request_id
        self.dialect: str = settings.error_dialect
        self.max_connections: int = settings.max_connections
        self.keep_alive_seconds: float = settings.keep_alive_seconds
        self.request_seconds: float = settings.request_seconds
        self.stall_seconds: float = settings.stall_seconds
        # The application makes the log and the traces: whoever wants one gives up the lane.
        is_watched = settings.access_log or settings.traces
        self.lane = None if is_watched else FastLane(state, HOT_ROUTE)
        self.finding_lane = None if is_watched else FastLane(state, FIND_ROUTE)
        self.connections: set[Protocol] = set()
        self.metrics.watch(connections=self.connections.__len__)
        self.draining_since: float | None = None
        self._draining: asyncio.Event = state.draining
        self._told_with: set[Any] = set()
        self._sweeping = False
        self._unseen: Iterator[Protocol] = iter(())

    def attend(self, server_state: ServerState) -> None:
        """Be told when the server stops, as uvicorn tells its connections; there may be none."""
        if self.draining_since is None:
            self._told_with = server_state.connections
            server_state.connections.add(self)  # type: ignore[arg-type] # it is only told

    def shutdown(self) -> None:
        """Begin to drain."""
        self.draining_since = time.monotonic()
        self._draining.set()
        self._told_with.discard(self)

    def refusal(
        self,
        error: "KnownasError",
        headers: list[tuple[bytes, bytes]],
        dated: list[tuple[bytes, bytes]],
        *,
        head_only: bool,
    ) -> bytes:
        """Return the whole answer to a request that gets no further, and count it.

        `headers` are the request's own, as far as they came.
        """
        body = wire.error_body(error, self.dialect)
        status = wire.STATUS[error.code]
        asked = [(name.lower(), value) for name, value in headers]
        own_id = wire.own_request_id(asked) or self.new_request_id()
        lines = [
            *dated,
            (b"content-length", b"%d" % len(body)),
            (b"content-type", b"application/json"),
            (b"request-id", own_id),
            (b"connection", b"close"),
        ]
        if error.retry_after is not None:
            lines.append((b"retry-after", b"%d" % error.retry_after))
        self.metrics.count("other", UNKNOWN_ROUTE, status, 0)
        return raw_answer(status, lines, b"" if head_only else body)

    def begin_sweeping(self) -> None:
        """Look at every connection in a while, and again as long as there is one."""
        if not self._sweeping:
            self._sweeping = True
            asyncio.get_running_loop().call_later(SWEEP_SECONDS, self._sweep)

    def _sweep(self) -> None:
        self._unseen = iter(list(self.connections))
        self._look_on()

    def _look_on(self) -> None:
        """Look at some connections; the others have their turn when the loop has come around."""
        some = list(itertools.islice(self._unseen, LOOKS_A_TURN))
        loop = asyncio.get_running_loop()
        if some:
            loop.call_soon(self._look_on)
        elif self.connections:
            loop.call_later(SWEEP_SECONDS, self._sweep)
        else:
            self._sweeping = False
        now = time.monotonic()
        for connection in some:
            if connection in self.connections:
                connection.look(now)


class EdgeConfig(uvicorn.Config):
    """uvicorn's configuration of a process, with the edge."""

    edge: Edge
