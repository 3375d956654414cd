"""A small load over HTTP, for whoever wants to know what a server of theirs can do.

It makes profiles of its own, asks for them for a while over some connections, each of which asks
again as soon as it is answered, and deletes them. One process in Python asks less than the server
can answer on as good a core, so the report says how busy the load itself was.
"""

import array
import asyncio
import collections
import random
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple
from urllib.parse import urlsplit

import httptools
import msgspec

from knownas import demo
from knownas.model import identifiers_by_name

_PROFILE: Final = "/api/v2/server-side-api/profile/"
_IDENTIFIERS: Final = "/api/v2/server-side-api/integration/profile/set/integration-identifiers/"
_SILENCE_SECONDS: Final = 30.0
"""How long a server may take over all requests that are not the load itself, or its last ones."""
_OK: Final = (200, 204)


class LoadError(Exception):
    """The server cannot be put under load; the text is one line that says why."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What a load found."""

    requests: int
    seconds: float
    requests_per_second: float
    p50_ms: float
    p99_ms: float
    errors: dict[str, int]
    """What went wrong: a status, or a word; how many times."""
    load_busy: float
    """Share of the time in which the load itself used its core."""


class Load(NamedTuple):
    """What to do to a server."""

    url: str
    key: str
    """A secret one."""
    connections: int
    seconds: float
    profiles: int
    """To make, ask for and delete."""
    writes: int
    """POSTs of 100 requests; the others are GETs by customer."""


async def run(load: Load) -> Report:
    """Load a server. Raises LoadError when it cannot be reached, or refuses the profiles."""
    server = _Server(load)
    token = secrets.token_hex(4)
    made = demo.profiles(seed=secrets.randbits(32), start=0, count=load.profiles, now=0)
    values = {
        f"knownas-bench-{token}-{number}": identifiers_by_name(profile.identifiers)
        for number, profile in enumerate(made)
    }
    try:
        for requests in (
            [server.request("POST", _PROFILE, customer) for customer in values],
            [server.set_request(customer, given) for customer, given in values.items()],
        ):
            if errors := (await server.send(requests)).errors:
                raise LoadError(f"The server does not take the load's profiles: {min(errors)}.")
        return await _measure(server, load, list(values))
    finally:
        await server.send(server.request("DELETE", _PROFILE, customer) for customer in values)


async def _measure(server: "_Server", load: Load, customers: list[str]) -> Report:
    gets = [server.request("GET", _IDENTIFIERS, customer) for customer in customers]
    rng = random.Random()  # noqa: S311 - no secret

    def requests(deadline: float) -> Iterator[bytes]:
        while time.perf_counter() < deadline:
            if load.writes and rng.randrange(100) < load.writes:
                values = {"branch_id": str(rng.getrandbits(60))}
                yield server.set_request(rng.choice(customers), values)
            else:
                yield rng.choice(gets)

    cpu, began = time.process_time(), time.perf_counter()
    tally = await server.send(requests(began + load.seconds), seconds=load.seconds)
    elapsed = time.perf_counter() - began
    times = sorted(tally.times) or [0]
    return Report(
        requests=len(tally.times),
        seconds=elapsed,
        requests_per_second=len(tally.times) / elapsed,
        p50_ms=times[len(times) // 2] / 1e6,
        p99_ms=times[len(times) * 99 // 100] / 1e6,
        errors=dict(tally.errors),
        load_busy=(time.process_time() - cpu) / elapsed,
    )


class _Server:
    """The server under load: how to ask it."""

    def __init__(self, load: Load) -> None:
        parts = urlsplit(load.url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise LoadError(f"{load.url!r} is no http:// or https:// address.")
        self._is_secure = parts.scheme == "https"
        self._host = parts.hostname
        self._port = parts.port or (443 if self._is_secure else 80)
        self._prefix = parts.path.rstrip("/")
        self._headers = f"Host: {parts.netloc}\r\nAuthorization: Api-Key {load.key}\r\n"
        self._connections = load.connections

    def request(self, method: str, path: str, customer: str, *, more: str = "") -> bytes:
        """Return a request about a customer."""
        return (
            f"{method} {self._prefix}{path} HTTP/1.1\r\n{self._headers}"
            f"adapty-customer-user-id: {customer}\r\n{more}\r\n"
        ).encode()

    def set_request(self, customer: str, values: Mapping[str, str | None]) -> bytes:
        """Return the request that sets identifiers of a customer."""
        body = msgspec.json.encode(values)
        more = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        return self.request("POST", _IDENTIFIERS, customer, more=more) + body

    async def send(self, requests: Iterable[bytes], *, seconds: float = 0.0) -> "_Tally":
        """Send requests over all connections, and return what came back."""
        tally = _Tally()
        left = iter(requests)

        async def work() -> None:
            is_done = False
            while not is_done:
                _, connection = await asyncio.get_running_loop().create_connection(
                    lambda: _Connection(left, tally), self._host, self._port, ssl=self._is_secure
                )
                await connection.closed
                is_done = connection.is_done

        try:
            async with asyncio.timeout(seconds + _SILENCE_SECONDS), asyncio.TaskGroup() as group:
                for _ in range(self._connections):
                    group.create_task(work())
        except TimeoutError:
            raise LoadError(f"No answer for {_SILENCE_SECONDS:g} seconds.") from None
        except ExceptionGroup as errors:
            reason = errors.exceptions[0]
            if not isinstance(reason, OSError):
                raise
            raise LoadError(f"Cannot reach {self._host}:{self._port}: {reason}.") from None
        return tally


class _Tally:
    """What all connections saw."""

    def __init__(self) -> None:
        self.times = array.array("q")
        self.errors: collections.Counter[str] = collections.Counter()


class _Connection(asyncio.Protocol):
    """Sends a request as soon as the last is answered, until there is none or it is closed."""

    def __init__(self, requests: Iterator[bytes], tally: _Tally) -> None:
        self._requests = requests
        self._tally = tally
        self._parser = httptools.HttpResponseParser(self)
        self._began: int | None = None
        self.is_done = False
        self.closed = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # a stream's
        """Begin."""
        self._transport = transport
        self._send_next()

    def data_received(self, data: bytes) -> None:
        """Read an answer, or a part of it."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.close()

    def on_message_complete(self) -> None:
        """Note an answer and go on."""
        if self._began is not None:
            self._tally.times.append(time.perf_counter_ns() - self._began)
            self._began = None
        status = self._parser.get_status_code()
        if status not in _OK:
            self._tally.errors[f"status {status}"] += 1
        if self._parser.should_keep_alive():
            self._send_next()
        else:
            self._transport.close()

    def connection_lost(self, _error: Exception | None) -> None:
        """Note what was not answered."""
        if self._began is not None:
            self._tally.errors["connection lost"] += 1
        if not self.closed.done():  # whoever waited may have given up
            self.closed.set_result(None)

    def _send_next(self) -> None:
        request = next(self._requests, None)
        if request is None:
            self.is_done = True
            self._transport.close()
        else:
            self._began = time.perf_counter_ns()
            self._transport.write(request)
