"""Counts of requests by route and status, in the text format of Prometheus."""

from collections import Counter
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily


class Metrics:
    """Counts in plain dictionaries, turned into metric families only when they are asked for."""

    def __init__(self) -> None:
        """Begin with nothing counted."""
        self.requests: Counter[tuple[str, str, int]] = Counter()
        """Answered requests by (method, route, status)."""
        self.ignored_keys = 0
        """Keys of bodies that are no kind of identifier and were left out."""
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def collect(self) -> Iterator[CounterMetricFamily]:
        """Yield the metric families (the collector protocol of prometheus-client)."""
        requests = CounterMetricFamily(
            "knownas_requests", "Answered requests.", labels=("method", "route", "status")
        )
        for (method, route, status), count in sorted(self.requests.items()):
            requests.add_metric((method, route, str(status)), count)
        yield requests
        yield CounterMetricFamily(
            "knownas_ignored_keys",
            "Keys of bodies that are no kind of identifier and were left out.",
            value=self.ignored_keys,
        )

    def exposition(self) -> bytes:
        """Return all metrics as text."""
        return generate_latest(self._registry)
