"""PostgreSQL hangs, dies, comes back, or is told to stop waiting: threat rows 33 and 34.

Over HTTP the same is in `test_postgres_down.py`.
"""

import asyncio
import contextlib
import functools
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Final, Self
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import msgspec
import pytest

import postgres
from conftest import free_port
from knownas.cli import serve
from knownas.errors import ServiceUnavailable
from knownas.model import App, Profile, ProfileId, ProfileRef, merge_identifiers
from knownas.settings import Settings
from knownas.storage import StorageError, postgres_gather
from knownas.storage.postgres import PostgresStorage
from knownas.storage.postgres_link import REFUSAL_SECONDS
from postgres import Cluster, psql
from storage.conftest import Change

pytestmark = pytest.mark.anyio

SECONDS: Final = 1.0
"""The deadline of what is asked in these tests."""
SLACK_SECONDS: Final = 1.0
NOBODY_WAITS: Final = "ALTER SYSTEM RESET synchronous_standby_names"
A_STANDBY_IS_MISSING: Final = "ALTER SYSTEM SET synchronous_standby_names = 'missing'"
RELOAD: Final = "SELECT pg_reload_conf()"
CANCEL_REQUEST: Final = struct.pack("!ii", 16, 80_877_102)
SSL_REQUEST: Final = struct.pack("!ii", 8, 80_877_103)
WRITERS: Final = 24
KILLS: Final = 4


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Give a server of these tests' own, as durable as any."""
    with postgres.cluster() as made:
        yield made


@pytest.fixture
def url(cluster: Cluster) -> Iterator[str]:
    """Give the URL of a fresh database."""
    made = postgres.new_database(cluster.url)
    yield made
    postgres.drop_database(cluster.url, made)


@pytest.fixture
async def storage(url: str) -> AsyncIterator[PostgresStorage]:
    """Give a storage that is in a hurry."""
    opened = PostgresStorage(url, seconds=SECONDS)
    yield opened
    await opened.close()


@pytest.fixture
async def app(storage: PostgresStorage) -> App:
    """Give an app with a profile of the customer `c`."""
    made = await storage.create_app("uuid", "one", now=1)
    await put(storage, made, "c", "before")
    return made


def setting(value: str) -> Change:
    """Return the change that sets one identifier."""
    return lambda profile: msgspec.structs.replace(
        profile, identifiers=merge_identifiers(profile.identifiers, {"branch_id": value})
    )


async def put(storage: PostgresStorage, app: App, customer: str, value: str) -> Profile:
    """Set an identifier of a profile that is made if there is none."""
    new_id = ProfileId(f"00000000-0000-4000-8000-{abs(hash(customer)) % 10**12:012}")
    return await storage.change_profile(
        app.id, ProfileRef(customer), setting(value), now=2, create_as=new_id
    )


async def value(storage: PostgresStorage, app: App, customer: str) -> str | None:
    """Return the identifier that `put` sets."""
    return (await storage.identifiers(app.id, ProfileRef(customer)))[12]


