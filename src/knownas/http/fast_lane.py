"""The fast lane: the answer to an ordinary hot request, without a task, a scope or an event.

It is for the identifiers of one profile, read or set, named by one header, and for the profiles
that have one identifier, with a key that was read just now and whose requests are not counted.
Whatever is out of the ordinary, an error included, is left to the application; for what is not,
the bytes are the application's own, since both ways call the same functions for the key, the
profile and the body. A test holds them together.

A write, and a storage behind a network, answer later, and so does the lane then: until it does,
the connection is as busy as with a request on the normal way.

A client mostly sends the same request over and over, but for the value that names the profile.
So a connection remembers the bytes before and after that value: a request that has the same
bytes around a plain value has been parsed already.
"""

import asyncio
import re
import time
from bisect import bisect_left
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from knownas import logs
from knownas.errors import InternalError, KnownasError, ProfileNotFound
from knownas.history import Source
from knownas.http import wire
from knownas.http.app import FIND_ROUTE, HOT_ROUTE, Resource
from knownas.http.native import DEFAULT_LIMIT
from knownas.lookups import Holders, Sought
from knownas.metrics import BOUNDS_NS
from knownas.model import (
    KIND_NUMBER,
    App,
    Identifiers,
    Profile,
    ProfileRef,
    clean_customer_user_id,
    clean_identifiers,
    clean_profile_id,
    clean_value,
)
from knownas.strict_json import parse_object

if TYPE_CHECKING:
    from knownas.registry import Registry

Headers = list[tuple[bytes, bytes]]

HOT_URLS: Final = frozenset({HOT_ROUTE.path.encode(), HOT_ROUTE.path.rstrip("/").encode()})
FIND_URLS: Final = (f"{FIND_ROUTE.path}?".encode(), f"{FIND_ROUTE.path.rstrip('/')}?".encode())
"""What the URL of a reverse look-up begins with."""
_plain_query: Final = re.compile(
    rb"(?:kind=([a-z_]+)&)?value=([0-9A-Za-z._~:-]+)(?:&kind=([a-z_]+))?"
).fullmatch

(
    _AUTHORIZATION,
    _CUSTOMER,
    _PROFILE,
    _REQUEST_ID,
    _HOST,
    _CONNECTION,
    _LENGTH,
    _TYPE,
    _OTHER_WAY,
) = range(9)
# What a header means to the fast lane. One that is not here does not change the answer.
_ROLES: Final = {
    b"authorization": _AUTHORIZATION,
    wire.CUSTOMER_HEADER.encode(): _CUSTOMER,
    wire.PROFILE_HEADER.encode(): _PROFILE,
    b"x-request-id": _REQUEST_ID,
    b"host": _HOST,
    b"connection": _CONNECTION,
    b"request-id": _OTHER_WAY,
    wire.POSITION_HEADER.encode(): _OTHER_WAY,
    wire.IF_MATCH.encode(): _OTHER_WAY,
    wire.IF_NONE_MATCH.encode(): _OTHER_WAY,
    wire.SDK_PROFILE_HEADER.encode(): _OTHER_WAY,
    wire.IDEMPOTENCY_HEADER.encode(): _OTHER_WAY,
    b"proxy-connection": _OTHER_WAY,  # to the parser it is another Connection
    b"content-length": _OTHER_WAY,
    b"transfer-encoding": _OTHER_WAY,
    b"content-type": _OTHER_WAY,
    b"expect": _OTHER_WAY,
    b"upgrade": _OTHER_WAY,
}
_ROLES_IN_A_LOOK_UP: Final = {
    **_ROLES,
    wire.CUSTOMER_HEADER.encode(): _OTHER_WAY,  # they mean nothing, but must not contradict
    wire.PROFILE_HEADER.encode(): _OTHER_WAY,
}
_ROLES_IN_A_WRITE: Final = {
    **_ROLES,
    b"content-length": _LENGTH,
    b"content-type": _TYPE,
    b"content-encoding": _OTHER_WAY,
}


