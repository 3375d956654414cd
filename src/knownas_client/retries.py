"""When a request is sent again, and when not any more."""

import random
import time
from typing import Final

import httpx2
import msgspec

from knownas_client.calls import Answer
from knownas_client.errors import ConnectionFailed

_NOT_DONE: Final = 429
"""The status of what was surely not done, and may be done soon."""
_MAY_BE_DONE: Final = frozenset({502, 503, 504})
"""Statuses by which a server, or a proxy before it, says that it cannot say now."""
_NOT_SENT: Final = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)
_HOPELESS: Final = (httpx2.LocalProtocolError, httpx2.UnsupportedProtocol)
"""What fails each time: the request is no HTTP."""


_DOUBLINGS: Final = 30
"""More of them would be no other wait, and soon no number."""


class Retries(msgspec.Struct, frozen=True, kw_only=True):
    """How often, and for how long, a client tries again what may succeed later.

    That is what was answered 429 or 503, and what had no answer, or 502 or 504 from a proxy in its
    stead. `Retry-After` is honoured: where it says longer than is left, the error is raised at
    once.
    """

    attempts: int = 5
    """How often a request is sent, the first time included; 1 for no retries."""
    seconds: float = 30.0
    """How long after the first failure a request may still be sent."""
    first_wait: float = 0.25
    """Seconds before the second attempt, doubled each time; at random up to half is left out."""
    longest_wait: float = 8.0
    """Seconds to which the doubling goes."""


NO_RETRIES: Final = Retries(attempts=1)


class Attempts:
    """The attempts of one call: told how each went, it says how long to wait for the next."""

    def __init__(self, retries: Retries, *, repeatable: bool) -> None:
        """Begin. What is not `repeatable` is sent again only if it was surely not done."""
        self._retries = retries
        self._repeatable = repeatable
        self._made = 0
        self._failed_at: float | None = None

    def wait(self, outcome: Answer | httpx2.RequestError) -> float | None:
        """Return the seconds to wait before the next attempt; None where `outcome` is to stay.

        Raises ConnectionFailed where there is no answer, and no further attempt.
        """
        self._made += 1
        now = time.monotonic()
        self._failed_at = now if self._failed_at is None else self._failed_at
        if self._may_pass(outcome) and self._made < self._retries.attempts:
            wait = self._next_wait(outcome)
            if now + wait - self._failed_at <= self._retries.seconds:
                return wait
        if isinstance(outcome, Answer):
            return None
        what = str(outcome) or type(outcome).__name__
        times = f" ({self._made} attempts)" if self._made > 1 else ""
        raise ConnectionFailed(f"{what}{times}") from outcome

    def _may_pass(self, outcome: Answer | httpx2.RequestError) -> bool:
        if isinstance(outcome, Answer):
            return outcome.status == _NOT_DONE or (
                self._repeatable and outcome.status in _MAY_BE_DONE
            )
        if isinstance(outcome, _HOPELESS):
            return False
        return self._repeatable or isinstance(outcome, _NOT_SENT)

    def _next_wait(self, outcome: Answer | httpx2.RequestError) -> float:
        doubled = self._retries.first_wait * 2.0 ** min(self._made - 1, _DOUBLINGS)
        jitter = random.uniform(0.5, 1.0)  # noqa: S311 - spreads clients out, hides nothing
        wait = min(self._retries.longest_wait, doubled) * jitter
        asked = outcome.retry_after if isinstance(outcome, Answer) else None
        return wait if asked is None else max(wait, asked)