async def refused(*asked: Awaitable[object]) -> float:
    """Check that everything is refused as something to repeat; return after how many seconds."""
    began = time.monotonic()
    outcomes = await asyncio.gather(*asked, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [ServiceUnavailable] * len(asked)
    return time.monotonic() - began


async def commits_wait(cluster: Cluster) -> None:
    """Return when the server has its new configuration: another process of it reads that."""
    connection = await asyncpg.connect(cluster.url)
    a_commit = "SELECT pg_logical_emit_message(true, '', '')"
    with contextlib.suppress(TimeoutError):
        for _ in range(100):
            await connection.execute(a_commit, timeout=SECONDS / 10)
        pytest.fail("Commits wait for nobody.")
    await connection.close()


@asynccontextmanager
async def without_standby(cluster: Cluster) -> AsyncIterator[None]:
    """Have commits wait for a standby that is not there."""
    psql(cluster.url, A_STANDBY_IS_MISSING, RELOAD)
    try:
        await commits_wait(cluster)
        yield
    finally:
        psql(cluster.url, NOBODY_WAITS, RELOAD)


class Tap:
    """A proxy to the server that keeps what clients send, connection by connection."""

    def __init__(self, url: str) -> None:
        """Stand before the server of `url`."""
        parts = urlsplit(url)
        self._to = (parts.hostname, parts.port)
        self.port = free_port()
        self.url = urlunsplit(parts._replace(netloc=f"postgres@127.0.0.1:{self.port}"))
        self.sent: list[bytearray] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        """Begin to listen."""
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self.port)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Listen no more."""
        self._server.close()
        for task in self._tasks:
            task.cancel()

    async def _connected(self, client: asyncio.StreamReader, to: asyncio.StreamWriter) -> None:
        server, to_server = await asyncio.open_connection(*self._to)
        kept = bytearray()
        self.sent.append(kept)
        for source, target, copy in ((client, to_server, kept), (server, to, bytearray())):
            task = asyncio.create_task(self._pass_on(source, target, copy))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pass_on(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, copy: bytearray
    ) -> None:
        try:
            while data := await source.read(65_536):
                copy += data
                target.write(data)
        except ConnectionError:
            pass
        finally:
            target.close()

    def was_asked_to_cancel(self) -> bool:
        """Tell whether any connection began as a CancelRequest does."""
        # Where TLS is wished for, that is asked first, for a CancelRequest as well.
        return any(sent.removeprefix(SSL_REQUEST).startswith(CANCEL_REQUEST) for sent in self.sent)


# --- A server that hangs ------------------------------------------------------------------------


async def test_row_33_hung_server_is_given_up_in_time(
    cluster: Cluster, storage: PostgresStorage, app: App
) -> None:
    """Whatever is asked of it is refused at the deadline, and served again once it goes on."""
    with cluster.paused():
        for _ in range(2):  # over connections that hang, and over those that cannot be made
            took = await refused(
                *(value(storage, app, "c") for _ in range(50)),
                *(put(storage, app, f"c{number}", "x") for number in range(50)),
                storage.profile(app.id, ProfileRef("c")),
                storage.delete_profile(app.id, ProfileRef("nobody"), now=1),
                storage.key_by_digest(b"digest"),
                storage.keys(app.id),
                storage.end_key(app.id, "key", at=3),
                storage.ping(),
            )
            assert SECONDS / 2 < took < SECONDS + SLACK_SECONDS
            await asyncio.sleep(2 * REFUSAL_SECONDS)
    await asyncio.sleep(0.2)
    assert await value(storage, app, "c") == "before"
    await put(storage, app, "c", "after")
    assert await value(storage, app, "c") == "after"
    assert await storage.check() == []


async def test_row_33_waiting_is_bounded(
    cluster: Cluster, storage: PostgresStorage, app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Past the bound a request is refused at once, and does not wait for its deadline."""
    monkeypatch.setattr(postgres_gather, "MAX_WAITING", 10)
    with cluster.paused():
        waiting = [asyncio.ensure_future(put(storage, app, f"c{n}", "x")) for n in range(30)]
        await asyncio.sleep(SECONDS / 4)
        refused_at_once = [one for one in waiting if one.done()]
        assert len(refused_at_once) == 20
        await refused(*waiting)


async def test_hung_host_does_not_keep_from_another(url: str) -> None:
    """Of several hosts one that answers is used, whatever becomes of the others."""
    parts = urlsplit(url)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # it accepts nothing
        ports = [free_port(), silent.getsockname()[1], parts.port]
        hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
        several = urlunsplit(parts._replace(netloc=f"postgres@{hosts}"))
        began = time.monotonic()
        opened = await asyncio.to_thread(PostgresStorage, several, seconds=SECONDS)
        await opened.ping()
        assert time.monotonic() - began < SECONDS
        await opened.close()


# --- A commit that waits ------------------------------------------------------------------------


