"""The application: which path is served by what, and what stands around every answer."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from knownas import logs
from knownas.errors import (
    InternalError,
    KnownasError,
    MethodNotAllowed,
    NotFound,
    PayloadTooLarge,
    RequestTimeout,
    UploadConflict,
)
from knownas.http import (
    adapty,
    batch,
    erasures,
    feed,
    hooks,
    identity,
    imports,
    inbound,
    insight,
    native,
    ops,
    upstream,
    wire,
)
from knownas.http.guard import KeyGuard
from knownas.http.rates import KeyRates
from knownas.http.upkeep import keep_erasing, keep_importing, keep_key_uses, keep_sampling, keep_up
from knownas.metrics import METHODS, UNKNOWN_ROUTE, Metrics, SharedMemory
from knownas.registry import Registry
from knownas.settings import Settings
from knownas.storage import Storage
from knownas.webhooks.senders import SENDERS

if TYPE_CHECKING:
    from knownas.webhooks.dispatcher import Dispatcher

Handler = Callable[[Request], Awaitable[Response]]


class Resource:
    """One path and the handler of each method on it. HEAD answers as GET."""

    def __init__(self, path: str, *, body_limit: int = wire.BODY_LIMIT, **methods: Handler) -> None:
        """Serve `path`, and where it ends in a slash the same without it.

        A body is taken up to `body_limit` bytes.
        """
        self.path = path
        self._body_limit = body_limit
        self.paths = tuple(dict.fromkeys((path, path.rstrip("/") or "/")))
        self.methods: Mapping[str, Handler] = methods
        self.allow = ", ".join(sorted({*methods, *({"HEAD"} if "GET" in methods else ())}))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request (the ASGI protocol)."""
        scope["knownas.route"] = self.path
        scope["knownas.body_limit"] = self._body_limit
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        handler = self.methods.get(method)
        if handler is None:
            error = MethodNotAllowed(f"{self.path} takes only {self.allow}.")
            scope["knownas.allow"] = self.allow
            raise error
        response = await handler(Request(scope, receive))
        await response(scope, receive, send)

    def routes(self) -> list[Route]:
        """Return the Starlette routes that lead here, whatever the method."""
        return [Route(path, endpoint=self) for path in self.paths]


HOT_ROUTE: Final = Resource(
    "/api/v2/server-side-api/integration/profile/set/integration-identifiers/",
    GET=adapty.get_identifiers,
    POST=adapty.set_identifiers,
)
"""The route whose GET `server.py` answers by the fast lane, where it can."""

FIND_ROUTE: Final = Resource("/api/v1/profiles/", GET=native.find_profiles)
"""The other route whose GET is answered by the fast lane, where it is an ordinary one."""

