"""How a database is: what a storage tells of its work, and of itself, to whoever watches it."""

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Final, Literal, NamedTuple, get_args

from knownas.deliveries import TARGETS, UPSTREAM, Target

Operation = Literal[
    "read", "lookup", "page", "write", "webhook", "aside", "checkpoint", "standby"
]  # fmt: skip
"""What a storage does, by what waits for what: the reads of one operation queue behind each other.

`read`: the hot reads, which SQLite does in the loop and does not tell of. `lookup`: batches and
reverse look-ups. `page`: the history, the feed and what is counted, a `lookup` on SQLite. `write`:
a transaction of a group of writes. `webhook`: what webhooks and the console have written. `aside`:
what is rare, over a connection of its own. `checkpoint`: SQLite's log brought into the database.
`standby`: reads from a standby.
"""

OPERATIONS: Final[tuple[Operation, ...]] = get_args(Operation)

Told = Callable[[Operation, int, int], None]
"""Told what was done, of how many at once, and in how many nanoseconds."""


def _nobody(_operation: Operation, _size: int, _elapsed_ns: int) -> None:
    """Be told in the place of nobody."""


class Work:
    """The work of one storage, told to whoever has taken the place of `tell`.

    Each operation is told of by one thread at a time.
    """

    def __init__(self) -> None:
        """Tell nobody."""
        self.tell: Told = _nobody


class Queue(NamedTuple):
    """What is on its way to where changes are sent: to the webhooks, or to the upstreams."""

    target: Target
    pending: int
    """Deliveries that are tried again."""
    dead: int
    """Deliveries that were given up."""
    disabled: int
    """How many of the webhooks are switched off."""
    lag: int
    """How old the oldest change is that one of them has not come to, in milliseconds; 0: none."""


class Follower(NamedTuple):
    """A webhook, as far as its place in the feed is concerned."""

    id: str
    is_disabled: bool
    next_at: int | None
    """Of which time the first change is that it has not come to; None where it has come to all."""


def queues(
    followers: Iterable[Follower], deliveries: Iterable[tuple[str, str, int]], now: int
) -> tuple[Queue, ...]:
    """Return what is on its way, by target; `deliveries` are counted by webhook and state."""
    counts: Counter[tuple[Target, str]] = Counter()
    for webhook_id, state, count in deliveries:
        counts[_target(webhook_id), state] += count
    disabled: Counter[Target] = Counter()
    lags = dict.fromkeys(TARGETS, 0)
    for one in followers:
        target = _target(one.id)
        disabled[target] += one.is_disabled
        if one.next_at is not None and not one.is_disabled:
            lags[target] = max(lags[target], now - one.next_at)
    return tuple(
        Queue(target, counts[target, "pending"], counts[target, "dead"], disabled[target], lag)
        for target, lag in lags.items()
    )


def _target(webhook_id: str) -> Target:
    return "upstream" if webhook_id == UPSTREAM else "webhook"


class Replica(NamedTuple):
    """How far a standby is behind."""

    is_up: bool
    lag_bytes: int = 0
    """Bytes of the primary's log."""
    lag: int = 0
    """How old is what it has replayed last, in milliseconds; 0 where it has all."""


class Condition(NamedTuple):
    """How a database is at a moment."""

    engine: Literal["sqlite", "postgresql"]
    version: str
    """Of the engine."""
    size: int
    """Bytes of the database with its indexes, its log not counted."""
    log: int | None
    """Bytes of the log beside a file; None where the engine keeps it out of sight."""
    free: int | None
    """Bytes left on the file system of the file; None where that cannot be seen from here."""
    profiles: tuple[tuple[str, int], ...]
    """How many profiles each app has, by its name."""
    feed_lag: int
    """How old the oldest change is that the feed does not tell yet, in milliseconds; 0: none."""
    queues: tuple[Queue, ...]
    erasures_since: int | None
    """When the oldest erasure was made that is not complete; None where all are."""
    replica: Replica | None = None
    """None where no standby answers reads."""


Level = Literal["ok", "note", "warning", "problem"]


class Finding(NamedTuple):
    """What one look at an installation has found."""

    about: str
    """What was looked at, in a word or two."""
    level: Level
    says: str
    """How it is, in one sentence."""
    do: str = ""
    """What to do about it; "" where there is nothing to do."""


_FUTURE_MS: Final = 60_000
"""So far may clocks of machines be apart without anybody having to do something."""


def newest_change(at: int | None, now: int) -> Finding:
    """Return what the time of the newest change says of the clocks; None: there is no change."""
    if at is not None and at > now + _FUTURE_MS:
        return Finding(
            "clock",
            "problem",
            f"The newest change is of {(at - now) // 1_000:,} s from now.",
            "The clock of a server was, or is, wrong: have all kept by NTP.",
        )
    return Finding("clock", "ok", "No change is of a time that is still to come.")
