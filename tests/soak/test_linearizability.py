"""Histories of concurrent clients, kills included: each value behaves as if there were one copy."""

import asyncio
import itertools
import random
import signal
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import postgres
from conftest import free_port, knownas, start, stop
from nursery import Process
from soak.linearizability import NEVER, Operation, is_linearizable, with_a_stale_read
from soak.report import Soak
from soak.wire import Connection, Requests, connect, run

TOGETHER: Final = 8
"""Histories that are made at the same time."""
CLIENTS: Final = 4
OPERATIONS: Final = 12
"""Of each client."""
KINDS: Final = ("branch_id", "appsflyer_id")
KILL_EVERY: Final = 4
"""Of so many lots of histories in one there is a kill."""
OUTAGE_SECONDS: Final = 0.1

Histories = dict[tuple[str, str], list[Operation]]
"""By customer and kind."""


def write(value: str, began: float, ended: float = NEVER) -> Operation:
    """Return a write."""
    return Operation(True, value, began, ended)  # noqa: FBT003 - the field's name is above


def read(value: str | None, began: float, ended: float) -> Operation:
    """Return a read."""
    return Operation(False, value, began, ended)  # noqa: FBT003 - as above


@pytest.mark.parametrize(
    "history",
    [
        [],
        [read(None, 0, 1)],
        [write("a", 0, 1), read("a", 2, 3)],
        [write("a", 0, 3), read("a", 1, 2), read("a", 2, 3)],
        [write("a", 0, 3), write("b", 0, 3), read("a", 4, 5)],
        [write("a", 0), read(None, 1, 2), read("a", 3, 4)],
        [write("a", 0), read(None, 1, 2)],
        [write("a", 0), write("b", 1, 2), read("b", 3, 4), read("a", 5, 6)],
    ],
)
def test_history_that_can_be(history: list[Operation]) -> None:
    """Overlapping operations may have happened in any order, one in doubt late or never."""
    assert is_linearizable(history)


@pytest.mark.parametrize(
    "history",
    [
        [read("a", 0, 1)],
        [write("a", 0, 1), read(None, 2, 3)],
        [write("a", 0, 1), write("b", 2, 3), read("a", 4, 5)],
        [write("a", 0, 9), read("a", 1, 2), read(None, 3, 4)],
        [write("a", 0), read("a", 1, 2), read(None, 3, 4)],
        [write("a", 0, 9), write("b", 0, 9), read("a", 1, 2), read("b", 3, 4), read("a", 5, 6)],
        [write("a", 5), read("a", 1, 2)],
    ],
)
def test_history_that_cannot_be(history: list[Operation]) -> None:
    """Lost writes, stale reads, values that come and go, or come before they are written."""
    assert not is_linearizable(history)


_TIMES = st.tuples(st.integers(0, 9), st.integers(0, 9)).map(lambda pair: (min(pair), max(pair)))
_OPERATIONS = st.builds(
    lambda writes, value, times, doubt: Operation(
        writes, value, times[0], NEVER if writes and doubt else times[1]
    ),
    st.booleans(),
    st.sampled_from(["a", "b"]),
    _TIMES,
    st.booleans(),
)


@given(st.lists(_OPERATIONS, max_size=5))
def test_search_agrees_with_trying_all_orders(history: list[Operation]) -> None:
    """A second implementation, which is slow and plain."""
    certain = [one for one in history if one.ended != NEVER]
    doubtful = [one for one in history if one.ended == NEVER]
    chosen = itertools.chain.from_iterable(
        itertools.combinations(doubtful, count) for count in range(len(doubtful) + 1)
    )
    orders = (order for done in chosen for order in itertools.permutations([*certain, *done]))
    assert is_linearizable(history) == any(map(_is_possible, orders))


def _is_possible(order: tuple[Operation, ...]) -> bool:
    if any(later.ended < one.began for one, later in itertools.combinations(order, 2)):
        return False
    value = None
    for one in order:
        if one.writes:
            value = one.value
        elif one.value != value:
            return False
    return True


# --- Histories of real servers --------------------------------------------------------------------


class Setting(NamedTuple):
    """Servers on one database, and what kills in the midst."""

    database: str
    ports: list[int]
    kill: Callable[[random.Random], None]
    recover: Callable[[], None]


@pytest.fixture
def over_sqlite(tmp_path: Path) -> Iterator[Setting]:
    """Give two processes on one file, of which any may be killed."""
    database = f"sqlite:///{tmp_path}/knownas.db"
    servers = {port: start(database, port) for port in (free_port(), free_port())}

    def kill(dice: random.Random) -> None:
        servers[dice.choice(list(servers))].send_signal(signal.SIGKILL)

    def recover() -> None:
        for port, process in servers.items():
            if process.poll() is not None:
                servers[port] = start(database, port)

    yield Setting(database, list(servers), kill, recover)
    _stop_all(servers.values())


