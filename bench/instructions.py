"""What a hot GET costs in instructions, by versions of the source in turns, by callgrind.

    python bench/instructions.py --against ../before/src

Runs `knownas serve` of this source, and of each that --against names, under valgrind, each on a
database that it made itself, asks the same requests of each over one connection, and prints per
version the instructions a request: those of the process, none of the kernel's. They hardly depend
on what else the machine does, unlike times. What the process does by the clock, whoever asks,
weighs some fifty times as much under valgrind; it is counted in a pause that is as long, and taken
off.
"""

import argparse
import http.client
import itertools
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).parent.parent / "src"
PATH: Final = "/api/v2/server-side-api/integration/profile/set/integration-identifiers/"
PROFILES: Final = 10_000
START_SECONDS: Final = 300
WARMING: Final = 2_000
"""Requests before the count begins: the interpreter specialises what runs often."""

_total: Final = re.compile(r"^(?:summary|totals): (\d+)", re.MULTILINE).search


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--against", type=Path, action="append", default=[], metavar="SRC", help="a src/ folder"
    )
    parser.add_argument("--requests", type=int, default=5_000, help="of one turn")
    parser.add_argument("--turns", type=int, default=3, help="of each version")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    sources = [HERE, *(source.resolve() for source in options.against)]
    turns: dict[str, list[float]] = {str(source): [] for source in sources}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(options.turns):
            for source in sources:
                cost = run_turn(source, Path(folder), options.requests)
                turns[str(source)].append(cost)
                print(f"turn {number + 1}, {source}: {cost:,.0f}", file=sys.stderr, flush=True)
    if options.json:
        print(json.dumps(turns))
        return
    ours = statistics.median(turns[str(HERE)])
    for name, costs in turns.items():
        median = statistics.median(costs)
        print(
            f"{median:9,.0f} instructions a GET ({min(costs):,.0f} to {max(costs):,.0f}), "
            f"ours to it {ours / median:.3f}  {name}"
        )


def run_turn(source: Path, folder: Path, requests: int) -> float:
    """Start one version under callgrind, and return the instructions of one request."""
    database, key = made(source, folder)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    counted = folder / "callgrind.out"
    server = subprocess.Popen(
        [
            *("valgrind", "--tool=callgrind", f"--callgrind-out-file={counted}", "--quiet"),
            *(sys.executable, "-m", "knownas", "serve", "--port", str(port)),
        ],
        env=environment(source, database),
        stderr=subprocess.DEVNULL,
    )
    try:
        connection = connect(port)
        found = ask(connection, key, map("user-{}".format, range(0, PROFILES, 5)), WARMING)
        control("--zero", server.pid)
        began = time.monotonic()
        assert len(ask(connection, key, found, requests)) == requests
        took = time.monotonic() - began
        control("--dump", server.pid)
        time.sleep(took)
        control("--dump", server.pid)
        connection.close()
    finally:
        server.terminate()
        server.wait()
    dumps = sorted(folder.glob("callgrind.out*"), key=lambda path: path.stat().st_mtime)
    busy, idle, *_ = [int(match[1]) for path in dumps if (match := _total(path.read_text()))]
    for path in dumps:
        path.unlink()
    return (busy - idle) / requests


def made(source: Path, folder: Path) -> tuple[Path, str]:
    """Return a database that this version made, in an earlier turn or now, and a key to it."""
    database = folder / f"{source.parent.name}-{abs(hash(source))}.db"
    note = database.with_suffix(".key")
    if not note.exists():
        output = b""
        for arguments in (
            ["app", "create", "default"],
            ["demo", str(PROFILES)],
            ["key", "create", "--json"],
        ):
            output = subprocess.check_output(
                [sys.executable, "-m", "knownas", *arguments],
                env=environment(source, database),
                stderr=subprocess.DEVNULL,
            )
        note.write_text(json.loads(output)["key"])
    return database, note.read_text()


def environment(source: Path, database: Path) -> dict[str, str]:
    """Return the environment of a command of one version on a database."""
    return {
        **os.environ,
        "PYTHONPATH": str(source),
        "PYTHONHASHSEED": "0",
        "KNOWNAS_DATABASE": f"sqlite:///{database}",
        "KNOWNAS_ACCESS_LOG": "off",
        "KNOWNAS_REQUEST_SECONDS": "600",  # under valgrind all is some fifty times slower
    }


def connect(port: int) -> http.client.HTTPConnection:
    """Return a connection to the server once it accepts one."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        try:
            connection.connect()
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
        else:
            return connection


def ask(
    connection: http.client.HTTPConnection, key: str, customers: Iterable[str], requests: int
) -> list[str]:
    """Ask for the identifiers of one customer after another, and return those that were found."""
    found = []
    for customer in itertools.islice(itertools.cycle(customers), requests):
        headers = {"Authorization": f"Api-Key {key}", "adapty-customer-user-id": customer}
        connection.request("GET", PATH, headers=headers)
        response = connection.getresponse()
        response.read()
        if response.status == http.client.OK:
            found.append(customer)
    return found


def control(command: str, pid: int) -> None:
    """Tell callgrind to begin a count, or to write it down."""
    subprocess.run(
        ["callgrind_control", command, str(pid)],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


if __name__ == "__main__":
    main()
