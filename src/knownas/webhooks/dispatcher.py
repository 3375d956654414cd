"""Delivers webhooks: follows the feed for each of them, and tries again what was not taken.

Every process may do it: a lease says which one delivers for a webhook, and whatever one writes
names the lease that it holds. One that dies, or is too slow, is followed by another, which sends
again what the first had not written down: at least once, never lost.
"""

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable
from typing import Final

from knownas.deliveries import Report
from knownas.errors import ServiceUnavailable
from knownas.storage import Storage
from knownas.webhooks.posting import OpenCourier
from knownas.webhooks.rounds import Course, Key, Means, Pace, Round
from knownas.webhooks.sending import OnAttempt

SENDS_AT_ONCE: Final = 64
"""Deliveries of all webhooks that are under way in one process at once, at most."""


class Dispatcher:
    """Delivers the webhooks of all apps, together with the other processes that do."""

    def __init__(
        self,
        storage: Storage,
        open_courier: OpenCourier,
        *,
        clock: Callable[[], int],
        tell: Callable[[Exception], None],
        pace: Pace | None = None,
    ) -> None:
        """Deliver by couriers; `tell` is told of what nobody expects."""
        self._webhooks = storage.webhooks
        self._tell = tell
        self._pace = pace or Pace()
        self._means = Means(
            storage,
            open_courier,
            clock,
            self._pace,
            asyncio.Semaphore(SENDS_AT_ONCE),
            asyncio.Event(),
        )
        self._lease = secrets.token_hex(8)
        self._serving: dict[Key, asyncio.Task[None]] = {}
        self._courses: dict[Key, Course] = {}

    def tell_attempts_to(self, on_attempt: OnAttempt) -> None:
        """Have each attempt told; before `run`."""
        self._means = self._means._replace(on_attempt=on_attempt)

    async def run(self, stopping: asyncio.Event) -> None:
        """Deliver until `stopping` is set; what is under way then is finished, and written down."""
        self._means = self._means._replace(stopping=stopping)
        while not stopping.is_set():
            await self._look()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), self._pace.look)
        await asyncio.gather(*self._serving.values())

    async def _look(self) -> None:
        """Begin to serve the webhooks that there is something to do for."""
        try:
            found = await self._webhooks.with_work(now=self._means.clock())
        except ServiceUnavailable:
            return  # the requests tell of it
        except Exception as error:  # noqa: BLE001 - whatever it is, the next look may succeed
            self._tell(error)
            return
        for key in found:
            course = self._courses.setdefault(key, Course())
            if key not in self._serving and course.rests_until <= time.monotonic():
                self._serving[key] = asyncio.create_task(self._serve(key, course))

    async def _serve(self, key: Key, course: Course) -> None:
        """Deliver for a webhook as long as there is something to do."""
        try:
            await self._serve_leased(key, course)
        except ServiceUnavailable:
            course.rest(self._pace.rest)
        except Exception as error:  # noqa: BLE001 - one webhook must not stop the others
            while isinstance(error, ExceptionGroup):
                error = error.exceptions[0]
            self._tell(error)
            course.rest(self._pace.lease)
            with contextlib.suppress(Exception):
                await self._let_go(key)
        finally:
            del self._serving[key]

    async def _serve_leased(self, key: Key, course: Course) -> None:
        while not self._means.stopping.is_set():
            now = self._means.clock()
            until = now + round(self._pace.lease * 1_000)
            held = await self._webhooks.lease(*key, self._lease, now=now, until=until)
            if held is None or not await Round(self._means, key, self._lease, held, course).run():
                return
        await self._let_go(key)

    async def _let_go(self, key: Key) -> None:
        await self._webhooks.report(*key, self._lease, Report(), now=0, until=0)
