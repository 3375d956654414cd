"""Three nodes of PostgreSQL under Patroni, from deploy/patroni/, with etcd and PgBouncer."""

import configparser
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx2
import yaml

from cluster.processes import Daemon, make_folder, program, run, wait_until
from conftest import free_port

DEPLOY: Final = Path(__file__).parent.parent.parent / "deploy" / "patroni"
PASSWORD: Final = "change-me-1"  # noqa: S105 - that of the example
START_SECONDS: Final = 90
QUORUM_SINCE: Final = 4
"""The version of Patroni that knows quorum commit; with an older one both standbys answer."""
PREPARED_SINCE: Final = (1, 21)
"""The version of PgBouncer from which prepared statements pass through it."""


class Node(Daemon):
    """One node: Patroni, and the PostgreSQL that it runs."""

    def __init__(self, folder: Path, name: str, etcd_port: int) -> None:
        """Write its configuration, made from the example."""
        self.name = name
        self.port, self._rest_port = free_port(), free_port()
        self._configuration = self._configure(make_folder(folder), etcd_port)
        self._file = folder / "patroni.yml"
        self._file.write_text(yaml.safe_dump(self._configuration))
        super().__init__(folder, program("patroni"), str(self._file))

    def status(self) -> dict[str, Any]:
        """Return what the node says of itself; nothing where it says nothing."""
        try:
            answer = httpx2.get(f"http://127.0.0.1:{self._rest_port}/patroni", timeout=2)
        except httpx2.TransportError:
            return {}
        status: dict[str, Any] = answer.json()
        return status

    def post(self, path: str, body: dict[str, str]) -> httpx2.Response:
        """Send a request to its REST API."""
        return httpx2.post(f"http://127.0.0.1:{self._rest_port}{path}", json=body, timeout=60)

    def tag(self, **tags: object) -> None:
        """Give it other tags than those it has, if they are others."""
        if self._configuration["tags"] != tags:
            self._configuration["tags"] = tags
            self._file.write_text(yaml.safe_dump(self._configuration))
            self.reload()

    def streams_to(self) -> dict[str, str]:
        """Return the nodes that stream from this one, each with its state."""
        streams = self.status().get("replication", ())
        return {one["application_name"]: one["sync_state"] for one in streams}

    def _configure(self, folder: Path, etcd_port: int) -> dict[str, Any]:
        made: dict[str, Any] = yaml.safe_load((DEPLOY / "patroni.yml").read_text())
        made["name"] = self.name
        address = f"127.0.0.1:{self._rest_port}"
        made["restapi"] = {"listen": address, "connect_address": address}
        made["etcd3"]["hosts"] = f"127.0.0.1:{etcd_port}"
        made["watchdog"]["mode"] = "off"
        made["tags"] = {}
        if patroni_version() < QUORUM_SINCE:
            made["bootstrap"]["dcs"] |= {"synchronous_mode": True, "synchronous_node_count": 2}
        address = f"127.0.0.1:{self.port}"
        database = made["postgresql"]
        database |= {
            "listen": address,
            "connect_address": address,
            "data_dir": str(folder / "data"),
            "bin_dir": str(Path(program("pg_ctl")).parent),
            "pgpass": str(folder / "pgpass"),
            "parameters": {"unix_socket_directories": str(folder), "shared_buffers": "32MB"},
            "pg_hba": [
                # The nodes share an address here, and have no certificates.
                line.replace("10.0.0.0/24", "127.0.0.1/32").replace("hostssl", "host")
                for line in database["pg_hba"]
            ],
        }
        return made


