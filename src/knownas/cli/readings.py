"""What a server's metrics say at two times, made into rates, quantiles, sizes and lags."""

import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Final, NamedTuple

import msgspec
from prometheus_client.parser import text_string_to_metric_families

from knownas.condition import Condition

Labels = frozenset[tuple[str, str]]


class Traffic(msgspec.Struct, frozen=True):
    """What came by one route, or by all of them, between two readings."""

    route: str
    per_second: float
    p50_ms: float | None
    """None where nothing came."""
    p99_ms: float | None
    refused_per_second: float
    """Answers from 400 to 499."""
    failed_per_second: float
    """Answers from 500 on."""


class Store(msgspec.Struct, frozen=True):
    """What the database did, of one operation."""

    operation: str
    per_second: float
    at_once: float | None
    """How many were done at once, on average; None where nothing was done."""
    p99_ms: float | None
    waiting: int


class ServerStatus(msgspec.Struct, frozen=True):
    """How a server is."""

    version: str
    processes: int
    connections: int
    resident_bytes: int
    cpu_cores: float
    requests: list[Traffic]
    """The busiest route first, before them the sum."""
    store: list[Store]
    attempts_per_second: dict[str, float]
    """Attempts to deliver a change, by how they ended."""


class QueueStatus(msgspec.Struct, frozen=True):
    """What is on its way to webhooks, or to upstreams."""

    target: str
    pending: int
    dead: int
    disabled: int
    lag_seconds: float


class DatabaseStatus(msgspec.Struct, frozen=True):
    """How the database is; what is not known is None."""

    is_up: bool
    engine: str | None
    version: str | None
    bytes: int | None
    log_bytes: int | None
    free_bytes: int | None
    profiles: dict[str, int]
    feed_lag_seconds: float | None
    queues: list[QueueStatus]
    erasure_wait_seconds: float | None
    replica_is_up: bool | None
    replica_lag_bytes: int | None
    replica_lag_seconds: float | None


class Status(msgspec.Struct, frozen=True):
    """What `knownas status` tells."""

    at: int
    """Milliseconds since 1970, UTC."""
    server: ServerStatus | None
    database: DatabaseStatus


ALL_ROUTES: Final = "all"

_QUIET: Final = 0.0


class Reading:
    """What a server's metrics said at one time."""

    def __init__(self, text: str, at: float) -> None:
        """Read the text format of Prometheus. Raises ValueError for anything else."""
        self.at = at
        self._samples: dict[str, dict[Labels, float]] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                labels = frozenset(sample.labels.items())
                self._samples.setdefault(sample.name, {})[labels] = sample.value

    def __getitem__(self, name: str) -> Mapping[Labels, float]:
        """Return the samples of a name, by their labels; there may be none."""
        return self._samples.get(f"knownas_{name}", {})

    def by(self, name: str, label: str) -> dict[str, float]:
        """Return the samples of a name, summed by one of their labels."""
        return _summed(self[name].items(), lambda labels: labels.get(label, ""))

    def one(self, name: str) -> float | None:
        """Return the only sample of a name; None where there is none."""
        return next(iter(self[name].values()), None)

    def texts(self, name: str) -> dict[str, str]:
        """Return the labels of the only sample of a name."""
        return dict(next(iter(self[name]), frozenset()))


class Span(NamedTuple):
    """Two readings of one server, the earlier one first."""

    before: Reading
    after: Reading

    @property
    def seconds(self) -> float:
        """The time between the two."""
        return max(self.after.at - self.before.at, 1e-9)

    def grown(self, name: str) -> dict[Labels, float]:
        """Return by how much counters have grown; what went back has begun anew."""
        old = self.before[name]
        return {
            labels: value - old.get(labels, 0.0) if value >= old.get(labels, 0.0) else value
            for labels, value in self.after[name].items()
        }

    def rates(self, name: str, key: Callable[[Mapping[str, str]], str]) -> dict[str, float]:
        """Return by how much counters grow in a second, summed by a key of their labels."""
        summed = _summed(self.grown(name).items(), key)
        return {at: value / self.seconds for at, value in summed.items()}

    def quantile(self, name: str, share: float, **only: str) -> float | None:
        """Return a quantile of what a histogram has counted, over all samples with some labels.

        It is as exact as the buckets; None where nothing was counted.
        """
        buckets: dict[float, float] = {}
        for labels, value in self.grown(f"{name}_bucket").items():
            if (found := dict(labels)).items() >= only.items():
                bound = float(found["le"])
                buckets[bound] = buckets.get(bound, 0.0) + value
        return _quantile(sorted(buckets.items()), share)


def server_status(span: Span) -> ServerStatus:
    """Return how a server is, by two readings."""
    after = span.after
    return ServerStatus(
        version=after.texts("info").get("version", ""),
        processes=len(after["process_connections"]),
        connections=int(sum(after["process_connections"].values())),
        resident_bytes=int(sum(after["process_resident_bytes"].values())),
        cpu_cores=sum(span.grown("process_cpu_seconds_total").values()) / span.seconds,
        requests=_traffic(span),
        store=_store(span),
        attempts_per_second=span.rates("webhook_attempts_total", lambda labels: labels["result"]),
    )


