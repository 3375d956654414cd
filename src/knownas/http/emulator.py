"""The emulator's own part: faults on demand, an app for each test, and profiles to begin with.

It stands around the application of a server that tests are run against, in memory. Nothing of it
is in the application of any other server.
"""

import asyncio
import re
from collections import defaultdict, deque
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from knownas.errors import KnownasError, Unauthorized, ValidationError, kept_error, noting
from knownas.http import fields, query, wire
from knownas.http.app import Application, Resource
from knownas.http.asking import authenticated, registry_of
from knownas.metrics import UNKNOWN_ROUTE
from knownas.model import App, AppId, clean_attributes, clean_identifiers
from knownas.registry import Registry

FAULT_HEADER: Final = "knownas-emulate"
EDGE_TEXT: Final = b"error code: 1010"
"""What the network in front of Adapty answers, with 403, to whom it takes for a bot."""

_MAX_TIMES: Final = 1_000
_MAX_SECONDS: Final = 60

_CODES: Final = {
    401: "unauthorized",
    404: "profile_not_found",
    408: "request_timeout",
    429: "rate_limited",
    500: "internal_error",
    503: "service_unavailable",
}
_EDGE_STATUS: Final = 403
_is_seconds: Final = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,6})?").fullmatch
_HOW: Final = (
    "Must be as 429;retry-after=2 or 500;latency=0.5: a status of "
    f"{', '.join(map(str, sorted([*_CODES, _EDGE_STATUS])))}, or none; retry-after and latency in "
    f"seconds, at most {_MAX_SECONDS}; done where the request is done, and only its answer is lost."
)


class Fault(NamedTuple):
    """What becomes of a request."""

    status: int | None = None
    """None where it is answered as always, only later."""
    retry_after: int | None = None
    latency: float = 0.0
    """Seconds before anything is done."""
    done: bool = False
    """Whether it is done all the same, and its answer thrown away."""


def parse(text: str, *, source: str) -> Fault:
    """Return the fault that a text such as `429;retry-after=2` says. Raises ValidationError."""
    fault = Fault()
    for position, part in enumerate(text.split(";")):
        name, _, value = part.strip().partition("=")
        if position == 0 and name.isdecimal() and not value:
            fault = fault._replace(status=int(name))
        elif name == "retry-after" and value.isdecimal() and len(value) < len("1000"):
            fault = fault._replace(retry_after=int(value))
        elif name == "latency" and _is_seconds(value):
            fault = fault._replace(latency=float(value))
        elif part.strip() == "done":
            fault = fault._replace(done=True)
        else:
            raise ValidationError(_HOW, source=source)
    if (
        fault.status not in {*_CODES, _EDGE_STATUS, None}
        or max(fault.latency, fault.retry_after or 0) > _MAX_SECONDS
        or (fault.status is None and (fault.done or fault.retry_after is not None))
    ):
        raise ValidationError(_HOW, source=source)
    return fault


