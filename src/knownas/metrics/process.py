"""What a process measures of itself, again and again, for whichever process is asked.

A sample that is older than a few seconds is of a process that has ended, and is left out.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from knownas.condition import OPERATIONS, Operation
from knownas.metrics.memory import Layout, Slabs

SAMPLE_SECONDS: Final = 1.0
"""How often each process takes a sample."""
STALE_NS: Final = 10 * 10**9
"""A sample that is older is of no process that serves."""

_STATM: Final = Path("/proc/self/statm")
_FILES: Final = Path("/proc/self/fd")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


def _resident_bytes() -> int:
    """Return the memory that the process has; 0 where the system does not tell (macOS)."""
    try:
        return int(_STATM.read_text(encoding="ascii").split()[1]) * _PAGE
    except OSError:
        return 0


def _open_files() -> int:
    """Return how many files and sockets are open; 0 where the kernel does not tell (Linux 6.2)."""
    try:
        return _FILES.stat().st_size
    except OSError:
        return 0


class Samples:
    """The samples of all processes."""

    def __init__(self, layout: Layout) -> None:
        """Take the cells for them."""
        self._at = layout.take()
        self._started = layout.take()
        self._cpu = layout.take()
        self._resident = layout.take()
        self._files = layout.take()
        self._connections = layout.take()
        self._waiting = {operation: layout.take() for operation in OPERATIONS}
        self._own_start = time.time_ns()
        self.connections: Callable[[], int] = lambda: 0
        """Tells how many connections this process has open."""
        self.waiting: Callable[[], Mapping[Operation, int]] = dict
        """Tells how much waits for the database here, by operation."""

    def take(self, slabs: Slabs) -> None:
        """Take a sample of this process."""
        cells = slabs.cells
        cells[self._started] = self._own_start
        cells[self._cpu] = time.process_time_ns()
        cells[self._resident] = _resident_bytes()
        cells[self._files] = _open_files()
        cells[self._connections] = self.connections()
        waiting = self.waiting()
        for operation, cell in self._waiting.items():
            cells[cell] = waiting.get(operation, 0)
        cells[self._at] = time.monotonic_ns()

    def families(self, slabs: Slabs) -> Iterator[Metric]:
        """Yield the families of those processes that serve."""
        now = time.monotonic_ns()
        alive = [
            (str(number), slab)
            for number, slab in enumerate(slabs.all)
            if slab[self._at] and now - slab[self._at] < STALE_NS
        ]
        cpu = CounterMetricFamily(
            "knownas_process_cpu_seconds",
            "Processor time of a server process, since it started.",
            labels=("process",),
        )
        for process, slab in alive:
            cpu.add_metric((process,), slab[self._cpu] / 1e9)
        yield cpu
        for name, cell, scale, what in (
            ("start_time_seconds", self._started, 1e9, "When a server process started, Unix time."),
            ("resident_bytes", self._resident, 1, "Memory of a server process."),
            ("open_files", self._files, 1, "Open files and sockets of a server process."),
            ("connections", self._connections, 1, "Open connections of a server process."),
        ):
            gauge = GaugeMetricFamily(f"knownas_process_{name}", what, labels=("process",))
            for process, slab in alive:
                if slab[cell] or name == "connections":
                    gauge.add_metric((process,), slab[cell] / scale)
            yield gauge
        waiting = GaugeMetricFamily(
            "knownas_store_waiting", "What waits for the database.", labels=("operation",)
        )
        for operation, cell in self._waiting.items():
            waiting.add_metric((operation,), sum(slab[cell] for _, slab in alive))
        yield waiting
