"""A client with nothing to spare: raw HTTP/1.1 over asyncio, so that the server is the bottleneck.

A connection stays open; what is asked before the last answer has come is pipelined. It knows only
what this server sends: a status, a Content-Length, a body.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Final, NamedTuple, TypeVar

import msgspec
import uvloop

from conftest import Server

T = TypeVar("T")

IDENTIFIERS: Final = "/api/v2/server-side-api/integration/profile/set/integration-identifiers/"
PROFILE: Final = "/api/v2/server-side-api/profile/"
DEADLINE_SECONDS: Final = 30.0


class Answer(NamedTuple):
    """What came back."""

    status: int
    head: bytes
    body: bytes

    def json(self) -> Any:  # noqa: ANN401 - JSON may be anything
        """Return the body as parsed JSON."""
        return msgspec.json.decode(self.body)

    def header(self, name: bytes) -> bytes | None:
        """Return a header's value; `name` in lower case."""
        for line in self.head.split(b"\r\n")[1:]:
            key, _, value = line.partition(b": ")
            if key.lower() == name:
                return value
        return None


class Connection(asyncio.Protocol):
    """One open connection; a request after the server has gone raises ConnectionError."""

    def __init__(self) -> None:
        """Make the protocol of a connection that is about to be made."""
        self._buffer = b""
        self._waiting: deque[asyncio.Future[Answer]] = deque()
        self._transport: asyncio.Transport | None = None
        self.closed = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Take some of the answers."""
        self._buffer += data
        while self._waiting and (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end]
            at = head.find(b"content-length: ")
            length = int(head[at + 16 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            whole = end + 4 + length
            if len(self._buffer) < whole:
                return
            answer = Answer(int(head[9:12]), head, self._buffer[end + 4 : whole])
            self._buffer = self._buffer[whole:]
            waiting = self._waiting.popleft()
            if not waiting.done():
                waiting.set_result(answer)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell who waits that no answer will come."""
        self.closed = True
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_exception(ConnectionResetError(str(exc or "the server closed")))

    def ask(self, request: bytes) -> asyncio.Future[Answer]:
        """Send a request; its answer is awaited."""
        waiting: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        if self.closed or self._transport is None:
            waiting.set_exception(ConnectionResetError("the server closed"))
        else:
            self._waiting.append(waiting)
            self._transport.write(request)
        return waiting

    def close(self) -> None:
        """Close, at once."""
        if self._transport is not None:
            self._transport.abort()


async def connect(port: int) -> Connection:
    """Return a connection to a server on this machine. Raises ConnectionError."""
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(Connection, "127.0.0.1", port)
    return connection


class Requests:
    """The bytes of requests with one key."""

    def __init__(self, key: str) -> None:
        """Use this key."""
        self._common = f"Host: localhost\r\nAuthorization: Api-Key {key}\r\n"

    def get(self, customer: str) -> bytes:
        """Return a GET of the identifiers of a customer."""
        return self.any("GET", IDENTIFIERS, customer)

    def set(self, customer: str, values: dict[str, str]) -> bytes:
        """Return a POST of identifiers for a customer."""
        return self.any("POST", IDENTIFIERS, customer, msgspec.json.encode(values))

    def create(self, customer: str) -> bytes:
        """Return a POST that makes the profile of a customer."""
        return self.any("POST", PROFILE, customer)

    def delete(self, customer: str) -> bytes:
        """Return a DELETE of the profile of a customer."""
        return self.any("DELETE", PROFILE, customer)

    def any(self, method: str, path: str, customer: str, body: bytes = b"") -> bytes:
        """Return any request; one with a body says that it is JSON."""
        head = f"{method} {path} HTTP/1.1\r\n{self._common}adapty-customer-user-id: {customer}\r\n"
        if body:
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        elif method == "POST":
            head += "Content-Length: 0\r\n"
        return head.encode() + b"\r\n" + body


def port_of(server: Server) -> int:
    """Return the port that a server listens on."""
    return int(server.url.rpartition(":")[2])


def run(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a client on a loop of its own."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main())
