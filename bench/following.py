"""Whether a follower of the feed keeps up with durable POSTs at full rate.

    python -m bench.following

Runs `knownas serve` in short turns, each on a fresh copy of a database that it made itself. In
every other turn a process reads the feed all the while, page by page with `wait`. Its rate stands
beside that of the POSTs, and how long it took after the last of them until it had all. At the end
it reads the same changes again when nobody writes: how fast the feed can be read at all.
"""

import argparse
import asyncio
import http.client
import json
import multiprocessing
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final, NamedTuple

import uvloop

from bench.checkpoints import HERE, copy, environment, load, make_database, post, wait_for

PATH: Final = "/api/v1/changes/"
PAGE: Final = 1_000
SERVER_CORE: Final = 0
LOAD_CORE: Final = 1


class Turn(NamedTuple):
    """What one turn measured."""

    posts: float
    """A second."""
    followed: float
    """Changes a second, until the last POST was answered."""
    behind: float
    """Seconds from then until the follower had every change."""
    read_alone: float
    """Changes a second, read again when nobody writes."""


class Feed:
    """The feed of one server, over one connection."""

    def __init__(self, port: int, key: str) -> None:
        """Connect."""
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self._headers = {"Authorization": f"Api-Key {key}"}

    def page(self, after: str, *, wait: int = 0, limit: int = PAGE) -> tuple[int, str]:
        """Return how many changes come after a cursor, and where to go on."""
        query = f"{PATH}?after={after}&limit={limit}&wait={wait}"
        self._connection.request("GET", query, headers=self._headers)
        answer: dict[str, Any] = json.loads(self._connection.getresponse().read())
        return len(answer["data"]), answer["next"]


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--profiles", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=5.0, help="of one turn")
    parser.add_argument("--turns", type=int, default=5, help="with a follower, and as many without")
    parser.add_argument("--folder", type=Path, help="where the database is; default: temporary")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    turns: dict[bool, list[Turn]] = {True: [], False: []}
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        original = Path(folder) / "original.db"
        key = make_database(HERE, original, options.profiles)
        for number in range(options.turns * 2):
            follows = number % 2 == 0
            turn = run_turn(original, key, options, follows=follows)
            turns[follows].append(turn)
            print(f"turn {number + 1}, follower {follows}: {turn}", file=sys.stderr, flush=True)
    if options.json:
        print(json.dumps({str(follows): found for follows, found in turns.items()}))
        return
    print(f"\n{options.profiles:,} profiles, {options.connections} connections, medians (min-max)")
    print(f"POST/s alone               {spread([turn.posts for turn in turns[False]])}")
    print(f"POST/s with a follower     {spread([turn.posts for turn in turns[True]])}")
    print(f"changes/s followed         {spread([turn.followed for turn in turns[True]])}")
    ratios = [turn.followed / turn.posts for turn in turns[True]]
    print(f"followed to POSTs          {spread(ratios, 3)}")
    print(f"behind at the end, ms      {spread([turn.behind * 1e3 for turn in turns[True]])}")
    print(f"changes/s, nobody writing  {spread([turn.read_alone for turn in turns[True]])}")


def spread(found: list[float], digits: int = 0) -> str:
    """Return a median with the lowest and the highest."""
    median = statistics.median(found)
    return f"{median:9,.{digits}f}  ({min(found):,.{digits}f}-{max(found):,.{digits}f})"


def run_turn(original: Path, key: str, options: argparse.Namespace, *, follows: bool) -> Turn:
    """Start the server on a copy of the database, post for a while, and stop it."""
    with running(original) as (database, port):
        start = Feed(port, key).page("now", limit=1)[1]
        ours, theirs = multiprocessing.Pipe()
        follower = multiprocessing.Process(target=follow, args=(port, key, start, theirs))
        if follows:
            follower.start()
            ours.recv()
        requests = [post(key, number) for number in range(options.profiles)]
        log = Path(f"{database}-wal")
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            rate = runner.run(load(port, requests, log, options)).rate
        if not follows:
            return Turn(rate, 0, 0, 0)
        ended = time.monotonic()
        ours.send(round(rate * options.seconds))
        by_then, caught_up = ours.recv()
        follower.join()
        began = time.monotonic()
        count = read_all(Feed(port, key), start)
        took = time.monotonic() - began
        return Turn(rate, by_then / options.seconds, max(0.0, caught_up - ended), count / took)


@contextmanager
def running(original: Path) -> Iterator[tuple[Path, int]]:
    """Run the server on a copy of a database, on a core of its own."""
    database = original.with_name("knownas.db")
    copy(original, database)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [
            *("taskset", "-c", str(SERVER_CORE)),
            *(sys.executable, "-m", "knownas", "serve", "--port", str(port)),
        ],
        env=environment(HERE, database),
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(port)
        yield database, port
    finally:
        server.terminate()
        server.wait()


def follow(port: int, key: str, start: str, main: Connection) -> None:
    """Read the feed from `start`; told how many changes there are, go on until all were read.

    Sends how many had been read when it was told, and when the last one was there.
    """
    feed, cursor, count = Feed(port, key), start, 0
    by_then = expected = None
    main.send("ready")
    while expected is None or count < expected:
        found, cursor = feed.page(cursor, wait=1)
        count += found
        if expected is None and main.poll():
            by_then, expected = count, main.recv()
    main.send((by_then, time.monotonic()))


def read_all(feed: Feed, cursor: str) -> int:
    """Read all that there is after a cursor, and count it."""
    count = 0
    while True:
        found, cursor = feed.page(cursor)
        count += found
        if found < PAGE:
            return count


if __name__ == "__main__":
    main()