class Asked(NamedTuple):
    """What an ordinary hot request asks."""

    authorization: bytes
    by: int
    """`_CUSTOMER`, `_PROFILE`, or `_OTHER_WAY` where no header names a profile."""
    name: bytes
    """The header that names the profile, as it was sent."""
    value: bytes
    request_id: bytes | None
    writes: bool = False


class LookUp(NamedTuple):
    """What an ordinary reverse look-up asks: who has a value as this kind."""

    asked: Asked
    """By whom it is asked; it names no profile."""
    kind: int
    value: bytes


class LookUpMemory(NamedTuple):
    """A reverse look-up that was answered: its bytes around another plain query are another."""

    before: bytes
    after: bytes
    asked: Asked


class Memory(NamedTuple):
    """A request that was answered: the same bytes around another value ask the same of it."""

    before: bytes
    after: bytes
    asked: Asked


class FastLane:
    """Answers for all connections of one process."""

    def __init__(self, state: Any, route: Resource) -> None:  # noqa: ANN401 - Starlette's state is untyped
        """Take what the application was made of, and the route by which answers are counted."""
        registry: Registry = state.registry
        self._route = route.path
        self._believed_key = registry.keyring.believed_key
        self._identifiers = registry.storage.identifiers_in_turn
        self._set_identifiers = registry.set_identifiers
        self._fetch = registry.upstreams.fetch
        self._holders = registry.storage.holders_in_turn
        self._tells_position = registry.storage.has_standby
        self._new_request_id = state.new_request_id
        self._dialect = state.settings.error_dialect
        self._not_found = wire.error_body(ProfileNotFound(), self._dialect)
        self._metrics = metrics = state.metrics
        self._cells = metrics.cells
        self._reads, self._writes = (
            {status: metrics.counter_cell(method, route.path, status) for status in (200, 404)}
            for method in ("GET", "POST")
        )
        self._buckets, self._sum = metrics.histogram_cells(route.path)
        self._dated: Headers | None = None
        self._heads: dict[int, bytes] = {}

    def answer(
        self, asked: Asked, value: bytes, dated: Headers, began_ns: int
    ) -> "bytes | asyncio.Future[Identifiers] | None":
        """Return the whole answer to `asked` for this value; None leaves it to the application.

        Where the storage answers later, return what `answer_late` is to be called with then.
        `dated` are uvicorn's default headers, `began_ns` is `time.monotonic_ns()` at the start.
        """
        key = self._believed_key(asked.authorization)
        if key is None or not key.is_ordinary:
            return None
        try:
            found = self._identifiers(key.app.id, _ref(asked.by, value))
            if not isinstance(found, tuple):
                if key.app.upstream is not None:
                    found = self._or_fetched(found, key.app, _ref(asked.by, value))
                return asyncio.ensure_future(found)
            body = wire.identifiers_body(found)
            status = 200
        except ProfileNotFound:
            if key.app.upstream is not None:
                return None  # which may know it
            body = self._not_found
            status = 404
        except Exception:  # noqa: BLE001 - whatever it is, the application meets it and tells it
            return None
        return self._whole(status, body, asked, dated, began_ns)

    async def _or_fetched(
        self, found: Awaitable[Identifiers], app: App, ref: ProfileRef
    ) -> Identifiers:
        """Return what the storage found, or what the app's upstream knows."""
        try:
            return await found
        except ProfileNotFound:
            return (await self._fetch(app, ref)).identifiers

    def find(
        self, look_up: LookUp, dated: Headers, began_ns: int
    ) -> "bytes | asyncio.Future[Holders] | None":
        """Return the whole answer to a reverse look-up, or what else `answer` returns."""
        key = self._believed_key(look_up.asked.authorization)
        if key is None or not key.is_ordinary:
            return None
        try:
            value = clean_value(look_up.value.decode(), source="value")
            found = self._holders(key.app.id, Sought((look_up.kind,), value, DEFAULT_LIMIT))
            if not isinstance(found, Holders):
                return asyncio.ensure_future(found)
            body = wire.holders_body(found)
        except Exception:  # noqa: BLE001 - as above
            return None
        return self._whole(200, body, look_up.asked, dated, began_ns)

    def write(self, asked: Asked, body: bytes) -> "asyncio.Future[Profile] | None":
        """Begin the write that `asked` and a whole body ask for; None leaves it to the application.

        Return what `answer_late` is to be called with once it is done.
        """
        key = self._believed_key(asked.authorization)
        if (
            key is None
            or not key.is_ordinary
            or key.app.policies
            or key.app.upstream is not None
            or self._tells_position
        ):
            return None
        try:
            values, unknown = clean_identifiers(parse_object(body))
            if unknown:
                return None
            changed = self._set_identifiers(
                key.app, _ref(asked.by, asked.value), values, by=Source("api", key.id)
            )
        except Exception:  # noqa: BLE001 - as above; nothing is begun yet
            return None
        return asyncio.ensure_future(changed)

    def answer_late(
        self,
        found: "asyncio.Future[Identifiers] | asyncio.Future[Profile] | asyncio.Future[Holders]",
        asked: Asked,
        dated: Headers,
        began_ns: int,
        *,
        close: bool,
    ) -> bytes:
        """Return the whole answer once the storage has answered, an error included.

        With `close` it says that the connection ends with it.
        """
        ending = b"connection: close\r\n" if close else b""
        try:
            result = found.result()
            if isinstance(result, Profile):
                body = b""
            elif isinstance(result, Holders):
                body = wire.holders_body(result)
            else:
                body = wire.identifiers_body(result)
            return self._whole(200, body, asked, dated, began_ns, ending)
        except ProfileNotFound:
            return self._whole(404, self._not_found, asked, dated, began_ns, ending)
        except KnownasError as error:
            return self._failure(error, asked, dated, began_ns, close=close)
        except Exception as error:  # noqa: BLE001 - whatever it is, the client gets the one shape
            logs.get().error("unexpected_error", type=type(error).__name__, at=logs.place_of(error))
            return self._failure(InternalError(), asked, dated, began_ns, close=close)

    def _whole(  # noqa: PLR0913, PLR0917 - all that an answer is made of
        self,
        status: int,
        body: bytes,
        asked: Asked,
        dated: Headers,
        began_ns: int,
        ending: bytes = b"",
    ) -> bytes:
        """Count an answer and return it."""
        if dated is not self._dated:
            self._renew_heads(dated)
        elapsed_ns = time.monotonic_ns() - began_ns
        cells = self._cells
        cells[(self._writes if asked.writes else self._reads)[status]] += 1
        cells[self._buckets + bisect_left(BOUNDS_NS, elapsed_ns)] += 1
        cells[self._sum] += elapsed_ns
        return b"%b%d\r\n%brequest-id: %b\r\n%b\r\n%b" % (
            self._heads[status],
            len(body),
            b"content-type: application/json\r\n" if body else b"",
            asked.request_id or self._new_request_id(),
            ending,
            body,
        )

    def _failure(
        self, error: KnownasError, asked: Asked, dated: Headers, began_ns: int, *, close: bool
    ) -> bytes:
        status = wire.STATUS[error.code]
        body = wire.error_body(error, self._dialect)
        method = "POST" if asked.writes else "GET"
        self._metrics.count(method, self._route, status, time.monotonic_ns() - began_ns)
        lines = [*dated]
        if error.retry_after is not None:
            lines.append((b"retry-after", b"%d" % error.retry_after))
        lines += [
            (b"content-length", b"%d" % len(body)),
            (b"content-type", b"application/json"),
            (b"request-id", asked.request_id or self._new_request_id()),
        ]
        if close:
            lines.append((b"connection", b"close"))
        return raw_answer(status, lines, body)

    def _renew_heads(self, dated: Headers) -> None:
        """Make what an answer begins with, up to its length; uvicorn renews the date."""
        self._dated = dated
        lines = b"".join(b"%b: %b\r\n" % header for header in dated)
        self._heads = {
            status: STATUS_LINE[status] + lines + b"content-length: " for status in (200, 404)
        }


