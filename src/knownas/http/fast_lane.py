"""The fast lane: the answer to an ordinary hot GET, without a task, a scope or an event.

It is for the identifiers of one profile, asked for by one header, with a key that was read just
now. Whatever is out of the ordinary, an error included, is left to the application; for what is
not, the bytes are the application's own, since both ways call the same functions for the key,
the profile and the body. A test holds them together.

A client mostly sends the same request over and over, but for the value that names the profile.
So a connection remembers the bytes before and after that value: a request that has the same
bytes around a plain value has been parsed already.
"""

import time
from bisect import bisect_left
from typing import Any, Final, NamedTuple

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from knownas.errors import ProfileNotFound
from knownas.http import wire
from knownas.http.app import HOT_ROUTE
from knownas.metrics import BOUNDS_NS
from knownas.model import ProfileRef, clean_customer_user_id, clean_profile_id

Headers = list[tuple[bytes, bytes]]

HOT_URLS: Final = frozenset({HOT_ROUTE.path.encode(), HOT_ROUTE.path.rstrip("/").encode()})

_AUTHORIZATION, _CUSTOMER, _PROFILE, _REQUEST_ID, _HOST, _CONNECTION, _OTHER_WAY = range(7)
# What a header means to the fast lane. One that is not here does not change the answer.
_ROLES: Final = {
    b"authorization": _AUTHORIZATION,
    wire.CUSTOMER_HEADER.encode(): _CUSTOMER,
    wire.PROFILE_HEADER.encode(): _PROFILE,
    b"x-request-id": _REQUEST_ID,
    b"host": _HOST,
    b"connection": _CONNECTION,
    b"request-id": _OTHER_WAY,
    wire.SDK_PROFILE_HEADER.encode(): _OTHER_WAY,
    b"proxy-connection": _OTHER_WAY,  # to the parser it is another Connection
    b"content-length": _OTHER_WAY,
    b"transfer-encoding": _OTHER_WAY,
    b"content-type": _OTHER_WAY,
    b"expect": _OTHER_WAY,
    b"upgrade": _OTHER_WAY,
}


class Asked(NamedTuple):
    """What an ordinary hot GET asks."""

    authorization: bytes
    by: int
    """`_CUSTOMER` or `_PROFILE`."""
    name: bytes
    """The header that names the profile, as it was sent."""
    value: bytes
    request_id: bytes | None


class Memory(NamedTuple):
    """A request that was answered: the same bytes around another value ask the same of it."""

    before: bytes
    after: bytes
    asked: Asked


class FastLane:
    """Answers for all connections of one process."""

    def __init__(self, state: Any) -> None:  # noqa: ANN401 - Starlette's state is untyped
        """Take what the application was made of."""
        self._believed_key = state.registry.believed_key
        self._identifiers = state.registry.storage.identifiers_in_turn
        self._new_request_id = state.new_request_id
        self._not_found = wire.error_body(ProfileNotFound(), state.settings.error_dialect)
        metrics = state.metrics
        self._cells = metrics.cells
        self._counters = {
            status: metrics.counter_cell("GET", HOT_ROUTE.path, status) for status in (200, 404)
        }
        self._buckets, self._sum = metrics.histogram_cells(HOT_ROUTE.path)
        self._dated: Headers | None = None
        self._heads: dict[int, bytes] = {}

    def answer(self, asked: Asked, value: bytes, dated: Headers, began_ns: int) -> bytes | None:
        """Return the whole answer to `asked` for this value; None leaves it to the application.

        `dated` are uvicorn's default headers, `began_ns` is `time.monotonic_ns()` at the start.
        """
        key = self._believed_key(asked.authorization)
        if key is None or key.type != "secret":
            return None
        try:
            if asked.by == _CUSTOMER:
                ref = ProfileRef(clean_customer_user_id(value, source=wire.CUSTOMER_HEADER))
            else:
                text = value.decode("latin-1")
                ref = ProfileRef(None, clean_profile_id(text, source=wire.PROFILE_HEADER))
            body = wire.identifiers_body(self._identifiers(key.app.id, ref))
            status = 200
        except ProfileNotFound:
            body = self._not_found
            status = 404
        except Exception:  # noqa: BLE001 - whatever it is, the application meets it and tells it
            return None
        if dated is not self._dated:
            self._renew_heads(dated)
        elapsed_ns = time.monotonic_ns() - began_ns
        cells = self._cells
        cells[self._counters[status]] += 1
        cells[self._buckets + bisect_left(BOUNDS_NS, elapsed_ns)] += 1
        cells[self._sum] += elapsed_ns
        return b"%b%d\r\ncontent-type: application/json\r\nrequest-id: %b\r\n\r\n%b" % (
            self._heads[status],
            len(body),
            asked.request_id or self._new_request_id(),
            body,
        )

    def _renew_heads(self, dated: Headers) -> None:
        """Make what an answer begins with, up to its length; uvicorn renews the date."""
        self._dated = dated
        lines = b"".join(b"%b: %b\r\n" % header for header in dated)
        self._heads = {
            status: STATUS_LINE[status] + lines + b"content-length: " for status in (200, 404)
        }


def read(headers: Headers) -> Asked | None:
    """Return what the headers of a hot GET ask; None where one is out of the ordinary."""
    found: list[bytes | None] = [None] * 6
    names: list[bytes] = [b""] * 6
    for name, value in headers:
        role = _ROLES.get(name.lower())
        if role is None:
            continue
        if role == _OTHER_WAY or found[role] is not None:
            return None
        found[role] = value if role == _AUTHORIZATION else value.strip(b" \t")
        names[role] = name
    authorization, customer, profile, request_id, _, connection = found
    if authorization is None or (connection is not None and connection.lower() != b"keep-alive"):
        return None
    if request_id is not None and not wire.is_request_id(request_id):
        request_id = None
    if customer and not profile:
        return Asked(authorization, _CUSTOMER, names[_CUSTOMER], customer, request_id)
    if profile and not customer:
        return Asked(authorization, _PROFILE, names[_PROFILE], profile, request_id)
    return None


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
