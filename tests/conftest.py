"""What the tests share: a real server in a process of its own, on a fresh database."""

import asyncio
import contextlib
import functools
import http.client
import os
import re
import socket
import string
import subprocess
import tempfile
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple, TypedDict, Unpack

import httpx2
import msgspec
import pytest
from anyio.from_thread import start_blocking_portal
from hypothesis import settings

import postgres
from blocking import Blocking
from knownas import bootstrap, vault
from knownas.registry import Registry
from knownas_client import AsyncClient, Client
from nursery import Nursery, Process

settings.register_profile("knownas", deadline=None)  # no test asserts a speed
settings.load_profile("knownas")

START_SECONDS = 30
ANSWER_SECONDS: Final = 10

IDENTIFIERS_PATH: Final = "/api/v2/server-side-api/integration/profile/set/integration-identifiers/"
PROFILE_PATH: Final = "/api/v2/server-side-api/profile/"
NATIVE_PATH: Final = "/api/v1/profile/"
SDK_PATH: Final = "/api/v1/sdk/integration/profile/set/integration-identifiers/"

LOOKALIKES: Final = (
    "user", "User", "USER", "us\u0435r", "\uff55ser", "use\u200br", "user\u00a0", "\ufeffuser",
    "us\u00e9r", "use\u0301r", "\ufb01x", "fix", "stra\u00dfe", "strasse", "i", "I", "\u0131",
    "\u0130", "K", "\u212a", "\u00c5", "A\u030a", "\u212b", "1", "01", "1.0", "\u0661",
    "\u2764", "\u2764\ufe0f", "\U0001f468\u200d\U0001f469", "\U0001f468\U0001f469", "\uffff",
)  # fmt: skip
"""Texts that some folding, trimming, normalisation or number would take for one another."""

INJECTIONS: Final = """\
'
"
' OR '1'='1
" OR ""="
'; DROP TABLE profiles; --
'; ATTACH DATABASE 'x' AS x; --
'; SELECT pg_sleep(9) --
'||(SELECT digest FROM api_keys)||'
\u02bc OR 1=1 --
1 UNION SELECT digest FROM api_keys
') ON CONFLICT DO NOTHING; --
/* */
\\
\\'
%
_
?1
$1
:name
%s
{0}
{"a": 1}
x'00'
NULL""".splitlines()
"""Texts that would be code in a statement put together from strings."""

TIMES: Final = int(os.environ.get("KNOWNAS_TEST_TIMES", "1"))
"""How many times as many examples are made as in the normal run: `make soak` makes more."""

METRICS: Final = {"Authorization": "Bearer metrics-token"}

KEY_ALPHABET: Final = string.digits + string.ascii_uppercase + string.ascii_lowercase

PLAIN: Final = httpx2.Client(verify=False, limits=httpx2.Limits(max_keepalive_connections=0))
"""Asks a server of the tests' own; `httpx2.get` would load certificates each time, for long."""

RawHeaders = Iterable[tuple[str, str | bytes]]


class Who(TypedDict, total=False):
    """Whom a request is about, as its headers say."""

    customer: str | bytes
    profile: str


class Server(NamedTuple):
    """A running server, its database and its keys."""

    url: str
    key: str
    public_key: str
    database: str


@functools.cache
def nursery() -> Nursery:
    """Return what the tests have their processes from."""
    return Nursery()


def knownas(*arguments: str, database: str, stdin: str = "") -> str:
    """Run a `knownas` command to its end and return what it printed."""
    return nursery().run(arguments, {**os.environ, "KNOWNAS_DATABASE": database}, stdin)


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return port


def start(database: str, port: int, *arguments: str, **settings: str) -> Process:
    """Start `knownas serve` and return when it is ready."""
    file = Path(tempfile.gettempdir(), f"knownas-tests-{port}")
    if database.startswith("sqlite:///"):
        file = Path(database.removeprefix("sqlite:///"))
    environment = {**os.environ, "KNOWNAS_DATABASE": database, "KNOWNAS_ACCESS_LOG": "off"}
    with file.with_suffix(".log").open("ab") as log, Path(os.devnull).open("rb") as nothing:
        process = nursery().start(
            ["serve", "--port", str(port), *arguments],
            {**environment, **settings},
            [nothing, log, log],
        )
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port)) as connection:
            try:
                connection.request("GET", "/readyz")
                if connection.getresponse().status == httpx2.codes.OK:
                    return process
            except OSError:
                time.sleep(0.02)
    process.kill()
    process.wait()
    raise RuntimeError("The server did not start.")


def stop(process: Process | subprocess.Popen[bytes]) -> int:
    """Stop a server by SIGTERM and return its exit code."""
    process.terminate()
    return process.wait(START_SECONDS)