def raw_answer(status: int, headers: Headers, body: bytes) -> bytes:
    """Return an answer as it is sent."""
    return b"".join(
        [STATUS_LINE[status], *(b"%b: %b\r\n" % line for line in headers), b"\r\n", body]
    )


def read(headers: Headers) -> Asked | None:
    """Return what the headers of a hot GET ask; None where one is out of the ordinary."""
    return _read(headers, _ROLES)


def read_write(headers: Headers) -> Asked | None:
    """Return what the headers of a hot POST ask; None where one is out of the ordinary."""
    return _read(headers, _ROLES_IN_A_WRITE, writes=True)


def read_look_up(url: bytes, headers: Headers) -> LookUp | None:
    """Return what a reverse look-up asks: by kind and a plain value, and in no other way."""
    asked = _read(headers, _ROLES_IN_A_LOOK_UP)
    return None if asked is None else _look_up(asked, url.partition(b"?")[2])


def _look_up(asked: Asked, query: bytes) -> LookUp | None:
    found = _plain_query(query)
    if found is None:
        return None
    before, value, behind = found.groups()
    kind = KIND_NUMBER.get((before or behind or b"").decode())
    if kind is None or (before and behind):
        return None
    return LookUp(asked, kind, value)


def _read(headers: Headers, roles: dict[bytes, int], *, writes: bool = False) -> Asked | None:
    found: list[bytes | None] = [None] * _OTHER_WAY
    names: list[bytes] = [b""] * _OTHER_WAY
    for name, value in headers:
        role = roles.get(name.lower())
        if role is None:
            continue
        if role == _OTHER_WAY or found[role] is not None:
            return None
        found[role] = value if role == _AUTHORIZATION else value.strip(b" \t")
        names[role] = name
    authorization, customer, profile, request_id, _, connection, length, media_type = found
    if authorization is None or (connection is not None and connection.lower() != b"keep-alive"):
        return None
    if writes and not (length and media_type in {None, b"application/json"}):
        return None
    if request_id is not None and not wire.is_request_id(request_id):
        request_id = None
    if customer and not profile:
        return Asked(authorization, _CUSTOMER, names[_CUSTOMER], customer, request_id, writes)
    if profile and not customer:
        return Asked(authorization, _PROFILE, names[_PROFILE], profile, request_id, writes)
    names_nobody = roles is _ROLES_IN_A_LOOK_UP
    return Asked(authorization, _OTHER_WAY, b"", b"", request_id) if names_nobody else None


