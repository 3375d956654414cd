"""Threat row 40: whoever reads after a write was acknowledged never gets the older value.

A writer sets a value through one process. As soon as that is acknowledged, the value is read
over two other connections: one to the same process, one to another process on the same file.
The reading connections always have another GET under way, before which the server may have
opened the snapshot that the reads of one turn of its loop share; and hundreds of connections
ask all the time, so that turns are long and really shared.
"""

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest

from conftest import free_port, knownas, start, stop
from soak.report import Soak
from soak.wire import Answer, Connection, Requests, connect, run

WRITERS = 64
READERS = 300


class Two(NamedTuple):
    """Two processes on one file, by their ports, and a key."""

    ports: tuple[int, int]
    key: str


@pytest.fixture
def two(tmp_path: Path) -> Iterator[Two]:
    """Give two running processes on one fresh file."""
    database = f"sqlite:///{tmp_path}/knownas.db"
    ports = (free_port(), free_port())
    processes = [start(database, port) for port in ports]
    key = msgspec.json.decode(knownas("key", "create", "--json", database=database))["key"]
    yield Two(ports, key)
    assert [stop(process) for process in processes] == [0, 0]


class Pairs:
    """Writes, reads after each, and how many of those were of an older value."""

    def __init__(self, two: Two, count: int, soak: Soak) -> None:
        """Do so many pairs of a write and a read."""
        self.done = 0
        self.beside = 0
        self.older = 0
        self._count = count
        self._two = two
        self._soak = soak
        self._requests = Requests(two.key)
        self._acknowledged = [0] * WRITERS
        self._gets = [self._requests.get(f"c{number}") for number in range(WRITERS)]

    async def run(self) -> None:
        """Do all, over all connections at once."""
        reading = [asyncio.create_task(self._read_beside(number)) for number in range(READERS)]
        await asyncio.gather(*(self._write_and_read(number) for number in range(WRITERS)))
        await asyncio.gather(*reading)

    async def _write_and_read(self, number: int) -> None:
        ports = self._two.ports if number % 2 else self._two.ports[::-1]
        writer, here, there = [await connect(port) for port in (ports[0], *ports)]
        customer = f"c{number}"
        assert (await writer.ask(self._requests.create(customer))).status == 200
        noise = [asyncio.create_task(self._keep_busy(one, number)) for one in (here, there)]
        value = 0
        while self.done < self._count:
            value += 1
            answer = await writer.ask(self._requests.set(customer, {"branch_id": str(value)}))
            assert answer.status == 200
            self._acknowledged[number] = value
            answers = await asyncio.gather(
                here.ask(self._gets[number]), there.ask(self._gets[number])
            )
            self.done += 2
            self.older += sum(value_of(answer) < value for answer in answers)
            self._soak.tell(f"{self.done:,} of {self._count:,} pairs, {self.older} older")
        await asyncio.gather(*noise)
        writer.close()
        here.close()
        there.close()

    async def _keep_busy(self, connection: Connection, number: int) -> None:
        """Have a GET under way all the time, so that the next is pipelined."""
        while self.done < self._count:
            await self._read(connection, number)

    async def _read_beside(self, number: int) -> None:
        """Ask for one customer after another."""
        dice = random.Random(number)  # noqa: S311 - must repeat for a seed
        connection = await connect(self._two.ports[number % 2])
        while self.done < self._count:
            await self._read(connection, dice.randrange(WRITERS))
        connection.close()

    async def _read(self, connection: Connection, number: int) -> None:
        acknowledged = self._acknowledged[number]
        answer = await connection.ask(self._gets[number])
        if acknowledged:  # else it may not be there yet
            self.beside += 1
            self.older += value_of(answer) < acknowledged


def value_of(answer: Answer) -> int:
    """Return the number that a writer set."""
    assert answer.status == 200, answer
    return int(answer.json()["branch_id"] or 0)


def test_row_40_acknowledged_write_is_read_at_once(soak: Soak, two: Two) -> None:
    """A read after an acknowledged write never returns the older value, in either process."""
    pairs = Pairs(two, soak.count(sample=5_000, full=1_000_000), soak)
    run(pairs.run)
    connections = 3 * WRITERS + READERS
    soak.record(
        40,
        "a read after an acknowledged write",
        f"{pairs.done:,} pairs, and {pairs.beside:,} reads beside them, over {connections} "
        f"connections to 2 processes: {pairs.older} of an older value",
    )
    assert pairs.older == 0