def exchange(server: Server, request: bytes) -> httpx2.Response:
    """Send bytes as they are; return what the server sends until it closes the connection."""
    url = httpx2.URL(server.url)
    received = b""
    with socket.create_connection((url.host, url.port), timeout=ANSWER_SECONDS) as connection:
        # A server that refuses a request may close before it has read all of it.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(request)
        with contextlib.suppress(ConnectionResetError):
            while chunk := connection.recv(65_536):
                received += chunk
    head, _, content = received.partition(b"\r\n\r\n")
    status_line, *lines = head.split(b"\r\n")
    headers = [(name, value) for name, _, value in (line.partition(b": ") for line in lines)]
    return httpx2.Response(int(status_line.split()[1]), headers=headers, content=content)


def raw_request(
    server: Server,
    method: str,
    path: str,
    headers: RawHeaders = (),
    body: object = None,
    **who: Unpack[Who],
) -> bytes:
    """Return a request with the server's key, for a `customer=` or `profile=` or both.

    Beside what is given it has only Host, Connection, and the length of a body. A body that is
    not bytes is sent as JSON, with that media type. An empty key sends no Authorization.
    """
    lines: list[tuple[str, str | bytes]] = [("Host", "localhost"), ("Connection", "close")]
    if server.key:
        lines.append(("Authorization", f"Api-Key {server.key}"))
    if "customer" in who:
        lines.append(("adapty-customer-user-id", who["customer"]))
    if "profile" in who:
        lines.append(("adapty-profile-id", who["profile"]))
    if body is not None and not isinstance(body, bytes):
        body = msgspec.json.encode(body)
        lines.append(("Content-Type", "application/json"))
    if body is not None:
        lines.append(("Content-Length", str(len(body))))
    request = f"{method} {path} HTTP/1.1\r\n".encode()
    for name, value in (*lines, *headers):
        encoded = value if isinstance(value, bytes) else value.encode()
        request += name.encode() + b": " + encoded + b"\r\n"
    return request + b"\r\n" + (body or b"")


def ask(
    server: Server,
    method: str,
    path: str,
    headers: RawHeaders = (),
    body: object = None,
    **who: Unpack[Who],
) -> httpx2.Response:
    """Send what `raw_request` makes of the arguments, and return the answer."""
    return exchange(server, raw_request(server, method, path, headers, body, **who))


def make_profile(server: Server, customer: str, **values: str) -> dict[str, Any]:
    """Make a customer's profile with identifiers; return it as the native API shows it."""
    assert ask(server, "POST", PROFILE_PATH, customer=customer).is_success
    if values:
        assert ask(server, "POST", IDENTIFIERS_PATH, body=values, customer=customer).is_success
    made: dict[str, Any] = ask(server, "GET", NATIVE_PATH, customer=customer).json()["data"]
    return made


def counted(url: str, method: str, route: str, status: int) -> float:
    """Return the counter of one method, route and status."""
    text = PLAIN.get(f"{url}/metrics", headers=METRICS).text
    line = f'knownas_requests_total{{method="{method}",route="{route}",status="{status}"}} '
    found = re.search(re.escape(line) + r"(\S+)", text)
    return float(found[1]) if found else 0.0


def sealed(body: str) -> str:
    """Return a key of our own form with its checksum, made as docs/keys.md says."""
    number, checksum = zlib.crc32(body.encode()), ""
    for _ in range(6):
        number, digit = divmod(number, len(KEY_ALPHABET))
        checksum = KEY_ALPHABET[digit] + checksum
    return body + checksum


def stored(database: str) -> bytes:
    """Return all that is in a database, in whatever form: its files, or a dump."""
    if not database.startswith("sqlite:///"):
        return postgres.dump(database)
    path = Path(database.removeprefix("sqlite:///"))
    # The log before the file: a server may move what is there from the one to the other meanwhile.
    files = sorted(path.parent.glob(f"{path.name}*"), reverse=True)
    return b"".join(file.read_bytes() for file in files)


def error_code(answer: httpx2.Response) -> tuple[int, str]:
    """Return an error's status and code."""
    return answer.status_code, answer.json()["error_code"]