async def test_row_33_waiting_commit_is_never_cancelled(cluster: Cluster, url: str) -> None:
    """At the deadline the socket is closed: no CancelRequest, no success, and reads go on."""
    async with Tap(url) as tap:
        storage = await asyncio.to_thread(PostgresStorage, tap.url, seconds=SECONDS)
        app = await storage.create_app("uuid", "one", now=1)
        await put(storage, app, "c", "before")
        async with without_standby(cluster):
            writing = asyncio.ensure_future(refused(put(storage, app, "c", "unknown")))
            assert await value(storage, app, "c") == "before"
            assert await writing < SECONDS + SLACK_SECONDS
            await refused(storage.create_app("another", "two", now=2))
        assert await value(storage, app, "c") in {"before", "unknown"}
        await put(storage, app, "c", "after")
        assert await value(storage, app, "c") == "after"
        await storage.close()
        assert not tap.was_asked_to_cancel()


@pytest.mark.parametrize("mode", ["prefer", "disable"])
async def test_control_cancelled_commit_is_noticed(cluster: Cluster, url: str, mode: str) -> None:
    """The driver's own timeout does ask for it, and what listens to the wire hears that."""
    async with Tap(url) as tap:
        connection = await asyncpg.connect(f"{tap.url}?sslmode={mode}")
        await connection.execute("CREATE TABLE one (number integer)")
        assert not tap.was_asked_to_cancel()
        async with without_standby(cluster):
            with pytest.raises(TimeoutError):
                await connection.execute("INSERT INTO one VALUES (1)", timeout=SECONDS / 4)
            await asyncio.sleep(SECONDS / 4)  # it is sent by a task of its own
        assert tap.was_asked_to_cancel()
        await connection.close()


async def test_stopped_event_loop_cancels_no_commit(cluster: Cluster, url: str) -> None:
    """Nor when the process ends in the middle of it: every task is cancelled then."""

    async def interrupted(port_url: str) -> None:
        storage = PostgresStorage(port_url)
        app = (await storage.apps())[0]
        one = asyncio.ensure_future(put(storage, app, "c", "unknown"))
        other = asyncio.ensure_future(storage.create_app("another", "two", now=2))
        await asyncio.sleep(0.5)
        assert not one.done()
        assert not other.done()

    opened = await asyncio.to_thread(PostgresStorage, url)
    await opened.create_app("uuid", "one", now=1)
    await opened.close()
    async with Tap(url) as tap, without_standby(cluster):
        await asyncio.to_thread(asyncio.run, interrupted(tap.url))
        await asyncio.sleep(0.2)
        assert tap.sent
        assert not tap.was_asked_to_cancel()


async def test_commit_that_somebody_cancels_is_no_success(
    cluster: Cluster, storage: PostgresStorage, app: App
) -> None:
    """PostgreSQL reports success then, with a warning: the write is on no standby."""
    async with without_standby(cluster):
        write = asyncio.ensure_future(refused(put(storage, app, "c", "unknown")))
        waiting = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
        for _ in range(50):
            await asyncio.sleep(SECONDS / 100)
            if await asyncio.to_thread(psql, cluster.url, waiting):
                break
        psql(cluster.url, f"SELECT pg_cancel_backend(pid) FROM ({waiting}) AS waiting")  # noqa: S608 - a constant
        assert await write < SECONDS


# --- A server that dies -------------------------------------------------------------------------


async def test_lost_connections_are_not_noticed(
    cluster: Cluster, storage: PostgresStorage, app: App
) -> None:
    """When all connections are ended while they are idle, reads and writes go on without error."""
    for number in range(5):
        await asyncio.gather(value(storage, app, "c"), put(storage, app, "c", f"{number}"))
        psql(
            cluster.url,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()",
        )
        assert await value(storage, app, "c") == f"{number}"
        assert (await put(storage, app, "c", f"{number}+")).identifiers[12] == f"{number}+"


async def test_primary_that_is_one_no_longer_refuses_writes(
    cluster: Cluster, storage: PostgresStorage, app: App
) -> None:
    """Writes to a server that only reads are refused as something to repeat; nothing is kept."""
    try:
        psql(cluster.url, "ALTER SYSTEM SET default_transaction_read_only = on", RELOAD)
        await asyncio.sleep(0.2)
        await refused(put(storage, app, "c", "after"), storage.create_app("u", "two", now=2))
        assert await value(storage, app, "c") == "before"
    finally:
        writable = "SET default_transaction_read_only = off"
        psql(cluster.url, writable, "ALTER SYSTEM RESET default_transaction_read_only", RELOAD)
    await asyncio.sleep(0.2)
    await put(storage, app, "c", "after")
    assert await value(storage, app, "c") == "after"


