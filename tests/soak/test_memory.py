"""Threat row 38: millions of requests of all kinds, and neither memory nor file handles grow."""

import asyncio
import contextlib
import random
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import pytest

from conftest import free_port, knownas, start, stop
from soak.report import Soak
from soak.wire import IDENTIFIERS, PROFILE, Requests, connect, run

CONNECTIONS = 32
CUSTOMERS = 1_000
BATCHES_A_CONNECTION = 20
MEASUREMENTS = 100
WARM_UP: Final = 0.2
"""The share of all requests before memory is measured."""

JSON: Final = {"branch_id": "b", "appsflyer_id": "a"}


Make = Callable[["Traffic", str], bytes]
"""Makes a request about a customer."""


class Kind(NamedTuple):
    """A kind of request: how often it is sent of 100, what may answer it, and how it is made."""

    share: int
    statuses: tuple[int, ...]
    make: Make


HANGS_UP: Final = (
    b"not http at all\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X-Padding: %b\r\n" % (b"x" * 20_000),
    b"POST %b HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999\r\n\r\n" % PROFILE.encode(),
    b"GET %b HTTP/1.1\r\nHost: loc" % IDENTIFIERS.encode(),
    b"",
)
"""What ends in a closed connection, whoever closes it."""


class Traffic:
    """Requests of all kinds, mixed."""

    def __init__(self, key: str, seed: int) -> None:
        """Make the same for the same seed, but for keys that must not be known."""
        self.requests = Requests(key)
        self.dice = random.Random(seed)  # noqa: S311 - must repeat for a seed

    def customers(self) -> list[bytes]:
        """Return the requests that make what the others ask for."""
        made = [self.requests.create(f"c{number}") for number in range(CUSTOMERS)]
        return made + [self.requests.set(f"c{number}", JSON) for number in range(CUSTOMERS)]

    def any(self) -> tuple[Kind, bytes]:
        """Return one request and its kind."""
        (kind,) = self.dice.choices(KINDS, SHARES)
        return kind, kind.make(self, f"c{self.dice.randrange(CUSTOMERS)}")

    def hang_up(self) -> bytes:
        """Return something after which the connection is over."""
        return self.dice.choice(HANGS_UP)

    def text(self) -> str:
        """Return a text that was not there before."""
        return f"{self.dice.getrandbits(64):016x}"

    def write(self, customer: str) -> bytes:
        """Change an identifier."""
        return self.requests.set(customer, {**JSON, "posthog_distinct_user_id": self.text()})

    def attributes(self, customer: str) -> bytes:
        """Change an attribute, and send what is not kept."""
        body = {"custom_attributes": [{"key": "k", "value": self.text()}], "email": "e"}
        return self.requests.any("PATCH", PROFILE, customer, msgspec.json.encode(body))

    def come_and_go(self, _customer: str) -> bytes:
        """Make a profile, or delete it."""
        make = self.dice.choice((self.requests.create, self.requests.delete))
        return make(f"d{self.dice.randrange(100)}")

    def unknown_key(self, customer: str) -> bytes:
        """Ask with a key that never was seen."""
        return Requests(f"secret_live_{uuid.uuid4()}").get(customer)

    def broken_body(self, customer: str) -> bytes:
        """Send what is no JSON."""
        return self.requests.any("POST", IDENTIFIERS, customer, b'{"branch_id": "' + b"[" * 99)

    def bad_values(self, customer: str) -> bytes:
        """Send a value that is too long, and a kind that there is not."""
        return self.requests.set(customer, {"branch_id": "x" * 300, self.text(): "unknown"})


KINDS: Final = (
    Kind(50, (200,), lambda traffic, customer: traffic.requests.get(customer)),
    Kind(10, (404,), lambda traffic, _: traffic.requests.get(f"nobody-{traffic.text()}")),
    Kind(10, (200,), Traffic.write),
    Kind(5, (200,), lambda traffic, customer: traffic.requests.any("GET", PROFILE, customer)),
    Kind(3, (200,), Traffic.attributes),
    Kind(2, (200, 204, 404), Traffic.come_and_go),
    Kind(4, (401, 429), Traffic.unknown_key),
    Kind(4, (401, 429), lambda _, customer: Requests("secret_live_stale").get(customer)),
    Kind(2, (404,), lambda traffic, _: traffic.requests.any("GET", f"/{traffic.text()}/", "c")),
    Kind(2, (405,), lambda traffic, customer: traffic.requests.any("PUT", IDENTIFIERS, customer)),
    Kind(3, (400,), Traffic.broken_body),
    Kind(3, (400,), Traffic.bad_values),
    Kind(2, (400,), lambda traffic, _: traffic.requests.get("x" * 300)),
)
SHARES: Final = [kind.share for kind in KINDS]