def sources(answer: httpx2.Response) -> list[str | None]:
    """Return which headers and fields a 400 complains about."""
    assert answer.status_code == httpx2.codes.BAD_REQUEST, answer.text
    return [entry["source"] for entry in answer.json()["errors"]]


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Run asynchronous tests on asyncio, which is what the server runs on."""
    return "asyncio"


def pytest_report_header() -> str:
    """Say on which PostgreSQL server the tests run."""
    if os.environ.get(postgres.DSN_VARIABLE):
        return f"PostgreSQL: the server that {postgres.DSN_VARIABLE} names"
    return f"PostgreSQL: servers of the tests' own; {postgres.DSN_VARIABLE} names no other"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run the HTTP tests of a module on each database that its `DATABASES` names."""
    databases = getattr(metafunc.module, "DATABASES", None)
    if databases is not None and "database" in metafunc.fixturenames:
        metafunc.parametrize("database", databases, indirect=True, scope="module")


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """Give the URL of a PostgreSQL server that is there for the whole run, and never fails."""
    if given := os.environ.get(postgres.DSN_VARIABLE):
        yield given
        return
    with postgres.cluster(*postgres.FAST) as cluster:
        yield cluster.url


@pytest.fixture(scope="session")
def postgres_databases(postgres_url: str) -> "postgres.Databases":
    """Give databases that have all tables, and nothing in them."""
    template = postgres.new_database(postgres_url)
    knownas("migrate", database=template)
    return postgres.Databases(postgres_url, template)


@pytest.fixture(scope="module")
def database(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """Give the URL of a fresh database, SQLite where `DATABASES` says nothing else."""
    if getattr(request, "param", "sqlite") == "sqlite":
        yield f"sqlite:///{tmp_path_factory.mktemp('server')}/knownas.db"
        return
    databases: postgres.Databases = request.getfixturevalue("postgres_databases")
    url = databases.take()
    yield url
    databases.give_back(url)


@pytest.fixture(scope="module")
def server(database: str) -> Iterator[Server]:
    """Give a running server on a fresh database."""
    port = free_port()
    process = start(database, port, KNOWNAS_METRICS_TOKEN="metrics-token")  # noqa: S106 - a test's own
    key, public_key = asyncio.run(new_keys(database, "default"))
    yield Server(f"http://127.0.0.1:{port}", key, public_key, database)
    assert stop(process) == 0


async def new_keys(database: str, name: str) -> tuple[str, str]:
    """Return a new secret key and a new public key of the app of this name, made if need be."""
    registry = Registry(bootstrap.open_storage(database))
    if name not in {app.name for app in await registry.apps()}:
        await registry.create_app(name)
    app = await registry.app(name)
    key, _ = await registry.keyring.create(app, "secret")
    public_key, _ = await registry.keyring.create(app, "public")
    await registry.close()
    return key, public_key


@pytest.fixture(scope="module")
def second(server: Server) -> Iterator[Server]:
    """Give another server process on the same database, with the same keys."""
    port = free_port()
    process = start(server.database, port)
    yield server._replace(url=f"http://127.0.0.1:{port}")
    assert stop(process) == 0


@pytest.fixture(scope="module")
def other(server: Server) -> Server:
    """Give the same server with the keys of another app."""
    key, public_key = asyncio.run(new_keys(server.database, "other"))
    return server._replace(key=key, public_key=public_key)


@pytest.fixture(params=["sync", "async"])
def connect(request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    """Give what makes a client of a URL and a key, of either sort, and closes it at the end."""
    with contextlib.ExitStack() as stack:
        if request.param == "sync":
            yield lambda *where, **options: stack.enter_context(Client(*where, **options))
            return
        portal = stack.enter_context(start_blocking_portal())

        def make(*where: str, **options: Any) -> Any:  # noqa: ANN401 - as Client, for any test
            client = portal.call(functools.partial(AsyncClient, *where, **options))
            stack.callback(portal.call, client.aclose)
            return Blocking(portal, client)

        yield make


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Give a master key."""
    path = str(tmp_path_factory.mktemp("master") / "key")
    vault.create(path)
    return path


@pytest.fixture(scope="module")
def here(
    server: Server, key_file: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """Give a server over the same database that may ask this machine, and may erase."""
    port = free_port()
    process = start(
        server.database,
        port,
        KNOWNAS_MASTER_KEY_FILE=key_file,
        KNOWNAS_WEBHOOK_NETWORKS="127.0.0.0/8",
        KNOWNAS_ERASURE_LEDGER=str(tmp_path_factory.mktemp("ledger") / "ledger"),
        KNOWNAS_METRICS_TOKEN="metrics-token",  # noqa: S106 - a test's own
    )
    yield server._replace(url=f"http://127.0.0.1:{port}")
    assert stop(process) == 0


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Give the other server: a process and a database of its own, which speaks as Adapty's."""
    database = f"sqlite:///{tmp_path_factory.mktemp('there')}/there.db"
    port = free_port()
    process = start(database, port, KNOWNAS_ERROR_DIALECT="live")
    key, public_key = asyncio.run(new_keys(database, "default"))
    yield Server(f"http://127.0.0.1:{port}", key, public_key, database)
    assert stop(process) == 0
