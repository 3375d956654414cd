"""The sections of the page on loads: what each server did, with its plots."""

from collections.abc import Iterable, Sequence
from typing import Final

from bench import plots, postgres, results, tables
from bench.contenders import CONTENDERS
from bench.loads import BATCH, LOADS, LOOKUPS, OVER_POSTGRES, Load
from bench.lookups import BATCH_SIZE
from bench.reach import GOALS_OF_LOOKUPS, GOALS_OVER_POSTGRES, OURS, Goal, Measured
from bench.results import Results, Run

_TITLES: Final = {one.name: one.title for one in CONTENDERS}
_LOAD_BOUND: Final = (
    "\n† The load's own core was at least 95% busy: the server could have answered more, so its"
    " CPU time a request is what counts.\n"
)


def reached(found: Results, goals: Iterable[Goal]) -> str:
    """Return the table of what is to be reached, and of what was."""

    def row(goal: Goal) -> Sequence[str]:
        measured = goal.measure(found)
        bound = "≤ " if goal.is_bound_above else ""
        value = "" if measured is None else _value(measured, goal.unit)
        return (
            goal.what,
            f"{bound}{_goal(goal.at_least)}{goal.unit}",
            f"{bound}{_goal(goal.aim)}{goal.unit}",
            value,
            goal.verdict(measured),
        )

    return tables.table(("", "at least", "aim", "measured", ""), map(row, goals), right=(1, 2, 3))


def _goal(value: float) -> str:
    return f"{value:.2f}" if value < 1 else f"{value:,.1f}".removesuffix(".0")


def _value(measured: Measured, unit: str) -> str:
    spread = measured.spread
    text = f"**{tables.short(spread.median)}{unit}**"
    if spread.low != spread.high:
        text += f" ({tables.short(spread.low)}–{tables.short(spread.high)})"
    return f"{text} {measured.note}".strip()


def get(found: Results) -> str:
    """Return how the servers answer the hot GET."""
    servers = _by_rate(found, "get")
    if not servers:
        return tables.NOTHING
    nginx = found.of("get", "nginx")

    def bar(server: str) -> plots.Bar:
        runs = found.of("get", server)
        rate = results.over(runs, results.rate)
        cpu = results.over(runs, results.cpu_us).median
        return plots.Bar(
            name=_TITLES[server],
            value=rate.median,
            text=f"{rate.median:,.0f}/s, {tables.short(cpu)} µs CPU",
            low=rate.low,
            high=rate.high,
            is_ours=server == OURS,
        )

    plots.save(
        "get",
        plots.bars(
            "GET by customer: requests a second",
            f"{found.main_profiles:,} profiles, 64 connections, one core for the server",
            [plots.Group("", [bar(server) for server in servers])],
        ),
    )

    def row(server: str) -> Sequence[str]:
        runs = found.of("get", server)
        ratio = results.ratio(runs, nginx, results.rate) if nginx else None
        by_cpu = results.ratio(nginx, runs, results.cpu_us) if nginx else None
        return (
            _name(server, runs),
            tables.rates(runs),
            tables.short(ratio.median) if ratio else "",
            tables.with_range(results.over(runs, results.cpu_us)),
            tables.short(by_cpu.median) if by_cpu else "",
            f"{results.over(runs, lambda run: run.load_busy).median:.0%}",
        )

    head = ("", "requests/s", "to nginx", "µs CPU a request", "nginx to it", "load's core busy")
    table = tables.table(head, map(row, servers), right=range(1, 6))
    return f"{tables.image('get', 'GET by customer')}\n{table}{_footnote(found, ['get'])}"


def latency(found: Results) -> str:
    """Return how long the answers to the hot GET take."""
    servers = _by_rate(found, "get")
    if not servers:
        return tables.NOTHING

    def values(server: str) -> list[float]:
        runs = found.of("get", server)
        figures = (results.p50_ms, results.p99_ms, results.p999_ms)
        return [results.over(runs, figure).median for figure in figures]

    names = ("p50", "p99", "p99.9")
    plots.save(
        "latency",
        plots.dots(
            "GET by customer: latency",
            "milliseconds, as fast as 64 connections can ask",
            names,
            [plots.Dots(_TITLES[one], values(one), one == OURS) for one in servers],
            "ms",
        ),
    )
    rows = ((_TITLES[server], *(f"{value:.2f}" for value in values(server))) for server in servers)
    table = tables.table(("ms", *names), rows, right=range(1, 4))
    return f"{tables.image('latency', 'Latency of GET by customer')}\n{table}"


