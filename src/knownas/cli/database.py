"""`knownas migrate`, `check`, `backup` and `restore`: the database as a whole."""

import asyncio
import sys

import click

from knownas import bootstrap
from knownas.cli.options import database_option, json_option
from knownas.cli.printing import emit, progress_bar
from knownas.cli.running import load_settings, on_registry, telling_errors
from knownas.registry import Registry

_overwrite_option = click.option("--overwrite", is_flag=True, help="Replace what is there already.")


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


@click.command()
@click.argument("file")
@_overwrite_option
@json_option
@database_option
def backup(*, file: str, overwrite: bool, database: str | None, as_json: bool) -> None:
    """Write a copy of the database to FILE and check it; servers may go on meanwhile."""
    loaded = load_settings(database)

    def run() -> None:
        with progress_bar("Backup") as progress:
            size = bootstrap.back_up(loaded.database, file, overwrite=overwrite, progress=progress)
        emit(
            {"file": file, "bytes": size},
            as_json,
            f"Backed up to {file}: {size:,} bytes, all is well.",
        )

    telling_errors(run)


@click.command()
@click.argument("file")
@_overwrite_option
@json_option
@database_option
def restore(*, file: str, overwrite: bool, database: str | None, as_json: bool) -> None:
    """Make the database from the backup in FILE, checked; no server may run on it meanwhile."""
    loaded = load_settings(database)

    def run() -> None:
        with progress_bar("Restore") as progress:
            size, replayed = bootstrap.restore(file, loaded, overwrite=overwrite, progress=progress)
        persons = sum(one.persons for one in replayed)
        emit(
            {"file": file, "bytes": size, "erased": persons},
            as_json,
            f"Restored {file}: {size:,} bytes, all is well."
            + (f"\nErased again, as the ledger has it: {persons:,}." if replayed else ""),
        )

    telling_errors(run)
