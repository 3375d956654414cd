"""Metrics: what they count, over one process and over several."""

import re
from pathlib import Path

import httpx2
import msgspec
import pytest

from conftest import METRICS, PLAIN, Server, counted, free_port, knownas, start, stop
from knownas import metrics
from knownas.condition import Condition, Queue, Replica
from knownas.deliveries import Attempt
from knownas.http import wire
from knownas.http.app import ROUTES

PATH = ROUTES[0].path
WRITTEN = 'knownas_store_group_size_sum{operation="write"} '


def test_every_status_can_be_counted() -> None:
    """Whatever status the table of errors gives has a counter."""
    assert set(wire.STATUS.values()) <= set(metrics.STATUSES)


def test_status_that_nobody_has_foreseen_is_counted() -> None:
    """As the first of its hundred: whatever is answered, counting it fails no request."""
    told = metrics.Metrics(["/a"], None)
    for status, counted_as in ((299, 200), (307, 303), (418, 400), (599, 500)):
        assert told.counter_cell("GET", "/a", status) == told.counter_cell("GET", "/a", counted_as)


def test_requests_are_counted_by_route_and_status(server: Server) -> None:
    """A request adds one where it belongs; an unknown path is no label."""
    before = counted(server.url, "GET", PATH, 401)
    unknown = counted(server.url, "other", "unknown", 404)
    PLAIN.get(server.url + PATH)
    httpx2.options(server.url + "/coffee")
    assert counted(server.url, "GET", PATH, 401) == before + 1
    assert counted(server.url, "other", "unknown", 404) == unknown + 1


def test_latencies_are_a_histogram(server: Server) -> None:
    """The buckets are cumulative, and the last holds all requests of the route."""
    PLAIN.get(server.url + PATH)
    text = PLAIN.get(f"{server.url}/metrics", headers=METRICS).text
    buckets = re.findall(
        rf'knownas_request_seconds_bucket{{le="[^"]+",route="{re.escape(PATH)}"}} (\S+)', text
    )
    counts = [float(count) for count in buckets]
    assert counts == sorted(counts)
    assert len(counts) == len(metrics.BUCKETS) + 1
    assert f'knownas_request_seconds_count{{route="{PATH}"}} {counts[-1]}' in text


def test_metrics_need_their_token(server: Server, tmp_path: Path) -> None:
    """Without the token 401; where none is set there is no such path."""
    assert PLAIN.get(f"{server.url}/metrics").status_code == 401
    wrong = {"Authorization": "Bearer wrong"}
    assert PLAIN.get(f"{server.url}/metrics", headers=wrong).status_code == 401
    process = start(f"sqlite:///{tmp_path}/off.db", port := free_port())
    assert PLAIN.get(f"http://127.0.0.1:{port}/metrics").status_code == 404
    assert stop(process) == 0


def test_several_workers_are_one_server(tmp_path: Path) -> None:
    """Any worker answers for all: metrics are the sum, a write is read everywhere at once."""
    database = f"sqlite:///{tmp_path}/workers.db"
    process = start(
        database,
        port := free_port(),
        "--workers",
        "2",
        KNOWNAS_METRICS_TOKEN="metrics-token",  # noqa: S106 - a test's own
    )
    url = f"http://127.0.0.1:{port}"
    key = msgspec.json.decode(knownas("key", "create", "--json", database=database))["key"]
    headers = {"Authorization": f"Api-Key {key}", "adapty-customer-user-id": "c"}
    assert PLAIN.post(url + ROUTES[1].path, headers=headers).status_code == 200
    for number in range(100):  # each on a connection of its own, so that both workers get some
        body = {"branch_id": f"v{number}"}
        assert PLAIN.post(url + PATH, headers=headers, json=body).status_code == 200
        assert PLAIN.get(url + PATH, headers=headers).json()["branch_id"] == f"v{number}"
    assert counted(url, "GET", PATH, 200) == 100
    assert counted(url, "POST", PATH, 200) == 100
    lines = PLAIN.get(f"{url}/metrics", headers=METRICS).text.splitlines()
    for name in ("connections", "resident_bytes", "start_time_seconds"):
        assert sum(line.startswith(f"knownas_process_{name}{{") for line in lines) == 2
    (written,) = (it.split()[1] for it in lines if it.startswith(WRITTEN))
    assert float(written) >= 101  # what a server writes for itself is counted, too
    assert stop(process) == 0


