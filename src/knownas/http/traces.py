"""Traces of requests, for OpenTelemetry: one span each, under that of whoever asks.

A span has a method, a route, a status and a time, as the metrics have, and nothing of what was
asked or answered. Where spans go, and how many, is chosen by OpenTelemetry's own `OTEL_…`
variables. It is imported only where traces are wanted, since it needs the extra `otel`.
"""

import asyncio
import os
from importlib import metadata
from typing import Final

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from knownas.metrics import METHODS, UNKNOWN_ROUTE

_CONTEXT: Final = frozenset({b"traceparent", b"tracestate"})
_FAILED: Final = 500


class Traced:
    """An application around which each request has a span."""

    def __init__(self, app: ASGIApp) -> None:
        """Send the spans of `app` to where the environment says."""
        self._app = app
        self._propagator = TraceContextTextMapPropagator()
        version = metadata.version("knownas")
        name = os.environ.get("OTEL_SERVICE_NAME", "knownas")
        self._provider = TracerProvider(
            resource=Resource.create({"service.name": name, "service.version": version})
        )
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("knownas", version)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on (the ASGI protocol)."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            if scope["type"] == "lifespan":  # it is over
                await asyncio.to_thread(self._provider.shutdown)
            return
        headers = {
            key.decode("latin-1"): value.decode("latin-1")
            for key, value in scope["headers"]
            if key in _CONTEXT
        }
        method = scope["method"] if scope["method"] in METHODS else "other"
        span = self._tracer.start_span(
            method,
            self._propagator.extract(headers),
            SpanKind.SERVER,
            {"http.request.method": method},
        )
        status = 0

        async def send_and_note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        finally:
            route = scope.get("knownas.route", UNKNOWN_ROUTE)
            span.update_name(f"{method} {route}")
            span.set_attribute("http.route", route)
            if status:
                span.set_attribute("http.response.status_code", status)
            if status >= _FAILED or not status:
                span.set_status(StatusCode.ERROR)
            span.end()
