"""The public benchmark: our server and its peers, side by side. See bench/README.md."""

import os
import shutil
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Final

import click

from bench import cpu, databases, importing, layouts, machine, page, postgres, results, wrk
from bench.contenders import CONTENDERS, Contender
from bench.loads import LOADS, LOOKUPS, OVER_POSTGRES
from bench.results import Imports, OverPostgres, Results
from bench.rounds import OURS, Rounds, say

MAIN_PROFILES: Final = 1_000_000
"""Of the database on which all are compared, if it is among those asked for."""
LAYOUT_PROFILES: Final = 200_000
DISK_IDENTIFIERS: Final = 6
PEERS: Final = tuple(one.name for one in CONTENDERS[1:])
PARTS: Final = (
    *(load.name for load in LOADS),
    *("lookups", "growth", "cpu", "disk", "layouts", "keys", "postgres", "imports"),
)


def _names(allowed: tuple[str, ...]) -> Callable[..., tuple[str, ...]]:
    """Return what reads an option of names with commas between them."""

    def convert(_context: click.Context, _option: click.Parameter, text: str) -> tuple[str, ...]:
        names = tuple(name for name in text.split(",") if name)
        if unknown := set(names) - set(allowed):
            raise click.BadParameter(f"{', '.join(unknown)}: not in {', '.join(allowed)}")
        return names

    return convert


def _sizes(_context: click.Context, _option: click.Parameter, text: str) -> tuple[int, ...]:
    """Read an option of numbers with commas between them."""
    try:
        return tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        raise click.BadParameter("Give numbers with commas between them.") from None


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--profiles", callback=_sizes, default="10000,1000000", show_default=True)
@click.option("--seconds", type=click.IntRange(1), default=10, show_default=True)
@click.option("--repeat", type=click.IntRange(1), default=5, show_default=True)
@click.option("--only", callback=_names(PARTS), default=",".join(PARTS), show_default=True)
@click.option(
    "--peers",
    callback=_names(PEERS),
    default=",".join(PEERS),
    show_default=True,
)
@click.option(
    "--work",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(__file__).parent / "work",
    help="Where databases are kept; on the disk that is to be measured.",
)
@click.option("--publish", is_flag=True, help="Write docs/performance.md from this run.")
@click.option("--render", is_flag=True, help="Only write it anew from the last published run.")
def main(  # noqa: PLR0913 - the options of the command
    *,
    profiles: tuple[int, ...],
    seconds: int,
    repeat: int,
    only: tuple[str, ...],
    peers: tuple[str, ...],
    work: Path,
    publish: bool,
    render: bool,
) -> None:
    """Measure knownas and its peers side by side on this machine."""
    if render:
        if not results.PUBLISHED.exists():
            raise click.ClickException("No run was published yet: use --publish.")
        page.write(results.read(results.PUBLISHED))
        return
    if reason := wrk.missing():
        raise click.ClickException(reason)
    work.mkdir(exist_ok=True, parents=True)
    found = Results(
        began=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        seconds=seconds,
        repeat=repeat,
        main_profiles=MAIN_PROFILES if MAIN_PROFILES in profiles else profiles[-1],
        machine=machine.machine(work),
        versions=machine.versions(),
        fdatasync=machine.fdatasync(work),
    )
    parts, contenders = _what_can_be_done(found, only, peers)
    _measure(found, work, profiles, parts, contenders)
    path = results.RESULTS / time.strftime("%Y%m%d-%H%M%S.json", time.gmtime())
    results.save(found, path)
    click.echo(f"\n{page.summary(found)}\nAll figures: {path}")
    if publish:
        if results.PUBLISHED.exists():
            found = results.put_into(results.read(results.PUBLISHED), found, parts)
        results.save(found, results.PUBLISHED)
        page.write(found)


