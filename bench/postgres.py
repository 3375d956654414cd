"""A PostgreSQL server of the benchmark's own, on the load's core, filled by `knownas copy`."""

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit, urlunsplit

import msgspec

from bench import copying
from bench.contenders import NGINX, Contender, Site, started
from bench.databases import Database
from bench.results import Copy
from bench.servers import HOST, LOAD_CORE, Running, free_port

SETTINGS: Final = ("shared_buffers=1GB", "max_wal_size=4GB", "max_connections=100")
"""Beside PostgreSQL's own, which flush every commit."""

OURS: Final = "postgres"
TITLES: Final = {
    OURS: "knownas over PostgreSQL",
    "unprepared": "the same without prepared statements",
    "pgbouncer": "the same through PgBouncer",
    "one_query_each": "knownas, a pooled query for each request",
    "sqlalchemy_postgres": "FastAPI + SQLAlchemy + asyncpg",
    NGINX.name: NGINX.title,
}

_LOADS: Final = frozenset({"get", "post"})
_START_SECONDS: Final = 60
PREPARED_SINCE: Final = (1, 21)
"""The version of PgBouncer from which prepared statements pass through it."""


def missing() -> str | None:
    """Say what has to be installed; None when all is there."""
    return None if _programs() is not None else "not installed: postgresql"


def contenders(url: str, pooler: "Pooler | None") -> list[Contender]:
    """Return who is measured over the database at `url`, ours first, nginx last."""
    unprepared = {"KNOWNAS_PREPARED": "off"}

    def start(name: str, *command: str, at: str = url, **settings: str) -> Contender:
        def run(site: Site) -> Running:
            return started(name, site._replace(environment=settings), command, database=at)

        return Contender(name=name, title=TITLES[name], loads=_LOADS, start=run)

    all_of_them = [
        start(OURS, "knownas", "serve"),
        start("unprepared", "knownas", "serve", **unprepared),
        start("one_query_each", "bench.peers.one_query_each", "serve"),
        start("sqlalchemy_postgres", "bench.peers.fastapi_sqlalchemy_postgres"),
        NGINX,
    ]
    if pooler is not None:
        settings = {} if pooler.passes_prepared else unprepared
        all_of_them.insert(2, start("pgbouncer", "knownas", "serve", at=pooler.url, **settings))
    return all_of_them


class Pooler(NamedTuple):
    """A PgBouncer before the server, which pools by transaction."""

    url: str
    passes_prepared: bool
    """From version 1.21 on; an older one is used without prepared statements."""


@contextlib.contextmanager
def pgbouncer(url: str) -> Iterator[Pooler | None]:
    """Run PgBouncer before the server at `url`, on the load's core; give None if not installed."""
    program = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        yield None
        return
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    version = tuple(map(int, said.split()[1].split(".")[:2]))
    port = free_port()
    folder = Path(tempfile.mkdtemp(prefix="knownas-bench-"))
    parts = urlsplit(url)
    lines = [
        *("[databases]", f"* = host={HOST} port={parts.port} user={parts.username}"),
        *("[pgbouncer]", f"listen_addr = {HOST}", f"listen_port = {port}", "auth_type = any"),
        *("pool_mode = transaction", "unix_socket_dir =", "log_connections = 0"),
        *(["max_prepared_statements = 100"] if version >= PREPARED_SINCE else []),
    ]
    file = folder / "pgbouncer.ini"
    file.write_text("\n".join([*lines, ""]))
    folder.chmod(0o755)
    command = ["taskset", "--cpu-list", str(LOAD_CORE), program, "--quiet"]
    if os.geteuid() == 0:
        command += ["--user", "nobody"]
    with subprocess.Popen([*command, str(file)], stdin=subprocess.DEVNULL) as process:
        try:
            netloc = f"{parts.username}@{HOST}:{port}"
            yield Pooler(urlunsplit(parts._replace(netloc=netloc)), version >= PREPARED_SINCE)
        finally:
            process.terminate()
            process.wait()
            shutil.rmtree(folder)


@contextlib.contextmanager
def server() -> Iterator[str]:
    """Run a PostgreSQL server, and yield the URL of an empty database."""
    programs = _programs()
    assert programs is not None
    folder = Path(tempfile.mkdtemp(prefix="knownas-bench-"))
    port = free_port()
    identity: dict[str, Any] = {}
    if os.geteuid() == 0:  # it refuses to run as root
        nobody = pwd.getpwnam("nobody")
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        identity = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}

    def run(program: str, *arguments: str) -> None:
        command = ["taskset", "--cpu-list", str(LOAD_CORE), str(programs / program)]
        subprocess.run(
            [*command, "-D", str(folder / "data"), *arguments],
            cwd=folder, check=True, stdout=subprocess.DEVNULL, **identity,
        )  # fmt: skip

    run("initdb", "-U", "postgres", "-E", "UTF8", "-A", "trust")
    given = (f"port={port}", f"unix_socket_directories={folder}", *SETTINGS)
    options = " ".join(f"-c {setting}" for setting in given)
    log = str(folder / "log")
    run("pg_ctl", "-w", "-t", str(_START_SECONDS), "-o", options, "-l", log, "start")
    try:
        yield f"postgresql://postgres@{HOST}:{port}/postgres"
    finally:
        run("pg_ctl", "-m", "fast", "-w", "stop")
        shutil.rmtree(folder)


def fill(url: str, database: Database) -> tuple[Copy, int]:
    """Copy a SQLite database into an empty one; return what that took, and the bytes it fills."""
    took = copying.measure(f"sqlite:///{database.path}", url)
    statements = ("VACUUM ANALYZE", "CHECKPOINT", "SELECT pg_database_size(current_database())")
    options = [option for statement in statements for option in ("-c", statement)]
    psql = str((_programs() or Path()) / "psql")
    size = subprocess.run(
        [psql, "-qAtX", *options, url], check=True, capture_output=True, text=True
    ).stdout
    return msgspec.convert(took, Copy), int(size)


def _programs() -> Path | None:
    """Return the folder of PostgreSQL's programs: the newest that is installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parts[-2]))
    if found:
        return found[-1]
    program = shutil.which("postgres")
    return Path(program).parent if program else None
