"""A server under measurement: started on a core of its own, looked at from outside."""

import http.client
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from bench import proc

SERVER_CORE: Final = 0
LOAD_CORE: Final = 1
HOST: Final = "127.0.0.1"

ROOT: Final = Path(__file__).parent.parent
_START_SECONDS: Final = 120
_STOP_SECONDS: Final = 30


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.create_server((HOST, 0)) as probe:
        port: int = probe.getsockname()[1]
    return port


class Running:
    """A server that runs: one process or several, with all that they start."""

    def __init__(self, name: str, *, port: int, database: Path, log: Path) -> None:
        """Prepare to run the server `name` on a port; nothing runs yet."""
        self.name = name
        self.port = port
        self.url = f"http://{HOST}:{port}"
        self._database = database
        self._log = log
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(
        self,
        command: Sequence[str],
        *,
        port: int | None = None,
        environment: Mapping[str, str] | None = None,
        folder: Path = ROOT,
    ) -> None:
        """Start a process of it on the server's core, and wait until its port answers."""
        inherited = {name: v for name, v in os.environ.items() if not name.startswith("KNOWNAS_")}
        with self._log.open("ab") as log:
            process = subprocess.Popen(
                ["taskset", "--cpu-list", str(SERVER_CORE), *command],
                cwd=folder,
                env={**inherited, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self._processes.append(process)
        deadline = time.monotonic() + _START_SECONDS
        while process.poll() is None and time.monotonic() < deadline:
            try:
                socket.create_connection((HOST, port or self.port)).close()
            except OSError:
                time.sleep(0.05)
            else:
                return
        self.stop()
        raise RuntimeError(f"{self.name} did not start; {self._log} says why.")

    def ask(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes | None = None
    ) -> tuple[int, bytes]:
        """Send one request and return the status and the body of its answer."""
        connection = http.client.HTTPConnection(HOST, self.port, timeout=30)
        try:
            connection.request(method, path, body, dict(headers))
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def pids(self) -> list[int]:
        """Return its processes."""
        return proc.tree(process.pid for process in self._processes)

    def private_bytes(self) -> int:
        """Return the memory that it has for itself, the mapped database aside."""
        return proc.private_bytes(self.pids(), but=self._database)

    def stop(self) -> None:
        """Stop it."""
        for process in reversed(self._processes):
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes.clear()
