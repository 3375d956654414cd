"""Where `limits` counts: in this process, by a clock that is never put back.

Its own storage in memory goes by the time of day, which makes a window longer by as much as the
clock is put back, and sweeps in a thread.
"""

from collections.abc import Callable
from typing import Final

from limits.storage import Storage

_MAX_WINDOWS: Final = 10_000
"""From so many on, those that are over are forgotten before another is begun."""


class Windows(Storage):
    """Counts by name, each for as long as its window lasts: what `limits` wants of a storage."""

    STORAGE_SCHEME = None  # no URL leads to it

    def __init__(self, monotonic: Callable[[], float]) -> None:
        """Count by `monotonic`, in seconds."""
        super().__init__()
        self._monotonic = monotonic
        self._windows: dict[str, tuple[int, float]] = {}

    @property
    def base_exceptions(self) -> tuple[type[Exception], ...]:
        """Return what may be raised: nothing."""
        return ()

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        """Add to a count and return it; one that is over begins anew, for `expiry` seconds."""
        now = self._monotonic()
        count, ends = self._windows.get(key, (0, now))
        if now >= ends:
            if len(self._windows) >= _MAX_WINDOWS:
                self._windows = {one: it for one, it in self._windows.items() if now < it[1]}
            count, ends = 0, now + expiry
        self._windows[key] = (count + amount, ends)
        return count + amount

    def get(self, key: str) -> int:
        """Return a count."""
        count, ends = self._windows.get(key, (0, 0.0))
        return count if self._monotonic() < ends else 0

    def get_expiry(self, key: str) -> float:
        """Return when a window is over."""
        return self._windows.get(key, (0, self._monotonic()))[1]

    def check(self) -> bool:
        """Return True: it is always there."""
        return True

    def reset(self) -> int:
        """Forget all counts, and return how many there were."""
        count = len(self._windows)
        self._windows.clear()
        return count

    def clear(self, key: str) -> None:
        """Forget a count."""
        self._windows.pop(key, None)
