"""Who is measured: our server and its peers, each run as its users would who know it well."""

import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import apsw
import msgspec

from bench import lookups
from bench.databases import Database, Target
from bench.servers import HOST, Running, free_port
from knownas.http.wire import identifiers_body
from knownas.model import KINDS, NO_IDENTIFIERS

PATH: Final = "/api/v2/server-side-api/integration/profile/set/integration-identifiers/"

READS: Final = frozenset({"get"})
ALL: Final = frozenset({"get", "profile", "miss", "unauthorized", "post", "mix"})
WRITES: Final = frozenset({"post"})

_PEERS: Final = Path(__file__).parent / "peers"


class Site(NamedTuple):
    """What a server is given to be measured on."""

    folder: Path
    """Its own, empty."""
    database: Database
    """Its own, where it is to write."""
    work: Path
    """Where things may stay from run to run."""
    environment: Mapping[str, str] = {}
    """Settings beside its usual ones."""


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A server that can be measured."""

    name: str
    title: str
    loads: frozenset[str]
    start: Callable[[Site], Running]
    needs: tuple[str, ...] = ()
    """Programs that have to be there."""
    get_path: Callable[[Target], str] | None = None
    """Where it gives a customer's identifiers, if not where ours does."""

    def missing(self) -> str | None:
        """Say what has to be installed to measure it; None when all is there."""
        lacking = [program for program in self.needs if _program(program) is None]
        return f"not installed: {', '.join(lacking)}" if lacking else None


def started(name: str, site: Site, command: Sequence[str], *, database: str) -> Running:
    """Start a Python server: a module with its arguments, over a database that a URL names."""
    running = _running(name, site)
    running.start(
        [sys.executable, "-m", *command, "--port", str(running.port), "--database", database],
        environment={
            "KNOWNAS_ACCESS_LOG": "off",
            "KNOWNAS_METRICS_TOKEN": "bench",
            **site.environment,
        },
    )
    return running


def knownas(site: Site, *, module: str = "knownas", name: str = "knownas") -> Running:
    """Start `knownas serve` with one worker, without access log, with metrics."""
    return started(name, site, (module, "serve"), database=f"sqlite:///{site.database.path}")


def single_commits(site: Site) -> Running:
    """Start our server with a writer that gives each write a transaction of its own."""
    return knownas(site, module="bench.peers.single_commits", name="single_commits")


def nginx(site: Site) -> Running:
    """Start nginx on one file that holds an answer of ours of the usual length."""
    running = _running("nginx", site)
    www = site.folder / "www"
    www.mkdir()
    (www / "identifiers.json").write_bytes(_usual_answer(site.database))
    text = (_PEERS / "nginx" / "nginx.conf").read_text()
    user = "user root;" if os.geteuid() == 0 else ""  # it has to read the folder
    config = site.folder / "nginx.conf"
    config.write_text(text.format(folder=site.folder, port=running.port, user=user))
    running.start(["nginx", "-e", str(site.folder / "error.log"), "-c", str(config)])
    return running


def python_peer(name: str) -> Callable[[Site], Running]:
    """Return what starts a peer written in Python, on the very interpreter that runs ours."""

    def start(site: Site) -> Running:
        return started(name, site, (f"bench.peers.{name}",), database=str(site.database.path))

    return start


def fastify(site: Site) -> Running:
    """Start the peer in Node, with its locked packages installed."""
    packages = site.work / "npm"
    source = _PEERS / "fastify"
    packages.mkdir(exist_ok=True)
    lock = packages / "package-lock.json"
    if not lock.exists() or lock.read_bytes() != (source / "package-lock.json").read_bytes():
        shutil.copy(source / "package.json", packages)
        shutil.copy(source / "package-lock.json", packages)
        subprocess.run(
            ["npm", "ci", "--no-audit", "--no-fund"], cwd=packages, check=True, capture_output=True
        )
    shutil.copy(source / "server.js", packages)
    running = _running("fastify", site)
    running.start(
        [
            *("node", str(packages / "server.js"), str(running.port), str(site.database.path)),
            *(kind.name for kind in KINDS),
        ],
        environment={"NODE_ENV": "production"},
    )
    return running


