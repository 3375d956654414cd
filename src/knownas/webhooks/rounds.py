"""One round for one webhook: what is due is sent, then a page of the feed; then it is written down.

Of a page only what was not taken is written: as deliveries that wait for another attempt, or for
one of their profile that does. With many that wait, the webhook is given nothing new: the feed
keeps it, and one of them is tried now and then to see whether the receiver is back.
"""

import asyncio
import secrets
import time
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from knownas.deliveries import UPSTREAM, Attempt, Delivery, Leased, Report, Waiting
from knownas.model import AppId
from knownas.storage import Storage
from knownas.webhooks import schedule
from knownas.webhooks.posting import OpenCourier
from knownas.webhooks.sending import OnAttempt, RetryAt, Sending

FEWEST: Final = 16
MOST: Final = 500
"""Changes that are read at once: as many as a round has time for."""
PROFILES_DUE: Final = 100
"""Of so many profiles deliveries are tried again in one round."""

_ALWAYS: Final = 2**62
_random: Final = secrets.SystemRandom().random


def tell_nobody(_attempt: Attempt) -> None:
    """Be told of an attempt in the place of nobody."""


Key = tuple[AppId, str]
"""A webhook's app and id."""


def retry_at(attempt: int, now: int, retry_after: int | None) -> int | None:
    """Return when `schedule` has an attempt follow."""
    return schedule.retry_at(attempt, now, _random, retry_after)


class Pace(NamedTuple):
    """How long things take, in seconds; tests have less time."""

    look: float = 0.5
    """How often a dispatcher looks for something to do."""
    round: float = 10.0
    """How long a round begins new deliveries, twice: with what is due, and with a page."""
    lease: float = 30.0
    """Longer than one of the two, with its last delivery and the writing of what came of it."""
    probe: float = 60.0
    """How often a webhook that gets nothing new is tried before its time."""
    rest: float = 5.0
    """How long a webhook is left alone where nothing can be done for it."""
    most_pending: int = 1_000
    """With so many deliveries that wait, a webhook gets nothing new."""
    retry_at: RetryAt = retry_at


class Means(NamedTuple):
    """What all rounds of a process work with."""

    storage: Storage
    open_courier: OpenCourier
    clock: Callable[[], int]
    pace: Pace
    slots: asyncio.Semaphore
    """One for each delivery that may be under way."""
    stopping: asyncio.Event
    on_attempt: OnAttempt = tell_nobody


class Course:
    """What a process remembers of a webhook between rounds."""

    def __init__(self) -> None:
        """Begin with a page of medium size."""
        self.page = 100
        self.probed_at = float("-inf")
        self.rests_until = float("-inf")

    def rest(self, seconds: float) -> None:
        """Have it left alone for some seconds."""
        self.rests_until = time.monotonic() + seconds

    def learn(self, read: int, untried: int) -> None:
        """Read less at once where there was no time for all, more where there was."""
        wished = max(read - untried, FEWEST) if untried else 2 * self.page
        self.page = min(wished, MOST)


class Round:
    """One round, by whoever holds the lease of the webhook."""

    def __init__(self, means: Means, key: Key, lease: str, held: Leased, course: Course) -> None:
        """Take what is held under the lease."""
        self._means = means
        self._webhooks = means.storage.webhooks
        self._key = key
        self._lease = lease
        self._held = held
        self._course = course
        self._courier = means.open_courier(key[0], held.webhook)

    async def run(self) -> bool:
        """Tell whether another one is to follow at once; if not, the lease is let go.

        Raises FeatureNotConfigured where the secrets cannot be read.
        """
        await self._courier.get_ready()
        due = await self._webhooks.due(*self._key, now=self._means.clock(), limit=PROFILES_DUE)
        is_full = self._held.pending >= self._means.pace.most_pending
        if due:
            sending = await self._send(due)
            goes_on = await self._report(
                sending, Report(settled=sending.settled, kept=sending.failed), goes_on=True
            )
            if is_full or not goes_on:
                return goes_on
            return await self._follow(progress=bool(sending.settled))
        return await (self._probe() if is_full else self._follow(progress=False))

    async def _follow(self, *, progress: bool) -> bool:
        """Send a page of the feed."""
        size = self._course.page
        page = await self._means.storage.changes(self._key[0], self._held.cursor, size)
        new = [
            Waiting(Delivery(change.profile_id, change.revision), change)
            for change in page.changes
            if self._courier.is_wanted(change)
        ]
        profiles = {one.delivery.profile_id for one in new}
        held_back = await self._webhooks.held_back(*self._key, profiles) if new else set()
        sending = await self._send(one for one in new if one.delivery.profile_id not in held_back)
        behind = [one.delivery for one in new if one.delivery.profile_id in held_back]
        untried = len(sending.untried)
        if len(page.changes) == size or untried:
            self._course.learn(len(page.changes), untried)
            progress = True
        kept = [*sending.failed, *sending.untried, *behind]
        report = Report(kept=kept, cursor=page.cursor)
        return await self._report(sending, report, goes_on=progress)

    async def _probe(self) -> bool:
        """Try one of those that wait, before its time; where it is taken, all are due."""
        if time.monotonic() - self._course.probed_at >= self._means.pace.probe:
            self._course.probed_at = time.monotonic()
            first = await self._webhooks.due(*self._key, now=_ALWAYS, limit=1)
            sending = await self._send(first[:1])
            if sending.settled:
                settled = Report(settled=sending.settled)
                goes_on = await self._report(sending, settled, goes_on=True)
                if sending.delivered:
                    await self._webhooks.hasten(*self._key, now=self._means.clock())
                return goes_on
        else:
            sending = await self._send(())
        self._course.rest(self._means.pace.rest)
        return await self._report(sending, Report(), goes_on=False)

    async def _send(self, waiting: Iterable[Waiting]) -> Sending:
        """Send deliveries, and begin none when the time of a round is over."""
        until = time.monotonic() + self._means.pace.round
        stopping = self._means.stopping
        sending = Sending(
            self._courier.bring,
            slots=self._means.slots,
            may_begin=lambda: time.monotonic() < until and not stopping.is_set(),
            clock=self._means.clock,
            retry_at=self._means.pace.retry_at,
            target="upstream" if self._key[1] == UPSTREAM else "webhook",
            on_attempt=self._means.on_attempt,
        )
        await sending.run(waiting)
        return sending

    async def _report(self, sending: Sending, report: Report, *, goes_on: bool) -> bool:
        """Write what came of it, and hold the lease only where it `goes_on`, which it returns."""
        goes_on = goes_on and sending.gone is None and not self._means.stopping.is_set()
        report = report._replace(failure=sending.failure, disabled_because=sending.gone)
        now = self._means.clock()
        until = now + round(self._means.pace.lease * 1_000) if goes_on else 0
        held = await self._webhooks.report(*self._key, self._lease, report, now=now, until=until)
        return held and goes_on
