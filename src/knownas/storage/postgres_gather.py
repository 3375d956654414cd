"""Gathering: what is asked in one turn of the event loop goes to the database together.

A query costs a way there and back, and more time of both sides than the row that it fetches. So
questions of one kind are gathered, and whatever gathered while all connections were at work is
asked next, in one query or one transaction. There is no timer, as in `sqlite_writer.py`.

Each question has a deadline. One that still waits then is refused; one that was sent is cut off
with its connection. Either way it fails as something that may be repeated.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Generic, TypeVar

from knownas.condition import Operation, Work
from knownas.errors import ServiceUnavailable
from knownas.storage.postgres_errors import passes, translated
from knownas.storage.postgres_link import Link, Target

Q = TypeVar("Q")
A = TypeVar("A")

MAX_WAITING: Final = 10_000
"""Questions of one kind that may wait for a connection; one more is refused."""

MOST_AT_ONCE: Final = 500
"""Questions to a query, and writes to a transaction, where nothing else is said."""

Asks = Callable[[Link, list[Q]], Awaitable[Sequence[A | BaseException]]]
"""Asks the database several questions; of the answers an exception is one to raise."""


class Gathering(Generic[Q, A]):
    """Questions of one kind, each answered through a future of its own."""

    def __init__(
        self,
        links: "Links",
        asks: Asks[Q, A],
        seconds: float,
        *,
        at_once: int = MOST_AT_ONCE,
    ) -> None:
        """Have questions asked over `links`, each for at most `seconds`, so many `at_once`."""
        links.gatherings.append(self)
        self._links = links
        self._asks = asks
        self._seconds = seconds
        self._at_once = at_once
        self._queue: deque[tuple[float, Q, asyncio.Future[A]]] = deque()
        self._deadline = 0.0
        self._is_new_turn = True
        self._expiry: asyncio.TimerHandle | None = None

    def put(self, question: Q) -> "asyncio.Future[A]":
        """Return a future of the answer. Cancelling it takes nothing back.

        Raises ServiceUnavailable when too many wait already, or the storage is closed.
        """
        if self._links.closed:
            raise ServiceUnavailable("The server is stopping; send the same request again.")
        if len(self._queue) >= MAX_WAITING:
            raise ServiceUnavailable("Too many requests are waiting; send it again.")
        loop = asyncio.get_running_loop()
        if self._is_new_turn:
            self._is_new_turn = False
            self._deadline = loop.time() + self._seconds
            loop.call_soon(self.hand_over)
        future: asyncio.Future[A] = loop.create_future()
        self._queue.append((self._deadline, question, future))
        return future

    def hand_over(self) -> None:
        """Have what was gathered in this turn asked, now or as soon as a link is free."""
        self._is_new_turn = True
        self._links.serve(self)
        if self._queue and self._expiry is None:
            self._await_expiry()

    @property
    def waiting(self) -> int:
        """How many questions were not sent yet."""
        return len(self._queue)

    def is_waiting(self) -> bool:
        """Tell whether there are questions that were not sent yet."""
        return bool(self._queue)

    async def ask_over(self, link: Link) -> None:
        """Take the oldest questions, ask them over a link that is free, and answer them."""
        loop = asyncio.get_running_loop()
        batch = [self._queue.popleft() for _ in range(min(self._at_once, len(self._queue)))]
        link.deadline = batch[0][0]
        end = loop.call_at(link.deadline, link.cut)
        began = time.perf_counter_ns()
        try:
            answers = await self._answers(link, [question for _, question, _ in batch])
        except asyncio.CancelledError:
            link.cut()  # before asyncpg gets to cancel what the server is doing
            _settle(batch, [translated(ConnectionAbortedError()) for _ in batch])
            raise
        finally:
            end.cancel()
        self._links.told(len(batch), time.perf_counter_ns() - began)
        _settle(batch, answers)

    async def _answers(self, link: Link, questions: list[Q]) -> Sequence[A | BaseException]:
        """Return an answer to each question; where one is to blame, it alone gets the error."""
        try:
            return await self._asked(link, questions)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is whoever asked who is told
            if passes(error):
                link.cut()  # a server that is no longer the primary keeps its connections
            if len(questions) == 1 or passes(error) or isinstance(error, ServiceUnavailable):
                return [translated(error) for _ in questions]
        half = len(questions) // 2
        return [
            *await self._answers(link, questions[:half]),
            *await self._answers(link, questions[half:]),
        ]

    async def _asked(self, link: Link, questions: list[Q]) -> Sequence[A | BaseException]:
        try:
            await link.open()
            return await self._asks(link, questions)
        except Exception:
            # An idle connection may have been lost without a sign. Of a commit that is in doubt
            # nobody can say whether it was done.
            if link.is_open() or link.was_cut or link.in_doubt:
                raise
        await link.open()
        return await self._asks(link, questions)

    def _await_expiry(self) -> None:
        loop = asyncio.get_running_loop()
        self._expiry = loop.call_at(self._queue[0][0], self._expire)

    def _expire(self) -> None:
        """Refuse what has waited too long."""
        self._expiry = None
        now = asyncio.get_running_loop().time()
        while self._queue and self._queue[0][0] <= now:
            _, _, future = self._queue.popleft()
            if not future.done():
                future.set_exception(translated(TimeoutError()))
        if self._queue:
            self._await_expiry()


def _settle(
    batch: list[tuple[float, Q, "asyncio.Future[A]"]], answers: Sequence[A | BaseException]
) -> None:
    for (_, _, future), answer in zip(batch, answers, strict=True):
        if future.done():  # its caller was cancelled
            continue
        if isinstance(answer, BaseException):
            future.set_exception(answer)
        else:
            future.set_result(answer)


class Links:
    """A few connections, which serve several gatherings in turn."""

    def __init__(self, target: Target, count: int, operation: Operation, work: Work) -> None:
        """Hold at most so many connections, made when they are needed.

        What they do is told as `operation` of the `work`.
        """
        self.operation = operation
        self._work = work
        self.gatherings: list[Gathering[Any, Any]] = []
        self.closed = False
        self._links = [Link(target) for _ in range(count)]
        self._idle = list(self._links)
        self._waiting: deque[Gathering[Any, Any]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def waiting(self) -> int:
        """How many questions of all gatherings were not sent yet."""
        return sum(gathering.waiting for gathering in self.gatherings)

    def told(self, size: int, elapsed_ns: int) -> None:
        """Tell what was asked at once."""
        self._work.tell(self.operation, size, elapsed_ns)

    def serve(self, gathering: Gathering[Any, Any]) -> None:
        """Ask what has gathered, as soon as a link is free and those before it had theirs."""
        if gathering not in self._waiting:
            self._waiting.append(gathering)
        self._go_on()

    def _go_on(self) -> None:
        while self._idle and self._waiting:
            gathering = self._waiting.popleft()
            if not gathering.is_waiting():
                continue
            link = self._idle.pop()
            task = asyncio.get_running_loop().create_task(self._serve_over(link, gathering))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _serve_over(self, link: Link, gathering: Gathering[Any, Any]) -> None:
        try:
            if gathering.is_waiting():
                await gathering.ask_over(link)
        finally:
            self._idle.append(link)
            if gathering.is_waiting():
                self.serve(gathering)
            else:
                self._go_on()

    async def close(self) -> None:
        """Finish what was begun, then let go of the connections."""
        self.closed = True
        for gathering in self.gatherings:
            gathering.hand_over()
        while self._tasks:
            await asyncio.wait(self._tasks)
        for link in self._links:
            await link.close()
