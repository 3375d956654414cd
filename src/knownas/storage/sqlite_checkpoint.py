"""Checkpoints beside the commits: what the write-ahead log holds, brought into the database.

SQLite's own run inside the commit that made the log long, so that one write in a few hundred
waits for two flushes of the disk and a thousand pages, and with it all that queue behind it.
Here a thread does the work on a connection of its own, while the commits go on.

While commits go on, though, the log never is all in the database, so it could not begin anew
and would grow without bound. Hence the second step: when it has become long, and the thread has
just done nearly all of the work, the writer does the small rest between two of its groups.
"""

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Final

import apsw

from knownas.condition import Work

PASS_PAGES: Final = 4_000
"""So many pages more in the log are worth a pass of the thread: 8 MiB."""

LONG_PAGES: Final = 4_000
"""A log of so many pages is made to begin anew, plus what is written meanwhile."""

PATIENCE_SECONDS: Final = 0.05
"""How long the second step may wait for other processes; if in vain, it is tried again later."""

_POLL_SECONDS: Final = 0.0003


class Checkpoints:
    """Brings the log of one database into it, again and again."""

    def __init__(self, connection: apsw.Connection, work: Work) -> None:
        """Take over a connection that no one else uses; it is closed by `close`."""
        self._work = work
        self._connection = connection
        self._connection.set_busy_handler(self._wait_for_others)
        self._using = threading.Lock()
        self._wanted = threading.Event()
        self._closed = False
        self._pages = 0
        self._pass_at = PASS_PAGES
        self._long_at = LONG_PAGES
        self._nearly_done = False
        self._waits_until = 0.0
        self._thread = threading.Thread(target=self._run, name="knownas-checkpoint", daemon=True)
        self._thread.start()

    def committed(self, _connection: apsw.Connection, _database: str, pages: int) -> int:
        """Note how long the log is after a commit: the hook of the writer's connection."""
        if pages < self._pages:  # it began anew
            self._pass_at, self._long_at = PASS_PAGES, LONG_PAGES
        self._pages = pages
        if pages >= self._pass_at:
            self._pass_at = pages + PASS_PAGES
            self._wanted.set()
        return apsw.SQLITE_OK

    def between_groups(self) -> None:
        """Let a long log begin anew: called by the writer where it holds no transaction."""
        if self._nearly_done:
            self._nearly_done = False
            # A reader that stays long keeps the log from it: do not ask at every commit.
            self._long_at = self._pages + LONG_PAGES
            with self._using:
                self._checkpoint(apsw.SQLITE_CHECKPOINT_RESTART)

    def empty_log(self) -> None:
        """Bring the whole log into the database and cut it off, if other processes let it."""
        with self._using:
            self._checkpoint(apsw.SQLITE_CHECKPOINT_TRUNCATE)

    @contextlib.contextmanager
    def none_meanwhile(self) -> Iterator[None]:
        """Keep the thread from the log while the writer has a use for it."""
        with self._using:
            yield

    def close(self) -> None:
        """Empty the log, and close the connection."""
        self._closed = True
        self._wanted.set()
        self._thread.join()
        self.empty_log()
        self._connection.close()

    def _run(self) -> None:
        while self._wanted.wait() and not self._closed:
            self._wanted.clear()
            with self._using:
                self._checkpoint(apsw.SQLITE_CHECKPOINT_PASSIVE)
            self._nearly_done = self._pages >= self._long_at

    def _checkpoint(self, mode: int) -> None:
        self._waits_until = time.monotonic() + PATIENCE_SECONDS
        began = time.perf_counter_ns()
        # What fails here is done by the next one. A disk that is full or broken fails the
        # commits too, and theirs is the error to tell.
        with contextlib.suppress(apsw.Error):
            self._connection.wal_checkpoint(mode=mode)
        self._work.tell("checkpoint", 1, time.perf_counter_ns() - began)

    def _wait_for_others(self, _attempts: int) -> bool:
        time.sleep(_POLL_SECONDS)
        return time.monotonic() < self._waits_until
