"""Each fault test exists twice: as a sample in the normal run, and in full under `make soak`.

SOAK_SEED sets the seed of both, SOAK_SCALE the counts of the full run: 0.01 is a hundredth.
Results are kept only of a full run at scale 1.
"""

import os
import tempfile
import time
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from soak import report
from soak.report import Soak

_PASSED = pytest.StashKey[bool]()


@pytest.fixture(
    params=[
        "sample",
        pytest.param("full", marks=[pytest.mark.soak, pytest.mark.timeout(0)]),
    ]
)
def soak(request: pytest.FixtureRequest) -> Iterator[Soak]:
    """Give the measure of the run, and keep its result."""
    run = Soak(full=request.param == "full")
    began = time.monotonic()
    yield run
    if run.full and run.scale == 1 and run.recorded is not None:
        row, what, found = run.recorded
        report.keep(
            report.Result(
                row=row,
                what=what,
                found=found,
                passed=request.node.stash.get(_PASSED, False),
                date=report.today(),
                commit=report.commit(),
                seed=run.seed,
                seconds=round(time.monotonic() - began),
                machine=report.machine(),
            )
        )


@pytest.fixture
def in_memory(tmp_path: Path) -> Iterator[Path]:
    """Give a folder that costs nothing to flush, where the system has one."""
    if not os.access("/dev/shm", os.W_OK):  # noqa: S108 - Linux's own
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="knownas-") as folder:
        yield Path(folder)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Note whether a test passed, for the fixture above."""
    outcome = yield
    if call.when == "call":
        item.stash[_PASSED] = outcome.passed
    return outcome
