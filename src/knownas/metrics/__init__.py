"""Counts and latencies of requests by route, in the text format of Prometheus.

Each process adds to plain 64-bit numbers in memory that all of them share, and any of them can
answer for all. A labelled counter of prometheus-client costs more than a whole look-up does; so
that library comes in only when the numbers are asked for.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import metadata
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)

from knownas.condition import OPERATIONS, Condition, Operation
from knownas.deliveries import RESULTS as DELIVERY_RESULTS
from knownas.deliveries import TARGETS, Attempt
from knownas.history import ALL_PROFILES
from knownas.metrics import database, process
from knownas.metrics.histograms import BOUNDS_NS, BUCKETS, COUNTS, TIMES, Histogram
from knownas.metrics.memory import Layout, SharedMemory, Slabs
from knownas.metrics.process import SAMPLE_SECONDS
from knownas.model import KINDS
from knownas.receiving import OUTCOMES, Outcome
from knownas.shadows import RESULTS, Result
from knownas.upstreams import ASKED, Asked

__all__ = [
    "BOUNDS_NS",
    "BUCKETS",
    "METHODS",
    "SAMPLE_SECONDS",
    "STATUSES",
    "UNKNOWN_ROUTE",
    "Metrics",
    "SharedMemory",
]

METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "other")
STATUSES: Final = (
    200, 201, 204, 303, 304, 400, 401, 403, 404, 405, 408, 409, 410, 412, 413, 415, 422, 429, 431,
    500, 501, 503, 507,
)  # fmt: skip

UNKNOWN_ROUTE: Final = "unknown"

_COUNTERS_A_ROUTE: Final = len(METHODS) * len(STATUSES)


class _StatusIndex(dict[int, int]):
    """Where each status is counted; one that nobody has foreseen as the first of its hundred."""

    def __missing__(self, status: int) -> int:
        return self[next(it for it in STATUSES if it // 100 == status // 100)]


_STATUS_INDEX: Final = _StatusIndex({status: index for index, status in enumerate(STATUSES)})
_METHOD_INDEX: Final = {method: index * len(STATUSES) for index, method in enumerate(METHODS)}


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
        layout = Layout()
        self._counter_base = {route: layout.take(_COUNTERS_A_ROUTE) for route in self._routes}
        self._seconds = {route: Histogram.make(layout, TIMES) for route in self._routes}
        self._ignored_keys = layout.take()
        self._inbound = {key: layout.take() for key in itertools.product(senders, OUTCOMES)}
        self._compared = layout.take((len(KINDS) + 1) * len(RESULTS))
        self._asked = layout.take(len(ASKED))
        self._store_seconds = {one: Histogram.make(layout, TIMES) for one in OPERATIONS}
        self._store_sizes = {one: Histogram.make(layout, COUNTS) for one in OPERATIONS}
        self._attempts = {
            key: layout.take()
            for key in itertools.product(TARGETS, (True, False), DELIVERY_RESULTS)
        }
        self._attempt_seconds = {target: Histogram.make(layout, TIMES) for target in TARGETS}
        self._samples = process.Samples(layout)
        self._slabs = Slabs(layout.size, shared)
        self.cells = self._slabs.cells
        self.sample()

    def count(self, method: str, route: str, status: int, elapsed_ns: int) -> None:
        """Count one answered request and its time in nanoseconds."""
        self.cells[self.counter_cell(method, route, status)] += 1
        self._seconds[route].note(self.cells, elapsed_ns)

    def count_work(self, operation: Operation, size: int, elapsed_ns: int) -> None:
        """Count what the storage has done: of how many at once, and its time in nanoseconds."""
        self._store_seconds[operation].note(self.cells, elapsed_ns)
        self._store_sizes[operation].note(self.cells, size)

    def count_attempt(self, attempt: Attempt) -> None:
        """Count an attempt to deliver a change."""
        self.cells[self._attempts[attempt.target, attempt.is_first, attempt.result]] += 1
        self._attempt_seconds[attempt.target].note(self.cells, attempt.elapsed_ns)

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
        return self._seconds[route].buckets, self._seconds[route].total

    def counter_cell(self, method: str, route: str, status: int) -> int:
        """Return where the requests of one method, route and status are counted."""
        method_index = _METHOD_INDEX.get(method, _METHOD_INDEX["other"])
        return self._counter_base[route] + method_index + _STATUS_INDEX[status]

    def watch(
        self,
        *,
        connections: Callable[[], int] | None = None,
        waiting: Callable[[], Mapping[Operation, int]] | None = None,
    ) -> None:
        """Have each sample tell what these do: open connections, and what waits, by operation."""
        if connections is not None:
            self._samples.connections = connections
        if waiting is not None:
            self._samples.waiting = waiting

    def sample(self) -> None:
        """Measure this process, for whichever process is asked next."""
        self._samples.take(self._slabs)

    def exposition(self, condition: Condition | None, now: int) -> bytes:
        """Return all metrics as text, with the condition that the database is in at a time.

        `condition` None stands for a database that does not answer.
        """
        self.sample()
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Families([*self.collect(), *database.families(condition, now)]))
        return generate_latest(registry)

    def collect(self) -> Iterator[Metric]:
        """Yield the families of what the processes count and measure."""
        totals = self._slabs.totals()
        info = InfoMetricFamily("knownas", "The server.")
        info.add_metric((), {"version": metadata.version("knownas")})
        yield info
        requests = CounterMetricFamily(
            "knownas_requests", "Answered requests.", labels=("method", "route", "status")
        )
        seconds = HistogramMetricFamily(
            "knownas_request_seconds",
            "Seconds from a request's headers to its answer.",
            labels=("route",),
        )
        for route in self._routes:
            if not self._seconds[route].add_to(seconds, (route,), totals):
                continue
            for method in METHODS:
                for status in STATUSES:
                    count = totals[self.counter_cell(method, route, status)]
                    if count:
                        requests.add_metric((method, route, str(status)), count)
        yield requests
        yield seconds
        yield CounterMetricFamily(
            "knownas_ignored_keys",
            "Keys of bodies that are no kind of identifier and were left out.",
            value=totals[self._ignored_keys],
        )
        inbound = CounterMetricFamily(
            "knownas_inbound_events",
            "Requests of webhooks that others send, by what became of them.",
            labels=("sender", "outcome"),
        )
        for (sender, outcome), cell in self._inbound.items():
            inbound.add_metric((sender, outcome), totals[cell])
        yield inbound
        yield from self._upstreams(totals)
        yield from self._work(totals)
        yield from self._deliveries(totals)
        yield from self._samples.families(self._slabs)

    def _upstreams(self, totals: list[int]) -> Iterator[CounterMetricFamily]:
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
            if count := totals[self._compared_cell(ALL_PROFILES, result)]:
                profiles.add_metric((result,), count)
            for number, kind in enumerate(KINDS):
                if count := totals[self._compared_cell(number, result)]:
                    identifiers.add_metric((kind.name, result), count)
        asked = CounterMetricFamily(
            "knownas_upstream_questions",
            "Profiles that were not here, and for which an upstream was to be asked.",
            labels=("outcome",),
        )
        for position, outcome in enumerate(ASKED):
            if count := totals[self._asked + position]:
                asked.add_metric((outcome,), count)
        yield asked
        yield profiles
        yield identifiers

    def _work(self, totals: list[int]) -> Iterator[HistogramMetricFamily]:
        for name, what, histograms in (
            ("store_seconds", "Seconds that the database took.", self._store_seconds),
            ("store_group_size", "How many were done at once.", self._store_sizes),
        ):
            family = HistogramMetricFamily(f"knownas_{name}", what, labels=("operation",))
            for operation, histogram in histograms.items():
                histogram.add_to(family, (operation,), totals)
            yield family

    def _deliveries(
        self, totals: list[int]
    ) -> Iterator[CounterMetricFamily | HistogramMetricFamily]:
        attempts = CounterMetricFamily(
            "knownas_webhook_attempts",
            "Attempts to deliver a change: delivered, failed (tried again), dead (given up).",
            labels=("target", "attempt", "result"),
        )
        for (target, is_first, result), cell in self._attempts.items():
            attempts.add_metric((target, "first" if is_first else "again", result), totals[cell])
        yield attempts
        seconds = HistogramMetricFamily(
            "knownas_webhook_attempt_seconds",
            "Seconds from an attempt's beginning to the receiver's answer.",
            labels=("target",),
        )
        for target, histogram in self._attempt_seconds.items():
            histogram.add_to(seconds, (target,), totals)
        yield seconds


class _Families:
    """Families that were made, as the collector that prometheus-client asks."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> list[Metric]:
        """Return them."""
        return self._families
