"""`knownas copy`: from one database into another, of whichever kind."""

import asyncio
import sys

import click

from knownas import bootstrap, copying
from knownas.cli.options import json_option
from knownas.cli.printing import emit, progress_bar
from knownas.cli.running import load_settings, telling_errors
from knownas.copying import AppCopy


@click.command()
@click.option("--from", "source", metavar="URL", required=True, help="The database to read.")
@click.option("--to", "target", metavar="URL", required=True, help="The database to fill.")
@click.option(
    "--overwrite",
    is_flag=True,
    help="Also delete profiles that only the target has, and replace those newer there.",
)
@json_option
def copy(*, source: str, target: str, overwrite: bool, as_json: bool) -> None:
    """Copy all into another database and compare; run again, it goes on, or brings what changed."""

    async def main() -> list[AppCopy]:
        async with bootstrap.two_storages(load_settings(source), load_settings(target)) as (
            from_storage,
            to_storage,
            subjects,
        ):
            with progress_bar("Profiles") as progress:
                return await copying.copy(
                    from_storage,
                    to_storage,
                    subjects=subjects,
                    overwrite=overwrite,
                    progress=progress,
                )

    def run() -> None:
        copied = asyncio.run(main())
        lines = [_line(app) for app in copied]
        emit({"apps": copied}, as_json, "\n".join(lines) or "There is no app to copy.")
        if not all(app.is_same for app in copied):
            sys.exit(1)

    telling_errors(run)


def _line(app: AppCopy) -> str:
    done = f"{app.name}: {app.profiles:,} profiles, {app.keys} keys, {app.written:,} written"
    if app.erased:
        done += f", {app.erased:,} persons erased"
    if app.is_same:
        return f"{done}; both have the checksum {app.checksum}."
    if app.kept:
        return (
            f"{done}; NOT the same: {app.kept:,} profiles of the target are newer there, or only "
            "there. --overwrite gives them up."
        )
    if app.left_out:
        return (
            f"{done}; NOT the same: {app.left_out:,} profiles were erased in the target, or their "
            "customer has another profile there; they are left out."
        )
    return f"{done}; NOT the same: the source has changed meanwhile. Run it again."
