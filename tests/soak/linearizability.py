"""Whether what clients saw of one value could have come of one copy, asked one by one.

The search is that of Wing and Gong (1993) with the memory of Lowe (2017): an operation may be next
if none that is left had ended before it began, and of two ways to the same set of operations and
the same value one is enough.
"""

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

NEVER: Final = math.inf
"""When a write ended of which nobody knows whether it was done: at any time, or not at all."""


class Operation(NamedTuple):
    """One write of a value, or one read of it; times by one clock."""

    writes: bool
    value: str | None
    began: float
    ended: float


def is_linearizable(history: Sequence[Operation], initial: str | None = None) -> bool:
    """Tell whether the operations on one value could have happened one after the other.

    A read of unknown outcome is to be left out.
    """
    everything = sum(1 << at for at, one in enumerate(history) if one.ended != NEVER)
    ways = [(0, initial)]
    seen = set()
    while ways:
        way = done, value = ways.pop()
        if done & everything == everything:
            return True
        if way in seen:
            continue
        seen.add(way)
        left = [(1 << at, one) for at, one in enumerate(history) if not done >> at & 1]
        first_end = min(one.ended for _, one in left)
        ways += [
            (done | bit, one.value)
            for bit, one in left
            if one.began <= first_end and (one.writes or one.value == value)
        ]
    return False


def with_a_stale_read(history: Sequence[Operation]) -> list[Operation] | None:
    """Return the history with one read of what had been overwritten; None where it has no room."""
    writes = sorted((one for one in history if one.writes), key=lambda one: one.ended)
    for at, read in enumerate(history):
        if read.writes:
            continue
        before = [one for one in writes if one.ended < read.began]
        for old in before:
            if any(old.ended < newer.began for newer in before):
                planted = list(history)
                planted[at] = read._replace(value=old.value)
                return planted
    return None
