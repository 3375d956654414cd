"""One connection: the edge, which bounds what a client can do, and the way to the fast lane.

**The fast lane.** The hot GET (the identifiers of one profile) is answered from the parser's
callback, without a task, a scope or an event, whenever nothing about the request is out of the
ordinary. Everything else goes the normal way, through the application. Both ways call the same
functions for the key, for the profile and for the body; a test holds their bytes together.

**The edge.** uvicorn bounds neither headers nor time nor connections in the way that the
contract promises, and answers in plain text. This protocol does, in the contract's error body.

`HttpToolsProtocol` is uvicorn's inner API: its minor version is pinned in pyproject.toml.
"""

import asyncio
import functools
import time
from typing import TYPE_CHECKING, Any, Final

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from knownas import errors, logs
from knownas.errors import KnownasError
from knownas.http import fast_lane, wire
from knownas.http.cycle import NOT_HTTP, Cycle, Flow, GentleTransport, LateAnswer, scope_of
from knownas.http.edge import EdgeConfig
from knownas.http.fast_lane import Asked, FastLane, LookUp, LookUpMemory, Memory

if TYPE_CHECKING:
    from knownas.lookups import Holders
    from knownas.model import Identifiers, Profile

MAX_HEADERS: Final = 64
MAX_HEAD_BYTES: Final = 16 * 1024
"""Of the request line and all headers together, to the empty line; also of what frames a body."""
PIECE_BYTES: Final = 4 * 1024
"""How much is parsed at once: what is pipelined behind a slow request waits unparsed."""
LINGER_SECONDS: Final = 2.0
"""How long a closing connection still takes what the client was sending."""
DRAIN_SECONDS: Final = 2.0
"""How long an idle connection stays open once the server is stopping."""

_IDLE, _HEAD, _BODY = range(3)
"""Where in a request the parser is."""

_seconds = time.monotonic


