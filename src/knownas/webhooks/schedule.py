"""When a delivery that failed is tried again: over more than five days, then no more.

The delays are those of the Standard Webhooks specification, and two days more.
"""

from collections.abc import Callable
from typing import Final

_SECOND: Final = 1_000
_MINUTE: Final = 60 * _SECOND
_HOUR: Final = 60 * _MINUTE

DELAYS_MS: Final = (
    5 * _SECOND, 5 * _MINUTE, 30 * _MINUTE, 2 * _HOUR, 5 * _HOUR, 10 * _HOUR, 14 * _HOUR,
    20 * _HOUR, 24 * _HOUR, 24 * _HOUR, 24 * _HOUR,
)  # fmt: skip
"""Milliseconds from the first attempt to the second, and so on."""

JITTER: Final = 0.2
"""By how much of itself a delay is lengthened at most, so that not all come back at once."""


def retry_at(
    attempt: int, now_ms: int, random: Callable[[], float], retry_after: int | None = None
) -> int | None:
    """Return when to try again after the failed `attempt`, 1 for the first, in milliseconds.

    None says that it was the last: the delivery is a dead letter. `random` gives numbers from 0
    to below 1. `retry_after` are the seconds that the receiver asked for: it is not tried before
    them, but they count as a day at most.
    """
    if attempt > len(DELAYS_MS):
        return None
    asked = min((retry_after or 0) * _SECOND, DELAYS_MS[-1])
    delay = max(DELAYS_MS[attempt - 1], asked)
    return now_ms + round(delay * (1 + JITTER * random()))