def test_process_that_has_ended_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it has counted stays; what it measured of itself is of nobody any more."""
    counting = metrics.Metrics(["/"])
    counting.count("GET", "/", 200, 1_000)
    counting.watch(connections=lambda: 7, waiting=lambda: {"write": 3})
    text = counting.exposition(None, 0).decode()
    assert 'knownas_process_connections{process="0"} 7.0' in text
    assert 'knownas_store_waiting{operation="write"} 3.0' in text
    monkeypatch.setattr(metrics.process, "STALE_NS", 0)
    text = counting.exposition(None, 0).decode()
    assert "knownas_process_connections{" not in text
    assert 'knownas_store_waiting{operation="write"} 0.0' in text
    assert 'knownas_requests_total{method="GET",route="/",status="200"} 1.0' in text


def test_work_and_attempts_are_counted() -> None:
    """A group has its size and its time, an attempt to deliver its target and its end."""
    counting = metrics.Metrics([])
    counting.count_work("write", 1, 4_000_000)
    counting.count_work("write", 30, 6_000_000)
    counting.count_attempt(Attempt("upstream", is_first=False, result="dead", elapsed_ns=20_000))
    lines = counting.exposition(None, 0).decode().splitlines()
    assert {
        'knownas_store_group_size_bucket{le="1.0",operation="write"} 1.0',
        'knownas_store_group_size_bucket{le="20.0",operation="write"} 1.0',
        'knownas_store_group_size_bucket{le="50.0",operation="write"} 2.0',
        'knownas_store_group_size_sum{operation="write"} 31.0',
        'knownas_store_seconds_bucket{le="0.005",operation="write"} 1.0',
        'knownas_store_seconds_sum{operation="write"} 0.01',
        'knownas_webhook_attempts_total{attempt="again",result="dead",target="upstream"} 1.0',
        'knownas_webhook_attempt_seconds_count{target="upstream"} 1.0',
        "knownas_database_up 0.0",
    } <= set(lines)
    assert not any(line.startswith("knownas_database_bytes ") for line in lines)


def test_condition_is_told_as_it_is() -> None:
    """Times are in seconds; of a standby that is away there is no lag."""
    condition = Condition(
        "postgresql",
        "18.0",
        5,
        None,
        None,
        (("default", 3),),
        1_500,
        (Queue("webhook", 1, 2, 3, 4_000),),
        erasures_since=1_000,
        replica=Replica(is_up=True, lag_bytes=9, lag=250),
    )
    counting = metrics.Metrics([])
    lines = counting.exposition(condition, 61_000).decode().splitlines()
    assert {
        'knownas_database_info{engine="postgresql",version="18.0"} 1.0',
        "knownas_database_bytes 5.0",
        'knownas_profiles{app="default"} 3.0',
        "knownas_feed_lag_seconds 1.5",
        'knownas_webhook_deliveries{state="pending",target="webhook"} 1.0',
        'knownas_webhook_deliveries{state="dead",target="webhook"} 2.0',
        'knownas_webhooks_disabled{target="webhook"} 3.0',
        'knownas_webhook_lag_seconds{target="webhook"} 4.0',
        "knownas_erasure_wait_seconds 60.0",
        "knownas_replica_up 1.0",
        "knownas_replica_lag_bytes 9.0",
        "knownas_replica_lag_seconds 0.25",
    } <= set(lines)
    away = condition._replace(replica=Replica(is_up=False))
    text = counting.exposition(away, 0).decode()
    assert "\nknownas_replica_up 0.0\n" in text
    assert "\nknownas_replica_lag_seconds " not in text
