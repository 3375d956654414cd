"""How much the long fault tests do, and what they found, kept for docs/reliability.md.

The tests write docs/reliability.json, and from it the table of docs/reliability.md. No figure
there is typed by hand; a test holds the two together.
"""

import datetime as dt
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import apsw
import msgspec

ROOT: Final = Path(__file__).parent.parent.parent
RESULTS: Final = ROOT / "docs" / "reliability.json"
DOCUMENT: Final = ROOT / "docs" / "reliability.md"
BEGIN: Final = "<!-- written by make soak -->\n"
END: Final = "<!-- end -->\n"

TELL_SECONDS: Final = 5.0


class Soak:
    """How much to do, and what came of it."""

    def __init__(self, *, full: bool) -> None:
        """Do the sample, or all."""
        self.full = full
        self.seed = int(os.environ.get("SOAK_SEED", "1"))
        self.scale = float(os.environ.get("SOAK_SCALE", "1"))
        self.recorded: tuple[int, str, str] | None = None
        self._told = time.monotonic()

    def count(self, *, sample: int, full: int) -> int:
        """Return how many of something to do."""
        return max(1, round(full * self.scale)) if self.full else sample

    def tell(self, progress: str) -> None:
        """Print how far it is, now and then."""
        if self.full and time.monotonic() - self._told > TELL_SECONDS:
            self._told = time.monotonic()
            sys.stderr.write(f"  {progress}\n")
            sys.stderr.flush()

    def record(self, row: int, what: str, found: str) -> None:
        """Keep the result for docs/reliability.md; before it is judged, so that it is kept."""
        self.recorded = (row, what, found)
        if self.full:
            sys.stderr.write(f"  row {row}, {what}: {found}\n")


class Result(msgspec.Struct, frozen=True):
    """What one test found in its last full run."""

    row: int
    """Of the threats table."""
    what: str
    found: str
    passed: bool
    date: str
    commit: str
    seed: int
    seconds: int
    machine: str


def load() -> list[Result]:
    """Return the results of the last full runs."""
    return msgspec.json.decode(RESULTS.read_bytes(), type=list[Result]) if RESULTS.exists() else []


def keep(result: Result) -> None:
    """Put a result in the place of the last one of its kind, and write the table anew."""
    others = [old for old in load() if (old.row, old.what) != (result.row, result.what)]
    results = sorted([*others, result], key=lambda one: (one.row, one.what))
    RESULTS.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=2) + b"\n")
    before, _, rest = DOCUMENT.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    DOCUMENT.write_text(before + BEGIN + table(results) + END + after)


def table(results: list[Result]) -> str:
    """Return the results as a table in Markdown."""
    lines = [
        "| row | what | found | result | when, commit, seed, time |",
        "|---|---|---|---|---|",
    ]
    for one in results:
        passed = "passed" if one.passed else "**failed**"
        run = f"{one.date}, `{one.commit}`, {one.seed}, {one.seconds:,} s"
        lines.append(f"| {one.row} | {one.what} | {one.found} | {passed} | {run} |")
    machines = sorted({one.machine for one in results})
    return "\n".join([*lines, "", f"Machine: {'; '.join(machines)}."]) + "\n"


def machine() -> str:
    """Return on what this runs."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{os.cpu_count()} cores of {_processor()}, {memory:.0f} GB, {platform.system()} "
        f"{platform.release()}, Python {platform.python_version()}, "
        f"SQLite {apsw.sqlite_lib_version()}"
    )


def commit() -> str:
    """Return the commit that is tested; with a + when there are changes beside it."""
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty=+", "--exclude", "*"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return described.stdout.strip() or "unknown"


def today() -> str:
    """Return the date, UTC."""
    return dt.datetime.now(dt.UTC).date().isoformat()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