ROUTES: Final = (
    HOT_ROUTE,
    Resource(
        "/api/v2/server-side-api/profile/",
        GET=adapty.get_profile,
        POST=adapty.put_profile,
        PATCH=adapty.update_profile,
        DELETE=adapty.delete_profile,
    ),
    Resource(
        "/api/v1/sdk/integration/profile/set/integration-identifiers/",
        POST=adapty.set_identifiers_from_sdk,
    ),
    FIND_ROUTE,
    Resource("/api/v1/profile/", GET=native.get_profile),
    Resource("/api/v1/profile/clear/", POST=native.clear_identifiers),
    Resource("/api/v1/profile/history/", GET=insight.get_history),
    Resource("/api/v1/profile/customer/", POST=identity.bind_customer),
    Resource("/api/v1/merge/", POST=identity.merge),
    Resource("/api/v1/merge/undo/", POST=identity.undo_merge),
    Resource("/api/v1/batch/read/", POST=batch.read, body_limit=batch.BODY_LIMIT),
    Resource("/api/v1/batch/write/", POST=batch.write, body_limit=batch.BODY_LIMIT),
    Resource("/api/v1/changes/", GET=feed.get_changes),
    Resource("/api/v1/profile/export/", GET=erasures.export_person),
    Resource("/api/v1/erasures/", GET=erasures.get_erasures, POST=erasures.erase),
    Resource("/api/v1/erasures/check/", POST=erasures.check, body_limit=erasures.BODY_LIMIT),
    Resource("/api/v1/erasures/key/", GET=erasures.get_key),
    Resource(
        "/api/v1/webhooks/",
        GET=hooks.get_webhooks,
        POST=hooks.add_webhook,
        PATCH=hooks.change_webhook,
        DELETE=hooks.delete_webhook,
    ),
    Resource("/api/v1/webhooks/rotate/", POST=hooks.rotate_secret),
    Resource("/api/v1/webhooks/test/", POST=hooks.test_webhook),
    Resource("/api/v1/webhooks/deliveries/", GET=hooks.get_deliveries),
    Resource("/api/v1/webhooks/replay/", POST=hooks.replay),
    Resource(inbound.PATH, POST=inbound.receive, body_limit=inbound.BODY_LIMIT),
    Resource("/api/v1/inbound/", GET=inbound.get_state),
    Resource(
        "/api/v1/inbound/dead-letters/",
        GET=inbound.get_letters,
        DELETE=inbound.delete_letters,
    ),
    Resource("/api/v1/inbound/dead-letters/replay/", POST=inbound.replay),
    Resource(
        "/api/v1/upstream/",
        GET=upstream.get_upstream,
        PUT=upstream.put_upstream,
        DELETE=upstream.delete_upstream,
    ),
    Resource("/api/v1/upstream/deliveries/", GET=upstream.get_deliveries),
    Resource("/api/v1/upstream/replay/", POST=upstream.replay),
    Resource(
        "/api/v1/upstream/differences/",
        GET=upstream.get_differences,
        DELETE=upstream.delete_differences,
    ),
    Resource("/api/v1/imports/", GET=imports.get_imports, POST=imports.begin),
    Resource(
        imports.PATH,
        GET=imports.get_import,
        PATCH=imports.append,
        DELETE=imports.cancel,
        body_limit=imports.BODY_LIMIT,
    ),
    Resource("/api/v1/coverage/", GET=insight.get_coverage),
    Resource("/api/v1/conflicts/", GET=insight.get_conflicts),
    Resource("/api/v1/policies/", GET=insight.get_policies, PUT=insight.put_policies),
    Resource("/healthz", GET=ops.healthz),
    Resource("/readyz", GET=ops.readyz),
    Resource("/metrics", GET=ops.metrics),
    Resource("/openapi.yaml", GET=ops.openapi_yaml),
    Resource("/docs", GET=ops.docs),
    Resource("/docs.css", GET=ops.docs_css),
)


CONSOLE_PATH: Final = "/console/"
"""What all pages of the console are counted as."""

_WRITING: Final = frozenset({"POST", "PUT", "PATCH", "DELETE"})


