"""`knownas status`: a server, or a database, as it is now, on one page."""

import asyncio
import contextlib
import http.client
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Final, Protocol
from urllib.parse import urlsplit

import click
import msgspec

from knownas import bootstrap
from knownas.cli.options import database_option, json_option
from knownas.cli.printing import utc
from knownas.cli.readings import (
    DatabaseStatus,
    Reading,
    ServerStatus,
    Span,
    Status,
    condition_status,
    database_status,
    server_status,
)
from knownas.cli.running import Failure, load_settings, telling_errors
from knownas.errors import ServiceUnavailable
from knownas.registry import Registry
from knownas.settings import Settings

ANSWER_SECONDS: Final = 10
FEWEST_SECONDS: Final = 0.2
ROUTES_SHOWN: Final = 10

# Another screen without a cursor, and back; the beginning of it; the rest of a line, and of it.
_OPEN, _CLOSE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
_HOME, _REST, _BELOW = "\x1b[H", "\x1b[K", "\x1b[J"


@click.command()
@click.option("--url", help="Ask a server by its metrics, not the database.")
@click.option(
    "--token",
    envvar="KNOWNAS_METRICS_TOKEN",
    help="What opens the server's metrics; default: KNOWNAS_METRICS_TOKEN.",
)
@click.option("--once", is_flag=True, help="Show it once, and end.")
@click.option(
    "--every",
    "seconds",
    type=click.FloatRange(FEWEST_SECONDS),
    default=2.0,
    show_default=True,
    metavar="SECONDS",
    help="How often it is shown; rates are of that time.",
)
@json_option
@database_option
def status(  # noqa: PLR0913 - an option each
    *,
    url: str | None,
    token: str | None,
    once: bool,
    seconds: float,
    as_json: bool,
    database: str | None,
) -> None:
    """Show rates, times, sizes and lags, again and again: of a server or of the database."""
    if url is not None and database is not None:
        raise Failure("Say --url or --database, not both.")
    if url is not None and not token:
        raise Failure("Say what opens its metrics: --token or KNOWNAS_METRICS_TOKEN.")
    with contextlib.suppress(KeyboardInterrupt):
        if url is not None:
            _watch(_Server(url, token or ""), seconds, once=once, as_json=as_json)
            return
        loaded = load_settings(database)
        telling_errors(lambda: _watch_database(loaded, seconds, once=once, as_json=as_json))


class _Unreachable(Exception):
    """Nothing can be told; the text is one line that says why."""


class _Source(Protocol):
    """Where it is asked how things are."""

    name: str

    def look(self, seconds: float) -> Status:
        """Return how things are, with the rates of so many seconds. Raises _Unreachable."""
        ...


class _Server:
    """A server, by its metrics."""

    def __init__(self, url: str, token: str) -> None:
        """Ask the one at `url`. Raises Failure for what is no such URL."""
        if urlsplit(url).scheme not in {"http", "https"}:
            raise Failure("--url must be http://… or https://….")
        self.name = url.rstrip("/")
        self._token = token
        self._last: Reading | None = None

    def look(self, seconds: float) -> Status:
        """Ask it now, and first, if it was not asked before, so many seconds ago."""
        before = self._last or self._read()
        time.sleep(seconds)
        self._last = None  # where it fails, the next look begins anew
        self._last = self._read()
        return Status(
            time.time_ns() // 1_000_000,
            server_status(Span(before, self._last)),
            database_status(self._last),
        )

    def _read(self) -> Reading:
        request = urllib.request.Request(  # noqa: S310 - the scheme was looked at
            f"{self.name}/metrics", headers={"Authorization": f"Bearer {self._token}"}
        )
        try:
            with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as answer:  # noqa: S310 - see above
                text = answer.read().decode()
            return Reading(text, time.monotonic())
        except urllib.error.HTTPError as error:
            error.close()
            raise _Unreachable(f"{self.name}: {_refusal(error.code)}") from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise _Unreachable(f"{self.name} cannot be asked: {reason}.") from None


def _refusal(code: int) -> str:
    if code == http.client.UNAUTHORIZED:
        return "this is not the token of its metrics; say --token, or KNOWNAS_METRICS_TOKEN."
    if code == http.client.NOT_FOUND:
        return "it has no metrics; start it with KNOWNAS_METRICS_TOKEN."
    return f"it answered {code}."


class _Database:
    """A database, asked itself: there are no rates then."""

    name = "The database"

    def __init__(self, registry: Registry, runner: asyncio.Runner) -> None:
        """Ask by a registry, in the event loop of its own."""
        self._registry = registry
        self._runner = runner
        self._looked = False

    def look(self, seconds: float) -> Status:
        """Ask it: at once the first time, and then after so many seconds."""
        if self._looked:
            time.sleep(seconds)
        self._looked = True
        now = self._registry.now()
        try:
            condition = self._runner.run(self._registry.condition())
        except ServiceUnavailable:
            raise _Unreachable("The database does not answer.") from None
        return Status(now, None, condition_status(condition, now))


def _watch_database(loaded: Settings, seconds: float, *, once: bool, as_json: bool) -> None:
    with asyncio.Runner() as runner:

        async def opened() -> Registry:
            return bootstrap.open_registry(loaded, create=False, with_standby=True)

        registry = runner.run(opened())
        try:
            source = _Database(registry, runner)
            _watch(source, seconds, once=once, as_json=as_json)
        finally:
            runner.run(registry.close())


