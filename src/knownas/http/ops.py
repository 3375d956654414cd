"""What operators and their tools ask: health, metrics, and the description of the API."""

import hmac

from starlette.requests import Request
from starlette.responses import Response

from knownas.errors import NotFound, ServiceUnavailable, Unauthorized
from knownas.http import openapi, wire

_HTML_POLICY = "default-src 'none'; style-src 'self'; frame-ancestors 'none'; base-uri 'none'"


async def healthz(_request: Request) -> Response:
    """Answer that the process is alive."""
    return wire.json_response({"status": "ok"})


async def readyz(request: Request) -> Response:
    """Answer that the database can be read; 503 when it cannot."""
    await request.app.state.registry.ping()
    return wire.json_response({"status": "ready"})


async def metrics(request: Request) -> Response:
    """Answer the metrics to whoever has the token; without a token set there is no such path."""
    token = request.app.state.settings.metrics_token
    if not token:
        raise NotFound("Metrics are off; set KNOWNAS_METRICS_TOKEN to serve them.")
    given = wire.Headers(request.scope["headers"]).authorization
    if not hmac.compare_digest(given or b"", b"Bearer " + token.encode()):
        request.app.state.guard.bad_key(request.client, given)
        raise Unauthorized("Invalid metrics token")
    registry = request.app.state.registry
    try:
        condition = await registry.condition()
    except ServiceUnavailable:  # which is what the metrics are to tell
        condition = None
    text = request.app.state.metrics.exposition(condition, registry.now())
    return Response(text, media_type="text/plain; version=0.0.4")


async def openapi_yaml(_request: Request) -> Response:
    """Answer the contract that this server keeps."""
    return Response(openapi.document_text(), media_type="application/yaml")


async def docs(_request: Request) -> Response:
    """Answer the same as a page to read."""
    return Response(
        openapi.docs_page(),
        media_type="text/html",
        headers={
            "Content-Security-Policy": _HTML_POLICY,
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
        },
    )


async def docs_css(_request: Request) -> Response:
    """Answer the page's style sheet."""
    return Response(openapi.docs_css(), media_type="text/css")
