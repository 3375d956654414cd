"""How much one key may ask: its requests are counted, up to the key's rate.

The algorithm is the fixed window of `limits`: a window begins with the first request after the
one before it is over. The counts are of one process, as those of the key guard.
"""

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from knownas.errors import RateLimited
from knownas.model import ApiKey

if TYPE_CHECKING:
    from limits import RateLimitItem
    from limits.strategies import FixedWindowRateLimiter


class KeyRates:
    """Counts the requests of each key that has a rate."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Count by `monotonic`, in seconds."""
        self._monotonic = monotonic
        self._limiter: FixedWindowRateLimiter | None = None
        self._items: dict[str, RateLimitItem] = {}

    def spend(self, key: ApiKey) -> None:
        """Count a request of an authenticated key. Raises RateLimited past its rate."""
        if key.rate is None:
            return
        limiter = self._limiter or self._begin()
        item = self._items.get(key.rate) or self._read(key.rate)
        if not limiter.hit(item, key.id):
            left = limiter.get_window_stats(item, key.id).reset_time - self._monotonic()
            raise RateLimited(
                f"The rate of this key, {key.rate}, is used up; wait as long as Retry-After says.",
                retry_after=max(1, math.ceil(left)),
            )

    # Neither module is loaded by a process that limits no key: it takes a tenth of a second and
    # two megabytes.

    def _begin(self) -> "FixedWindowRateLimiter":
        from limits.strategies import FixedWindowRateLimiter  # noqa: PLC0415 - as just said

        from knownas.http.windows import Windows  # noqa: PLC0415 - as just said

        self._limiter = FixedWindowRateLimiter(Windows(self._monotonic))
        return self._limiter

    def _read(self, rate: str) -> "RateLimitItem":
        from limits import parse  # noqa: PLC0415 - as just said

        self._items[rate] = parse(rate)
        return self._items[rate]