def redis_webdis(site: Site) -> Running:
    """Start Redis with every answer of ours under its customer, and webdis before it."""
    running = _running("redis_webdis", site)
    socket = site.folder / "redis.sock"
    port = free_port()
    running.start(
        [
            *("redis-server", "--port", str(port), "--bind", HOST, "--unixsocket", str(socket)),
            *("--save", "", "--appendonly", "no", "--dir", str(site.folder)),
        ],
        port=port,
    )
    with subprocess.Popen(
        ["redis-cli", "-s", str(socket), "--pipe"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
    ) as filler:
        assert filler.stdin is not None
        for customer, body in _answers(site.database):
            key = customer.encode()
            filler.stdin.write(
                b"*3\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (len(key), key, len(body), body)
            )
    config = site.folder / "webdis.json"
    settings: dict[str, Any] = msgspec.json.decode(
        (_PEERS / "redis_webdis" / "webdis.json").read_bytes()
    )
    settings |= {
        "redis_host": str(socket),
        "http_host": HOST,
        "http_port": running.port,
        "logfile": str(site.folder / "webdis.log"),
    }
    config.write_bytes(msgspec.json.encode(settings))
    running.start(["webdis", str(config)], folder=site.folder)  # it writes a log where it starts
    return running


def datasette(site: Site) -> Running:
    """Start Datasette on the database, with the look-up as a canned query."""
    running = _running("datasette", site)
    database = site.folder / "knownas.db"
    database.symlink_to(site.database.path)
    running.start(
        [
            *(sys.executable, "-m", "datasette", "serve", str(database)),
            *("--metadata", str(_PEERS / "datasette" / "metadata.json")),
            *("--host", HOST, "--port", str(running.port)),
        ]
    )
    return running


NGINX: Final = Contender(
    name="nginx",
    title="nginx, a static file",
    loads=READS,
    start=nginx,
    needs=("nginx",),
    get_path=lambda _: "/identifiers.json",
)

CONTENDERS: Final = (
    Contender(name="knownas", title="knownas", loads=ALL | lookups.KINDS, start=knownas),
    NGINX,
    Contender(
        name="redis_webdis",
        title="Redis + webdis, no keys",
        loads=READS,
        start=redis_webdis,
        needs=("redis-server", "redis-cli", "webdis"),
        get_path=lambda target: f"/GET/{target.customer}?type=application/json",
    ),
    Contender(
        name="fastify",
        title="fastify + better-sqlite3",
        loads=ALL,
        start=fastify,
        needs=("node", "npm"),
    ),
    Contender(
        name="fastapi_by_hand",
        title="FastAPI tuned by hand, same store",
        loads=ALL,
        start=python_peer("fastapi_by_hand"),
    ),
    Contender(
        name="datasette",
        title="Datasette, no keys",
        loads=READS,
        start=datasette,
        get_path=lambda target: (
            f"/knownas/identifiers.json?_shape=arrays&customer={target.customer}"
        ),
    ),
    Contender(
        name="fastapi_sqlalchemy",
        title="FastAPI + SQLAlchemy + aiosqlite",
        loads=ALL,
        start=python_peer("fastapi_sqlalchemy"),
    ),
    Contender(
        name="single_commits",
        title="knownas, a commit for each write",
        loads=WRITES,
        start=single_commits,
    ),
)


def _running(name: str, site: Site) -> Running:
    return Running(
        name, port=free_port(), database=site.database.path, log=site.folder / f"{name}.log"
    )


def _program(name: str) -> str | None:
    """Return the path of a program; Debian has some where only root looks."""
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin:/sbin")


def _answers(database: Database) -> Iterator[tuple[str, bytes]]:
    """Yield each customer with the body of our answer."""
    connection = apsw.Connection(str(database.path), flags=apsw.SQLITE_OPEN_READONLY)
    rows = connection.execute(
        "SELECT customer_user_id, identifiers FROM profiles WHERE customer_user_id IS NOT NULL"
    )
    for customer, text in rows:
        given: list[str | None] = msgspec.json.decode(text)
        yield customer, identifiers_body((*given, *NO_IDENTIFIERS[len(given) :]))
    connection.close()


def _usual_answer(database: Database) -> bytes:
    """Return an answer of the median length among the first thousand."""
    bodies = [body for _, body in itertools.islice(_answers(database), 1_000)]
    return sorted(bodies, key=len)[len(bodies) // 2]
