"""`knownas migrate` and `check`: the database as a whole."""

import asyncio
import sys

import click

from knownas import bootstrap
from knownas.cli.options import database_option, json_option
from knownas.cli.printing import emit
from knownas.cli.running import load_settings, on_registry, telling_errors
from knownas.registry import Registry


@click.command()
@click.option("--dry-run", is_flag=True, help="Change nothing; name what would be done.")
@json_option
@database_option
def migrate(*, database: str | None, dry_run: bool, as_json: bool) -> None:
    """Bring the database to this program's schema, and say what was done."""
    loaded = load_settings(database)

    def run() -> None:
        if dry_run:
            todo = bootstrap.pending_migrations(loaded)
            emit({"pending": todo}, as_json, "\n".join(todo) or "The schema is up to date.")
            return
        registry = bootstrap.open_registry(loaded)
        asyncio.run(registry.close())
        done = registry.storage.migrated
        emit({"applied": done}, as_json, "\n".join(done) or "The schema is up to date.")

    telling_errors(run)


@click.command()
@json_option
@database_option
@on_registry
async def check(registry: Registry, *, as_json: bool) -> None:
    """Check the database, and that its reverse index agrees with the profiles."""
    problems = await registry.check()
    emit({"problems": problems}, as_json, "\n".join(problems) or "All is well.")
    if problems:
        sys.exit(1)