def other_loads(found: Results) -> str:
    """Return the tables of all loads but the hot GET and the POST."""
    shown = [load for load in LOADS if load.name not in {"get", "post"}]
    texts = []
    for load in shown:
        servers = _by_rate(found, load.name)
        if servers:
            texts.append(f"**{load.title}**\n\n{_load_table(found, load, servers)}")
    if not texts:
        return tables.NOTHING
    return "\n".join(texts) + _footnote(found, [load.name for load in shown])


def _load_table(found: Results, load: Load, servers: Sequence[str]) -> str:
    def row(server: str) -> Sequence[str]:
        runs = found.of(load.name, server)
        return (
            _name(server, runs),
            tables.rates(runs),
            tables.with_range(results.over(runs, results.cpu_us)),
            *(
                f"{results.over(runs, figure).median:.2f}"
                for figure in (results.p50_ms, results.p99_ms, results.p999_ms)
            ),
        )

    head = ("", "requests/s", "µs CPU a request", "p50 ms", "p99 ms", "p99.9 ms")
    return tables.table(head, map(row, servers), right=range(1, 6))


def writes(found: Results) -> str:
    """Return how the servers write."""
    load = next(load for load in LOADS if load.name == "post")
    servers = _by_rate(found, "post")
    if not servers:
        return tables.NOTHING

    def bar(server: str, connections: int) -> plots.Bar:
        runs = found.of("post", server, connections=connections)
        rate = results.over(runs, results.rate)
        p99 = results.over(runs, results.p99_ms).median
        return plots.Bar(
            name=_TITLES[server],
            value=rate.median,
            text=f"{rate.median:,.0f}/s, p99 {tables.short(p99)} ms",
            low=rate.low,
            high=rate.high,
            is_ours=server == OURS,
        )

    plots.save(
        "writes",
        plots.bars(
            "Durable POST of three values: requests a second",
            f"{found.main_profiles:,} profiles, every write on disk before its answer",
            [
                plots.Group(
                    "1 connection" if connections == 1 else f"{connections} connections",
                    [
                        bar(server, connections)
                        for server in servers
                        if found.of("post", server, connections=connections)
                    ],
                )
                for connections in load.connections
            ],
        ),
    )

    def cell(server: str, connections: int) -> str:
        runs = found.of("post", server, connections=connections)
        if not runs:
            return ""
        p99 = results.over(runs, results.p99_ms)
        return f"{tables.rates(runs)}<br>p99 {tables.short(p99.median)} ms"

    rows = (
        (_TITLES[server], *(cell(server, connections) for connections in load.connections))
        for server in servers
    )
    head = ("requests/s", *(f"{count} connections" for count in load.connections))
    table = tables.table(head, rows, right=range(1, 1 + len(load.connections)))
    text = f"{tables.image('writes', 'Durable POST')}\n{table}{_footnote(found, ['post'])}"
    if found.fdatasync is not None:
        text += (
            f"\nThe disk makes {found.fdatasync:,.0f} appended pages a second durable, one after"
            " another.\n"
        )
    return text


def growth(found: Results) -> str:
    """Return our GET over databases of several sizes."""
    sizes = sorted({run.profiles for run in found.runs if run.load == "growth"})
    if not sizes:
        return tables.NOTHING
    smallest = found.of("growth", OURS, profiles=sizes[0])

    def runs_of(size: int) -> list[Run]:
        return found.of("growth", OURS, profiles=size)

    def point(size: int) -> plots.Point:
        rate = results.over(runs_of(size), results.rate)
        return plots.Point(
            f"{size:,} profiles", rate.median, f"{rate.median:,.0f}/s", rate.low, rate.high
        )

    plots.save(
        "growth",
        plots.points(
            "GET by customer as the database grows",
            "requests a second, 64 connections",
            [point(size) for size in sizes],
        ),
    )

    def row(size: int) -> Sequence[str]:
        runs = runs_of(size)
        return (
            f"{size:,}{tables.dagger(runs)}",
            tables.rates(runs),
            tables.short(results.ratio(runs, smallest, results.rate).median),
            tables.with_range(results.over(runs, results.cpu_us)),
            f"{results.over(runs, results.p99_ms).median:.2f}",
        )

    head = ("profiles", "requests/s", "to the smallest", "µs CPU a request", "p99 ms")
    table = tables.table(head, map(row, sizes), right=range(5))
    return f"{tables.image('growth', 'Growth')}\n{table}{_footnote(found, ['growth'])}"


