"""Servers side by side: each load on each server, all of them in every round."""

import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Final, NamedTuple

import click
import msgspec

from bench import cpu, key_timing, lookups, results, wrk
from bench.contenders import CONTENDERS, PATH, Contender, Site
from bench.databases import Database, Target
from bench.loads import LOADS, Load, requests, written
from bench.results import Results, Run
from bench.servers import Running

OURS: Final = CONTENDERS[0]
_KEY_REQUESTS: Final = 10_000
_WARM_UP_SECONDS: Final = 2


class Started(NamedTuple):
    """A contender that runs, and on what."""

    contender: Contender
    running: Running
    database: Database


class Rounds:
    """All that is measured on running servers in one run of the benchmark."""

    def __init__(self, work: Path, folder: Path, found: Results) -> None:
        """Work in an empty folder of `work`, and put what is found into `found`."""
        self._work = work
        self._folder = folder
        self._found = found

    def compare(
        self,
        database: Database,
        contenders: Sequence[Contender],
        loads: Sequence[Load],
        *,
        with_cpu: bool,
    ) -> None:
        """Measure the loads on every contender that takes them, then its memory."""
        wanted = {load.kind for load in loads}
        targets = database.targets()
        with ExitStack() as stack:
            started = [
                stack.enter_context(self._started(one, database))
                for one in contenders
                if one is OURS or one.loads & wanted
            ]
            _check(started, targets[0])
            if wanted & lookups.KINDS:
                lookups.check(started[0].running, started[0].database.key, targets)
            for one in started:
                self._warm_up(one, targets)
            for load in loads:
                for connections in load.connections:
                    able = [one for one in started if load.kind in one.contender.loads]
                    for number in range(1, self._found.repeat + 1):
                        for one in able:
                            self._run(load, connections, one, targets, number)
            for one in started:
                self._found.memory[one.contender.name] = one.running.private_bytes()
            if with_cpu:
                requests_file = self._requests(LOADS[0], started[0], targets)
                self._found.cpu = cpu.profile(
                    started[0].running, requests_file, seconds=self._found.seconds
                )

    def grow(self, sizes: Sequence[Database]) -> None:
        """Measure our GET over databases of several sizes."""
        load = LOADS[0]._replace(name="growth")
        with ExitStack() as stack:
            started = [stack.enter_context(self._started(OURS, one, copy=False)) for one in sizes]
            targets = [one.database.targets() for one in started]
            for one, its in zip(started, targets, strict=True):
                self._warm_up(one, its)
            for number in range(1, self._found.repeat + 1):
                for one, its in zip(started, targets, strict=True):
                    self._run(load, load.connections[0], one, its, number)

    def time_keys(self, database: Database) -> None:
        """Measure how long our server takes to refuse a key."""
        unlimited = {"KNOWNAS_BAD_KEYS_PER_MINUTE": "1000000"}
        with self._started(OURS, database, environment=unlimited) as one:
            self._found.key_timing = key_timing.measure(
                one.running, database.key, requests=_KEY_REQUESTS
            )

    def _run(
        self, load: Load, connections: int, one: Started, targets: Sequence[Target], number: int
    ) -> None:
        name = one.contender.name
        file = self._requests(load, one, targets)
        outcome = wrk.run(one.running, file, connections=connections, seconds=self._found.seconds)
        good = outcome.refused if load.refused else outcome.requests - outcome.refused
        run = Run(
            load=load.name,
            server=name,
            connections=connections,
            profiles=one.database.profiles,
            round=number,
            requests=good,
            failed=outcome.requests - good + outcome.broken,
            seconds=outcome.microseconds / 1e6,
            p50_us=outcome.p50,
            p99_us=outcome.p99,
            p999_us=outcome.p999,
            cpu_us=outcome.cpu_us,
            server_busy=outcome.server_busy,
            load_busy=outcome.load_busy,
            stolen=outcome.stolen,
        )
        self._found.runs.append(run)
        say(
            f"{load.name:12} {name:18} {one.database.profiles:>10,} profiles "
            f"{connections:>3} connections  round {number}: {results.rate(run):>9,.0f}/s "
            f"{run.cpu_us:>7.1f} us CPU  p99 {run.p99_us / 1e3:>7.2f} ms  "
            f"cores {run.server_busy:.0%} {run.load_busy:.0%}"
            + (f"  {run.failed} FAILED" if run.failed else "")
        )
        if load.writes:
            wrk.wait_until_quiet(one.running)

    def _requests(self, load: Load, one: Started, targets: Sequence[Target]) -> Path:
        """Return the file with the requests of a load for a server."""
        name = f"{load.name}-{one.contender.name}-{one.database.profiles}.requests"
        path = self._folder / name
        if not path.exists():
            like = load if load.name != "growth" else load._replace(name="get")
            path.write_bytes(requests(like, one.contender, one.database, targets))
        return path

    @contextmanager
    def _started(
        self,
        contender: Contender,
        database: Database,
        *,
        copy: bool = True,
        environment: Mapping[str, str] | None = None,
    ) -> Iterator[Started]:
        folder = self._folder / f"{contender.name}-{database.profiles}"
        folder.mkdir()
        own = database.copy(folder / "copy.db") if copy else database
        say(f"starting {contender.name} on {database.profiles:,} profiles")
        running = contender.start(Site(folder, own, self._work, environment or {}))
        try:
            yield Started(contender, running, own)
        finally:
            running.stop()
            shutil.rmtree(folder)

    def _warm_up(self, one: Started, targets: Sequence[Target]) -> None:
        load = next(load for load in LOADS if load.name in one.contender.loads)
        file = self._requests(load, one, targets)
        seconds = min(_WARM_UP_SECONDS, self._found.seconds)
        wrk.run(one.running, file, connections=load.connections[-1], seconds=seconds)


def _check(started: Sequence[Started], target: Target) -> None:
    """Make sure that all servers answer what they have to, before their time is taken."""
    headers = {
        "Authorization": f"Api-Key {started[0].database.key}",
        "adapty-customer-user-id": target.customer,
        "Content-Type": "application/json",
    }
    expected = msgspec.json.decode(_answer(started[0], HTTPStatus.OK, headers))
    for one in started:
        found = _answer(one, HTTPStatus.OK, headers, path=_path(one, target))
        if one.contender.get_path is None:
            assert msgspec.json.decode(found) == expected, one.contender.name
    for one in started:
        if one.contender.get_path is not None:
            continue
        _answer(one, HTTPStatus.UNAUTHORIZED, headers | {"Authorization": "Api-Key no"})
        _answer(one, HTTPStatus.NOT_FOUND, headers | {"adapty-customer-user-id": "nobody"})
        values = written("0123456789")
        _answer(one, HTTPStatus.OK, headers, body=msgspec.json.encode(values))
        changed = msgspec.json.decode(_answer(one, HTTPStatus.OK, headers))
        assert values.items() <= changed.items(), one.contender.name


def _answer(
    one: Started,
    status: HTTPStatus,
    headers: Mapping[str, str],
    *,
    path: str = PATH,
    body: bytes | None = None,
) -> bytes:
    """Return the body of the answer to a GET, or to a POST of `body`, that has to be so."""
    found, text = one.running.ask("GET" if body is None else "POST", path, headers, body)
    if found != status:
        raise click.ClickException(f"{one.contender.name} answers {found}: {text[:300]!r}")
    return text


def _path(one: Started, target: Target) -> str:
    return one.contender.get_path(target) if one.contender.get_path else PATH


def say(line: str) -> None:
    """Print a line of progress."""
    print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)
