"""What keeps an upstream from being asked in vain: what it does not know, and when it is down."""

import time
from collections.abc import Callable, Hashable
from typing import Final

FAILURES: Final = 5
"""So many in a row, and nothing is asked for a while."""
FIRST_PAUSE_SECONDS: Final = 2.0
LONGEST_PAUSE_SECONDS: Final = 60.0
LONGEST_RETRY_AFTER: Final = 3_600

ABSENT_SECONDS: Final = 60.0
"""How long it is believed that the upstream does not know a profile."""
MOST_ABSENT: Final = 50_000


class Breaker:
    """Stops questions to an upstream that does not answer them; one at a time finds out anew."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Let everything through at first."""
        self._monotonic = monotonic
        self._failures = 0
        self._closed_until = float("-inf")

    def admit(self, seconds: float) -> bool:
        """Tell whether a question may be asked, which takes so many seconds at most."""
        now = self._monotonic()
        if now < self._closed_until:
            return False
        if self._failures >= FAILURES:
            self._closed_until = now + seconds  # the others wait for what this one finds
        return True

    @property
    def seconds_left(self) -> float:
        """How long nothing is asked."""
        return max(0.0, self._closed_until - self._monotonic())

    def succeeded(self) -> None:
        """Note an answer, whatever it said."""
        self._failures = 0
        self._closed_until = float("-inf")

    def failed(self, retry_after: int | None = None) -> None:
        """Note that there was no answer, and for how many seconds it wants none to be asked for."""
        now = self._monotonic()
        self._failures += 1
        pause = 0.0
        if self._failures >= FAILURES:
            pause = min(
                FIRST_PAUSE_SECONDS * 2 ** min(self._failures - FAILURES, 10), LONGEST_PAUSE_SECONDS
            )
        if retry_after is not None:
            pause = max(pause, min(retry_after, LONGEST_RETRY_AFTER))
        self._closed_until = now + pause


class Absent:
    """Who is not known at an upstream: believed for a while, and for so many at most."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Know of nobody at first."""
        self._monotonic = monotonic
        self._until: dict[Hashable, float] = {}

    def __contains__(self, who: Hashable) -> bool:
        """Tell whether somebody was not known a while ago."""
        until = self._until.get(who)
        if until is None:
            return False
        if self._monotonic() < until:
            return True
        del self._until[who]
        return False

    def add(self, who: Hashable, *, for_good: bool = False) -> None:
        """Note that somebody is not known; the longest noted gives way where they are too many."""
        self._until.pop(who, None)
        if len(self._until) >= MOST_ABSENT:
            del self._until[next(iter(self._until))]
        self._until[who] = float("inf") if for_good else self._monotonic() + ABSENT_SECONDS
