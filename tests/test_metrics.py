"""Metrics: what they count, over one process and over several."""

import re
from pathlib import Path

import httpx2
import msgspec

from conftest import METRICS, PLAIN, Server, counted, free_port, knownas, start, stop
from knownas import metrics
from knownas.http import wire
from knownas.http.app import ROUTES

PATH = ROUTES[0].path


def test_every_status_can_be_counted() -> None:
    """Whatever status the table of errors gives has a counter."""
    assert set(wire.STATUS.values()) <= set(metrics.STATUSES)


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
    assert stop(process) == 0
