"""What an acknowledged write withstands when it is not one machine any more."""

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Final
from urllib.parse import urlsplit

import msgspec
import pytest

from cluster.nodes import PASSWORD, Cluster, PgBouncer, psql
from cluster.writers import Writers
from conftest import free_port, knownas, start, stop
from knownas.storage import StorageError
from knownas.storage.postgres import PostgresStorage
from soak.wire import run

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

DEADLINE_SECONDS: Final = 5
"""KNOWNAS_DATABASE_SECONDS as it is if nothing is said."""
SLACK_SECONDS: Final = 1.0
"""For the machine, over a deadline."""

SWITCHOVER_SECONDS: Final = 2

STANDBY_SECONDS: Final = 13
"""wal_sender_timeout and loop_wait of deploy/patroni/patroni.yml, and 3 s."""

Serve = Callable[..., Writers]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Give what starts a server on a database, and returns clients for it."""
    processes = []

    def start_on(url: str, **settings: str) -> Writers:
        port = free_port()
        processes.append(start(url, port, **settings))
        key = msgspec.json.decode(knownas("key", "create", "--json", database=url))["key"]
        writers = Writers(port, key)
        run(writers.make_profiles)
        return writers

    yield start_on
    for process in processes:
        assert stop(process) == 0


def tell(**found: object) -> None:
    """Print what was measured; make test-cluster shows it."""
    print("   ", ", ".join(f"{what} {value}" for what, value in found.items()))  # noqa: T201 - as said


async def while_writing(
    writers: Writers, act: Callable[[], object], then: Callable[[], Awaitable[None]]
) -> None:
    """Write for a second, do something to the cluster, wait for what is to come, write on."""
    async with writers.writing():
        await asyncio.sleep(1)
        await asyncio.to_thread(act)
        await then()
        await asyncio.sleep(1)


def test_killed_primary_loses_nothing(cluster: Cluster, serve: Serve) -> None:
    """The whole node dies: every acknowledged write is on the next primary, within ttl + 3 s."""
    writers = serve(cluster.make_database())
    primary = cluster.primary()
    took = 0.0

    async def until_written() -> None:
        nonlocal took
        killed = time.monotonic()
        took = await writers.until_written(killed) - killed

    run(lambda: while_writing(writers, primary.kill, until_written))
    lost = run(writers.lost)
    tell(acknowledged=count(writers), lost=len(lost), writes_after=f"{took:.1f} s",
         slowest=f"{writers.slowest():.1f} s")  # fmt: skip
    assert lost == []
    assert took <= cluster.ttl + 3
    assert writers.slowest() <= DEADLINE_SECONDS + SLACK_SECONDS
    assert cluster.primary() is not primary


def test_planned_switchover_is_short(cluster: Cluster, serve: Serve) -> None:
    """A primary that hands over: nothing lost, and at most 2 s without an acknowledged write."""
    writers = serve(cluster.make_database())
    before = cluster.primary()
    cluster.prepare_switchover()

    async def until_written() -> None:
        await writers.until_written(time.monotonic())

    run(lambda: while_writing(writers, cluster.switch_over, until_written))
    lost = run(writers.lost)
    tell(acknowledged=count(writers), lost=len(lost), gap=f"{writers.gap():.2f} s",
         slowest=f"{writers.slowest():.1f} s")  # fmt: skip
    assert lost == []
    assert cluster.primary() is not before
    assert writers.gap() <= SWITCHOVER_SECONDS + SLACK_SECONDS
    assert writers.slowest() <= DEADLINE_SECONDS + SLACK_SECONDS


def test_without_standbys_nothing_is_acknowledged(cluster: Cluster, serve: Serve) -> None:
    """Both standbys hang: 503 by the deadline, never 200; reads go on; then all goes on."""
    writers = serve(cluster.make_database())
    standbys = cluster.standbys()
    hung = back = 0.0

    def hang() -> None:
        nonlocal hung
        for standby in standbys:
            standby.signal(signal.SIGSTOP)
        hung = time.monotonic()

    async def then() -> None:
        nonlocal back
        await asyncio.sleep(2 * DEADLINE_SECONDS + 2)
        for standby in standbys:
            standby.signal(signal.SIGCONT)
        back = time.monotonic()
        await writers.until_written(back)

    run(lambda: while_writing(writers, hang, then))
    lost = run(writers.lost)
    meanwhile = [one for one in writers.writes if hung <= one.asked and one.answered < back]
    reads = [one for one in writers.reads if hung <= one.asked and one.answered < back]
    tell(acknowledged=count(writers), lost=len(lost), refused=len(meanwhile), reads=len(reads),
         slowest=f"{writers.slowest():.1f} s")  # fmt: skip
    assert meanwhile
    assert {one.status for one in meanwhile} == {503}
    assert {one.status for one in reads} == {200}
    assert writers.slowest() <= DEADLINE_SECONDS + SLACK_SECONDS
    assert lost == []


def test_hung_standby_is_let_go(cluster: Cluster, serve: Serve) -> None:
    """The synchronous standby hangs: the other one takes its place, and nothing is lost."""
    writers = serve(cluster.make_database())
    standby = cluster.standbys()[0]
    hung = took = 0.0

    def hang() -> None:
        nonlocal hung
        standby.signal(signal.SIGSTOP)
        hung = time.monotonic()

    async def then() -> None:
        nonlocal took
        took = await writers.until_written(hung) - hung

    try:
        run(lambda: while_writing(writers, hang, then))
    finally:
        standby.signal(signal.SIGCONT)
    lost = run(writers.lost)
    tell(acknowledged=count(writers), lost=len(lost), writes_after=f"{took:.1f} s",
         slowest=f"{writers.slowest():.1f} s")  # fmt: skip
    assert lost == []
    assert took <= STANDBY_SECONDS
    assert {one.status for one in writers.reads} == {200}
    assert writers.slowest() <= DEADLINE_SECONDS + SLACK_SECONDS


@pytest.mark.parametrize("query", ["", "?target_session_attrs=read-write"])
def test_standbys_first_in_the_list_are_passed_over(
    cluster: Cluster, serve: Serve, query: str
) -> None:
    """Wherever the primary stands in the URL, it is the one that is read and written."""
    parts = urlsplit(cluster.make_database())
    standbys, port = cluster.standbys(), cluster.primary().port
    hosts = ",".join(f"127.0.0.1:{number}" for number in (*(one.port for one in standbys), port))
    name = parts.path.removeprefix("/")
    writers = serve(f"postgresql://postgres:{PASSWORD}@{hosts}/{name}{query}")

    async def then() -> None:
        await asyncio.sleep(0)

    run(lambda: while_writing(writers, lambda: None, then))
    assert run(writers.lost) == []
    assert writers.statuses() == {200}
    of_ours = f"SELECT count(*) > 0 FROM pg_stat_activity WHERE datname = '{name}'"  # noqa: S608 - our own name
    assert psql(port, "postgres", of_ours) == "t"
    assert {psql(one.port, "postgres", of_ours) for one in standbys} == {"f"}


def test_standbys_alone_do_not_start_a_server(cluster: Cluster) -> None:
    """Where no host can be written, the start ends, and says that this is what was looked for."""
    name = cluster.make_database().rpartition("/")[2]
    hosts = ",".join(f"127.0.0.1:{one.port}" for one in cluster.standbys())
    url = f"postgresql://postgres:{PASSWORD}@{hosts}/{name}"
    with pytest.raises(StorageError) as raised:
        PostgresStorage(url)
    assert "none of the hosts is as target_session_attrs says" in str(raised.value)
    assert PASSWORD not in str(raised.value)


@pytest.fixture
def through_pgbouncer(cluster: Cluster, serve: Serve) -> Iterator[tuple[PgBouncer, Writers]]:
    """Give a PgBouncer before the primary, and clients of a server behind it."""
    database = cluster.make_database().rpartition("/")[2]
    folder = cluster.folder / f"pgbouncer-{time.time_ns()}"
    bouncer = PgBouncer(folder, cluster.primary(), database)
    bouncer.start()
    try:
        settings = {} if bouncer.passes_prepared else {"KNOWNAS_PREPARED": "off"}
        yield bouncer, serve(bouncer.url, **settings)
    finally:
        bouncer.kill()


@pytest.mark.parametrize("pause", [1.0, 2.4])
def test_short_pause_of_pgbouncer_is_not_seen(
    through_pgbouncer: tuple[PgBouncer, Writers], pause: float
) -> None:
    """PAUSE and RESUME within half the deadline, as for a restart behind it: no request fails."""
    bouncer, writers = through_pgbouncer

    async def then() -> None:
        await asyncio.sleep(pause)
        bouncer.resume()

    run(lambda: while_writing(writers, bouncer.pause, then))
    assert run(writers.lost) == []
    tell(acknowledged=count(writers), gap=f"{writers.gap():.1f} s")
    assert writers.statuses() == {200}
    assert {one.status for one in writers.reads} == {200}


def test_long_pause_of_pgbouncer_is_503(through_pgbouncer: tuple[PgBouncer, Writers]) -> None:
    """Beyond the deadline: 503 in time, then, without a restart, 200 again; nothing is lost."""
    bouncer, writers = through_pgbouncer
    paused = 0.0

    async def then() -> None:
        nonlocal paused
        paused = time.monotonic()
        await asyncio.sleep(2 * DEADLINE_SECONDS)
        bouncer.resume()
        await writers.until_written(time.monotonic())

    run(lambda: while_writing(writers, bouncer.pause, then))
    lost = run(writers.lost)
    tell(acknowledged=count(writers), lost=len(lost), slowest=f"{writers.slowest():.1f} s")
    assert 503 in writers.statuses(paused)
    assert writers.slowest() <= DEADLINE_SECONDS + SLACK_SECONDS
    assert lost == []


def count(writers: Writers) -> int:
    """Return how many writes were acknowledged."""
    return sum(one.status == 200 for one in writers.writes)