@pytest.mark.slow
async def test_row_34_killed_server_loses_nothing_acknowledged(
    cluster: Cluster, storage: PostgresStorage, app: App
) -> None:
    """After kill -9 of all its processes under concurrent writes, again and again, all is there."""
    acknowledged = dict.fromkeys((f"w{number}" for number in range(WRITERS)), 0)
    done = asyncio.Event()

    async def write(customer: str) -> None:
        attempt = 0
        while not done.is_set():
            attempt += 1
            try:
                await put(storage, app, customer, f"{attempt}")
                acknowledged[customer] = attempt
            except ServiceUnavailable:
                await asyncio.sleep(0.01)

    writers = [asyncio.ensure_future(write(customer)) for customer in acknowledged]
    for _ in range(KILLS):
        await asyncio.sleep(0.5)
        count = sum(acknowledged.values())
        assert count > 0
        await asyncio.to_thread(cluster.kill)
        await asyncio.to_thread(cluster.start)
        await asyncio.sleep(2 * REFUSAL_SECONDS)
        for customer, attempt in dict(acknowledged).items():
            if attempt:
                assert int(await value(storage, app, customer) or 0) >= attempt
    await asyncio.sleep(0.5)
    done.set()
    await asyncio.gather(*writers)
    assert sum(acknowledged.values()) > count
    for customer, attempt in acknowledged.items():
        assert int(await value(storage, app, customer) or 0) >= attempt
    assert await storage.check() == []


# --- Starting -----------------------------------------------------------------------------------


async def test_ten_servers_start_at_once_on_an_empty_database(
    url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One makes the tables, one the app and its key, and none fails."""

    def start(_number: int) -> None:
        asyncio.run(serve._first_start(Settings(database=url), "http://x"))  # noqa: SLF001 - it is what `serve` does

    with ThreadPoolExecutor(10) as threads:
        list(await asyncio.to_thread(lambda: list(threads.map(start, range(10)))))
    storage = await asyncio.to_thread(PostgresStorage, url)
    assert storage.migrated == []
    (app,) = await storage.apps()
    assert len(await storage.keys(app.id)) == 1
    assert capsys.readouterr().out.count("This is the first start") == 1
    await storage.close()


@pytest.mark.parametrize(
    "bad",
    [
        "postgresql://user:canary@127.0.0.1:{closed}/name",
        "postgresql://user:can@ary@127.0.0.1:{closed}/name",
        "postgresql://user:canary@127.0.0.1:canary/name",
        "postgresql://user:canary@[::1/name",
        "postgresql://user:can/ary@127.0.0.1:{closed}/name",
        "postgresql://user:canary@127.0.0.1:{closed}/name?sslmode=canary",
        "postgresql://user:canary@127.0.0.1:{closed}/name?password=canary&sslmode=disable",
        "postgresql://user:canary@127.0.0.1:{open}/no-such-database",
    ],
)
async def test_database_that_cannot_be_opened_shows_no_password(cluster: Cluster, bad: str) -> None:
    """The start ends with one line that names the database, and no secret in it."""
    given = bad.format(closed=free_port(), open=urlsplit(cluster.url).port)
    with pytest.raises(StorageError) as raised:
        await asyncio.to_thread(functools.partial(PostgresStorage, given, seconds=SECONDS))
    line = str(raised.value)
    assert "\n" not in line
    assert "can" not in line.replace("cannot", "")


async def test_without_prepared_statements_none_is_named(url: str) -> None:
    """With KNOWNAS_PREPARED=off no statement has a name that another session would have to know."""
    async with Tap(url) as tap:
        for prepared in (True, False):
            tap.sent.clear()
            storage = await asyncio.to_thread(PostgresStorage, tap.url, prepared=prepared)
            app = (await storage.apps() or [await storage.create_app("uuid", "one", now=1)])[0]
            for number in range(3):
                await put(storage, app, "c", f"{number}")
                assert await value(storage, app, "c") == f"{number}"
            await storage.close()
            assert any(b"__asyncpg_stmt" in sent for sent in tap.sent) is prepared