@pytest.fixture
def over_postgres() -> Iterator[Setting]:
    """Give two servers over one PostgreSQL, which may be killed."""
    with postgres.cluster() as cluster:
        database = postgres.new_database(cluster.url)
        servers = {
            port: start(database, port, KNOWNAS_DATABASE_SECONDS="2")
            for port in (free_port(), free_port())
        }

        def kill(_dice: random.Random) -> None:
            cluster.kill()
            time.sleep(OUTAGE_SECONDS)
            cluster.start()

        yield Setting(database, list(servers), kill, lambda: None)
        _stop_all(servers.values())


def _stop_all(servers: Iterable[Process]) -> None:
    for process in servers:
        assert stop(process) == 0


@pytest.mark.parametrize("setting", ["over_sqlite", "over_postgres"])
def test_row_40_histories_are_linearizable(
    soak: Soak, setting: str, request: pytest.FixtureRequest
) -> None:
    """Whatever is killed, and through whichever server; and a stale read would be noticed."""
    servers: Setting = request.getfixturevalue(setting)
    count = soak.count(sample=16, full=1_000)
    dice = random.Random(soak.seed)  # noqa: S311 - must repeat for a seed
    key = msgspec.json.decode(knownas("key", "create", "--json", database=servers.database))["key"]
    requests = Requests(key)
    operations = doubtful = kills = planted = caught = 0
    wrong: list[list[Operation]] = []
    for first in range(0, count, TOGETHER):
        customers = [f"c{number}" for number in range(first, min(first + TOGETHER, count))]
        kill = servers.kill if first // TOGETHER % KILL_EVERY == 0 else None
        made = run(partial(histories, requests, servers.ports, customers, dice, kill))
        servers.recover()
        kills += kill is not None
        for history in made.values():
            operations += len(history)
            doubtful += sum(one.ended == NEVER for one in history)
            if not is_linearizable(history):
                wrong.append(history)
            if (stale := with_a_stale_read(history)) is not None:
                planted += 1
                caught += not is_linearizable(stale)
        soak.tell(
            f"{first + len(customers):,} of {count:,} histories, {operations:,} operations, "
            f"{doubtful} of unknown outcome, {len(wrong)} not linearizable"
        )
    where = "two processes on one file" if setting == "over_sqlite" else "two over PostgreSQL"
    soak.record(
        40,
        f"histories of {CLIENTS} clients of {where}, with kill -9",
        f"{count:,} histories, {operations:,} operations, {kills} kills, {doubtful} of unknown "
        f"outcome, {len(wrong)} not linearizable; {caught:,} of {planted:,} planted stale reads "
        "caught",
    )
    assert wrong == []
    assert planted == caught
    assert planted > count / 4


async def histories(
    requests: Requests,
    ports: list[int],
    customers: list[str],
    dice: random.Random,
    kill: Callable[[random.Random], None] | None,
) -> Histories:
    """Have clients work on each customer at the same time, and return what they saw."""
    found: Histories = defaultdict(list)
    connection = await connect(ports[0])
    for customer in customers:
        assert (await connection.ask(requests.create(customer))).status == 200
    connection.close()
    clients = [
        asyncio.create_task(client(requests, ports, customer, dice, found, name))
        for customer in customers
        for name in range(CLIENTS)
    ]
    if kill is not None:
        await asyncio.sleep(dice.random() / 10)
        await asyncio.to_thread(kill, dice)
    await asyncio.gather(*clients)
    return found


async def client(  # noqa: PLR0913, PLR0917 - who asks whom, for whom, and where it is kept
    requests: Requests,
    ports: list[int],
    customer: str,
    dice: random.Random,
    found: Histories,
    name: int,
) -> None:
    """Read and write the values of a customer, one request after the other."""
    open_ones: dict[int, Connection] = {}
    for number in range(OPERATIONS):
        port = dice.choice(ports)
        writes = dice.random() < 0.5
        given = (
            dict.fromkeys(KINDS, f"{name}-{number}")
            if dice.random() < 0.3
            else {dice.choice(KINDS): f"{name}-{number}"}
        )
        request = requests.set(customer, given) if writes else requests.get(customer)
        began = time.monotonic()
        try:
            if port not in open_ones or open_ones[port].closed:
                open_ones[port] = await connect(port)
            answer = await open_ones[port].ask(request)
        except ConnectionError:
            answer = None
        ended = time.monotonic()
        if answer is not None and answer.status == 200:
            seen = given if writes else {kind: answer.json()[kind] for kind in KINDS}
            for kind, value in seen.items():
                found[customer, kind].append(Operation(writes, value, began, ended))
        else:
            assert answer is None or answer.status == 503, answer
            if writes:
                for kind, value in given.items():
                    found[customer, kind].append(Operation(writes, value, began, NEVER))
            await asyncio.sleep(dice.random() / 50)
    for connection in open_ones.values():
        connection.close()
