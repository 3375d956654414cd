"""Sends deliveries of one webhook: profiles side by side, those of one profile in their order."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Final

from knownas.deliveries import Attempt, Delivery, DeliveryKey, Failure, Result, Target, Waiting
from knownas.history import Change
from knownas.webhooks.outbound import Outcome

if TYPE_CHECKING:
    from knownas.model import ProfileId

AT_ONCE: Final = 16
"""Deliveries of one webhook that are under way at once, at most."""

OnAttempt = Callable[[Attempt], None]

RetryAt = Callable[[int, int, int | None], int | None]
"""When to try again after an attempt, at a time, for a receiver that asked for so many seconds."""


class Sending:
    """Some deliveries, and what came of them."""

    def __init__(  # noqa: PLR0913 - what it works with, and whom it tells
        self,
        send: Callable[[Change], Awaitable[Outcome]],
        *,
        slots: asyncio.Semaphore,
        may_begin: Callable[[], bool],
        clock: Callable[[], int],
        retry_at: RetryAt,
        target: Target,
        on_attempt: OnAttempt,
    ) -> None:
        """Have each sent by `send` when there is a slot, as long as another one `may_begin`.

        `on_attempt` is told how each ended.
        """
        self._send = send
        self._slots = slots
        self._may_begin = may_begin
        self._clock = clock
        self._retry_at = retry_at
        self._target = target
        self._on_attempt = on_attempt
        self.delivered = 0
        self.settled: list[DeliveryKey] = []
        """Taken, or without a change any more."""
        self.failed: list[Delivery] = []
        """As they are after an attempt that was in vain."""
        self.untried: list[Delivery] = []
        """Because of one before them, or because there was no time."""
        self.gone: str | None = None
        """Why the receiver wants no more of them."""

    @property
    def failure(self) -> Failure | None:
        """The last of the attempts that were in vain."""
        return self.failed[-1].failure if self.failed else None

    async def run(self, waiting: Iterable[Waiting]) -> None:
        """Send deliveries, which come in the order of each profile."""
        queues: dict[ProfileId, list[Waiting]] = {}
        for one in waiting:
            queues.setdefault(one.delivery.profile_id, []).append(one)
        left = iter(queues.values())

        async def work() -> None:
            for queue in left:
                await self._run(queue)

        async with asyncio.TaskGroup() as group:
            for _ in range(min(AT_ONCE, len(queues))):
                group.create_task(work())

    async def _run(self, queue: list[Waiting]) -> None:
        """Send deliveries of one profile until one has to be tried again."""
        for position, (delivery, change) in enumerate(queue):
            if change is None:
                self.settled.append(delivery.key)
                continue
            async with self._slots:
                if self.gone is not None or not self._may_begin():
                    self.untried += [one.delivery for one in queue[position:]]
                    return
                began = time.perf_counter_ns()
                outcome = await self._send(change)
                elapsed = time.perf_counter_ns() - began
            is_first = delivery.attempts == 0
            if outcome.result == "delivered":
                self._on_attempt(Attempt(self._target, is_first, "delivered", elapsed))
                self.delivered += 1
                self.settled.append(delivery.key)
                continue
            if outcome.result == "gone":
                self.gone = outcome.reason
            failed = self._after(delivery, outcome)
            result: Result = "dead" if failed.state == "dead" else "failed"
            self._on_attempt(Attempt(self._target, is_first, result, elapsed))
            self.failed.append(failed)
            if failed.state == "pending":
                self.untried += [one.delivery for one in queue[position + 1 :]]
                return

    def _after(self, delivery: Delivery, outcome: Outcome) -> Delivery:
        """Return a delivery after an attempt that was in vain."""
        now = self._clock()
        attempts = delivery.attempts + 1
        next_at = None
        if outcome.result != "rejected":
            next_at = self._retry_at(attempts, now, outcome.retry_after)
        return delivery._replace(
            state="dead" if next_at is None else "pending",
            attempts=attempts,
            next_at=next_at,
            failure=Failure(now, outcome.status, outcome.reason),
        )