def _traffic(span: Span) -> list[Traffic]:
    name = "requests_total"
    total = span.rates(name, lambda labels: labels["route"])
    refused = span.rates(name, lambda labels: _of_class(labels, "4"))
    failed = span.rates(name, lambda labels: _of_class(labels, "5"))
    busy = sorted((route for route in total if total[route]), key=lambda it: -total[it])

    def of(route: str, /, **only: str) -> Traffic:
        return Traffic(
            route,
            total[route],
            _ms(span.quantile("request_seconds", 0.5, **only)),
            _ms(span.quantile("request_seconds", 0.99, **only)),
            refused.get(route, _QUIET),
            failed.get(route, _QUIET),
        )

    routes = [of(route, route=route) for route in busy]
    for rates in (total, refused, failed):
        rates.pop("", None)
        rates[ALL_ROUTES] = sum(rates.values())
    return [of(ALL_ROUTES), *routes]


def _of_class(labels: Mapping[str, str], digit: str) -> str:
    """Return the route where the status begins with a digit, else what stands for no route."""
    return labels["route"] if labels["status"].startswith(digit) else ""


def _store(span: Span) -> list[Store]:
    waiting = span.after.by("store_waiting", "operation")
    groups = span.rates("store_group_size_count", lambda labels: labels["operation"])
    sizes = span.rates("store_group_size_sum", lambda labels: labels["operation"])
    return [
        Store(
            operation,
            groups.get(operation, _QUIET),
            sizes[operation] / groups[operation] if groups.get(operation) else None,
            _ms(span.quantile("store_seconds", 0.99, operation=operation)),
            int(waits),
        )
        for operation, waits in waiting.items()
        if waits or operation in groups
    ]


def database_status(reading: Reading) -> DatabaseStatus:
    """Return how the database of a server is, by one reading."""
    info = reading.texts("database_info")
    deliveries = {
        (found["target"], found["state"]): value
        for labels, value in reading["webhook_deliveries"].items()
        if (found := dict(labels))
    }
    disabled = reading.by("webhooks_disabled", "target")
    up = reading.one("replica_up")
    return DatabaseStatus(
        is_up=bool(reading.one("database_up")),
        engine=info.get("engine"),
        version=info.get("version"),
        bytes=_whole(reading.one("database_bytes")),
        log_bytes=_whole(reading.one("database_log_bytes")),
        free_bytes=_whole(reading.one("database_free_bytes")),
        profiles={app: int(count) for app, count in reading.by("profiles", "app").items()},
        feed_lag_seconds=reading.one("feed_lag_seconds"),
        queues=[
            QueueStatus(
                target,
                int(deliveries[target, "pending"]),
                int(deliveries[target, "dead"]),
                int(disabled[target]),
                lag,
            )
            for target, lag in reading.by("webhook_lag_seconds", "target").items()
        ],
        erasure_wait_seconds=reading.one("erasure_wait_seconds"),
        replica_is_up=None if up is None else bool(up),
        replica_lag_bytes=_whole(reading.one("replica_lag_bytes")),
        replica_lag_seconds=reading.one("replica_lag_seconds"),
    )


def condition_status(condition: Condition, now: int) -> DatabaseStatus:
    """Return how a database is that was asked itself, at a time."""
    since, replica = condition.erasures_since, condition.replica
    return DatabaseStatus(
        is_up=True,
        engine=condition.engine,
        version=condition.version,
        bytes=condition.size,
        log_bytes=condition.log,
        free_bytes=condition.free,
        profiles=dict(condition.profiles),
        feed_lag_seconds=condition.feed_lag / 1_000,
        queues=[
            QueueStatus(one.target, one.pending, one.dead, one.disabled, one.lag / 1_000)
            for one in condition.queues
        ],
        erasure_wait_seconds=0.0 if since is None else max(0, now - since) / 1_000,
        replica_is_up=None if replica is None else replica.is_up,
        replica_lag_bytes=None if replica is None else replica.lag_bytes,
        replica_lag_seconds=None if replica is None else replica.lag / 1_000,
    )


def _summed(
    samples: Iterable[tuple[Labels, float]], key: Callable[[Mapping[str, str]], str]
) -> dict[str, float]:
    summed: dict[str, float] = {}
    for labels, value in samples:
        at = key(dict(labels))
        summed[at] = summed.get(at, 0.0) + value
    return summed


def _quantile(buckets: list[tuple[float, float]], share: float) -> float | None:
    """Return a quantile of cumulative buckets, evenly spread within each, as Prometheus does."""
    if not buckets or not buckets[-1][1]:
        return None
    rank = share * buckets[-1][1]
    for (lower, below), (upper, counted) in itertools.pairwise([(0.0, 0.0), *buckets]):
        if counted >= rank:
            if upper == float("inf"):
                return lower
            return lower + (upper - lower) * (rank - below) / max(counted - below, 1e-9)
    return None


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1_000


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)
