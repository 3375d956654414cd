"""What checkpoints cost the writes: durable POSTs, by versions of the source in turns.

    python bench/checkpoints.py --against ../before/src

Runs `knownas serve` of this source, and of each that --against names, in short turns, each on a
fresh copy of a database that it made itself, and prints per version the median over the turns of
requests/s and of latencies, with the longest log that was seen.
"""

import argparse
import asyncio
import json
import os
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final, NamedTuple

import uvloop

HERE: Final = Path(__file__).parent.parent / "src"
PATH: Final = "/api/v2/server-side-api/integration/profile/set/integration-identifiers/"
START_SECONDS: Final = 30


class Turn(NamedTuple):
    """What one turn measured; times in milliseconds."""

    rate: float
    p50: float
    p99: float
    p999: float
    longest: float
    log_mib: float


class Client(asyncio.Protocol):
    """One connection that posts again as soon as it is answered, until `end`."""

    def __init__(self, requests: list[bytes], dice: random.Random, end: float) -> None:
        """Send any of `requests`."""
        self._requests = requests
        self._dice = dice
        self._end = end
        self.latencies: list[float] = []
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin."""
        self._transport = transport
        self._send()

    def data_received(self, data: bytes) -> None:
        """Take an answer: it has no body, so it comes in one piece."""
        self.latencies.append(time.perf_counter() - self._sent)
        assert data.startswith(b"HTTP/1.1 200 "), data
        if self._sent < self._end:
            self._send()
        else:
            self._transport.close()
            self.done.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail if the server closed."""
        if not self.done.done():
            self.done.set_exception(exc or ConnectionResetError())

    def _send(self) -> None:
        self._sent = time.perf_counter()
        self._transport.write(self._dice.choice(self._requests) % time.time_ns())


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--against", type=Path, action="append", default=[], metavar="SRC", help="a src/ folder"
    )
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--profiles", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=5.0, help="of one turn")
    parser.add_argument("--turns", type=int, default=5, help="of each version")
    parser.add_argument("--folder", type=Path, help="where the database is; default: temporary")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    sources = [HERE, *(source.resolve() for source in options.against)]
    turns: dict[Path, list[Turn]] = {source: [] for source in sources}
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        made = {}
        for number, source in enumerate(sources):
            original = Path(folder) / f"original-{number}.db"
            key = make_database(source, original, options.profiles)
            made[source] = original, [post(key, number) for number in range(options.profiles)]
        for number in range(options.turns):
            for source in sources:
                turn = run_turn(source, *made[source], options)
                turns[source].append(turn)
                print(f"turn {number + 1}, {source}: {turn}", file=sys.stderr, flush=True)
    medians = {
        str(source): Turn(*(statistics.median(column) for column in zip(*found, strict=True)))
        for source, found in turns.items()
    }
    if options.json:
        print(json.dumps({source: median._asdict() for source, median in medians.items()}))
        return
    print(f"\n{options.connections} connections, medians of {options.turns} turns")
    print(f"{'POST/s':>8} {'p50':>7} {'p99':>7} {'p99.9':>7} {'longest':>7}  log MiB")
    for name, (rate, p50, p99, p999, longest, log_mib) in medians.items():
        times = f"{p50:7.1f} {p99:7.1f} {p999:7.1f} {longest:7.1f}"
        print(f"{rate:8,.0f} {times}  {log_mib:7.1f}  {name}")


def make_database(source: Path, path: Path, profiles: int) -> str:
    """Have one version make a database of demo profiles, and return a key to it."""
    for arguments in (
        ["migrate"],
        ["app", "create", "default"],
        ["demo", str(profiles)],
        ["key", "create", "--json"],
    ):
        output = subprocess.check_output(
            [sys.executable, "-m", "knownas", *arguments], env=environment(source, path)
        )
    key: str = json.loads(output)["key"]
    return key


def environment(source: Path, database: Path) -> dict[str, str]:
    """Return the environment of a command of one version on a database."""
    return {
        **os.environ,
        "PYTHONPATH": str(source),
        "KNOWNAS_DATABASE": f"sqlite:///{database}",
        "KNOWNAS_ACCESS_LOG": "off",
        "KNOWNAS_AUTO_CREATE_PROFILES": "on",  # for the demo's anonymous share
    }


def post(key: str, number: int) -> bytes:
    """Return the request that sets three identifiers of one customer, with a place for a time.

    The time is in one of the values, so that no request writes what is there already.
    """
    body = json.dumps(
        {
            "appsflyer_id": f"%019d-{number:07}",
            "mixpanel_user_id": f"{random.getrandbits(128):032x}",
            "firebase_app_instance_id": f"{random.getrandbits(128):032X}",
        }
    )
    length = len(body) - len("%019d") + 19
    return (
        f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Api-Key {key}\r\n"
        f"adapty-customer-user-id: user-{number}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {length}\r\n\r\n{body}"
    ).encode()


def run_turn(
    source: Path, original: Path, requests: list[bytes], options: argparse.Namespace
) -> Turn:
    """Start one version on a copy of the database, post for a while, and stop it."""
    database = original.with_name("knownas.db")
    copy(original, database)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "knownas", "serve", "--port", str(port)],
        env=environment(source, database),
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(port)
        log = Path(f"{database}-wal")
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(load(port, requests, log, options))
    finally:
        server.terminate()
        server.wait()


def copy(original: Path, database: Path) -> None:
    """Copy a database, and have the disk done with it, so that it does nothing else in a turn."""
    shutil.copyfile(original, database)
    with database.open("rb") as file:
        os.fsync(file.fileno())


def wait_for(port: int) -> None:
    """Return when the server accepts connections."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            time.sleep(0.05)
        else:
            return
    raise TimeoutError


async def load(port: int, requests: list[bytes], log: Path, options: argparse.Namespace) -> Turn:
    """Post over all connections at once and return what that measured."""
    loop = asyncio.get_running_loop()
    end = time.perf_counter() + options.seconds
    clients: list[Client] = []
    for number in range(options.connections):
        _, client = await loop.create_connection(
            lambda number=number: Client(requests, random.Random(number), end),  # type: ignore[misc]
            "127.0.0.1",
            port,
        )
        clients.append(client)
    longest_log = 0
    while time.perf_counter() < end:
        await asyncio.sleep(0.05)
        longest_log = max(longest_log, log.stat().st_size)  # noqa: ASYNC240 - a microsecond
    await asyncio.gather(*(client.done for client in clients))
    latencies = sorted(latency * 1e3 for client in clients for latency in client.latencies)
    count = len(latencies)
    p50, p99, p999 = (latencies[int(count * part)] for part in (0.5, 0.99, 0.999))
    rate = count / options.seconds
    return Turn(rate, p50, p99, p999, latencies[-1], longest_log / 2**20)


if __name__ == "__main__":
    main()