class Envelope:
    """What stands around every answer: its Request-Id, its error body, its count, its log line."""

    def __init__(
        self,
        router: ASGIApp,
        settings: Settings,
        storage: Storage,
        metrics: Metrics,
        new_request_id: Callable[[], bytes],
    ) -> None:
        """Stand around what `router` leads to."""
        self._new_request_id = new_request_id
        self._router = router
        # A path without variables needs no search through all routes.
        self._by_path = {path: resource for resource in ROUTES for path in resource.paths}
        self._dialect = settings.error_dialect
        self._access_log = settings.access_log
        self._storage = storage
        self._metrics = metrics
        self._log = logs.get()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on (the ASGI protocol)."""
        if scope["type"] != "http":
            await self._router(scope, receive, send)
            return
        began = time.perf_counter_ns()
        request_id = wire.own_request_id(scope["headers"]) or self._new_request_id()
        # Paths match byte for byte, so routing sees what was sent, not what it decodes to.
        scope["path"] = scope["raw_path"].decode("latin-1")
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message.get("headers", ()),
                    (b"request-id", request_id),
                ]
                position = self._storage.log_position
                if position is not None and scope["method"] in _WRITING:
                    message["headers"].append(wire.position_header(position))
            await send(message)

        failed: KnownasError | None = None
        try:
            await self._by_path.get(scope["path"], self._router)(scope, receive, send_with_id)
        except KnownasError as error:
            failed = error
        except Exception as error:  # noqa: BLE001 - whatever it is, the client gets the one shape
            failed = InternalError()
            self._tell(
                self._log.error,
                "unexpected_error",
                type=type(error).__name__,
                at=logs.place_of(error),
                request_id=request_id.decode(),
            )
        if failed is not None and status == 0:  # else the answer has begun, and is cut short
            await self._answer(failed, scope, receive, send_with_id)
        route = scope.get("knownas.route", UNKNOWN_ROUTE)
        elapsed = time.perf_counter_ns() - began
        if status:  # 0: the client was gone before there was an answer
            self._metrics.count(scope["method"], route, status, elapsed)
        if self._access_log:
            self._tell(
                self._log.info,
                "request",
                method=scope["method"] if scope["method"] in METHODS else "other",
                route=route,
                status=status,
                ms=elapsed / 1e6,
                request_id=request_id.decode(),
            )

    def _tell(self, log: Callable[..., object], event: str, **values: object) -> None:
        with contextlib.suppress(
            OSError
        ):  # a reader of the log that died is not the client's fault
            log(event, **values)

    async def _answer(
        self, error: KnownasError, scope: Scope, receive: Receive, send: Send
    ) -> None:
        headers: dict[str, str] = {}
        if isinstance(error, RequestTimeout | PayloadTooLarge):
            headers["Connection"] = "close"  # the rest of the body is not waited for
        if isinstance(error, UploadConflict):
            headers["Upload-Offset"] = str(error.offset)
        if "knownas.allow" in scope:
            headers["Allow"] = scope["knownas.allow"]
        if error.retry_after is not None:
            headers["Retry-After"] = str(error.retry_after)
        response = Response(
            wire.error_body(error, self._dialect),
            status_code=wire.STATUS[error.code],
            headers=headers,
            media_type="application/json",
        )
        await response(scope, receive, send)


class Application(Starlette):
    """Starlette with the envelope in the place of its own middleware, which would do it again."""

    def build_middleware_stack(self) -> ASGIApp:
        """Return what answers every request."""
        state = self.state
        storage = state.registry.storage
        return Envelope(self.router, state.settings, storage, state.metrics, state.new_request_id)


async def _nothing_here(_scope: Scope, _receive: Receive, _send: Send) -> None:
    raise NotFound


def create_app(  # noqa: PLR0913 - what it is put together from
    registry: Registry,
    settings: Settings,
    shared: SharedMemory | None = None,
    *,
    console: ASGIApp | None = None,
    dispatcher: "Dispatcher | None" = None,
    run_imports: Callable[[], Awaitable[None]] | None = None,
    new_request_id: Callable[[], bytes] | None = None,
) -> Application:
    """Make the application over a registry, which it closes when it stops.

    The `console` answers at and below `/console/`, the `dispatcher` delivers as long as it serves,
    `run_imports` has uploaded files imported by another process.
    With `shared` memory its metrics are those of all processes that have it. Request ids are random
    unless `new_request_id` makes them.
    """
    paths = [*(resource.path for resource in ROUTES), CONSOLE_PATH]
    metrics = Metrics(paths, shared, senders=tuple(SENDERS))
    registry.upstreams.shadow.on_compared = metrics.count_compared
    registry.upstreams.reading.on_asked = metrics.count_asked
    registry.storage.work.tell = metrics.count_work
    metrics.watch(waiting=registry.storage.waiting)
    if dispatcher is not None:
        dispatcher.tell_attempts_to(metrics.count_attempt)
    draining = asyncio.Event()

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> Any:  # noqa: ANN401 - an async generator without values
        beside = asyncio.gather(
            keep_up(registry, settings.history_days),
            keep_erasing(registry),
            keep_key_uses(registry),
            keep_importing(registry, run_imports),
            keep_sampling(metrics),
        )
        delivering = asyncio.create_task(dispatcher.run(draining)) if dispatcher else None
        yield
        draining.set()  # where no connection was ever open, nobody else has
        beside.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await beside
        if delivering is not None:
            await delivering
        await registry.close()

    app = Application(
        routes=[
            *(route for resource in ROUTES for route in resource.routes()),
            *([Route("/console{below:path}", endpoint=console)] if console else []),
        ],
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    app.router.default = _nothing_here
    app.state.registry = registry
    app.state.settings = settings
    app.state.metrics = metrics
    app.state.guard = KeyGuard(settings.bad_keys_per_minute)
    app.state.draining = draining
    app.state.watch = feed.Watch(registry, draining)
    app.state.rates = KeyRates()
    app.state.new_request_id = new_request_id or wire.RequestIds()
    return app
