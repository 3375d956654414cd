"""A request on the normal way: uvicorn's cycle from it to its answer, and what is changed in it."""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import httptools
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from knownas.errors import KnownasError, ParseError
from knownas.http.fast_lane import Asked, Memory

if TYPE_CHECKING:
    from uvicorn._types import ASGIReceiveEvent, HTTPScope

NOT_HTTP: Final = "This is not a valid HTTP/1.1 request."


class GentleTransport:
    """A connection's transport as uvicorn's cycle uses it, but closed without cutting off."""

    def __init__(self, transport: asyncio.Transport, close: Callable[[], None]) -> None:
        """Take a transport, and what closes it."""
        self.write = transport.write
        self.is_closing = transport.is_closing
        self.close = close


class Flow(FlowControl):
    """A connection's flow, which is not resumed while a request waits for another."""

    full = False

    def resume_reading(self) -> None:
        """Read on, unless what was read already has to wait."""
        if not self.full:
            super().resume_reading()


class _NobodyWaits:
    """Stands for the event by which a cycle is told of what happens: the lane looks by itself."""

    def set(self) -> None:
        """Tell nobody."""


class LateAnswer:
    """A request that the fast lane answers as soon as the storage has answered.

    To its connection it is like a cycle, as far as the connection looks at it.
    """

    message_event: Final = _NobodyWaits()

    def __init__(self, asked: Asked, memory: Memory | None, began_ns: int) -> None:
        """Take what was asked and when, and how to know again what asked it, if that is known."""
        self.asked = asked
        self.memory = memory
        self.began_ns = began_ns
        self.disconnected = False
        self.keep_alive = True
        self.response_complete = False


class Cycle(RequestResponseCycle):
    """A request on the normal way, and its answer."""

    cut_short: KnownasError | None = None
    """Why the rest of the body cannot come."""

    async def receive(self) -> "ASGIReceiveEvent":
        """Return the next piece of the body; raise `cut_short` where it cannot come."""
        message = await super().receive()
        if self.cut_short is not None:
            raise self.cut_short
        return message


def scope_of(protocol: HttpToolsProtocol) -> "tuple[HTTPScope, bool]":
    """Return the scope of a request whose head is complete, and whether it expects a 100 Continue.

    Raises ParseError for what is no HTTP/1, or may be read by another server in another way.
    """
    headers, expects_100 = _unambiguous(protocol.headers)
    try:
        url = httptools.parse_url(protocol.url)
    except httptools.HttpParserInvalidURLError:
        raise ParseError(NOT_HTTP) from None
    path = url.path or b"/"
    version = protocol.parser.get_http_version()
    if version not in {"1.0", "1.1"}:
        raise ParseError(NOT_HTTP)
    scope: HTTPScope = {
        "type": "http",
        "asgi": {"version": protocol.asgi_version, "spec_version": "2.3"},
        "http_version": version,
        "server": protocol.server,
        "client": protocol.client,
        "scheme": protocol.scheme or "http",
        "method": protocol.parser.get_method().decode(),
        "root_path": "",
        "path": path.decode("latin-1"),
        "raw_path": path,
        "query_string": url.query or b"",
        "headers": headers,
        "state": protocol.app_state.copy(),
    }
    return scope, expects_100


def _unambiguous(sent: list[tuple[bytes, bytes]]) -> tuple[list[tuple[bytes, bytes]], bool]:
    """Return the headers with their names in lower case, and whether a 100 Continue is expected.

    Raises ParseError for what another server may read in another way than this one. The parser
    refuses most of that, but knows nothing of Host, and refuses a Transfer-Encoding too late.
    """
    headers = []
    hosts = 0
    expects_100 = False
    for name, value in sent:
        lower = name.lower()
        headers.append((lower, value))
        if lower == b"host":
            hosts += 1
        elif lower == b"expect":
            expects_100 = expects_100 or value.lower() == b"100-continue"
        elif lower == b"transfer-encoding" and value.strip(b" \t").lower() != b"chunked":
            raise ParseError("The only Transfer-Encoding that is taken is chunked.")
    if hosts > 1:
        raise ParseError("The request has more than one Host.")
    return headers, expects_100