class Client:
    """All connections of the load, and what they count."""

    def __init__(self, port: int, traffic: Traffic, pid: int, count: int, soak: Soak) -> None:
        """Send so many requests to the server that runs as `pid`."""
        self.done = 0
        self.memory: list[tuple[int, float]] = []
        self._port = port
        self._traffic = traffic
        self._pid = pid
        self._count = count
        self._soak = soak

    async def fill(self) -> None:
        """Make what the traffic asks for."""
        connection = await connect(self._port)
        for request in self._traffic.customers():
            assert (await connection.ask(request)).status == 200
        connection.close()

    async def run(self) -> None:
        """Send all."""
        dice = random.Random(self._soak.seed)  # noqa: S311 - must repeat for a seed
        await asyncio.gather(*(self._send(dice) for _ in range(CONNECTIONS)))

    async def _send(self, dice: random.Random) -> None:
        while self.done < self._count:
            await self._hang_up()
            connection = await connect(self._port)
            for _ in range(BATCHES_A_CONNECTION):
                # Alone for the fast lane, or pipelined for the way through the application.
                batch = [self._traffic.any() for _ in range(dice.choice((1, 1, 1, 50)))]
                asked = [(kind, connection.ask(request)) for kind, request in batch]
                for kind, asking in asked:
                    answer = await asking
                    assert answer.status in kind.statuses, (kind, answer)
                self._counted(len(batch))
            connection.close()

    async def _hang_up(self) -> None:
        """Make a connection that comes to a bad end."""
        _, writer = await asyncio.open_connection("127.0.0.1", self._port)
        with contextlib.suppress(ConnectionError):
            writer.write(self._traffic.hang_up())
            await writer.drain()
            writer.close()
            await writer.wait_closed()
        self._counted(1)

    def _counted(self, number: int) -> None:
        self.done += number
        if self.done >= (len(self.memory) + 1) * self._count / MEASUREMENTS:
            self.memory.append((self.done, private_mebibytes(self._pid)))
            self._soak.tell(
                f"{self.done:,} of {self._count:,} requests, {self.memory[-1][1]:.1f} MiB"
            )


def private_mebibytes(pid: int) -> float:
    """Return the memory of a process that is its own; the mapped database is not."""
    status = Path(f"/proc/{pid}/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("RssAnon:")]
    return int(line.split()[1]) / 1024


def handles(pid: int) -> int:
    """Return the number of open files of a process."""
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


def slope(points: list[tuple[int, float]]) -> float:
    """Return by how much the second number grows with the first, by least squares."""
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    above = sum((x - mean_x) * (y - mean_y) for x, y in points)
    return above / sum((x - mean_x) ** 2 for x, _ in points)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_row_38_memory_and_handles_stay_flat(soak: Soak, tmp_path: Path) -> None:
    """After a warm-up, requests of all kinds cost no memory that is not given back.

    The sample is too short for a slope of 1 MiB a million. It finds a leak of 1 KiB a request.
    """
    count = soak.count(sample=20_000, full=5_000_000)
    bound = 1.0 if soak.full and soak.scale >= 1 else 1_000.0
    database = f"sqlite:///{tmp_path}/knownas.db"
    process = start(database, port := free_port())
    key = msgspec.json.decode(knownas("key", "create", "--json", database=database))["key"]
    client = Client(port, Traffic(key, soak.seed), process.pid, count, soak)
    run(client.fill)
    before = handles(process.pid)
    run(client.run)
    after = handles(process.pid)
    assert stop(process) == 0
    warm = [point for point in client.memory if point[0] > count * WARM_UP]
    a_million = slope(warm) * 1e6
    soak.record(
        38,
        "requests of all kinds to one process",
        f"{client.done:,} requests: {a_million:+.2f} MiB a million after the first "
        f"{WARM_UP:.0%} (from {warm[0][1]:.1f} to {warm[-1][1]:.1f} MiB), file handles "
        f"{before} before and {after} after",
    )
    assert a_million <= bound
    assert after <= before + 2
    assert knownas("check", database=database) == "All is well.\n"