class Protocol(HttpToolsProtocol):
    """One connection."""

    config: EdgeConfig
    flow: Flow
    cycle: RequestResponseCycle | LateAnswer | None  # type: ignore[assignment] # None before any

    def __init__(
        self,
        config: EdgeConfig,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        """Make the protocol of a connection that is about to be made."""
        super().__init__(config, server_state, app_state, _loop)
        self._edge = config.edge
        self._edge.attend(server_state)
        self.url = b""
        self.headers = []
        self._stage = _IDLE
        self._began_ns = 0
        self._quiet_since = 0.0
        # Of the request that is under way; what it asked, if the lane answered it.
        self._asked: Asked | None = None
        # What a write asks, and its body as far as it has come with its head.
        self._write: Asked | None = None
        self._body = b""
        self._upgrading = False
        self._unbounded_bytes = 0
        self._discarded = 0
        # Of what was received last.
        self._messages = 0
        self._held = b""
        self._replaying = False
        # Of the connection: on which limit it is, and how it will end.
        self._running: RequestResponseCycle | LateAnswer | None = None
        self._over_limit = False
        self._half_closed = False
        self._deaf = False
        self._wrong: KnownasError | None = None
        self._refusal: KnownasError | None = None
        self._stalled_since: float | None = None
        self._lingering_since: float | None = None
        # How to know again what the lane answered. It is kept only while nothing is under way.
        self._memory: Memory | None = None
        self._look_up_memory: LookUpMemory | None = None

    # --- the connection ---------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin; a connection over the limit is told so when it asks for something."""
        super().connection_made(transport)
        edge = self._edge
        self.flow = Flow(transport)
        self._gentle = GentleTransport(transport, self._linger)
        self._quiet_since = _seconds()
        edge.connections.add(self)
        edge.begin_sweeping()
        self._over_limit = len(edge.connections) > edge.max_connections
        if len(edge.connections) > 2 * edge.max_connections:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the application, which begins nothing more that was pipelined."""
        self._edge.connections.discard(self)
        self.pipeline.clear()
        self._held = b""
        self._memory = self._look_up_memory = None
        super().connection_lost(exc)
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True
            self._running.message_event.set()

    def data_received(self, data: bytes) -> None:
        """Parse what arrived; answer, and refuse what the edge does not let in."""
        memory = self._memory
        if memory is not None and data.startswith(memory.before) and data.endswith(memory.after):
            value = fast_lane.plain_value(memory, data)
            if value is not None and self._take_the_lane(memory.asked, value):
                return
        elif self._look_up_memory is not None and self._finds_again(self._look_up_memory, data):
            return
        if not self._deaf:
            self._listen(data)

    def _listen(self, data: bytes) -> None:
        was_idle = self._stage == _IDLE
        self._messages = 0 if was_idle else 1
        if len(data) <= PIECE_BYTES:
            self._feed(data)
        else:
            self._feed_by_pieces(data)
        # A request that came alone and whole, and was answered by the lane, is known again.
        if self._asked is not None and was_idle and self._messages == 1 and self._stage == _IDLE:
            memory = fast_lane.remember(data, self._asked)
            if isinstance(self.cycle, LateAnswer) and not self._is_answered():
                self.cycle.memory = memory
            else:
                self._memory = memory
                if memory is None and fast_lane.asks_who(self._asked):
                    self._look_up_memory = fast_lane.remember_look_up(data, self._asked)

    def _feed_by_pieces(self, data: bytes) -> None:
        """Parse up to where a request has to wait for another; hold back what follows."""
        for start in range(0, len(data), PIECE_BYTES):
            self._feed(data[start : start + PIECE_BYTES])
            if self._deaf:
                return
            if self.pipeline:
                self._held = data[start + PIECE_BYTES :]
                return

    def _feed(self, piece: bytes) -> None:
        self._unbounded_bytes += len(piece)
        head_length = 0
        try:
            self.parser.feed_data(piece)
        except httptools.HttpParserUpgrade as upgrade:
            head_length = upgrade.args[0]
        except httptools.HttpParserCallbackError as error:
            self._refuse(self._wrong or _unexpected(error.__context__))
        except httptools.HttpParserError:
            self._refuse(errors.ParseError(NOT_HTTP))
        if self._write is not None:
            self._leave_the_lane()
        if head_length:
            self._begin_anew(piece[head_length:])
        elif self._unbounded_bytes > MAX_HEAD_BYTES and not self._deaf:
            # Neither the end of a head nor a piece of a body has come for too long.
            self._refuse(errors.HeadersTooLarge())

    def eof_received(self) -> bool:  # type: ignore[override] # uvicorn's never stays open
        """Note that the client sends no more; it still gets what it asked for.

        False closes the connection, once all that was written is sent.
        """
        self._half_closed = True
        self._memory = self._look_up_memory = None
        if self._lingering_since is not None:
            return False
        if not self.pipeline and not self._deaf and self._stage != _IDLE:
            self._refuse(errors.ParseError("The request was cut short."))
        return not self._is_answered()

    def pause_writing(self) -> None:
        """Note that the client does not read."""
        super().pause_writing()
        self._memory = self._look_up_memory = None

    def resume_writing(self) -> None:
        """Note that the client has read."""
        super().resume_writing()
        self._stalled_since = None

    def shutdown(self) -> None:
        """Begin to drain: the next answer is the last, an idle connection closes in a while."""
        self._memory = self._look_up_memory = None
        if self.cycle is not None and not self._held:
            self.cycle.keep_alive = False

    def look(self, now: float) -> None:
        """Close or refuse what has taken too long; called by the sweep."""
        if self.transport.get_write_buffer_size():
            self._look_whether_it_reads(now)
            return
        self._stalled_since = None
        if self._lingering_since is not None:
            if now - self._lingering_since > LINGER_SECONDS:
                self.transport.abort()
        elif self._stage == _HEAD:
            if self.pipeline:  # the rest of it may have come, but is not read yet
                self._began_ns = time.monotonic_ns()
            elif now - self._began_ns / 1e9 > self._edge.request_seconds:
                self._refuse(errors.RequestTimeout())
        elif self._stage == _BODY and not self._is_answered():
            if now - self._began_ns / 1e9 > self._edge.request_seconds:
                self._refuse(errors.RequestTimeout())
        elif self._is_answered() and now - self._last_seen() > self._idle_limit(now):
            self._end()

    def _look_whether_it_reads(self, now: float) -> None:
        if self._stalled_since is None:
            self._stalled_since = now
        elif now - self._stalled_since > self._edge.stall_seconds:
            self.transport.abort()
        if self._lingering_since is not None:
            self._lingering_since = now

    def _last_seen(self) -> float:
        return max(self._quiet_since, self._began_ns / 1e9)

    def _idle_limit(self, now: float) -> float:
        """Return for how many seconds nothing may be under way on this connection."""
        edge = self._edge
        if edge.draining_since is not None and now - edge.draining_since > DRAIN_SECONDS:
            return 0.0
        if self._over_limit or self._stage == _BODY:  # of a request that is answered already
            return edge.request_seconds
        return edge.keep_alive_seconds

    def _is_answered(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    # --- the parser's callbacks -------------------------------------------------------------

    def on_message_begin(self) -> None:
        """Begin a request; its scope is made only on the normal way."""
        self.url = b""
        self.headers = []
        self._stage = _HEAD
        self._began_ns = time.monotonic_ns()
        self._asked = None
        self._upgrading = False
        self._unbounded_bytes = 0
        self._messages += 1
        self._memory = self._look_up_memory = None

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header; what comes after a chunked body is dropped."""
        if self._stage == _HEAD:
            self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Answer by the fast lane, or hand the request to the application."""
        if self.url in fast_lane.HOT_URLS and self._is_ordinary():
            method = self.parser.get_method()
            if method == b"GET":
                asked = fast_lane.read(self.headers)
                if asked is not None and self._take_the_lane(asked, asked.value):
                    self._asked = asked
                    self._stage = _BODY
                    return
            elif method == b"POST" and self._edge.lane is not None:
                self._write = fast_lane.read_write(self.headers)
                if self._write is not None:
                    self._stage = _BODY
                    return
        elif self.url.startswith(fast_lane.FIND_URLS) and self._is_ordinary():
            look_up = fast_lane.read_look_up(self.url, self.headers)
            if look_up is not None and self.parser.get_method() == b"GET" and self._find(look_up):
                self._asked = look_up.asked
                self._stage = _BODY
                return
        try:
            self._go_the_normal_way()
        except KnownasError as error:
            self._wrong = error  # the parser raises another error in its stead
            raise

    def on_body(self, body: bytes) -> None:
        """Pass a piece of the body on, or drop it when the answer is out already."""
        self._unbounded_bytes = 0
        if self._write is not None:
            self._body += body
            return
        if not self._is_answered():
            super().on_body(body)
            return
        self._discarded += len(body)
        if self._discarded > wire.BODY_LIMIT:
            self._wrong = errors.PayloadTooLarge()
            raise self._wrong

    def on_message_complete(self) -> None:
        """Note the end of a request."""
        if self._upgrading:
            return
        self._stage = _IDLE
        if self._write is not None:
            if self._take_the_lane_to_write(self._write):
                return
            self._leave_the_lane()
        if self._asked is None:
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """Go on with what was pipelined, or be idle (uvicorn would arm a timer here)."""
        self.server_state.total_requests += 1
        if self.transport.is_closing() or self._lingering_since is not None:
            return
        self._quiet_since = _seconds()
        if self.pipeline:
            self._start(self.pipeline.pop()[0])
        self.flow.full = bool(self.pipeline)
        self.flow.resume_reading()
        if self._held and not self.pipeline:
            held, self._held = self._held, b""
            self._replaying = True
            self._listen(held)
            self._replaying = False
        if self._refusal is not None and self._is_answered():
            self._write_refusal(self._refusal)
        elif self._half_closed and not self.eof_received():
            self.transport.close()

    # --- the fast lane ----------------------------------------------------------------------

    def _is_ordinary(self) -> bool:
        return (
            self._is_answered()
            and self.parser.get_http_version() == "1.1"
            and not self._head_is_too_large()
            and not self._over_limit
            and not self.flow.write_paused
            # The lane's reads are for a socket's callback only, and there for what it was called
            # for: what is pipelined may have come after the turn's snapshot was taken.
            and not self._replaying
            and self._messages == 1
            and self._edge.draining_since is None
        )

    def _take_the_lane(self, asked: Asked, value: bytes) -> bool:
        lane = self._edge.lane
        if lane is None:
            return False
        began_ns = time.monotonic_ns()
        answer = lane.answer(asked, value, self.server_state.default_headers, began_ns)
        if answer is None:
            return False
        self._began_ns = began_ns
        if isinstance(answer, bytes):
            self.transport.write(answer)
        else:
            self._answer_when_done(lane, answer, LateAnswer(asked, self._memory, began_ns))
            self._memory = self._look_up_memory = None
        return True

    def _finds_again(self, memory: LookUpMemory, data: bytes) -> bool:
        look_up = fast_lane.known_look_up(memory, data)
        return look_up is not None and self._find(look_up)

    def _find(self, look_up: LookUp) -> bool:
        """Take the lane to answer a reverse look-up."""
        lane = self._edge.finding_lane
        if lane is None:
            return False
        began_ns = time.monotonic_ns()
        answer = lane.find(look_up, self.server_state.default_headers, began_ns)
        if answer is None:
            return False
        self._began_ns = began_ns
        if isinstance(answer, bytes):
            self.transport.write(answer)
        else:
            self._look_up_memory = None
            self._answer_when_done(lane, answer, LateAnswer(look_up.asked, None, began_ns))
        return True

    def _take_the_lane_to_write(self, asked: Asked) -> bool:
        lane = self._edge.lane
        changed = None if lane is None else lane.write(asked, self._body)
        if lane is None or changed is None:
            return False
        self._write = None
        self._body = b""
        self._answer_when_done(lane, changed, LateAnswer(asked, None, self._began_ns))
        return True

    def _leave_the_lane(self) -> None:
        """Let a write go the normal way after all, with what has come of its body."""
        body, self._body = self._body, b""
        self._write = None
        self._begin_cycle()
        if body:
            super().on_body(body)

    def _answer_when_done(
        self,
        lane: FastLane,
        found: "asyncio.Future[Identifiers] | asyncio.Future[Profile] | asyncio.Future[Holders]",
        late: LateAnswer,
    ) -> None:
        self.cycle = self._running = late
        found.add_done_callback(functools.partial(self._answer_late, lane, late))

    def _answer_late(
        self,
        lane: FastLane,
        late: LateAnswer,
        found: "asyncio.Future[Identifiers] | asyncio.Future[Profile] | asyncio.Future[Holders]",
    ) -> None:
        """Write what the lane answers now that the storage has answered, and go on."""
        dated = self.server_state.default_headers
        close = not late.keep_alive
        answer = lane.answer_late(found, late.asked, dated, late.began_ns, close=close)
        late.response_complete = True
        if late.disconnected:
            return
        self.transport.write(answer)
        if close:
            self._linger()
        self.on_response_complete()
        if self.cycle is late and self._stage == _IDLE and not (close or self._half_closed):
            self._memory = late.memory

    # --- the normal way ---------------------------------------------------------------------

    def _go_the_normal_way(self) -> None:
        if self._head_is_too_large():
            raise errors.HeadersTooLarge
        if self._over_limit:
            raise errors.ServiceUnavailable("Too many connections are open.", retry_after=1)
        if self.parser.should_upgrade():
            if self.parser.get_method() == b"CONNECT":
                raise errors.ParseError("This is no proxy: CONNECT is not served.")
            self._upgrading = True
        else:
            self._begin_cycle()
            self._stage = _BODY

    def _head_is_too_large(self) -> bool:
        if len(self.headers) > MAX_HEADERS:
            return True
        if not self._unbounded_bytes:  # it came in one piece
            return False
        line = len(self.parser.get_method()) + len(self.url) + len(b"  HTTP/1.1\r\n")
        lines = sum(len(name) + len(value) + len(b": \r\n") for name, value in self.headers)
        return line + lines + len(b"\r\n") > MAX_HEAD_BYTES

    def _begin_cycle(self) -> None:
        scope, expects_100 = scope_of(self)
        was_answered = self._is_answered()
        self._discarded = 0
        self.cycle = Cycle(
            scope=scope,
            transport=self._gentle,  # type: ignore[arg-type] # it has all that a cycle uses
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=expects_100,
            keep_alive=scope["http_version"] == "1.1"
            and self.parser.should_keep_alive()
            and self._edge.draining_since is None,
            on_response=self.on_response_complete,
        )
        if was_answered:
            self._start(self.cycle)
        else:
            self.flow.full = True
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, self.app))

    def _start(self, cycle: RequestResponseCycle) -> None:
        self._running = cycle
        self._start_asgi_task(cycle, self.app)

    def _begin_anew(self, rest: bytes) -> None:
        """Parse a request as if it had not asked to upgrade: no other protocol is spoken here.

        The parser takes what follows such a head for the other protocol. Java's own client asks
        for HTTP/2 so with the first request of every connection, body or not.
        """
        line = b"%b %b HTTP/%b" % (
            self.parser.get_method(),
            self.url,
            self.parser.get_http_version().encode(),
        )
        lines = [line, *(b"%b: %b" % h for h in self.headers if h[0].lower() != b"upgrade")]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self._feed(b"\r\n".join([*lines, b"", rest]))

    # --- refusing and closing ---------------------------------------------------------------

    def _refuse(self, error: KnownasError) -> None:
        """Answer an error and close, after what is still being answered before it."""
        self._deaf = True
        self._held = b""
        if self._stage == _BODY:
            if isinstance(self.cycle, Cycle) and not self.cycle.response_complete:
                self.cycle.keep_alive = False
                self.cycle.cut_short = error
                self.cycle.message_event.set()
            else:
                self._linger()
        elif self._is_answered():
            self._write_refusal(error)
        else:
            self._refusal = error

    def _write_refusal(self, error: KnownasError) -> None:
        head_only = bool(self.url) and self.parser.get_method() == b"HEAD"
        headers = self.headers if self._stage == _HEAD else []
        dated = self.server_state.default_headers
        self.transport.write(self._edge.refusal(error, headers, dated, head_only=head_only))
        self._linger()

    def _end(self) -> None:
        """Close when nothing is under way; what a client still sends of a body is let come."""
        if self._stage == _IDLE:
            self.transport.close()
        else:
            self._linger()

    def _linger(self) -> None:
        """Close for writing, and take what the client still sends for a while.

        To close at once would have the kernel reset the connection, and the answer with it, if
        the client was sending.
        """
        self._deaf = True
        self._memory = self._look_up_memory = None
        if self._lingering_since is not None or self.transport.is_closing():
            return
        if self._half_closed:
            self.transport.close()
            return
        self._lingering_since = _seconds()
        self.flow.full = False
        self.flow.resume_reading()
        self.transport.write_eof()


def _unexpected(error: BaseException | None) -> KnownasError:
    """Log a defect of a callback, and return what the client is told of it."""
    if error is not None:
        logs.get().error("unexpected_error", type=type(error).__name__, at=logs.place_of(error))
    return errors.InternalError()
