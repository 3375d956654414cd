"""Reads beside the event loop: in one thread, over one connection that is kept.

What reads many profiles would hold up every other request if it ran in the loop's own thread. A
thread and a connection made for each such read would cost more than the read itself.
"""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

import apsw

from knownas.condition import Work
from knownas.errors import ServiceUnavailable
from knownas.storage.sqlite_errors import translated

T = TypeVar("T")

MAX_WAITING: Final = 1_000
"""Reads that may wait for the thread; one more is refused with ServiceUnavailable."""


class ReaderBeside:
    """Runs reads, one after another."""

    def __init__(self, connect: Callable[[], apsw.Connection], work: Work) -> None:
        """Read over a connection that `connect` makes when there is something to read."""
        self._work = work
        self._connect = connect
        self._connection: apsw.Connection | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="knownas-reader")
        self._waiting = 0
        self._closed = False

    @property
    def waiting(self) -> int:
        """How many reads wait, or are under way."""
        return self._waiting

    async def read(self, read: Callable[[apsw.Connection], T]) -> T:
        """Run `read` in a transaction of its own: it sees one snapshot.

        Raises ServiceUnavailable when too many reads wait already, or it is closed.
        """
        if self._closed:
            raise ServiceUnavailable("The server is stopping; send the same request again.")
        if self._waiting >= MAX_WAITING:
            raise ServiceUnavailable("Too many reads are waiting; send it again.")
        loop = asyncio.get_running_loop()
        self._waiting += 1
        try:
            return await loop.run_in_executor(self._thread, self._run, read)
        except apsw.Error as error:
            raise translated(error) from error
        finally:
            self._waiting -= 1

    def _run(self, read: Callable[[apsw.Connection], T]) -> T:
        if self._connection is None:
            self._connection = self._connect()
        began = time.perf_counter_ns()
        with self._connection:
            found = read(self._connection)
        self._work.tell("lookup", 1, time.perf_counter_ns() - began)
        return found

    def close(self) -> None:
        """Finish the reads that were begun, then close the connection."""
        self._closed = True
        self._thread.shutdown()
        if self._connection is not None:
            self._connection.close()
