"""The condition of the database as metric families: whichever process is asked tells the same."""

from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily, Metric

from knownas.condition import Condition


def families(condition: Condition | None, now: int) -> Iterator[Metric]:
    """Yield the families of a database at a time; None stands for one that does not answer."""
    yield _gauge("database_up", "Whether the database answers.", int(condition is not None))
    info = GaugeMetricFamily(
        "knownas_database_info", "The database, always 1.", labels=("engine", "version")
    )
    profiles = GaugeMetricFamily("knownas_profiles", "Profiles of an app.", labels=("app",))
    deliveries = GaugeMetricFamily(
        "knownas_webhook_deliveries",
        "Deliveries that are tried again (pending), or were given up (dead).",
        labels=("target", "state"),
    )
    disabled = GaugeMetricFamily(
        "knownas_webhooks_disabled", "Webhooks that are switched off.", labels=("target",)
    )
    lag = GaugeMetricFamily(
        "knownas_webhook_lag_seconds",
        "How old the oldest change is that a webhook has not come to.",
        labels=("target",),
    )
    if condition is not None:
        info.add_metric((condition.engine, condition.version), 1)
        for app, count in condition.profiles:
            profiles.add_metric((app,), count)
        for queue in condition.queues:
            deliveries.add_metric((queue.target, "pending"), queue.pending)
            deliveries.add_metric((queue.target, "dead"), queue.dead)
            disabled.add_metric((queue.target,), queue.disabled)
            lag.add_metric((queue.target,), queue.lag / 1_000)
    yield from (info, profiles, deliveries, disabled, lag)
    yield from _gauges(condition, now)


def _gauges(condition: Condition | None, now: int) -> Iterator[Metric]:
    """Yield what is one number each; what is not known has no value."""
    size = log = free = feed = erasing = is_up = lag_bytes = lag = None
    if condition is not None:
        size, log, free = condition.size, condition.log, condition.free
        feed = condition.feed_lag / 1_000
        since = condition.erasures_since
        erasing = 0.0 if since is None else max(0, now - since) / 1_000
        if (replica := condition.replica) is not None:
            is_up = int(replica.is_up)
            if replica.is_up:
                lag_bytes, lag = replica.lag_bytes, replica.lag / 1_000
    yield _gauge("database_bytes", "Size of the database with its indexes.", size)
    yield _gauge("database_log_bytes", "Size of SQLite's log beside the database.", log)
    yield _gauge("database_free_bytes", "What is left of the disk beside a SQLite file.", free)
    yield _gauge("feed_lag_seconds", "Age of the oldest change that the feed keeps back.", feed)
    yield _gauge("erasure_wait_seconds", "Age of the oldest erasure that is not complete.", erasing)
    yield _gauge("replica_up", "Whether the standby answers.", is_up)
    yield _gauge(
        "replica_lag_bytes", "How much of the log the standby has not replayed.", lag_bytes
    )
    yield _gauge("replica_lag_seconds", "Age of what the standby has replayed last.", lag)


def _gauge(name: str, what: str, value: float | None) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"knownas_{name}", what, value=value)
