"""Threat row 30: a large file, imported twice and killed again and again, in flat memory."""

import contextlib
import json
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import postgres
from bench.importing import KNOWNAS, write
from conftest import knownas
from soak.report import Soak
from soak.test_memory import private_mebibytes

KILLS = 5
MEBIBYTES = 250.0
"""More than the largest batch takes, on either database."""


@pytest.fixture(
    params=[
        "sqlite",
        # What a sample of it would find, tests/test_import.py finds.
        pytest.param("postgresql", marks=[pytest.mark.soak, pytest.mark.timeout(0)]),
    ]
)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Give a database of each kind with the app `default`."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path}/knownas.db"
        knownas("app", "create", "default", database=url)
        yield url
        return
    server_url = request.getfixturevalue("postgres_url")
    url = postgres.new_database(server_url)
    knownas("app", "create", "default", database=url)
    yield url
    postgres.drop_database(server_url, url)


def killed(file: Path, url: str, after: float) -> None:
    """Begin an import, and kill it after so many seconds, unless it is done before."""
    with subprocess.Popen(
        [*KNOWNAS, "import", str(file), "--database", url, "--json"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            process.wait(after)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)


def imported(file: Path, url: str) -> tuple[dict[str, Any], list[float]]:
    """Import a file; return the report, and the memory over the time."""
    memory: list[float] = []
    with subprocess.Popen(
        [*KNOWNAS, "import", str(file), "--database", url, "--json"], stdout=subprocess.PIPE
    ) as process:
        while process.poll() is None:
            with contextlib.suppress(OSError, ValueError):  # it has just ended, or is no Linux
                memory.append(private_mebibytes(process.pid))
            time.sleep(0.1)
        assert process.stdout is not None
        report: dict[str, Any] = json.load(process.stdout)
    assert process.returncode == 0
    return report, memory


def test_row_30_large_file_killed_and_imported_twice(soak: Soak, url: str, tmp_path: Path) -> None:
    """However often it is killed, each row is imported once; the second time changes nothing."""
    count = soak.count(sample=6_000, full=1_000_000)
    dice = random.Random(soak.seed)  # noqa: S311 - must repeat for a seed
    file = tmp_path / "rows.csv"
    write(file, count, changed=False)
    kills = KILLS if soak.full else 1
    for number in range(kills):
        # From the start of the program to as long as the whole takes on a quick machine.
        killed(file, url, dice.uniform(0.5, 2.0 + count / 20_000 / kills))
        soak.tell(f"killed {number + 1} of {kills} times")
    first, memory = imported(file, url)
    rate = (count - first["went_on_after"]) / first["seconds"]
    second, _ = imported(file, url)
    soak.record(
        30,
        f"a file of {count:,} rows into {'SQLite' if url.startswith('sqlite') else 'PostgreSQL'}",
        f"killed {kills} times, gone on after {first['went_on_after']:,} rows at {rate:,.0f} rows/s"
        f" in {max(memory, default=0):.0f} MiB at most; {first['new']:,} new, and the second time "
        f"{second['same']:,} the same",
    )
    assert (first["rows"], first["new"]) == (count, count)
    assert (second["rows"], second["same"]) == (count, count)
    assert max(memory, default=0) < MEBIBYTES
    coverage = json.loads(knownas("coverage", "--json", database=url))
    assert coverage["profiles"] == count
    assert knownas("check", database=url) == "All is well.\n"
