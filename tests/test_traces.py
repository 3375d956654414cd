"""Traces: what a real server sends to a collector by OTLP, and what it keeps to itself."""

import http.server
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx2
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from conftest import IDENTIFIERS_PATH, NATIVE_PATH, free_port, knownas, start, stop
from knownas import serving
from knownas.settings import SettingsError, load

CANARY: Final = "canary-5b1f"
TRACE: Final = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT: Final = "00f067aa0ba902b7"


@contextmanager
def collecting() -> Iterator[tuple[str, list[bytes]]]:
    """Give the URL of a collector, and what it gets."""
    got: list[bytes] = []

    class Collector(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            """Take what is sent."""
            got.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Collector) as collector:
        thread = threading.Thread(target=collector.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{collector.server_port}", got
        collector.shutdown()
        thread.join()


def spans(got: list[bytes]) -> dict[str, tuple[Any, dict[str, object]]]:
    """Return the spans by their name, each with its attributes."""
    found = {}
    for body in got:
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            of = {it.key: it.value.string_value for it in resource.resource.attributes}
            assert of["service.name"] == "knownas"
            for span in (span for scope in resource.scope_spans for span in scope.spans):
                values = {
                    it.key: it.value.string_value or it.value.int_value for it in span.attributes
                }
                found[span.name] = span, values
    return found


def test_each_request_has_a_span_and_nothing_of_it_leaks(tmp_path: Path) -> None:
    """By the application, under the client's span; all are sent before the server ends."""
    with collecting() as (url, got):
        database = f"sqlite:///{tmp_path}/traced.db"
        process = start(
            database,
            port := free_port(),
            KNOWNAS_TRACES="on",
            OTEL_EXPORTER_OTLP_ENDPOINT=url,
        )
        key = knownas("key", "create", database=database).strip()
        headers = {
            "Authorization": f"Api-Key {key}",
            "adapty-customer-user-id": CANARY,
            "traceparent": f"00-{TRACE}-{PARENT}-01",
        }
        server = f"http://127.0.0.1:{port}"
        assert httpx2.get(server + IDENTIFIERS_PATH, headers=headers).status_code == 404
        assert httpx2.get(f"{server}{NATIVE_PATH}?x={CANARY}").status_code == 401
        assert httpx2.options(f"{server}/{CANARY}").status_code == 404
        assert stop(process) == 0
    found = spans(got)
    span, values = found[f"GET {IDENTIFIERS_PATH}"]
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)
    assert span.end_time_unix_nano > span.start_time_unix_nano
    assert values == {
        "http.request.method": "GET",
        "http.route": IDENTIFIERS_PATH,
        "http.response.status_code": 404,
    }
    assert found[f"GET {NATIVE_PATH}"][1]["http.response.status_code"] == 401
    assert found["other unknown"][1]["http.response.status_code"] == 404
    sent = b"".join(got)
    assert CANARY.encode() not in sent
    assert key.encode() not in sent


def test_traces_without_the_extra_stop_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """With one line that says what to install; where they are off nothing is needed."""
    assert serving.tracing(load({})) is None
    monkeypatch.delitem(sys.modules, "knownas.http.traces", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(SettingsError, match=r"pip install 'knownas\[otel\]'"):
        serving.tracing(load({"KNOWNAS_TRACES": "on"}))