def _what_can_be_done(
    found: Results, only: Sequence[str], peers: Sequence[str]
) -> tuple[set[str], list[Contender]]:
    """Return the parts and the contenders for which all is installed; say what is left out."""
    parts = set(only)
    contenders = [OURS]
    for one in CONTENDERS[1:]:
        if one.name not in peers:
            continue
        if reason := one.missing():
            found.left_out[one.title] = reason
        else:
            contenders.append(one)
    if "cpu" in parts and (reason := cpu.missing()):
        found.left_out["where the microseconds go"] = reason
        parts.remove("cpu")
    if "postgres" in parts and (reason := postgres.missing()):
        found.left_out["PostgreSQL"] = reason
        parts.remove("postgres")
    for what, reason in found.left_out.items():
        say(f"left out: {what}: {reason}")
    return parts, contenders


def _measure(
    found: Results,
    work: Path,
    profiles: Sequence[int],
    parts: Collection[str],
    contenders: Sequence[Contender],
) -> None:
    folder = work / "run"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    made = {size: databases.made(work, size) for size in profiles}
    rounds = Rounds(work, folder, found)
    if "lookups" in parts:
        found.lookups = _of_its_own(found)
        beside = Rounds(work, folder, found.lookups)
        beside.compare(made[found.main_profiles], [OURS], LOOKUPS, with_cpu=False)
    loads = [load for load in LOADS if load.name in parts]
    if loads or "cpu" in parts:
        main_database = made[found.main_profiles]
        rounds.compare(main_database, contenders, loads, with_cpu="cpu" in parts)
    if "growth" in parts:
        rounds.grow([made[size] for size in profiles])
    if "keys" in parts:
        say("measuring the refusal of keys")
        rounds.time_keys(made[profiles[0]])
    if "disk" in parts:
        say(f"measuring the disk of profiles with {DISK_IDENTIFIERS} identifiers each")
        found.disk = databases.disk(
            folder, profiles=found.main_profiles, identifiers=DISK_IDENTIFIERS
        )
    if "layouts" in parts:
        say("measuring layouts of rows")
        found.layouts = layouts.measure(
            folder, profiles=min(found.main_profiles, LAYOUT_PROFILES), repeat=found.repeat
        )
    if "postgres" in parts:
        found.over_postgres = _over_postgres(found, work, made[found.main_profiles])
    if "imports" in parts:
        found.imports = _imports(found, folder)
    shutil.rmtree(folder)


def _imports(found: Results, folder: Path) -> Imports:
    """Measure imports into a file and, where it is installed, into PostgreSQL."""
    load = os.getloadavg()[0]
    say(f"importing {found.main_profiles:,} rows into SQLite")
    url = f"sqlite:///{folder}/imported.db"
    measured = [*importing.measure(folder, url, found.main_profiles)]
    if postgres.missing() is None:
        with postgres.server() as server_url:
            say(f"importing {found.main_profiles:,} rows into PostgreSQL")
            measured += importing.measure(folder, server_url, found.main_profiles)
    return Imports(began=found.began, load=load, measured=measured)


def _of_its_own(found: Results) -> Results:
    """Return what takes the results of a part that can be published by itself."""
    return Results(
        began=found.began,
        seconds=found.seconds,
        repeat=found.repeat,
        main_profiles=found.main_profiles,
    )


def _over_postgres(found: Results, work: Path, database: databases.Database) -> OverPostgres:
    """Measure over PostgreSQL, on the same profiles."""
    own = _of_its_own(found)
    with postgres.server() as url:
        say(f"copying {database.profiles:,} profiles to PostgreSQL")
        copy, size = postgres.fill(url, database)
        rounds = Rounds(work, work / "run", own)
        with postgres.pgbouncer(url) as pooler:
            contenders = postgres.contenders(url, pooler)
            rounds.compare(database, contenders, OVER_POSTGRES, with_cpu=False)
    return OverPostgres(results=own, copy=copy, database_bytes=size)


if __name__ == "__main__":
    main(prog_name="python -m bench")