def lookups(found: Results) -> str:
    """Return how profiles are found by an identifier, and read many at once."""
    own = found.lookups
    if own is None:
        return tables.NOTHING

    def row(load: Load) -> Sequence[str]:
        runs = own.of(load.name, OURS)
        profiles = BATCH_SIZE if load is BATCH else 1
        return (
            load.title + tables.dagger(runs),
            tables.rates(runs),
            f"{results.over(runs, results.rate).median * profiles:,.0f}",
            tables.short(results.over(runs, results.cpu_us).median / profiles),
            *(
                f"{results.over(runs, figure).median:.2f}"
                for figure in (results.p50_ms, results.p99_ms)
            ),
        )

    head = ("", "requests/s", "profiles/s", "µs CPU a profile", "p50 ms", "p99 ms")
    table = tables.table(head, map(row, LOOKUPS), right=range(1, 6))
    note = _footnote(own, [load.name for load in LOOKUPS])
    return f"{_when(own)}\n{reached(own, GOALS_OF_LOOKUPS)}\n{table}{note}"


def imports(found: Results) -> str:
    """Return how fast files are imported."""
    own = found.imports
    if own is None:
        return tables.NOTHING
    rows = (
        (
            one.database,
            one.rows_are,
            f"{one.rows:,}",
            f"{one.rate:,.0f}",
            f"{one.mib_second_tenth} MiB",
            f"{one.mib_last_tenth} MiB",
        )
        for one in own.measured
    )
    head = ("into", "rows are", "rows", "rows/s", "memory early", "memory late")
    return (
        f"Measured {own.began}, while {own.load:.1f} other processes wanted to run.\n\n"
        f"{tables.table(head, rows, right=range(2, 6))}"
    )


def _when(own: Results) -> str:
    """Return when a part was measured that may be of another run than the rest."""
    when = f"Measured {own.began}; {own.main_profiles:,} profiles"
    return f"{when}, {own.repeat} rounds of {own.seconds:g} s.\n"


def over_postgres(found: Results) -> str:
    """Return what was measured over PostgreSQL."""
    over = found.over_postgres
    if over is None:
        return tables.NOTHING
    own = over.results
    texts = [_when(own), reached(own, GOALS_OVER_POSTGRES)]
    for load in OVER_POSTGRES:
        for connections in load.connections:
            runs = {
                name: of
                for name in postgres.TITLES
                if (of := own.of(load.name, name, connections=connections))
            }
            rows = (
                (
                    (f"**{title}**" if name == postgres.OURS else title) + tables.dagger(of),
                    tables.rates(of),
                    tables.with_range(results.over(of, results.cpu_us)),
                    *(
                        f"{results.over(of, figure).median:.2f}"
                        for figure in (results.p50_ms, results.p99_ms)
                    ),
                )
                for name, of in runs.items()
                for title in [postgres.TITLES[name]]
            )
            head = ("", "requests/s", "µs CPU a request", "p50 ms", "p99 ms")
            table = tables.table(head, rows, right=range(1, 5))
            texts.append(f"**{load.title}, {connections} connections**\n\n{table}")
    copy = over.copy
    rate = copy.profiles / copy.seconds
    texts.append(
        f"`knownas copy` brought {copy.profiles:,} profiles from SQLite to PostgreSQL in"
        f" {copy.seconds:,.0f} s, {rate:,.0f} a second;"
        f" {'both were the same' if copy.is_same else '**both were not the same**'} at the end."
        f" It had {copy.mib_second_tenth} MiB of memory for itself in the second tenth of that"
        f" time and {copy.mib_last_tenth} MiB in the last. There a profile takes"
        f" {over.database_bytes / copy.profiles:,.0f} bytes, indexes included.\n"
    )
    return "\n".join(texts) + _footnote(own, [load.name for load in OVER_POSTGRES])


def _by_rate(found: Results, load: str) -> list[str]:
    """Return the servers that took a load, the fastest first."""
    rates = {
        one.name: results.over(runs, results.rate).median
        for one in CONTENDERS
        if (runs := found.of(load, one.name))
    }
    return sorted(rates, key=lambda name: -rates[name])


def _name(server: str, runs: Sequence[Run]) -> str:
    name = f"**{_TITLES[server]}**" if server == OURS else _TITLES[server]
    return name + tables.dagger(runs)


def _footnote(found: Results, loads: Iterable[str]) -> str:
    wanted = set(loads)
    by_server: dict[tuple[str, str, int, int], list[Run]] = {}
    for run in found.runs:
        if run.load in wanted:
            key = (run.load, run.server, run.connections, run.profiles)
            by_server.setdefault(key, []).append(run)
    return _LOAD_BOUND if any(map(results.is_load_bound, by_server.values())) else ""
