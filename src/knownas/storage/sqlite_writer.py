"""Group commit: one thread, one connection, many writes to a transaction.

A durable commit costs a flush of the disk whether it holds one write or five hundred. So writes
are handed over once per turn of the event loop, and whatever queued while the last commit was
running shares the next. There is no timer: waiting for company costs a lone client most of its
rate and gains a crowd nothing. A write is answered after the commit that holds it.
"""

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import Any, Final, NamedTuple, TypeVar

import apsw

from knownas.errors import ServiceUnavailable
from knownas.storage.sqlite_errors import translated

T = TypeVar("T")

MAX_WAITING: Final = 10_000
"""Writes that may wait for a commit; one more is refused with ServiceUnavailable."""


class _Write(NamedTuple):
    work: Callable[[apsw.Connection], Any]
    future: asyncio.Future[Any]


class GroupCommit:
    """Runs writes from event loops on one connection that no one else uses."""

    def __init__(self, connection: apsw.Connection) -> None:
        """Take over a connection; it is closed by `close`."""
        self._connection = connection
        self._this_turn: list[_Write] = []
        self._inbox: queue.SimpleQueue[list[_Write] | None] = queue.SimpleQueue()
        self._waiting = 0
        self._thread = threading.Thread(target=self._run, name="knownas-writer", daemon=True)
        self._thread.start()

    async def run(self, work: Callable[[apsw.Connection], T]) -> T:
        """Run `work` inside the next transaction and return its result once that is durable.

        What `work` raises is raised here, and undone without harm to its neighbours. Cancelling
        the caller does not cancel the write. Raises ServiceUnavailable when the commit fails or
        too many writes wait already.
        """
        if self._waiting >= MAX_WAITING:
            raise ServiceUnavailable("Too many writes are waiting; send it again.", retry_after=1)
        loop = asyncio.get_running_loop()
        if not self._this_turn:
            loop.call_soon(self._hand_over)
        write = _Write(work, loop.create_future())
        self._this_turn.append(write)
        self._waiting += 1
        result: T = await write.future
        return result

    def close(self) -> None:
        """Finish the writes that were handed over, then close the connection."""
        self._hand_over()
        self._inbox.put(None)
        self._thread.join()
        self._connection.close()

    def _hand_over(self) -> None:
        if self._this_turn:
            turn, self._this_turn = self._this_turn, []
            self._inbox.put(turn)

    def _run(self) -> None:
        while (group := self._inbox.get()) is not None:
            last = False
            while not self._inbox.empty():
                more = self._inbox.get()
                if more is None:
                    last = True
                    break
                group += more
            outcomes = self._commit(group)
            try:
                group[0].future.get_loop().call_soon_threadsafe(self._settle, group, outcomes)
            except RuntimeError:  # the loop is gone, and with it whoever waited
                self._waiting -= len(group)
            if last:
                return

    def _commit(self, group: list[_Write]) -> list[object]:
        """Run a group in one transaction; an outcome that is an exception is one to raise."""
        execute = self._connection.execute
        outcomes: list[object] = []
        try:
            execute("BEGIN IMMEDIATE")
            for write in group:
                execute("SAVEPOINT one")
                try:
                    outcomes.append(write.work(self._connection))
                except Exception as error:  # noqa: BLE001 - it is this write's outcome
                    # Where SQLite gave up the whole transaction, this fails too, and so does all.
                    execute("ROLLBACK TO one")
                    outcomes.append(translated(error))
                execute("RELEASE one")
            execute("COMMIT")
        except apsw.Error as error:
            if self._connection.in_transaction:
                execute("ROLLBACK")
            return [translated(error)] * len(group)
        return outcomes

    def _settle(self, group: list[_Write], outcomes: list[object]) -> None:
        self._waiting -= len(group)
        for write, outcome in zip(group, outcomes, strict=True):
            if write.future.done():  # its caller was cancelled
                continue
            if isinstance(outcome, BaseException):
                write.future.set_exception(outcome)
            else:
                write.future.set_result(outcome)
