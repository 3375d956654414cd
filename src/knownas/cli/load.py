"""`knownas bench`: a load on a running server."""

import os
import time
from collections.abc import Awaitable

import click
import uvloop

from knownas import bootstrap, load
from knownas.cli.options import app_option, database_option, json_option
from knownas.cli.printing import emit
from knownas.cli.running import Failure, load_settings, telling_errors
from knownas.model import NO_RATE


@click.command()
@click.option("--url", default="http://127.0.0.1:8080", show_default=True)
@click.option("--connections", type=click.IntRange(1, 1_000), default=64, show_default=True)
@click.option("--seconds", type=click.FloatRange(0.1, 3_600), default=10, show_default=True)
@click.option(
    "--profiles",
    type=click.IntRange(1, 100_000),
    default=1_000,
    show_default=True,
    help="Made for the load, deleted at its end.",
)
@click.option(
    "--writes", type=click.IntRange(0, 100), default=0, show_default=True, help="POSTs of 100."
)
@app_option
@json_option
@database_option
def bench(  # noqa: PLR0913 - the options of the command
    *,
    url: str,
    connections: int,
    seconds: float,
    profiles: int,
    writes: int,
    app_name: str,
    as_json: bool,
    database: str | None,
) -> None:
    """Load a running server and tell how fast it answers, by KNOWNAS_KEY or a key made for it."""
    loaded = load_settings(database)

    def load_with(key: str) -> Awaitable[load.Report]:
        return load.run(load.Load(url, key, connections, seconds, profiles, writes))

    async def main() -> load.Report:
        if key := os.environ.get("KNOWNAS_KEY"):
            return await load_with(key)
        registry = bootstrap.open_registry(loaded, create=False)
        try:
            app = await registry.app(app_name)
            expires_at = time.time_ns() // 1_000_000 + int(seconds * 1_000) + 3_600_000
            key, made = await registry.keyring.create(
                app, "secret", label="knownas bench", expires_at=expires_at, rate=NO_RATE
            )
            try:
                return await load_with(key)
            finally:
                await registry.keyring.revoke(app.id, made.id)
        finally:
            await registry.close()

    def run() -> None:
        try:
            report = uvloop.run(main())
        except load.LoadError as error:
            raise Failure(str(error)) from None
        emit(report, as_json, _load_lines(report))

    telling_errors(run)


def _load_lines(report: load.Report) -> str:
    errors = [f"{count} x {what}" for what, count in sorted(report.errors.items())]
    return "\n".join(
        [
            f"requests/s  {report.requests_per_second:,.0f}",
            f"p50         {report.p50_ms:.2f} ms",
            f"p99         {report.p99_ms:.2f} ms",
            f"errors      {', '.join(errors) or 'none'}",
            f"load busy   {report.load_busy:.0%}: near 100% it is the load that is the limit",
        ]
    )
