"""`knownas doctor`: is the installation sound, and if not, what to do."""

import os
import sys
import textwrap
from typing import Final

import click

from knownas import doctor
from knownas.cli.options import database_option, json_option
from knownas.cli.printing import emit
from knownas.condition import Finding, Level

_MARKS: Final[dict[Level, str]] = {
    "ok": "ok      ",
    "note": "note    ",
    "warning": "WARNING ",
    "problem": "PROBLEM ",
}
_INDENT: Final = " " * 22


@click.command("doctor")
@click.option("--quick", is_flag=True, help="Leave out what reads the whole database.")
@json_option
@database_option
def examine(*, quick: bool, database: str | None, as_json: bool) -> None:
    """Look at the settings, the machine and the database; end with 1 where there is a problem."""
    found = []
    for finding in doctor.examine(os.environ, database, quick=quick):
        found.append(finding)
        if not as_json:
            click.echo(_text(finding))
    problems = sum(finding.level == "problem" for finding in found)
    warnings = sum(finding.level == "warning" for finding in found)
    verdict = (
        f"\n{problems} problems, {warnings} warnings." if problems or warnings else "\nAll is well."
    )
    emit(
        {
            "problems": problems,
            "warnings": warnings,
            "findings": [finding._asdict() for finding in found],
        },
        as_json,
        verdict,
    )
    if problems:
        sys.exit(1)


def _text(finding: Finding) -> str:
    head = f"{_MARKS[finding.level]}{finding.about:<14}"
    lines = textwrap.wrap(finding.says, 100, initial_indent=head, subsequent_indent=_INDENT)
    if finding.do:
        lines += textwrap.wrap(
            finding.do, 100, initial_indent=f"{_INDENT}-> ", subsequent_indent=f"{_INDENT}   "
        )
    return "\n".join(lines)
