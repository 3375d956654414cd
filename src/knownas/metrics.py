"""Counts and latencies of requests by route, in the text format of Prometheus.

Each process adds to plain 64-bit numbers in memory that all of them share, and any of them can
answer for all. A labelled counter of prometheus-client costs more than a whole look-up does; so
that library comes in only when the numbers are asked for.
"""

import fcntl
import itertools
import mmap
import os
import tempfile
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily

from knownas.history import ALL_PROFILES
from knownas.model import KINDS
from knownas.receiving import OUTCOMES, Outcome
from knownas.shadows import RESULTS, Result
from knownas.upstreams import ASKED, Asked

METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "other")
STATUSES: Final = (
    200, 201, 204, 303, 304, 400, 401, 403, 404, 405, 408, 409, 410, 412, 413, 415, 422, 429, 431,
    500, 501, 503, 507,
)  # fmt: skip
BUCKETS: Final = (
    0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001,
    0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0,
)  # fmt: skip
"""Upper bounds of the latency buckets, in seconds."""

UNKNOWN_ROUTE: Final = "unknown"

BOUNDS_NS: Final = [int(bound * 1e9) for bound in BUCKETS]
"""The same in nanoseconds."""
_COUNTERS_A_ROUTE: Final = len(METHODS) * len(STATUSES)
_STATUS_INDEX: Final = {status: index for index, status in enumerate(STATUSES)}
_METHOD_INDEX: Final = {method: index * len(STATUSES) for index, method in enumerate(METHODS)}
_CELLS_A_HISTOGRAM: Final = len(BUCKETS) + 2  # the one without a bound, and the sum
_WORD: Final = 8


class SharedMemory:
    """A file in which each of several processes has a slab of its own, all can read them all."""

    def __init__(self, processes: int) -> None:
        """Make the file for a number of processes; the object is picklable."""
        self.processes = processes
        descriptor, self.path = tempfile.mkstemp(prefix="knownas-metrics-")
        os.close(descriptor)

    def remove(self) -> None:
        """Remove the file; who has it open keeps what it has."""
        Path(self.path).unlink(missing_ok=True)


