"""What an import tells: of each row that was not written, while it goes on, and at the end."""

from collections.abc import Callable
from typing import Final, NamedTuple

import msgspec

from knownas.errors import FieldError
from knownas.transfer.rows import Ignored

MAX_PROBLEMS: Final = 100
"""Problems that a report holds; all of them are told as they are found."""

BAD: Final = "bad"
CONFLICT: Final = "conflict"
ERASED: Final = "erased"


class Problem(NamedTuple):
    """A row of which nothing was written."""

    line: int
    what: str
    """`bad`: it cannot be understood; `conflict`: another profile is in its way; `erased`."""
    errors: tuple[FieldError, ...]


class Tally(msgspec.Struct, kw_only=True):
    """What has become of the rows of a file; it is stored as JSON while the import goes on."""

    rows: int = 0
    new: int = 0
    changed: int = 0
    same: int = 0
    bad: int = 0
    conflicts: int = 0
    erased: int = 0


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What came of an import."""

    file: str
    format: str
    dry_run: bool
    done: Tally
    went_on_after: int
    """Rows that were done when it went on; 0 where it began anew."""
    stopped_at: int | None
    """The line of the row that stopped it; None where it came to the end."""
    ignored: list[Ignored]
    problems: list[Problem]
    """The first `MAX_PROBLEMS`."""
    shared: dict[str, int]
    """By kind, how many more identifiers stand on several profiles than did before."""
    seconds: float


class Telling(NamedTuple):
    """Who is told what."""

    progress: Callable[[int, int, int], None]
    """So much done, of so much, and how many rows that were, without those done before."""
    problem: Callable[[Problem], None]


def count(tally: Tally, problem: Problem) -> None:
    """Count a row of which nothing was written."""
    if problem.what == BAD:
        tally.bad += 1
    elif problem.what == CONFLICT:
        tally.conflicts += 1
    else:
        tally.erased += 1


def problem_data(problem: Problem) -> dict[str, object]:
    """Return a problem for programs."""
    errors = [{"source": source, "message": message} for source, message in problem.errors]
    return {"line": problem.line, "what": problem.what, "errors": errors}


def data_of(report: Report) -> dict[str, object]:
    """Return a report for programs."""
    return {
        "file": report.file,
        "format": report.format,
        "dry_run": report.dry_run,
        **msgspec.structs.asdict(report.done),
        "went_on_after": report.went_on_after,
        "stopped_at_line": report.stopped_at,
        "ignored_columns": [one._asdict() for one in report.ignored],
        "shared": report.shared,
        "problems": [problem_data(one) for one in report.problems],
        "seconds": round(report.seconds, 3),
    }