class Cluster:
    """Three nodes and the etcd by which they agree who is the primary."""

    def __init__(self, folder: Path) -> None:
        """Make it; `start` starts it."""
        self.folder = folder
        etcd_port = free_port()
        client, peer = f"http://127.0.0.1:{etcd_port}", f"http://127.0.0.1:{free_port()}"
        self._etcd = Daemon(
            make_folder(folder / "etcd"),
            program("etcd"),
            "--data-dir=data",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
        )
        self._health = f"{client}/health"
        self.nodes = [Node(folder / f"node{n}", f"node{n}", etcd_port) for n in (1, 2, 3)]
        settings = yaml.safe_load((DEPLOY / "patroni.yml").read_text())["bootstrap"]["dcs"]
        self.ttl: int = settings["ttl"]
        """Seconds after which a primary that is gone is replaced."""

    def start(self) -> None:
        """Start all of it and return when both standbys stream, one of them synchronously."""
        self._etcd.start()
        wait_until(self._etcd_is_healthy, "etcd answers", seconds=START_SECONDS)
        self.heal()

    def heal(self) -> None:
        """Start what does not run, and return when all is as it should be."""
        for node in self.nodes:
            if not node.is_running():
                node.start()
            node.tag()
        wait_until(self.is_whole, f"three nodes, one in sync\n{self.log()}", seconds=START_SECONDS)

    def is_whole(self) -> bool:
        """Tell whether there are a primary and two streaming standbys, and commits wait for one."""
        statuses = [node.status() for node in self.nodes]
        roles = sorted(str(status.get("role")) for status in statuses)
        if roles[1:] != ["replica", "replica"] and roles[:2] != ["replica", "replica"]:
            return False
        states = [node.streams_to().values() for node in self.nodes]
        return any(len(it) == 2 and not {"sync", "quorum"}.isdisjoint(it) for it in states)

    def primary(self) -> Node:
        """Return the node that is written to now."""
        for node in self.nodes:
            if node.status().get("role") in {"master", "primary"}:
                return node
        raise AssertionError("There is no primary.")

    def standbys(self) -> list[Node]:
        """Return the other nodes, the synchronous one first where there is one alone."""
        primary = self.primary()
        others = [node for node in self.nodes if node is not primary]
        states = primary.streams_to()
        return sorted(others, key=lambda node: states.get(node.name) not in {"sync", "quorum"})

    def url(self, database: str = "postgres") -> str:
        """Return the URL of a database that names all nodes."""
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)
        return f"postgresql://postgres:{PASSWORD}@{hosts}/{database}"

    def make_database(self) -> str:
        """Make an empty database and return its URL."""
        name = f"knownas_{time.time_ns()}"
        psql(self.primary().port, "postgres", f"CREATE DATABASE {name}")
        return self.url(name)

    def prepare_switchover(self) -> None:
        """Let the third node follow the next primary already (docs/operating.md)."""
        primary, (candidate, third) = self.primary(), self.standbys()
        third.tag(nosync=True)  # first, or commits would wait for it in vain
        wait_until(
            lambda: primary.streams_to().get(third.name) == "async",
            f"{third.name} is not waited for",
            seconds=START_SECONDS,
        )
        third.tag(nosync=True, replicatefrom=candidate.name)
        wait_until(
            lambda: third.name in candidate.streams_to(),
            f"{third.name} follows {candidate.name}",
            seconds=START_SECONDS,
        )

    def switch_over(self) -> None:
        """Have the primary hand over to the standby that has all that it has."""
        primary = self.primary()
        body = {"leader": primary.name, "candidate": self.standbys()[0].name}
        answer = primary.post("/switchover", body)
        assert answer.status_code == httpx2.codes.OK, answer.text

    def kill(self) -> None:
        """End all of it, at once."""
        for daemon in (*self.nodes, self._etcd):
            daemon.kill()

    def log(self) -> str:
        """Return the ends of the logs."""
        return "\n".join(f"--- {one.folder.name}\n{one.log()}" for one in (*self.nodes, self._etcd))

    def _etcd_is_healthy(self) -> bool:
        try:
            return httpx2.get(self._health).status_code == httpx2.codes.OK
        except httpx2.TransportError:
            return False


class PgBouncer(Daemon):
    """PgBouncer before one node, from the example."""

    def __init__(self, folder: Path, node: Node, database: str) -> None:
        """Write its configuration."""
        self.port = free_port()
        self._url = f"postgresql://postgres:{PASSWORD}@127.0.0.1:{self.port}"
        self.url = f"{self._url}/{database}"
        made = configparser.ConfigParser()
        made.read(DEPLOY / "pgbouncer.ini")
        made["databases"] = {database: f"host=127.0.0.1 port={node.port} dbname={database}"}
        users = make_folder(folder) / "users"
        users.write_text(f'"postgres" "{PASSWORD}"\n')
        made["pgbouncer"].update(
            listen_port=str(self.port),
            auth_file=str(users),
            unix_socket_dir=str(folder),
            admin_users="postgres",
        )
        self.passes_prepared = pgbouncer_version() >= PREPARED_SINCE
        if not self.passes_prepared:
            del made["pgbouncer"]["max_prepared_statements"]
        file = folder / "pgbouncer.ini"
        with file.open("w") as output:
            made.write(output)
        super().__init__(folder, program("pgbouncer"), str(file))

    def start(self) -> None:
        """Start it and return when it answers."""
        super().start()
        wait_until(lambda: self._admin("SHOW VERSION", check=False), "pgbouncer", seconds=20)

    def pause(self) -> None:
        """Let what is under way finish, and hold up all else."""
        self._admin("PAUSE")

    def resume(self) -> None:
        """Let go on what was held up."""
        self._admin("RESUME")

    def _admin(self, command: str, *, check: bool = True) -> bool:
        asked = [program("psql"), "-qAtX", "-c", command, f"{self._url}/pgbouncer"]
        return subprocess.run(asked, capture_output=True, check=check).returncode == 0


def psql(port: int, database: str, statement: str) -> str:
    """Run a statement on one node and return what it answers."""
    url = f"postgresql://postgres:{PASSWORD}@127.0.0.1:{port}/{database}"
    command = [program("psql"), "-qAtX", "-v", "ON_ERROR_STOP=1", "-c", statement, url]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def patroni_version() -> int:
    """Return Patroni's major version."""
    found = re.search(r"(\d+)\.", run(program("patroni"), "--version", folder=Path("/")))
    assert found is not None
    return int(found[1])


def pgbouncer_version() -> tuple[int, int]:
    """Return PgBouncer's version."""
    said = run(program("pgbouncer"), "--version", folder=Path("/"))
    found = re.search(r"(\d+)\.(\d+)", said)
    assert found is not None
    return int(found[1]), int(found[2])


@contextmanager
def three_nodes() -> Iterator[Cluster]:
    """Give a running cluster; at the end nothing of it is left, whatever happened."""
    # Not under pytest's folders, which only root can reach.
    folder = Path(tempfile.mkdtemp(prefix="knownas-cluster-"))
    folder.chmod(0o755)
    try:
        cluster = Cluster(folder)
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.kill()
    finally:
        shutil.rmtree(folder)
