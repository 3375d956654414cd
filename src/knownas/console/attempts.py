"""A limit on guessing passwords: attempts by name and address.

The counts are of one process, forgotten each minute, and bounded in number.
"""

import time
from collections.abc import Callable
from typing import Final

from knownas.errors import RateLimited
from knownas.http.guard import network_of

A_NAME: Final = 5
"""Attempts a minute from one address for one name."""
AN_ADDRESS: Final = 20
"""Attempts a minute from one address."""
_WINDOW_SECONDS: Final = 60.0
_MAX_COUNTED: Final = 10_000


class Attempts:
    """Counts the attempts to sign in within a window of a minute."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Count by `monotonic`, in seconds."""
        self._monotonic = monotonic
        self._window_ends = 0.0
        self._counted: dict[tuple[str, str], int] = {}

    def count(self, host: str, name: str) -> None:
        """Count an attempt, before it is known how it ends. Raises RateLimited past the limit."""
        now = self._monotonic()
        if now >= self._window_ends or len(self._counted) >= _MAX_COUNTED:
            self._window_ends = now + _WINDOW_SECONDS
            self._counted.clear()
        network = network_of(host)
        for counted, limit in (((network, ""), AN_ADDRESS), ((network, name), A_NAME)):
            tried = self._counted.get(counted, 0)
            if tried >= limit:
                raise RateLimited(
                    "Too many attempts to sign in; wait a minute and try again.",
                    retry_after=max(1, round(self._window_ends - now)),
                )
            self._counted[counted] = tried + 1

    def forget(self, host: str, name: str) -> None:
        """Take an attempt back that was none: the password was right."""
        network = network_of(host)
        self._counted.pop((network, name), None)
        if tried := self._counted.get((network, "")):
            self._counted[network, ""] = tried - 1
