"""`knownas import` and `export`: an app's profiles from files, and into files."""

import gc
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Final, Literal, TextIO

import click
import msgspec

from knownas.cli.options import app_option, database_option, json_option
from knownas.cli.printing import emit, progress_bar
from knownas.cli.running import Failure, on_registry
from knownas.erasing import Subjects
from knownas.registry import Registry, system_clock
from knownas.transfer import exporting, formats, importing
from knownas.transfer.reports import Problem, Report, Telling, data_of, problem_data

_OBJECTS: Final = 1_000_000
"""Objects that are made until the collector looks for cycles: rows have none, and are many."""

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
    """Merge the profiles of FILE into an app; broken off and run again, it goes on."""
    app = await registry.app(app_name)
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
    emit(data_of(report), as_json, "\n".join(_lines(report, report_file)))
    done = report.done
    if done.bad or done.conflicts:
        sys.exit(1)


def _opened(stack: ExitStack, path: str | None) -> TextIO | None:
    if path is None:
        return None
    try:
        # Appended to: an import that goes on has told some of it before.
        return stack.enter_context(Path(path).open("a", encoding="utf-8"))
    except OSError as error:
        raise Failure(f"{path}: {error.strerror}.") from None


def _lines(report: Report, report_file: str | None) -> list[str]:
    """Return a report for people."""
    done = report.done
    verb = "would be " if report.dry_run else ""
    rate = (done.rows - report.went_on_after) / max(report.seconds, 0.001)
    lines = [
        (
            f"{report.file}: {report.format}, {done.rows:,} rows in {report.seconds:,.1f} s "
            f"({rate:,.0f}/s): {done.new:,} {verb}new, {done.changed:,} {verb}changed, "
            f"{done.same:,} the same."
        )
    ]
    if report.went_on_after:
        lines.append(f"It went on after the {report.went_on_after:,} rows that were done before.")
    for column in report.ignored:
        hint = f"; did you mean {column.near}?" if column.near else "."
        lines.append(f"Ignored: {column.name}{hint}")
    told = done.bad + done.conflicts + done.erased
    if told:
        lines.append(
            f"Not imported: {done.bad:,} bad, {done.conflicts:,} in conflict with another "
            f"profile, {done.erased:,} erased."
        )
    for problem in report.problems[:_SHOWN]:
        lines += [
            f"  line {problem.line}: {f'{source}: ' if source else ''}{message}"
            for source, message in problem.errors
        ]
    if told > _SHOWN:
        where = report_file or "--report FILE"
        lines.append(f"  and {told - _SHOWN:,} more: {where} has them all.")
    if report.stopped_at is not None:
        lines.append(f"Stopped at line {report.stopped_at}; what was before it is imported.")
    lines += [
        f"{name}: {count:,} more values stand on several profiles; `knownas conflicts` lists them."
        for name, count in report.shared.items()
    ]
    return lines


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
