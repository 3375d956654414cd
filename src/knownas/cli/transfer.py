"""`knownas import` and `export`: an app's profiles from files, and into files."""

import asyncio
import gc
import signal
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TextIO

import click
import msgspec

from knownas import logs
from knownas.cli.options import app_option, database_option, json_option
from knownas.cli.printing import emit, progress_bar
from knownas.cli.running import Address, Failure, on_registry
from knownas.erasing import Subjects
from knownas.errors import KnownasError
from knownas.imports import Plan
from knownas.registry import Registry, system_clock
from knownas.transfer import exporting, formats, importing
from knownas.transfer.reports import Problem, Telling, data_of, problem_data
from knownas.transfer.uploaded import Worker

if TYPE_CHECKING:
    from knownas.cli.remote import Remote

_OBJECTS: Final = 1_000_000
"""Objects that are made until the collector looks for cycles: rows have none, and are many."""

_LOOK_SECONDS: Final = 0.5
"""How often it is asked how far an import on a server is."""

_SHOWN: Final = 10
"""Problems that are shown to people; --report has them all."""


@click.command("import")
@click.argument("file", type=click.Path())
@click.option(
    "--format",
    "file_format",
    type=click.Choice(formats.IMPORTS),
    help="What the file is; without it, what its content says.",
)
@click.option("--dry-run", is_flag=True, help="Change nothing; say what would come of it.")
@click.option("--atomic", is_flag=True, help="Write nothing where any row is bad.")
@click.option(
    "--on-error",
    type=click.Choice(["skip", "stop"]),
    default="skip",
    show_default=True,
    help="At a row that cannot be imported.",
)
@click.option("--restart", is_flag=True, help="Begin anew where it broke off.")
@click.option("--report", "report_file", metavar="FILE", help="All problems, a line of JSON each.")
@app_option
@json_option
@database_option
@on_registry
async def import_file(  # noqa: PLR0913 - the options of the command
    registry: Registry,
    file: str,
    *,
    file_format: str | None,
    dry_run: bool,
    atomic: bool,
    on_error: Literal["skip", "stop"],
    restart: bool,
    report_file: str | None,
    app_name: str,
    as_json: bool,
) -> None:
    """Merge the profiles of FILE into an app, or a server's; run again, it goes on."""
    app = await registry.app(app_name)
    if click.get_current_context().find_object(Address) is not None:
        if restart or report_file:
            raise Failure("--restart and --report need the database itself; leave out --url.")
        plan = Plan(file_format, dry_run, atomic, on_error)
        _finish(await _imported_there(registry, file, plan), as_json)
        return
    with ExitStack() as stack:
        stack.callback(gc.set_threshold, *gc.get_threshold())
        gc.set_threshold(_OBJECTS)
        out = _opened(stack, report_file)
        tell = stack.enter_context(progress_bar("Dry run" if dry_run else "Import"))

        def note(problem: Problem) -> None:
            if out is not None:
                out.write(msgspec.json.encode(problem_data(problem)).decode() + "\n")

        report = await importing.run(
            registry.storage,
            Subjects(registry.vault),
            app,
            lambda: formats.open_source(file, file_format),
            importing.Options(dry_run, atomic, on_error, restart),
            clock=system_clock,
            telling=Telling(tell, note),
        )
    _finish(data_of(report), as_json, report_file)


async def _imported_there(registry: Any, file: str, plan: Plan) -> dict[str, Any]:  # noqa: ANN401 - a `remote.Remote`, which is not there where only the server is installed
    """Have a server import a file, and return its report."""
    server: Remote = registry
    with progress_bar("Upload") as tell:
        try:
            found = await server.upload(file, plan, tell)
        except OSError as error:
            raise Failure(f"{file}: {error.strerror}.") from None
    with progress_bar("Dry run" if plan.dry_run else "Import") as tell:
        while not found.has_ended:
            await asyncio.sleep(_LOOK_SECONDS)
            found = await server.get_import(found.id)
            if found.progress.of:
                tell(found.progress.done, found.progress.of, found.progress.rows)
    if found.report is None:
        raise Failure(f"{file}: {found.failure or 'The import was cancelled.'}")
    return found.report | {"file": file}


def _finish(report: dict[str, Any], as_json: bool, report_file: str | None = None) -> None:  # noqa: FBT001 - an option's value
    """Print a report; the exit code says whether all rows were imported."""
    emit(report, as_json, "\n".join(_lines(report, report_file)))
    if report["bad"] or report["conflicts"]:
        sys.exit(1)


def _opened(stack: ExitStack, path: str | None) -> TextIO | None:
    if path is None:
        return None
    try:
        # Appended to: an import that goes on has told some of it before.
        return stack.enter_context(Path(path).open("a", encoding="utf-8"))
    except OSError as error:
        raise Failure(f"{path}: {error.strerror}.") from None