def _watch(source: _Source, seconds: float, *, once: bool, as_json: bool) -> None:
    """Show how things are, once or until it is broken off."""
    is_live = not (once or as_json) and sys.stdout.isatty()
    with _screen() if is_live else contextlib.nullcontext():
        if is_live:
            _draw([f"Asking {source.name} …"])
        while True:
            try:
                found = source.look(seconds)
                lines = page(found, source.name)
            except _Unreachable as error:
                if once or as_json:
                    raise Failure(str(error)) from None
                lines = [str(error), "", "It is asked again."]
                time.sleep(seconds)
            if as_json:
                click.echo(msgspec.json.encode(found))
            elif is_live:
                _draw(lines)
            else:
                click.echo("\n".join(lines) if once else "\n".join([*lines, ""]))
            if once:
                return


@contextlib.contextmanager
def _screen() -> Iterator[None]:
    sys.stdout.write(_OPEN)
    try:
        yield
    finally:
        sys.stdout.write(_CLOSE)
        sys.stdout.flush()


def _draw(lines: list[str]) -> None:
    """Put lines over those that are there, in one piece: nothing is blank in between."""
    # Not by shutil, which believes COLUMNS: that stays as it is when the window is made smaller.
    width, height = os.get_terminal_size(sys.stdout.fileno())
    shown = (line[:width] + _REST for line in lines[: height - 1])
    sys.stdout.write(_HOME + "\n".join(shown) + "\n" + _BELOW)
    sys.stdout.flush()


def page(found: Status, name: str) -> list[str]:
    """Return the lines of the page."""
    server = [] if found.server is None else _server_lines(found.server)
    return [f"{name}  {utc(found.at)}", "", *server, *_database_lines(found.database)]


def _server_lines(server: ServerStatus) -> list[str]:
    head = [
        f"knownas {server.version}",
        _several(server.processes, "process", "processes"),
        _several(server.connections, "connection"),
        _bytes(server.resident_bytes),
        f"{server.cpu_cores:.2f} cores",
    ]
    lines = [
        "  ".join(head),
        "",
        f"{'requests':<60}{'a second':>11}{'p50 ms':>9}{'p99 ms':>9}{'4xx/s':>9}{'5xx/s':>9}",
    ]
    lines += [
        f"{one.route[-58:]:<60}{one.per_second:>11,.1f}{_ms(one.p50_ms):>9}{_ms(one.p99_ms):>9}"
        f"{one.refused_per_second:>9,.1f}{one.failed_per_second:>9,.1f}"
        for one in server.requests[: ROUTES_SHOWN + 1]
    ]
    lines += ["", f"{'store':<60}{'a second':>11}{'at once':>9}{'p99 ms':>9}{'waiting':>9}"]
    lines += [
        f"{one.operation:<60}{one.per_second:>11,.1f}"
        f"{'-' if one.at_once is None else f'{one.at_once:,.1f}':>9}{_ms(one.p99_ms):>9}"
        f"{one.waiting:>9,}"
        for one in server.store
    ]
    sent = "  ".join(f"{rate:,.1f} {result}" for result, rate in server.attempts_per_second.items())
    return [*lines, "", f"webhooks, attempts a second: {sent}", ""]


def _database_lines(database: DatabaseStatus) -> list[str]:
    if not database.is_up:
        return ["The database does not answer."]
    beside = ""
    if database.log_bytes is not None and database.free_bytes is not None:
        beside = f"  log {_bytes(database.log_bytes)}  free {_bytes(database.free_bytes)}"
    profiles = "  ".join(f"{app} {count:,}" for app, count in database.profiles.items())
    lines = [
        f"database   {database.engine} {database.version}  {_bytes(database.bytes or 0)}{beside}",
        f"profiles   {profiles or 'none'}",
        f"feed       {_behind(database.feed_lag_seconds)}",
    ]
    for queue in database.queues:
        off = f", {queue.disabled:,} switched off" if queue.disabled else ""
        lines.append(
            f"{queue.target:<11}{_behind(queue.lag_seconds)}, {queue.pending:,} tried again, "
            f"{queue.dead:,} given up{off}"
        )
    waits = database.erasure_wait_seconds
    lines.append(f"erasures   {f'the oldest waits for {waits:,.0f} s' if waits else 'none waits'}")
    if database.replica_is_up is not None:
        lag = f"{_behind(database.replica_lag_seconds)}, {_bytes(database.replica_lag_bytes or 0)}"
        lines.append(f"standby    {lag if database.replica_is_up else 'does not answer'}")
    return lines


def _behind(seconds: float | None) -> str:
    return f"{seconds:,.1f} s behind" if seconds else "up to date"


def _ms(milliseconds: float | None) -> str:
    return "-" if milliseconds is None else f"{milliseconds:,.2f}"


def _several(number: int, one: str, many: str = "") -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def _bytes(number: int) -> str:
    size, units = float(number), ["B", "KiB", "MiB", "GiB", "TiB"]
    while size >= 1024 and len(units) > 1:  # noqa: PLR2004 - what a KiB is
        size /= 1024
        units.pop(0)
    return f"{size:,.0f} {units[0]}" if units[0] == "B" else f"{size:,.1f} {units[0]}"