class Emulation:
    """Stands around an application, and answers in its place where a fault is asked for."""

    def __init__(self, app: Application) -> None:
        """Stand around what `app` was made of."""
        for resource in _ROUTES:
            app.router.routes.extend(resource.routes())
        app.state.emulation = self
        self.queued: defaultdict[AppId, deque[Fault]] = defaultdict(deque)
        """The faults that wait for the next requests of an app."""
        self._inner = app.build_middleware_stack()
        self._registry: Registry = app.state.registry
        self._dialect: str = app.state.settings.error_dialect
        self._new_request_id = app.state.new_request_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request (the ASGI protocol)."""
        fault = None
        if scope["type"] == "http" and not scope["path"].startswith(_BASE):
            try:
                fault = await self._fault(dict(scope["headers"]))
            except ValidationError as error:
                await self._answer(error, {}, scope, receive, send)
                return
        if fault is None:
            await self._inner(scope, receive, send)
            return
        await asyncio.sleep(fault.latency)
        if fault.status is None:
            await self._inner(scope, receive, send)
            return
        if fault.done:
            await self._inner(scope, receive, _lose)
        if fault.status == _EDGE_STATUS:
            response = Response(EDGE_TEXT, status_code=fault.status, media_type="text/plain")
            await response(scope, receive, send)
            return
        failed = kept_error(_CODES[fault.status], ())
        seconds = failed.retry_after if fault.retry_after is None else fault.retry_after
        headers = {} if seconds is None else {"Retry-After": str(seconds)}
        await self._answer(failed, headers, scope, receive, send)

    async def _fault(self, headers: Mapping[bytes, bytes]) -> Fault | None:
        """Return what is to become of a request; None where it is answered as always."""
        asked = headers.get(FAULT_HEADER.encode())
        if asked is not None:
            return parse(asked.decode("latin-1"), source=FAULT_HEADER)
        if not any(self.queued.values()):
            return None
        try:
            key = await self._registry.keyring.authenticate(headers.get(b"authorization"))
        except Unauthorized:
            return None
        waiting = self.queued[key.app.id]
        return waiting.popleft() if waiting else None

    async def _answer(
        self,
        error: KnownasError,
        headers: dict[str, str],
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        request_id = wire.own_request_id(scope["headers"]) or self._new_request_id()
        response = Response(
            wire.error_body(error, self._dialect),
            status_code=wire.STATUS[error.code],
            headers={**headers, "Request-Id": request_id.decode()},
            media_type="application/json",
        )
        await response(scope, receive, send)


async def seed(registry: Registry, app: App, profiles: object) -> int:
    """Make profiles as a seed file has them, and return how many they are.

    Each is an object with `customer_user_id` or `profile_id` or both, and `identifiers` and
    `custom_attributes` as the API takes them. Raises ValidationError.
    """
    if not isinstance(profiles, list):
        raise ValidationError('The profiles must be a list: [{"customer_user_id": "user-1"}].')
    for position, given in enumerate(profiles):
        problems: list[Any] = []
        with noting(problems, f"[{position}]"):
            await _seed_one(registry, app, given)
        if problems:
            raise ValidationError(fields=problems)
    return len(profiles)


async def _seed_one(registry: Registry, app: App, given: object) -> None:
    if not isinstance(given, dict):
        raise ValidationError("Must be an object.")
    who = {name: value for name, value in given.items() if name not in _SEEDED}
    ref = fields.profile_ref(who)
    identifiers, attributes = (given.get(name) for name in _SEEDED)
    patch = {} if attributes is None else clean_attributes(attributes)
    await registry.put_profile(app.id, ref, patch)
    if identifiers:
        if not isinstance(identifiers, dict):
            raise ValidationError("Must be an object.", source="identifiers")
        values, _ = clean_identifiers(identifiers, reject_unknown=True)
        await registry.set_identifiers(app, ref, values)


_SEEDED: Final = ("identifiers", "custom_attributes")


async def _lose(_message: Message) -> None:
    """Take a part of an answer that nobody gets."""


# --- The emulator's own API -------------------------------------------------------------------


async def _add_app(request: Request) -> Response:
    """Make an app of its own for a test, and answer its name and secret key."""
    await authenticated(request, "secret")
    query.refuse_any(request)
    registry = registry_of(request)
    name = f"test-{len(await registry.apps())}"
    app = await registry.create_app(name)
    key, _ = await registry.keyring.create(app, "secret", label="emulator")
    return wire.json_response({"data": {"app": name, "key": key}})


async def _add_faults(request: Request) -> Response:
    """Have a fault become of the next requests of the key's app."""
    key, headers = await authenticated(request, "secret")
    query.refuse_any(request)
    body = await wire.json_object(request, headers, if_empty=_NO_FAULT)
    problems = wire.unknown_fields(body, "fault", "times")
    text, times = body.get("fault"), body.get("times", 1)
    fault = Fault()
    with noting(problems):
        fault = parse(text if isinstance(text, str) else "", source="fault")
    if type(times) is not int or not 1 <= times <= _MAX_TIMES:
        with noting(problems):
            raise ValidationError(f"Must be 1 to {_MAX_TIMES}.", source="times")
    if problems:
        raise ValidationError(fields=problems)
    waiting = request.app.state.emulation.queued[key.app.id]
    waiting.extend([fault] * times)
    return wire.json_response({"data": {"waiting": len(waiting)}})


async def _drop_faults(request: Request) -> Response:
    """Forget the faults that the key's app still has to come."""
    key, _ = await authenticated(request, "secret")
    query.refuse_any(request)
    request.app.state.emulation.queued[key.app.id].clear()
    return wire.json_response({"data": {"waiting": 0}})


class _Control(Resource):
    """A path of the emulator, which the metrics do not count by its name."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            scope["knownas.route"] = UNKNOWN_ROUTE


_BASE: Final = "/emulator/"
_NO_FAULT: Final = 'The body is empty. Send {"fault": "429;retry-after=2", "times": 1}.'
_ROUTES: Final = (
    _Control(f"{_BASE}apps/", POST=_add_app),
    _Control(f"{_BASE}faults/", POST=_add_faults, DELETE=_drop_faults),
)