def _ref(by: int, value: bytes) -> ProfileRef:
    """Return whom a header value names; raises ValidationError as the application does."""
    if by == _CUSTOMER:
        return ProfileRef(clean_customer_user_id(value, source=wire.CUSTOMER_HEADER))
    text = value.decode("latin-1")
    return ProfileRef(None, clean_profile_id(text, source=wire.PROFILE_HEADER))


def remember(data: bytes, asked: Asked) -> Memory | None:
    """Return what to remember of a request that was `data`, if its value stands there once."""
    named = b"\r\n%b: " % asked.name
    start = data.find(named)
    after = start + len(named) + len(asked.value)
    if start < 0 or data[after : after + 2] != b"\r\n":
        return None
    return Memory(data[: start + len(named)], data[after:], asked)


def plain_value(memory: Memory, data: bytes) -> bytes | None:
    """Return the value around which `data` has the remembered bytes, if it needs no parsing.

    It is printable ASCII without a space at either end, so it is one header value, whole.
    """
    value = data[len(memory.before) : -len(memory.after)]
    if not value or not value.isascii() or not value.decode().isprintable():
        return None
    if value != value.strip(b" "):
        return None
    return value


def asks_who(asked: Asked) -> bool:
    """Tell whether it was a reverse look-up that asked it."""
    return asked.by == _OTHER_WAY


def remember_look_up(data: bytes, asked: Asked) -> LookUpMemory:
    """Return what to remember of a reverse look-up that was `data`."""
    start = data.index(b"?") + 1
    return LookUpMemory(data[:start], data[data.index(b" ", start) :], asked)


def known_look_up(memory: LookUpMemory, data: bytes) -> LookUp | None:
    """Return what `data` looks up, if it has the remembered bytes around a plain query."""
    before, after, asked = memory
    if data.startswith(before) and data.endswith(after):
        return _look_up(asked, data[len(before) : -len(after)])
    return None