def _lines(report: dict[str, Any], report_file: str | None) -> list[str]:
    """Return a report for people."""
    verb = "would be " if report["dry_run"] else ""
    rate = (report["rows"] - report["went_on_after"]) / max(report["seconds"], 0.001)
    lines = [
        (
            f"{report['file']}: {report['format']}, {report['rows']:,} rows in "
            f"{report['seconds']:,.1f} s ({rate:,.0f}/s): {report['new']:,} {verb}new, "
            f"{report['changed']:,} {verb}changed, {report['same']:,} the same."
        )
    ]
    if report["went_on_after"]:
        lines.append(
            f"It went on after the {report['went_on_after']:,} rows that were done before."
        )
    for column in report["ignored_columns"]:
        hint = f"; did you mean {column['near']}?" if column["near"] else "."
        lines.append(f"Ignored: {column['name']}{hint}")
    told = report["bad"] + report["conflicts"] + report["erased"]
    if told:
        lines.append(
            f"Not imported: {report['bad']:,} bad, {report['conflicts']:,} in conflict with "
            f"another profile, {report['erased']:,} erased."
        )
    for problem in report["problems"][:_SHOWN]:
        lines += [
            f"  line {problem['line']}: {_told(error['source'], error['message'])}"
            for error in problem["errors"]
        ]
    if told > _SHOWN:
        where = report_file or "--report FILE"
        lines.append(f"  and {told - _SHOWN:,} more: {where} has them all.")
    if report["stopped_at_line"] is not None:
        lines.append(
            f"Stopped at line {report['stopped_at_line']}; what was before it is imported."
        )
    lines += [
        f"{name}: {count:,} more values stand on several profiles; `knownas conflicts` lists them."
        for name, count in report["shared"].items()
    ]
    return lines


def _told(source: str | None, message: str) -> str:
    return f"{source}: {message}" if source else message


@click.command("import-uploaded", hidden=True)
@database_option
@on_registry
async def import_uploaded(registry: Registry) -> None:
    """Import the files that were uploaded to a server, which runs this, until none is left."""
    gc.set_threshold(_OBJECTS)
    worker = Worker(registry.storage, Subjects(registry.vault), system_clock)
    is_left = True
    while is_left:
        working = asyncio.create_task(worker.work())
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, working.cancel)
        try:
            is_left = await working
        except asyncio.CancelledError:  # the server stops: another one goes on
            return
        except KnownasError:
            raise
        except Exception as error:  # noqa: BLE001 - the text of an error may name a person
            place = ", ".join(logs.place_of(error))
            told = f"An uploaded file could not be imported: {type(error).__name__} at {place}."
            raise Failure(told) from None


@click.command("export")
@click.option(
    "--output", metavar="FILE", required=True, help="Packed if it ends in .gz or .zst; - prints."
)
@click.option(
    "--format", "file_format", type=click.Choice(exporting.FORMATS), help="Default: by the name."
)
@click.option(
    "--spreadsheet", is_flag=True, help="Keep spreadsheets from formulas in CSV; not lossless."
)
@click.option("--overwrite", is_flag=True, help="Replace what is there already.")
@app_option
@json_option
@database_option
@on_registry
async def export_file(  # noqa: PLR0913 - the options of the command
    registry: Registry,
    *,
    output: str,
    file_format: str | None,
    spreadsheet: bool,
    overwrite: bool,
    app_name: str,
    as_json: bool,
) -> None:
    """Write all profiles of an app to a file, which only its owner can read."""
    chosen = file_format or _format_of(output)
    if spreadsheet and chosen != "csv":
        raise Failure("--spreadsheet is for CSV.")
    app = await registry.app(app_name)
    with progress_bar("Export") as tell:
        report = await exporting.run(
            registry.storage,
            app,
            output,
            exporting.Options(chosen, spreadsheet, overwrite),
            progress=tell,
        )
    lines = [f"{output}: {chosen}, {report.profiles:,} profiles."]
    if report.left_out:
        lines.append(f"Left out, since {chosen} cannot have it: {report.left_out:,}")
        lines += [f"  {one.profile_id}: {one.source}" for one in report.left_out_first[:_SHOWN]]
    data = {
        **msgspec.structs.asdict(report),
        "left_out_first": [one._asdict() for one in report.left_out_first],
    }
    # Standard output may be where the profiles went.
    emit(data, as_json, "\n".join(lines), to_stderr=output == exporting.STANDARD_OUTPUT)


def _format_of(output: str) -> str:
    name = output.removesuffix(".gz").removesuffix(".zst")
    for ending, file_format in ((".csv", "csv"), (".jsonl", "jsonl"), (".parquet", "parquet")):
        if name.endswith(ending):
            return file_format
    raise Failure("Say what to write: --format csv, jsonl, parquet or adapty.")