class Metrics:
    """The numbers of one process, and the sum over all."""

    def __init__(
        self,
        routes: Sequence[str],
        shared: SharedMemory | None = None,
        *,
        senders: Sequence[str] = (),
    ) -> None:
        """Count by these routes, and what these senders of webhooks send.

        `shared` None counts for this process alone.
        """
        self._routes = (*routes, UNKNOWN_ROUTE)
        self._counter_base = {
            route: index * _COUNTERS_A_ROUTE for index, route in enumerate(self._routes)
        }
        histograms = len(self._routes) * _COUNTERS_A_ROUTE
        self._histogram_base = {
            route: histograms + index * _CELLS_A_HISTOGRAM
            for index, route in enumerate(self._routes)
        }
        self._ignored_keys = histograms + len(self._routes) * _CELLS_A_HISTOGRAM
        self._inbound = {
            (sender, outcome): self._ignored_keys + 1 + index
            for index, (sender, outcome) in enumerate(itertools.product(senders, OUTCOMES))
        }
        self._compared = self._ignored_keys + 1 + len(self._inbound)
        self._asked = self._compared + (len(KINDS) + 1) * len(RESULTS)
        size = self._asked + len(ASKED)
        if shared is None:
            self._slabs = [memoryview(bytearray(size * _WORD)).cast("Q")]
            self.cells = self._slabs[0]
        else:
            # Open as long as this object lives: the claim on the slab is a lock on the file.
            self._file = Path(shared.path).open("r+b", buffering=0)  # noqa: SIM115 - see above
            mine = _claim(self._file, shared.processes)
            self._file.truncate(size * _WORD * shared.processes)
            whole = memoryview(mmap.mmap(self._file.fileno(), 0)).cast("Q")
            self._slabs = [whole[i * size : (i + 1) * size] for i in range(shared.processes)]
            self.cells = self._slabs[mine]
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def count(self, method: str, route: str, status: int, elapsed_ns: int) -> None:
        """Count one answered request and its time in nanoseconds."""
        buckets, total = self.histogram_cells(route)
        cells = self.cells
        cells[self.counter_cell(method, route, status)] += 1
        cells[buckets + bisect_left(BOUNDS_NS, elapsed_ns)] += 1
        cells[total] += elapsed_ns

    def count_ignored_keys(self, number: int) -> None:
        """Count keys of a body that are no kind of identifier and were left out."""
        self.cells[self._ignored_keys] += number

    def count_inbound(self, sender: str, outcome: Outcome) -> None:
        """Count a request of a sender of webhooks, by what became of it."""
        self.cells[self._inbound[sender, outcome]] += 1

    def count_asked(self, outcome: Asked) -> None:
        """Count a profile that an upstream was to be asked for."""
        self.cells[self._asked + ASKED.index(outcome)] += 1

    def count_compared(self, kind: int, result: Result) -> None:
        """Count a comparison with an upstream, of a kind or of the profile as a whole."""
        self.cells[self._compared_cell(kind, result)] += 1

    def _compared_cell(self, kind: int, result: Result) -> int:
        return self._compared + (kind - ALL_PROFILES) * len(RESULTS) + RESULTS.index(result)

    def histogram_cells(self, route: str) -> tuple[int, int]:
        """Return where the first bucket of a route's latencies is, and where their sum is."""
        base = self._histogram_base[route]
        return base, base + _CELLS_A_HISTOGRAM - 1

    def counter_cell(self, method: str, route: str, status: int) -> int:
        """Return where the requests of one method, route and status are counted."""
        method_index = _METHOD_INDEX.get(method, _METHOD_INDEX["other"])
        return self._counter_base[route] + method_index + _STATUS_INDEX[status]

    def exposition(self) -> bytes:
        """Return all metrics as text."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[CounterMetricFamily | HistogramMetricFamily]:
        """Yield the metric families (the collector protocol of prometheus-client)."""
        requests = CounterMetricFamily(
            "knownas_requests", "Answered requests.", labels=("method", "route", "status")
        )
        seconds = HistogramMetricFamily(
            "knownas_request_seconds",
            "Seconds from a request's headers to its answer.",
            labels=("route",),
        )
        for route in self._routes:
            for method in METHODS:
                for status in STATUSES:
                    count = self._sum(self.counter_cell(method, route, status))
                    if count:
                        requests.add_metric((method, route, str(status)), count)
            self._add_histogram(seconds, route)
        yield requests
        yield seconds
        yield CounterMetricFamily(
            "knownas_ignored_keys",
            "Keys of bodies that are no kind of identifier and were left out.",
            value=self._sum(self._ignored_keys),
        )
        inbound = CounterMetricFamily(
            "knownas_inbound_events",
            "Requests of webhooks that others send, by what became of them.",
            labels=("sender", "outcome"),
        )
        for (sender, outcome), cell in self._inbound.items():
            inbound.add_metric((sender, outcome), self._sum(cell))
        yield inbound
        yield from self._upstreams()

    def _upstreams(self) -> Iterator[CounterMetricFamily]:
        profiles = CounterMetricFamily(
            "knownas_shadow_profiles",
            "Profiles that were compared with the upstream's.",
            labels=("result",),
        )
        identifiers = CounterMetricFamily(
            "knownas_shadow_identifiers",
            "Identifiers that were compared with the upstream's.",
            labels=("kind", "result"),
        )
        for result in RESULTS:
            if count := self._sum(self._compared_cell(ALL_PROFILES, result)):
                profiles.add_metric((result,), count)
            for number, kind in enumerate(KINDS):
                if count := self._sum(self._compared_cell(number, result)):
                    identifiers.add_metric((kind.name, result), count)
        asked = CounterMetricFamily(
            "knownas_upstream_questions",
            "Profiles that were not here, and for which an upstream was to be asked.",
            labels=("outcome",),
        )
        for position, outcome in enumerate(ASKED):
            if count := self._sum(self._asked + position):
                asked.add_metric((outcome,), count)
        yield asked
        yield profiles
        yield identifiers

    def _add_histogram(self, seconds: HistogramMetricFamily, route: str) -> None:
        base = self._histogram_base[route]
        total = 0
        buckets = []
        for index, bound in enumerate((*map(str, BUCKETS), "+Inf")):
            total += self._sum(base + index)
            buckets.append((bound, total))
        if total:
            sum_ns = self._sum(base + _CELLS_A_HISTOGRAM - 1)
            seconds.add_metric((route,), buckets=buckets, sum_value=sum_ns / 1e9)

    def _sum(self, cell: int) -> int:
        return sum(slab[cell] for slab in self._slabs)


def _claim(file: BinaryIO, processes: int) -> int:
    """Return the first slab that no living process has, and claim it.

    A slab outlives its process, so a counter never goes back when a worker is replaced.
    """
    for slab in range(processes):
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, slab)
        except BlockingIOError:
            continue
        return slab
    raise RuntimeError("There are more processes than slabs of metrics.")
