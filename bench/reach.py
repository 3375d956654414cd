"""What the server is to reach, and whether it did."""

from collections.abc import Callable
from typing import Final, NamedTuple

from bench import results
from bench.contenders import CONTENDERS
from bench.loads import BATCH, FIND, GET_BESIDE, OVER_POSTGRES, READ, Load
from bench.lookups import BATCH_SIZE
from bench.results import Results, Spread

OURS: Final = CONTENDERS[0].name
_LARGE: Final = 10_000_000
"""Profiles of the database at which growth is judged."""


class Measured(NamedTuple):
    """A figure of a run, and what has to be known to read it."""

    spread: Spread
    note: str = ""
    is_judged: bool = True
    """False: it is the nearest that was measured, not what the goal speaks of."""


class Goal(NamedTuple):
    """One figure to reach."""

    what: str
    at_least: float
    aim: float
    measure: Callable[[Results], Measured | None]
    unit: str = ""

    @property
    def is_bound_above(self) -> bool:
        """Tell whether less is better."""
        return self.aim < self.at_least

    def verdict(self, measured: Measured | None) -> str:
        """Say whether the goal is reached."""
        if measured is None or not measured.is_judged:
            return "not measured"
        value = measured.spread.median
        if value <= self.aim if self.is_bound_above else value >= self.aim:
            return "met, aim reached"
        if value <= self.at_least if self.is_bound_above else value >= self.at_least:
            return "met"
        return "**missed**"


def _rate_to(
    peer: str, load: str = "get", connections: int = 64, *, ours: str = OURS
) -> Callable[..., Measured | None]:
    """Return what compares our rate with a peer's: by CPU time where the load was the limit."""

    def measure(found: Results) -> Measured | None:
        mine = found.of(load, ours, connections=connections)
        theirs = found.of(load, peer, connections=connections)
        if not mine or not theirs:
            return None
        if results.is_load_bound(mine) or results.is_load_bound(theirs):
            by_cpu = results.ratio(theirs, mine, results.cpu_us)
            return Measured(by_cpu, "by CPU time: the load's core was busy")
        return Measured(results.ratio(mine, theirs, results.rate))

    return measure


def _p99_to(peer: str, load: str) -> Callable[..., Measured | None]:
    def measure(found: Results) -> Measured | None:
        ours, theirs = found.of(load, OURS), found.of(load, peer)
        return Measured(results.ratio(ours, theirs, results.p99_ms)) if ours and theirs else None

    return measure


def _to_load(load: Load, other: Load, *, times: int = 1) -> Callable[..., Measured | None]:
    """Return what compares our rates at two loads, each answer of the first counted `times`."""

    def measure(found: Results) -> Measured | None:
        this, that = found.of(load.name, OURS), found.of(other.name, OURS)
        if not this or not that:
            return None
        if results.is_load_bound(this) or results.is_load_bound(that):
            found_ratio = results.ratio(that, this, results.cpu_us)
            note = "by CPU time: the load's core was busy"
        else:
            found_ratio, note = results.ratio(this, that, results.rate), ""
        median, low, high = (
            times * value for value in (found_ratio.median, found_ratio.low, found_ratio.high)
        )
        return Measured(Spread(median, low, high), note)

    return measure


def _growth(found: Results) -> Measured | None:
    sizes = sorted({run.profiles for run in found.runs if run.load == "growth"})
    if len(sizes) < 2:  # noqa: PLR2004 - a ratio needs two
        return None
    small, large = (found.of("growth", OURS, profiles=size) for size in (sizes[0], sizes[-1]))
    note = "" if sizes[-1] == _LARGE else f"at {sizes[-1]:,} profiles"
    if results.is_load_bound(small) or results.is_load_bound(large):
        ratio = results.ratio(small, large, results.cpu_us)
    else:
        ratio = results.ratio(large, small, results.rate)
    return Measured(ratio, note, is_judged=sizes[-1] == _LARGE)


def _bytes_a_profile(found: Results) -> Measured | None:
    if found.disk is None:
        return None
    value = found.disk.file_bytes / found.disk.profiles
    return Measured(Spread(value, value, value))


def _memory(found: Results) -> Measured | None:
    if OURS not in found.memory:
        return None
    value = found.memory[OURS] / 1e6
    return Measured(Spread(value, value, value))


GOALS: Final = (
    Goal("GET by customer, to nginx static", 0.55, 0.70, _rate_to("nginx")),
    Goal("to FastAPI tuned by hand over the same store", 4.5, 6, _rate_to("fastapi_by_hand"), "×"),
    Goal("to FastAPI + SQLAlchemy + aiosqlite", 45, 60, _rate_to("fastapi_sqlalchemy"), "×"),
    Goal("to fastify + better-sqlite3", 2.5, 3.5, _rate_to("fastify"), "×"),
    Goal("to Redis + webdis", 1.0, 1.2, _rate_to("redis_webdis"), "×"),
    Goal("GET p99 at 64 connections, to nginx's", 2.5, 1.5, _p99_to("nginx", "get"), "×"),
    Goal(
        "durable POST, 64 connections, group to single commits",
        3.5, 6, _rate_to("single_commits", "post"), "×",
    ),
    Goal(
        "durable POST at 1 connection, to single commits",
        0.85, 1.0, _rate_to("single_commits", "post", 1),
    ),
    Goal(
        "durable POST p99 at 64 connections, to single commits'",
        0.5, 0.3, _p99_to("single_commits", "post"), "×",
    ),
    Goal(
        "durable POST, 64 connections, to FastAPI + SQLAlchemy",
        20, 35, _rate_to("fastapi_sqlalchemy", "post"), "×",
    ),
    Goal("GET throughput at 10 million profiles, to 10 thousand", 0.85, 0.95, _growth),
    Goal(
        "bytes a profile on disk, 6 identifiers, reverse index included",
        1_000, 700, _bytes_a_profile,
    ),
    Goal("private memory of one worker (mapped file aside)", 60, 40, _memory, " MB"),
)  # fmt: skip

_GET, _POST = (load.name for load in OVER_POSTGRES)

GOALS_OVER_POSTGRES: Final = (
    Goal("GET by customer, to nginx static", 0.35, 0.55, _rate_to("nginx", _GET, ours="postgres")),
    Goal(
        "GET, to a pooled query for each request",
        3, 3, _rate_to("one_query_each", _GET, ours="postgres"), "×",
    ),
    Goal(
        "GET, to FastAPI + SQLAlchemy + asyncpg",
        25, 45, _rate_to("sqlalchemy_postgres", _GET, ours="postgres"), "×",
    ),
    Goal(
        "durable POST, 256 connections, to one by one",
        2.5, 2.5, _rate_to("one_query_each", _POST, 256, ours="postgres"), "×",
    ),
)  # fmt: skip
"""With PostgreSQL on the load's core."""

GOALS_OF_LOOKUPS: Final = (
    Goal("reverse look-up, to GET by customer", 0.5, 0.5, _to_load(FIND, GET_BESIDE)),
    Goal(
        f"profiles a second in batches of {BATCH_SIZE}, to one by one",
        10, 10, _to_load(BATCH, READ, times=BATCH_SIZE), "×",
    ),
)  # fmt: skip
