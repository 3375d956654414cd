"""Threat row 34: kill -9 under concurrent writes, and what was acknowledged is there, whole."""

import asyncio
import itertools
import random
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import msgspec

from conftest import free_port, knownas, start, stop
from nursery import Process
from soak.report import Soak
from soak.wire import Connection, Requests, connect, run

WRITERS = 32
ACKNOWLEDGED_A_ROUND = (400, 800)
TOGETHER = ("facebook_anonymous_id", "one_signal_subscription_id", "posthog_distinct_user_id")
"""The kinds that one write sets, all to the same number."""

_numbers = itertools.count(1)


class Writers:
    """Clients that write without a pause, each for a customer of its own."""

    def __init__(self, requests: Requests) -> None:
        """Remember nothing yet."""
        self.requests = requests
        self.customers = [f"c{number}" for number in range(WRITERS)]
        self.acknowledged = dict.fromkeys(self.customers, 0)
        self.sent = dict.fromkeys(self.customers, 0)
        self.count = 0

    async def make_profiles(self, port: int) -> None:
        """Make the profile of each customer."""
        connection = await connect(port)
        for customer in self.customers:
            assert (await connection.ask(self.requests.create(customer))).status == 200
        connection.close()

    async def write_until_killed(self, servers: dict[int, Process], dice: random.Random) -> None:
        """Write through all servers, and kill one after the other in the midst of it.

        Those that live go on, and fail no write, whatever the killed one was at.
        """
        ports = list(servers)
        writing = [
            asyncio.create_task(self._write(customer, await connect(ports[number % len(ports)])))
            for number, customer in enumerate(self.customers)
        ]
        for process in servers.values():
            await self._until(self.count + dice.randint(*ACKNOWLEDGED_A_ROUND) // len(ports))
            await asyncio.sleep(dice.random() / 100)  # not always just after an answer
            process.send_signal(signal.SIGKILL)
        await asyncio.gather(*writing)

    async def check(self, port: int) -> tuple[int, int]:
        """Return how many customers have lost an acknowledged write, and how many half of one."""
        lost = torn = 0
        connection = await connect(port)
        for customer in self.customers:
            answer = await connection.ask(self.requests.get(customer))
            assert answer.status == 200
            found = {int(answer.json()[kind] or 0) for kind in TOGETHER}
            torn += len(found) > 1
            # What was under way when the process died may have been kept, too.
            lost += not self.acknowledged[customer] <= min(found) <= self.sent[customer]
            self.acknowledged[customer] = self.sent[customer] = max(found)
        connection.close()
        return lost, torn

    async def _write(self, customer: str, connection: Connection) -> None:
        for number in _numbers:
            values = dict.fromkeys(TOGETHER, str(number))
            self.sent[customer] = number
            try:
                answer = await connection.ask(self.requests.set(customer, values))
            except ConnectionError:
                return
            assert answer.status == 200
            self.acknowledged[customer] = number
            self.count += 1

    async def _until(self, count: int) -> None:
        while self.count < count:  # noqa: ASYNC110 - an event would cost every write
            await asyncio.sleep(0.001)


def test_row_34_kill_loses_nothing_acknowledged(soak: Soak, tmp_path: Path) -> None:
    """After kill -9 amid concurrent writes, every acknowledged one is there and all is sound.

    In every other round two processes share the file, and one is killed before the other. In
    some rounds the process is killed once more while it starts.
    """
    rounds = soak.count(sample=3, full=200)
    dice = random.Random(soak.seed)  # noqa: S311 - must repeat for a seed
    database = f"sqlite:///{tmp_path}/knownas.db"
    ports = [free_port(), free_port()]
    servers = {ports[0]: start(database, ports[0])}
    key = msgspec.json.decode(knownas("key", "create", "--json", database=database))["key"]
    writers = Writers(Requests(key))
    run(partial(writers.make_profiles, ports[0]))
    lost = torn = 0
    problems: list[str] = []
    for number in range(rounds):
        if number % 2:
            servers[ports[1]] = start(database, ports[1])
        run(partial(writers.write_until_killed, dict(servers), dice))
        for process in servers.values():
            process.wait()
        if dice.random() < 0.1:
            kill_while_it_starts(database, ports[0], dice)
        servers = {ports[0]: start(database, ports[0])}
        found = run(partial(writers.check, ports[0]))
        lost, torn = lost + found[0], torn + found[1]
        if number % 10 == 0 or number == rounds - 1:
            problems += msgspec.json.decode(knownas("check", "--json", database=database))[
                "problems"
            ]
        soak.tell(
            f"{number + 1} of {rounds} rounds, {writers.count:,} acknowledged, {lost} lost, "
            f"{torn} torn"
        )
    assert stop(servers[ports[0]]) == 0
    soak.record(
        34,
        "kill -9 under concurrent writes",
        f"{rounds} rounds, {writers.count:,} acknowledged, {lost} lost, {torn} torn, "
        f"{len(problems)} problems found by `knownas check`",
    )
    assert (lost, torn, problems) == (0, 0, [])
    assert writers.count >= rounds * ACKNOWLEDGED_A_ROUND[0]


def kill_while_it_starts(database: str, port: int, dice: random.Random) -> None:
    """Start a server and kill it at some moment before, or just after, it is ready."""
    command = ("-m", "knownas", "serve", "--port", str(port), "--database", database)
    with subprocess.Popen([sys.executable, *command], stderr=subprocess.DEVNULL) as process:
        try:
            process.wait(timeout=0.2 + dice.random() / 2)
        except subprocess.TimeoutExpired:
            process.kill()
