"""What a run of the benchmark found, as it stands in `results/*.json`."""

import statistics
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

import msgspec

RESULTS: Final = Path(__file__).parent / "results"
PUBLISHED: Final = RESULTS / "published.json"

ALONE: Final = {
    "lookups": "lookups",
    "postgres": "over_postgres",
    "disk": "disk",
    "imports": "imports",
}
"""The parts that can be published by themselves, and where each stands in `Results`."""

BUSY_LIMIT: Final = 0.95
"""With the load's core busier than this, a rate is the load's, not the server's."""


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One load on one server, once."""

    load: str
    server: str
    connections: int
    profiles: int
    round: int
    requests: int
    """Answered as the load expects."""
    failed: int
    """Answered otherwise, or not at all."""
    seconds: float
    p50_us: int
    p99_us: int
    p999_us: int
    cpu_us: float
    """CPU time of all processes of the server, per request, in microseconds."""
    server_busy: float
    """Share of the time in which the server's core was not idle; likewise for the load's."""
    load_busy: float
    stolen: float
    """Share of the time that the hypervisor gave to others, of both cores together."""


class Spread(msgspec.Struct, frozen=True):
    """A figure over all rounds."""

    median: float
    low: float
    high: float


class Disk(msgspec.Struct, frozen=True, kw_only=True):
    """What profiles with a given number of identifiers take on disk."""

    profiles: int
    identifiers: int
    """Of each of them."""
    file_bytes: int
    """Of the whole file, after a checkpoint."""
    parts: dict[str, int]
    """Bytes by table or index."""


class Layout(msgspec.Struct, frozen=True, kw_only=True):
    """One way to lay a profile out in rows, measured without a server."""

    name: str
    profiles: int
    read_us: Spread
    """A look-up by customer alone."""
    answer_us: Spread
    """The look-up, and the body of the answer made of it."""
    bytes_a_profile: float


class KeyTiming(msgspec.Struct, frozen=True, kw_only=True):
    """How long a server takes to refuse a key (threat row 4)."""

    requests: int
    """Of each kind."""
    unknown_us: float
    near_miss_us: float
    """Medians."""
    noise_us: float
    """How far two medians are apart by chance, 95 times of 100, if the kind means nothing."""


class Share(msgspec.Struct, frozen=True):
    """A part of the program, and its share of the samples of a profile."""

    name: str
    share: float


class CpuProfile(msgspec.Struct, frozen=True, kw_only=True):
    """Where a server's CPU time goes under a load."""

    samples: int
    parts: list[Share]
    functions: list[Share]


class Copy(msgspec.Struct, frozen=True, kw_only=True):
    """What a copy from SQLite to PostgreSQL took."""

    profiles: int
    seconds: float
    is_same: bool
    """Whether counts and checksums of both were equal at the end."""
    mib_second_tenth: int
    mib_last_tenth: int
    """Private memory of the copying process, in the second tenth of the time and in the last."""


class Imported(msgspec.Struct, frozen=True, kw_only=True):
    """What an import of a file took."""

    database: str
    rows_are: str
    """`new`, `same` as what is there, or `changed` in one identifier."""
    rows: int
    seconds: float
    mib_second_tenth: int
    mib_last_tenth: int
    """Private memory of the importing process, in the second tenth of the time and in the last."""
    mib_most: int

    @property
    def rate(self) -> float:
        """Rows a second, the start of the program included."""
        return self.rows / self.seconds


class Imports(msgspec.Struct, frozen=True, kw_only=True):
    """What imports took, and what else the machine was doing."""

    began: str
    load: float
    """How many other processes wanted to run, on average over the minute before."""
    measured: list[Imported]


class OverPostgres(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured over PostgreSQL, in a run of its own or as a part of one."""

    results: "Results"
    copy: Copy
    database_bytes: int
    """Of all tables and indexes, after the copy."""


class Results(msgspec.Struct, kw_only=True):
    """All that one run of the benchmark found."""

    began: str
    seconds: float
    repeat: int
    main_profiles: int
    machine: dict[str, str] = {}
    versions: dict[str, str] = {}
    left_out: dict[str, str] = {}
    """Peer or part: why it was not measured."""
    runs: list[Run] = []
    memory: dict[str, int] = {}
    """Private bytes of a server's processes after the loads, the mapped database aside."""
    fdatasync: float | None = None
    """Appending writes that the disk makes durable in a second, one after another."""
    disk: Disk | None = None
    cpu: CpuProfile | None = None
    layouts: list[Layout] = []
    key_timing: KeyTiming | None = None
    lookups: "Results | None" = None
    """In a run of its own, or as a part of one."""
    over_postgres: OverPostgres | None = None
    imports: Imports | None = None

    def of(
        self, load: str, server: str, *, connections: int = 64, profiles: int | None = None
    ) -> list[Run]:
        """Return the runs of one load on one server, by round."""
        return [
            run
            for run in self.runs
            if (run.load, run.server, run.connections) == (load, server, connections)
            and run.profiles == (profiles or self.main_profiles)
        ]


def rate(run: Run) -> float:
    """Return requests a second."""
    return run.requests / run.seconds


def cpu_us(run: Run) -> float:
    """Return the server's CPU time a request, in microseconds."""
    return run.cpu_us


def p50_ms(run: Run) -> float:
    """Return the median latency in milliseconds."""
    return run.p50_us / 1e3


def p99_ms(run: Run) -> float:
    """Return the latency in milliseconds that one request of a hundred exceeds."""
    return run.p99_us / 1e3


def p999_ms(run: Run) -> float:
    """Return the latency in milliseconds that one request of a thousand exceeds."""
    return run.p999_us / 1e3


def spread(values: Iterable[float]) -> Spread:
    """Return the median of the values, and the lowest and the highest."""
    found = sorted(values)
    return Spread(statistics.median(found), found[0], found[-1])


def over(runs: Iterable[Run], figure: Callable[[Run], float]) -> Spread:
    """Return a figure over all rounds."""
    return spread(map(figure, runs))


def ratio(ours: list[Run], theirs: list[Run], figure: Callable[[Run], float]) -> Spread:
    """Return the ratio of a figure round by round: what drifts between rounds cancels out."""
    by_round = {run.round: run for run in theirs}
    return spread(
        figure(run) / figure(by_round[run.round]) for run in ours if run.round in by_round
    )


def is_load_bound(runs: Iterable[Run]) -> bool:
    """Tell whether these rates are the load's own: its core was busy all the time."""
    return over(runs, lambda run: run.load_busy).median >= BUSY_LIMIT


def save(results: Results, path: Path) -> None:
    """Write the results of a run."""
    text: Any = msgspec.json.format(msgspec.json.encode(results), indent=1)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(text + b"\n")


def read(path: Path) -> Results:
    """Read the results of a run."""
    return msgspec.json.decode(path.read_bytes(), type=Results)


def put_into(published: Results, found: Results, parts: set[str]) -> Results:
    """Return what is to be published: a run of some parts replaces only these, if it can.

    Those are the parts of `ALONE`; a run of any other part is of all that the page compares, and
    leaves out what it did not measure. What is measured alone it keeps.
    """
    if parts <= ALONE.keys():
        for part in parts:
            setattr(published, ALONE[part], getattr(found, ALONE[part]))
        return published
    for field in ALONE.values():
        if getattr(found, field) is None:
            setattr(found, field, getattr(published, field))
    return found
