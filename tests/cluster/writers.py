"""Clients that write and read without a pause while nodes die, and remember what they were told."""

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator
from typing import Final, NamedTuple

from soak.wire import Answer, Connection, Requests, connect

WRITERS: Final = 8
PAUSE_SECONDS: Final = 0.02
GIVE_UP_SECONDS: Final = 30.0


class Told(NamedTuple):
    """One answer: when it was asked for and given, by the monotonic clock."""

    asked: float
    answered: float
    status: int


class Writers:
    """Clients of one server, each with a customer of its own, whose values only ever go up."""

    def __init__(self, port: int, key: str) -> None:
        """Ask the server at this port, with this key."""
        self._port = port
        self._requests = Requests(key)
        self._numbers = itertools.count(1)
        self.customers = [f"c{number}" for number in range(WRITERS)]
        self.acknowledged = dict.fromkeys(self.customers, 0)
        self.sent = dict.fromkeys(self.customers, 0)
        self.writes: list[Told] = []
        self.reads: list[Told] = []

    async def make_profiles(self) -> None:
        """Make the profile of each customer."""
        connection = await connect(self._port)
        for customer in self.customers:
            assert (await connection.ask(self._requests.create(customer))).status == 200
        connection.close()

    @contextlib.asynccontextmanager
    async def writing(self) -> AsyncIterator[None]:
        """Write with all of them while the block runs; then finish what is under way."""
        is_over = asyncio.Event()
        tasks = [asyncio.create_task(self._write(one, is_over)) for one in self.customers]
        tasks.append(asyncio.create_task(self._read(is_over)))
        try:
            yield
        finally:
            is_over.set()
            await asyncio.gather(*tasks)

    async def lost(self) -> list[str]:
        """Return the customers of whom an acknowledged value is not there any more."""
        connection = await connect(self._port)
        lost = []
        for customer in self.customers:
            answer = await connection.ask(self._requests.get(customer))
            assert answer.status == 200
            found = int(answer.json()["branch_id"] or 0)
            # What was answered 503 may have been written, too.
            if not self.acknowledged[customer] <= found <= self.sent[customer]:
                lost.append(f"{customer}: {self.acknowledged[customer]} was said, {found} is there")
        connection.close()
        return lost

    def slowest(self) -> float:
        """Return the seconds of the slowest answer."""
        return max(one.answered - one.asked for one in (*self.writes, *self.reads))

    def statuses(self, since: float = 0.0) -> set[int]:
        """Return the statuses of the writes that were asked for since then."""
        return {one.status for one in self.writes if one.asked >= since}

    def gap(self) -> float:
        """Return the longest time without an acknowledged write, in seconds."""
        times = sorted(one.answered for one in self.writes if one.status == 200)
        return max(later - earlier for earlier, later in itertools.pairwise(times))

    async def until_written(self, since: float) -> float:
        """Return when a write that was asked for since then is acknowledged, and when that was."""
        async with asyncio.timeout(GIVE_UP_SECONDS + 30):
            while True:
                for one in reversed(self.writes):
                    if one.status == 200 and one.asked >= since:
                        return one.answered
                await asyncio.sleep(0.01)

    async def _write(self, customer: str, is_over: asyncio.Event) -> None:
        connection = await connect(self._port)
        while not is_over.is_set():
            number = next(self._numbers)
            self.sent[customer] = number
            request = self._requests.set(customer, {"branch_id": str(number)})
            if (await self._ask(connection, request, self.writes)).status == 200:
                self.acknowledged[customer] = number
            await asyncio.sleep(PAUSE_SECONDS)
        connection.close()

    async def _read(self, is_over: asyncio.Event) -> None:
        connection = await connect(self._port)
        for customer in itertools.cycle(self.customers):
            if is_over.is_set():
                break
            await self._ask(connection, self._requests.get(customer), self.reads)
            await asyncio.sleep(PAUSE_SECONDS)
        connection.close()

    async def _ask(self, connection: Connection, request: bytes, told: list[Told]) -> Answer:
        asked = time.monotonic()
        answer = await asyncio.wait_for(connection.ask(request), GIVE_UP_SECONDS)
        told.append(Told(asked, time.monotonic(), answer.status))
        assert answer.status in {200, 503}, answer
        return answer
