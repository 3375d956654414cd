"""Several processes write to one file at once: none fails, none starves, none waits long."""

import asyncio
import time
from pathlib import Path

import msgspec

from conftest import free_port, knownas, start, stop
from knownas.storage.sqlite_file import BUSY_TIMEOUT_MS
from soak.report import Soak
from soak.wire import Requests, connect, run

PROCESSES = 4
CLIENTS_A_PROCESS = 8


class Load:
    """What the clients of one process saw."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.latencies: list[float] = []
        self.refused = 0


async def write(port: int, requests: Requests, customer: str, end: float, load: Load) -> None:
    """Write for one customer without a pause until `end`."""
    connection = await connect(port)
    assert (await connection.ask(requests.create(customer))).status == 200
    number = 0
    while (began := time.monotonic()) < end:
        number += 1
        values = {"branch_id": f"b{number}", "appsflyer_id": f"a{number}"}
        answer = await connection.ask(requests.set(customer, values))
        load.latencies.append(time.monotonic() - began)
        load.refused += answer.status != 200
    connection.close()


def test_processes_that_write_at_once_get_a_fair_share(soak: Soak, tmp_path: Path) -> None:
    """Four processes write to one file: no 503, a fair share each, no long wait."""
    seconds = soak.count(sample=3, full=60)
    database = f"sqlite:///{tmp_path}/knownas.db"
    ports = [free_port() for _ in range(PROCESSES)]
    processes = [start(database, port) for port in ports]
    key = msgspec.json.decode(knownas("key", "create", "--json", database=database))["key"]
    loads = [Load() for _ in ports]

    async def main() -> None:
        end = time.monotonic() + seconds
        await asyncio.gather(
            *(
                write(port, Requests(key), f"c{port}-{number}", end, load)
                for port, load in zip(ports, loads, strict=True)
                for number in range(CLIENTS_A_PROCESS)
            )
        )

    run(main)
    assert [stop(process) for process in processes] == [0] * PROCESSES
    counts = [len(load.latencies) for load in loads]
    refused = sum(load.refused for load in loads)
    latencies = sorted(latency for load in loads for latency in load.latencies)
    p99, longest = latencies[int(len(latencies) * 0.99)], latencies[-1]
    fairness = min(counts) / max(counts)
    soak.record(
        34,
        f"{PROCESSES} processes writing to one file, {CLIENTS_A_PROCESS} clients each",
        f"{sum(counts):,} writes in {seconds} s, {refused} refused; smallest to largest share "
        f"{fairness:.2f}; p99 {p99 * 1e3:.0f} ms, longest {longest * 1e3:.0f} ms",
    )
    assert refused == 0
    assert fairness > 0.5
    assert p99 < 1
    assert longest < BUSY_TIMEOUT_MS / 1_000
    assert knownas("check", database=database) == "All is well.\n"
