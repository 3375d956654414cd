"""When a delivery is tried again: later each time, over days, and then no more."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from knownas.webhooks.schedule import DELAYS_MS, JITTER, retry_at

DAY = 86_400_000
NOW = 1_764_000_000_000


def test_delays_are_those_of_the_documentation() -> None:
    """Without jitter: 5 s, 5 min, 30 min, then hours, then days."""
    delays = []
    attempt = 1
    while (at := retry_at(attempt, NOW, lambda: 0.0)) is not None:
        delays.append((at - NOW) // 1_000)
        attempt += 1
    assert delays == [
        *(5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000),
        *(86_400, 86_400, 86_400),
    ]
    assert 5 * DAY < sum(delays) * 1_000 < 6 * DAY


def test_after_the_last_there_is_none() -> None:
    """Twelve attempts are made; a delivery that failed twelve times is a dead letter."""
    assert retry_at(11, NOW, random.random) is not None
    assert retry_at(12, NOW, random.random) is None
    assert retry_at(13, NOW, random.random, 60) is None


@given(st.integers(1, 11), st.floats(0, 1, exclude_max=True), st.integers(0, 10**9) | st.none())
def test_no_retry_is_early(attempt: int, part: float, asked: int | None) -> None:
    """It comes after the delay, and after what the receiver asked for, and a fifth later at most.

    What a receiver asks for counts as a day at most.
    """
    delay = max(DELAYS_MS[attempt - 1], min((asked or 0) * 1_000, DAY))
    at = retry_at(attempt, NOW, lambda: part, asked)
    assert at is not None
    assert NOW + delay <= at <= NOW + delay * (1 + JITTER) + 1


@pytest.mark.parametrize("attempt", range(1, 12))
def test_retries_of_one_failure_are_spread(attempt: int) -> None:
    """A thousand deliveries that failed at once do not come back at once."""
    source = random.Random(1)  # noqa: S311 - repeats
    times = [retry_at(attempt, NOW, source.random) for _ in range(1_000)]
    assert len(set(times)) > 500
