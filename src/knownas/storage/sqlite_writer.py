"""Group commit: one thread, one connection, many writes to a transaction.

A durable commit costs a flush of the disk whether it holds one write or five hundred. So writes
are handed over once per turn of the event loop, and whatever queued while the last commit was
running shares the next. There is no timer: waiting for company costs a lone client most of its
rate and gains a crowd nothing. A write is answered after the commit that holds it.
"""

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple, TypeVar

import apsw

from knownas.condition import Work
from knownas.errors import ServiceUnavailable
from knownas.storage.sqlite_checkpoint import Checkpoints
from knownas.storage.sqlite_errors import translated
from knownas.storage.sqlite_reserve import Reserve

T = TypeVar("T")

MAX_WAITING: Final = 10_000
"""Writes that may wait for a commit; one more is refused with ServiceUnavailable."""


_INTERRUPT_SECONDS: Final = 0.05
_STOPPING: Final = "The server is stopping; send the same request again."


class _Write(NamedTuple):
    work: Callable[[apsw.Connection], Any]
    erases: bool
    future: asyncio.Future[Any]
    alone: bool = False


_Answer = tuple[_Write, object]
"""A write and its outcome; an outcome that is an exception is one to raise."""


class GroupCommit:
    """Runs writes on one connection that no one else uses.

    The writes may come from one event loop after another, never from two at once.
    """

    def __init__(
        self,
        connection: apsw.Connection,
        before_acknowledging: Callable[[], None],
        checkpoints: Checkpoints,
        reserve: Reserve,
        work: Work,
    ) -> None:
        """Take over a connection, its checkpoints and a reserve; `close` closes them.

        `before_acknowledging` is called in the event loop's thread before a group is answered.
        """
        connection.set_wal_hook(checkpoints.committed)
        self._checkpoints = checkpoints
        self._reserve = reserve
        self._work = work
        self._before_acknowledging = before_acknowledging
        self._connection = connection
        self._this_turn: list[_Write] = []
        self._turn_of: asyncio.AbstractEventLoop | None = None
        self._inbox: queue.SimpleQueue[list[_Write] | None] = queue.SimpleQueue()
        self._waiting = 0
        self._closed = False
        self._is_alone = False
        self._thread = threading.Thread(target=self._run, name="knownas-writer", daemon=True)
        self._thread.start()

    def run(
        self, work: Callable[[apsw.Connection], T], *, erases: bool = False
    ) -> asyncio.Future[T]:
        """Have `work` run inside the next transaction; its result is there once that is durable.

        It is run again, from the beginning, where a neighbour failed halfway.

        On a full disk only what `erases` is still done, alone, out of the reserve.

        What `work` raises is the future's exception, and undone without harm to its neighbours;
        when the commit fails, it is ServiceUnavailable. Cancelling the future does not cancel
        the write. Raises ServiceUnavailable when too many writes wait already, or the writer is
        closed.
        """
        return self._take(work, erases=erases, alone=False)

    def run_alone(self, work: Callable[[apsw.Connection], T]) -> asyncio.Future[T]:
        """Have `work` run between two groups, in no transaction; all other writes wait for it.

        `close` breaks it off. Raises as `run`.
        """
        return self._take(work, erases=False, alone=True)

    def _take(
        self, work: Callable[[apsw.Connection], T], *, erases: bool, alone: bool
    ) -> asyncio.Future[T]:
        if self._closed:
            raise ServiceUnavailable(_STOPPING)
        if self._waiting >= MAX_WAITING:
            raise ServiceUnavailable("Too many writes are waiting; send it again.")
        loop = asyncio.get_running_loop()
        if not self._this_turn or self._turn_of is not loop:
            self.hand_over()  # what a loop that is gone left behind
            self._turn_of = loop
            loop.call_soon(self.hand_over)
        write = _Write(work, erases, loop.create_future(), alone)
        self._this_turn.append(write)
        self._waiting += 1
        return write.future

    @property
    def waiting(self) -> int:
        """How many writes wait for their commit."""
        return self._waiting

    def hand_over(self) -> None:
        """Give the writes of this turn to the thread."""
        if self._this_turn:
            turn, self._this_turn = self._this_turn, []
            self._inbox.put(turn)

    def close(self) -> None:
        """Finish the writes that were handed over, then close the database."""
        self._closed = True
        self._inbox.put(None)
        while self._thread.is_alive():
            if self._is_alone:
                self._connection.interrupt()
            self._thread.join(_INTERRUPT_SECONDS)
        self._connection.close()
        self._checkpoints.close()
        self._reserve.close()

    # --- in the thread ------------------------------------------------------------------------

    def _run(self) -> None:
        last = False
        while not last and (group := self._inbox.get()) is not None:
            while not last and not self._inbox.empty():
                more = self._inbox.get()
                last = more is None
                group += more or []
            alone = [write for write in group if write.alone]
            if alone:
                group = [write for write in group if not write.alone]
            if group:
                began = time.perf_counter_ns()
                outcomes = self._commit(group)
                self._work.tell("write", len(group), time.perf_counter_ns() - began)
                self._answer(zip(group, outcomes, strict=True))
            self._checkpoints.between_groups()
            for write in alone:
                self._answer([(write, self._do_alone(write))])

    def _answer(self, answers: Iterable[_Answer]) -> None:
        by_loop: dict[asyncio.AbstractEventLoop, list[_Answer]] = {}
        for write, outcome in answers:
            by_loop.setdefault(write.future.get_loop(), []).append((write, outcome))
        for loop, its_own in by_loop.items():
            with contextlib.suppress(RuntimeError):  # it is gone, and with it whoever waited
                loop.call_soon_threadsafe(self._settle, its_own)

    def _do_alone(self, write: _Write) -> object:
        """Do what no transaction is to be open for, and return its outcome."""
        self._is_alone = True
        try:
            if self._closed:
                return ServiceUnavailable(_STOPPING)
            self._roll_back()
            with self._checkpoints.none_meanwhile():
                return write.work(self._connection)
        except BaseException as error:  # noqa: BLE001 - the thread lives on whatever happens
            return translated(error)
        finally:
            self._is_alone = False

    def _commit(self, group: list[_Write]) -> list[object]:
        """Run a group in one transaction, or what of it can be done, and return its outcomes."""
        try:
            self._reserve.require()
            return self._transact(group)
        except (apsw.FullError, apsw.IOError) as error:  # IOError: over quota, among others
            full = error
        except BaseException as error:  # noqa: BLE001 - the thread lives on whatever happens
            return _failures(error, len(group))
        if not any(write.erases for write in group):
            return _failures(full, len(group))
        with self._reserve.lent():
            self._checkpoints.empty_log()
            outcomes = [
                outcome
                for write in group
                for outcome in (self._erase(write) if write.erases else _failures(full))
            ]
            self._checkpoints.empty_log()
        return outcomes

    def _erase(self, write: _Write) -> list[object]:
        """Run one write in a transaction of its own and return its outcome."""
        try:
            return self._transact([write])
        except BaseException as error:  # noqa: BLE001 - as above
            return _failures(error)

    def _transact(self, group: list[_Write]) -> list[object]:
        """Run a group in one transaction and return its outcomes. Raises when that fails."""
        try:
            self._roll_back()  # where the last group could not
            self._connection.execute("BEGIN IMMEDIATE")
            outcomes = self._run_all(group)
            if outcomes is None:
                self._connection.execute("ROLLBACK; BEGIN IMMEDIATE")
                outcomes = [self._run_behind_savepoint(write) for write in group]
            self._connection.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(apsw.Error):
                self._roll_back()
            raise
        return outcomes

    def _run_all(self, group: list[_Write]) -> list[object] | None:
        """Run a group and return its outcomes; None where a failed write has changed something.

        Nearly all that fails does so before its first change, so there is nothing to undo. A
        savepoint before each write would copy every page that it changes.
        """
        connection = self._connection
        outcomes: list[object] = []
        for write in group:
            changes = connection.total_changes()
            try:
                outcomes.append(write.work(connection))
            except Exception as error:
                if self._ends_all(error):
                    raise
                if connection.total_changes() != changes:
                    return None
                outcomes.append(translated(error))
        return outcomes

    def _run_behind_savepoint(self, write: _Write) -> object:
        execute = self._connection.execute
        execute("SAVEPOINT one")
        try:
            outcome = write.work(self._connection)
        except Exception as error:
            if self._ends_all(error):
                raise
            execute("ROLLBACK TO one")
            outcome = translated(error)
        execute("RELEASE one")
        return outcome

    def _ends_all(self, error: Exception) -> bool:
        """Tell whether the whole transaction is over with this error of one write."""
        return isinstance(error, apsw.FullError) or not self._connection.in_transaction

    def _roll_back(self) -> None:
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")

    # --- back in the event loop -----------------------------------------------------------------

    def _settle(self, answers: list[_Answer]) -> None:
        self._waiting -= len(answers)
        self._before_acknowledging()
        for write, outcome in answers:
            if write.future.done():  # its caller was cancelled
                continue
            if isinstance(outcome, BaseException):
                write.future.set_exception(outcome)
            else:
                write.future.set_result(outcome)


def _failures(error: BaseException, count: int = 1) -> list[object]:
    """Return an error of its own for each write of a group that failed as a whole."""
    if count == 1:
        return [translated(error)]
    return [_failure(error) for _ in range(count)]


def _failure(error: BaseException) -> BaseException:
    """Return an error of its own for one write of a group that failed as a whole."""
    known = translated(error)
    if known is not error:
        return known
    failure = RuntimeError("The transaction of a group of writes failed.")
    failure.__cause__ = error
    return failure
