"""One load on one server: wrk, and what the kernel counts meanwhile."""

import shutil
import subprocess
import time
from pathlib import Path
from typing import Final

import msgspec

from bench import proc
from bench.servers import LOAD_CORE, SERVER_CORE, Running

SCRIPT: Final = Path(__file__).with_suffix(".lua")
_MARK: Final = "knownas-bench "
_QUIET_SECONDS: Final = 10.0
"""How long to wait at most until a server has done what a load left to do."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What wrk found, and what it cost."""

    requests: int
    microseconds: int
    refused: int
    """Answered by a status of 400 or above."""
    broken: int
    """Not answered: connections that failed, and answers that did not come in time."""
    p50: int
    p99: int
    p999: int
    """In microseconds, as all latencies here."""
    cpu_us: float = 0.0
    server_busy: float = 0.0
    load_busy: float = 0.0
    stolen: float = 0.0


def missing() -> str | None:
    """Say what has to be installed; None when all is there."""
    return None if shutil.which("wrk") else "wrk is not installed: apt-get install wrk"


def run(server: Running, requests: Path, *, connections: int, seconds: float) -> Outcome:
    """Send the requests of a file to a server for a while, as fast as it answers."""
    pids = server.pids()
    cpu = proc.cpu_seconds(pids)
    before = proc.cores()
    text = subprocess.run(
        [
            *("taskset", "--cpu-list", str(LOAD_CORE), "wrk", "--threads", "1"),
            *("--connections", str(connections), "--duration", f"{max(1, round(seconds))}s"),
            *("--timeout", "10s", "--script", str(SCRIPT), server.url, "--", str(requests)),
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    after = proc.cores()
    cpu = proc.cpu_seconds(pids) - cpu
    line = next(line for line in text.splitlines() if line.startswith(_MARK))
    found = msgspec.json.decode(line.removeprefix(_MARK), type=Outcome)
    server_core, load_core = f"cpu{SERVER_CORE}", f"cpu{LOAD_CORE}"
    return msgspec.structs.replace(
        found,
        cpu_us=cpu / max(1, found.requests) * 1e6,
        server_busy=proc.busy(before[server_core], after[server_core]),
        load_busy=proc.busy(before[load_core], after[load_core]),
        stolen=proc.stolen(before["cpu"], after["cpu"]),
    )


def wait_until_quiet(server: Running) -> None:
    """Return when the server does nothing any more, be it a checkpoint after the writes."""
    deadline = time.monotonic() + _QUIET_SECONDS
    pids = server.pids()
    used = proc.cpu_seconds(pids)
    while time.monotonic() < deadline:
        time.sleep(0.2)
        before, used = used, proc.cpu_seconds(pids)
        if used - before < 0.02:  # noqa: PLR2004 - two ticks of a fifth of a second
            return
