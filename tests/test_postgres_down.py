"""Threat row 33 over HTTP: PostgreSQL hangs or is gone, and comes back."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final, NamedTuple

import httpx2
import pytest

import postgres
from conftest import (
    IDENTIFIERS_PATH,
    METRICS,
    PROFILE_PATH,
    Server,
    ask,
    error_code,
    free_port,
    knownas,
    start,
    stop,
)
from postgres import Cluster

DEADLINE_SECONDS: Final = 1
SLACK_SECONDS: Final = 1.5
CROWD: Final = 100
LOOK_UP: Final = "/api/v1/profiles/?kind=branch_id&value=b"
BATCH_PATH: Final = "/api/v1/batch/read/"
BODY: Final = {"branch_id": "b"}


class Served(NamedTuple):
    """A server over a database of its own that the test may stop."""

    server: Server
    cluster: Cluster


@pytest.fixture(scope="module", params=["off", "on"], ids=["by the lane", "by the application"])
def served(request: pytest.FixtureRequest) -> Iterator[Served]:
    """Give a server, with the lane or, since it logs each request, without it."""
    with postgres.cluster() as cluster:
        database = postgres.new_database(cluster.url)
        process = start(
            database,
            port := free_port(),
            KNOWNAS_DATABASE_SECONDS=str(DEADLINE_SECONDS),
            KNOWNAS_ACCESS_LOG=request.param,
            KNOWNAS_METRICS_TOKEN="metrics-token",  # noqa: S106 - a test's own
        )
        key = knownas("key", "create", database=database).strip()
        yield Served(Server(f"http://127.0.0.1:{port}", key, "", database), cluster)
        assert stop(process) == 0


def refuses_in_time(server: Server) -> None:
    """Check that a crowd gets 503 in time, whatever it asks, and that the server says so itself."""

    def one(number: int) -> float:
        began = time.monotonic()
        uses: list[tuple[str, str, object]] = [
            ("GET", IDENTIFIERS_PATH, None),
            ("POST", IDENTIFIERS_PATH, BODY),
            ("GET", PROFILE_PATH, None),
            ("POST", PROFILE_PATH, None),
            ("GET", "/readyz", None),
            ("GET", LOOK_UP, None),
            ("POST", BATCH_PATH, {"items": [{"customer_user_id": "c"}, {"value": "b"}]}),
        ]
        method, path, body = uses[number % len(uses)]
        answer = ask(server, method, path, body=body, customer=f"c{number % 7}")
        assert error_code(answer) == (503, "service_unavailable")
        assert answer.headers["retry-after"] == "1"
        return time.monotonic() - began

    with ThreadPoolExecutor(CROWD) as crowd:
        slowest = max(crowd.map(one, range(CROWD)))
    assert slowest < DEADLINE_SECONDS + SLACK_SECONDS
    began = time.monotonic()
    assert httpx2.get(f"{server.url}/healthz").status_code == 200
    assert time.monotonic() - began < SLACK_SECONDS
    metrics = httpx2.get(f"{server.url}/metrics", headers=METRICS).text
    assert "\nknownas_database_up 0.0\n" in metrics


def serves(server: Server) -> None:
    """Check that the server serves, a moment after its database does, and not later."""
    time.sleep(0.3)
    assert httpx2.get(f"{server.url}/readyz").status_code == 200
    assert ask(server, "POST", PROFILE_PATH, customer="c").status_code == 200
    assert ask(server, "POST", IDENTIFIERS_PATH, body=BODY, customer="c").status_code == 200
    assert ask(server, "GET", IDENTIFIERS_PATH, customer="c").json()["branch_id"] == "b"
    batch = {"items": [{"customer_user_id": "c"}, {"value": "b"}]}
    assert ask(server, "POST", BATCH_PATH, body=batch).status_code == 200
    found = httpx2.get(server.url + LOOK_UP, headers={"Authorization": f"Api-Key {server.key}"})
    assert len(found.json()["data"]) == 1


def test_row_33_hung_database(served: Served) -> None:
    """While it hangs every request gets 503 within its deadline; then all is served again."""
    serves(served.server)
    with served.cluster.paused():
        refuses_in_time(served.server)
        refuses_in_time(served.server)
    serves(served.server)


def test_row_33_database_that_is_gone(served: Served) -> None:
    """The same where nothing listens, and no attempt after another is heaped up."""
    serves(served.server)
    served.cluster.kill()
    refuses_in_time(served.server)
    served.cluster.start()
    serves(served.server)
