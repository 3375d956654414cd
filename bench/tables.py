"""Figures of a run as text, and text as tables of Markdown."""

from collections.abc import Iterable, Sequence
from typing import Final

from bench import results
from bench.results import Run, Spread

NOTHING: Final = "Not measured in the published run.\n"


def short(value: float) -> str:
    """Return a figure with the digits that mean something."""
    if value >= 100:  # noqa: PLR2004 - three digits are enough
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"  # noqa: PLR2004 - as above


def with_range(spread: Spread, *, digits: int | None = None) -> str:
    """Return a median with the lowest and the highest."""

    def text(value: float) -> str:
        return short(value) if digits is None else f"{value:.{digits}f}"

    return f"{text(spread.median)} ({text(spread.low)}–{text(spread.high)})"


def rates(runs: Sequence[Run]) -> str:
    """Return the requests a second of all rounds, and how many failed."""
    rate = results.over(runs, results.rate)
    text = f"{rate.median:,.0f} ({rate.low:,.0f}–{rate.high:,.0f})"
    failed = sum(run.failed for run in runs)
    return f"{text}, {failed:,} failed" if failed else text


def dagger(runs: Sequence[Run]) -> str:
    """Return the mark of rates that are the load's own."""
    return " †" if results.is_load_bound(runs) else ""


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, right: Iterable[int] = ()) -> str:
    """Return a table; `right` are the columns of numbers."""
    at_right = set(right)
    marks = ["---:" if column in at_right else "---" for column in range(len(head))]
    return "".join(f"| {' | '.join(row)} |\n" for row in (head, marks, *rows))


def image(name: str, title: str) -> str:
    """Return what shows a plot on the page."""
    return f"![{title}](performance/{name}.svg)\n"
