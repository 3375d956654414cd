"""What stands on the wire: headers in, bodies in and out, errors in their three dialects.

Source: the wire contract, sections 1 to 4.
"""

import hashlib
import os
import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from knownas import errors
from knownas.errors import FieldError, KnownasError, ParseError, ValidationError
from knownas.lookups import Holders, Place
from knownas.model import (
    KINDS,
    Identifiers,
    LogPosition,
    Profile,
    ProfileId,
    ProfileRef,
    clean_customer_user_id,
    clean_profile_id,
)
from knownas.strict_json import parse_object

CUSTOMER_HEADER: Final = "adapty-customer-user-id"
PROFILE_HEADER: Final = "adapty-profile-id"
SDK_PROFILE_HEADER: Final = "adapty-sdk-profile-id"
_CUSTOMER: Final = CUSTOMER_HEADER.encode()
_PROFILE: Final = PROFILE_HEADER.encode()
POSITION_HEADER: Final = "knownas-log-position"
IDEMPOTENCY_HEADER: Final = "idempotency-key"
UPLOAD_OFFSET: Final = "upload-offset"
UPLOAD_COMPLETE: Final = "upload-complete"
WHO_HEADERS: Final = (CUSTOMER_HEADER, PROFILE_HEADER, SDK_PROFILE_HEADER)
_MUST_BE_ONE: Final = frozenset(
    name.encode()
    for name in (
        *(CUSTOMER_HEADER, PROFILE_HEADER, SDK_PROFILE_HEADER),
        *(POSITION_HEADER, IDEMPOTENCY_HEADER, "content-type"),
        *(UPLOAD_OFFSET, UPLOAD_COMPLETE),
    )
)
IF_MATCH: Final = "if-match"
IF_NONE_MATCH: Final = "if-none-match"
_LISTS: Final = frozenset({IF_MATCH.encode(), IF_NONE_MATCH.encode()})
_DECIDING: Final = _MUST_BE_ONE | _LISTS | {b"content-length", b"content-encoding"}
IGNORED_HEADER: Final = "Knownas-Ignored"

_is_position: Final = re.compile(rb"([0-9a-f]{8})([0-9a-f]{16})").fullmatch

BODY_LIMIT: Final = 64 * 1024
"""Bytes of the largest body of a route whose table says nothing else."""
JSON: Final = b"application/json"
NDJSON: Final = b"application/x-ndjson"

STATUS: Final = {
    "validation_error": 400,
    "parse_error": 400,
    "profile_conflict": 400,
    "unauthorized": 401,
    "not_found": 404,
    "profile_not_found": 404,
    "erasure_not_found": 404,
    "webhook_not_found": 404,
    "dead_letter_not_found": 404,
    "upstream_not_found": 404,
    "import_not_found": 404,
    "method_not_allowed": 405,
    "request_timeout": 408,
    "identifier_taken": 409,
    "identifier_shared": 409,
    "batch_failed": 409,
    "upload_conflict": 409,
    "too_many_imports": 409,
    "cursor_expired": 410,
    "history_expired": 410,
    "precondition_failed": 412,
    "payload_too_large": 413,
    "unsupported_media_type": 415,
    "idempotency_conflict": 422,
    "rate_limited": 429,
    "headers_too_large": 431,
    "internal_error": 500,
    "feature_not_configured": 501,
    "service_unavailable": 503,
    "insufficient_storage": 507,
}
"""The one table from error code to HTTP status."""

_LIVE: Final = {
    "unauthorized": ("not_authenticated", "Authentication credentials were not provided."),
    "profile_not_found": ("profile_does_not_exist", "Profile not found"),
}
"""What Adapty's own server was seen to say instead of its specification's code and text."""

_is_cursor: Final = re.compile(r"([0-9a-f]{2})([0-9a-f]{32})").fullmatch

is_request_id: Final = re.compile(rb"[A-Za-z0-9._:-]{1,128}").fullmatch
_SAFE_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_MAX_NAMES: Final = 10

encode = msgspec.json.Encoder().encode
_IdentifiersBody = msgspec.defstruct(
    "_IdentifiersBody", [(kind.name, str | None) for kind in KINDS], frozen=True, gc=False
)
_SetIdentifiers = msgspec.defstruct(
    "_SetIdentifiers",
    [(kind.name, str | None, None) for kind in KINDS],
    frozen=True,
    gc=False,
    omit_defaults=True,
)


class _Attribute(msgspec.Struct, frozen=True, gc=False):
    key: str
    value: str | float


class NativeProfile(msgspec.Struct, frozen=True, gc=False):
    """A profile in this server's own API: of the identifiers only those that are set."""

    profile_id: str
    customer_user_id: str | None
    identifiers: msgspec.Struct
    custom_attributes: list[_Attribute]
    created_at: int
    updated_at: int
    revision: int


class _Holder(msgspec.Struct, frozen=True):
    kind: str
    profile: NativeProfile


class _HoldersBody(msgspec.Struct, frozen=True):
    data: list[_Holder]
    next: str | None


RawHeaders = Iterable[tuple[bytes, bytes]]


def identifiers_body(identifiers: Identifiers) -> bytes:
    """Return the body of the hot GET: every kind, in the seed's order."""
    return encode(_IdentifiersBody(*identifiers))


def native_profile(profile: Profile) -> NativeProfile:
    """Return a profile as this server's own API shows it."""
    return NativeProfile(
        profile.profile_id,
        profile.customer_user_id,
        _SetIdentifiers(*profile.identifiers),
        [_Attribute(key, value) for key, value in profile.attributes],
        profile.created_at,
        profile.updated_at,
        profile.revision,
    )


def holders_body(holders: Holders) -> bytes:
    """Return the body of an answer to a reverse look-up."""
    after = holders.next
    return encode(
        _HoldersBody(
            [_Holder(KINDS[kind].name, native_profile(profile)) for kind, profile in holders.found],
            None if after is None else f"{after.kind:02x}{after.at:032x}",
        )
    )


def cursor(text: str, *, source: str) -> Place:
    """Return the place that an answer had as its `next`."""
    if (match := _is_cursor(text)) is None:
        raise ValidationError("Must be as `next` of an answer had it.", source=source)
    return Place(int(match[1], 16), int(match[2], 16))


def etag(body: bytes) -> str:
    """Return the strong entity tag of a body, in its quotes: 64 bits of its BLAKE2b hash."""
    return f'"{hashlib.blake2b(body, digest_size=8).hexdigest()}"'


def error_body(error: KnownasError, dialect: str) -> bytes:
    """Return an error's body in a dialect: `schema`, `example` or `live`."""
    return encode(error_object(error, dialect))


def error_object(error: KnownasError, dialect: str) -> dict[str, Any]:
    """Return what `error_body` says, to stand within another body."""
    code = error.code
    fields: list[tuple[str | None, str]] = list(error.fields)
    if dialect == "live" and code in _LIVE:
        code, message = _LIVE[code]
        fields = [(None, message)]
    if dialect == "example":
        entries: list[Any] = [
            message if source is None else f"{source}: {message}" for source, message in fields
        ]
    else:
        by_source: dict[str | None, list[str]] = {}
        for source, message in fields:
            by_source.setdefault(source, []).append(message)
        entries = [{"source": source, "errors": found} for source, found in by_source.items()]
    return {"errors": entries, "error_code": code, "status_code": STATUS[error.code]}


class RequestIds:
    """A source of new request ids: 32 random hexadecimal digits, made many at a time."""

    def __init__(self, random: Callable[[int], bytes] = os.urandom) -> None:
        """Take the bytes from `random`."""
        self._random = random
        self._ready: list[bytes] = []

    def __call__(self) -> bytes:
        """Return an id that was not returned before."""
        if not self._ready:
            digits = self._random(16 * 256).hex().encode()
            self._ready = [digits[i : i + 32] for i in range(0, len(digits), 32)]
        return self._ready.pop()


def own_request_id(headers: RawHeaders) -> bytes | None:
    """Return the request's own id where it has a usable one; X-Request-Id wins."""
    own = None
    for name, value in headers:
        if name in {b"x-request-id", b"request-id"}:
            trimmed = value.strip(b" \t")
            if is_request_id(trimmed):
                if name == b"x-request-id":
                    return trimmed
                own = own or trimmed
    return own


class Headers:
    """The headers of a request that decide about its answer, read in one pass.

    Blank ones count as absent. Two that differ are one where the header is a list; else they are
    noted, to be refused once the key is known.
    """

    def __init__(self, headers: RawHeaders) -> None:
        """Read what a request brought, names in lower case."""
        self._values: dict[bytes, bytes] = {}
        self._twins: set[bytes] = set()
        self.authorization: bytes | None = None
        """None where there is none, or more than one."""
        authorizations = 0
        for name, value in headers:
            if name == b"authorization":
                authorizations += 1
                self.authorization = value if authorizations == 1 else None
            elif (
                name in _DECIDING
                and (trimmed := value.strip(b" \t"))
                and (earlier := self._values.setdefault(name, trimmed)) != trimmed
            ):
                if name in _LISTS:
                    self._values[name] = earlier + b", " + trimmed
                else:
                    self._twins.add(name)

    def refuse_twins(self) -> None:
        """Raise ValidationError when a header that decides stands twice with different values."""
        for name in sorted(self._twins & _MUST_BE_ONE):
            raise ValidationError(
                "This header stands twice with different values.", source=name.decode()
            )

    def get(self, name: str) -> bytes:
        """Return the value of a deciding header, b"" when it is absent."""
        return self._values.get(name.encode(), b"")

    def profile_ref(self) -> ProfileRef:
        """Return whom the request is about. Raises ValidationError (contract, section 2)."""
        customer = self._values.get(_CUSTOMER)
        profile = self._values.get(_PROFILE)
        if customer is None and profile is None:
            raise ValidationError(f"Send the header {CUSTOMER_HEADER} or {PROFILE_HEADER}.")
        return ProfileRef(
            clean_customer_user_id(customer, source=CUSTOMER_HEADER) if customer else None,
            clean_profile_id(profile.decode("latin-1"), source=PROFILE_HEADER) if profile else None,
        )

    def sdk_profile_id(self) -> ProfileId | None:
        """Return the profile that a mobile SDK names in its header, if it does."""
        given = self.get(SDK_PROFILE_HEADER)
        if not given:
            return None
        return clean_profile_id(given.decode("latin-1"), source=SDK_PROFILE_HEADER)

    def log_position(self) -> LogPosition | None:
        """Return up to where an answer has to know all writes. Raises ValidationError."""
        given = self.get(POSITION_HEADER)
        if not given:
            return None
        if (match := _is_position(given)) is None:
            raise ValidationError(
                "Must be as an answer to a write had it, or left out.", source=POSITION_HEADER
            )
        return LogPosition(int(match[1], 16), int(match[2], 16))


def position_header(position: LogPosition) -> tuple[bytes, bytes]:
    """Return the header of an answer to a write that `log_position` reads."""
    return POSITION_HEADER.encode(), b"%08x%016x" % position


async def json_object(
    request: Request, headers: Headers, *, if_empty: str | None = None
) -> dict[str, Any]:
    """Return the body, a JSON object; an empty body is the error `if_empty`, or else `{}`.

    Checks in the contract's order: size, emptiness, media type, syntax.
    """
    body = await bounded_body(request, headers)
    if not body and if_empty is None:
        return {}
    media_type_of(headers, body, if_empty, JSON)
    return parse_object(body)


def media_type_of(headers: Headers, body: bytes, if_empty: str | None, *allowed: bytes) -> bytes:
    """Return which of the allowed media types a body has: the first where none is said.

    Raises ValidationError for an empty body, UnsupportedMediaType for any other type.
    """
    if not body:
        raise ValidationError(if_empty)
    said = (headers.get("content-type") or allowed[0]).partition(b";")[0].strip().lower()
    names = " or ".join(one.decode() for one in allowed)
    message = f"Send the body as {names}, without a Content-Encoding."
    if said not in allowed:
        raise errors.UnsupportedMediaType(message, source="content-type")
    if headers.get("content-encoding"):
        raise errors.UnsupportedMediaType(message, source="content-encoding")
    return said


def accepts(request: Request, media_type: str) -> bool:
    """Tell whether the client names a media type as one that it takes."""
    accepted = ",".join(request.headers.getlist("accept")).split(",")
    return media_type in {one.partition(";")[0].strip().lower() for one in accepted}


def unknown_fields(body: Iterable[str], *known: str) -> list[FieldError]:
    """Say of each field of a body that is not known that it is not."""
    return [FieldError(name, "Unknown field.") for name in body if name not in known]


def ignored_header(names: list[str]) -> dict[str, str]:
    """Return the header that names what of a body was left out; none when nothing was."""
    if not names:
        return {}
    shown = [name for name in names if _SAFE_NAME.fullmatch(name)][:_MAX_NAMES]
    uncounted = len(names) - len(shown)
    return {IGNORED_HEADER: ", ".join([*shown, *([f"+{uncounted}"] if uncounted else [])])}


def date(at: int) -> str:
    """Return the day of a time (ms since 1970) in UTC, as RFC 3339 writes it."""
    return datetime.fromtimestamp(at / 1_000, UTC).date().isoformat()


def json_response(content: object) -> Response:
    """Return a 200 with a JSON body."""
    return Response(encode(content), media_type="application/json")


async def bounded_body(request: Request, headers: Headers) -> bytes:
    """Return the body. The protocol cuts it short when it takes too long.

    Raises PayloadTooLarge past the limit that the route table gives to the route.
    """
    limit = request.scope["knownas.body_limit"]
    length = headers.get("content-length")
    if length.isdigit() and (len(length) > len(str(limit)) or int(length) > limit):
        raise _too_large(limit)
    pieces = []
    size = 0
    more = True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ParseError("The body was cut short.")
        pieces.append(message.get("body", b""))
        size += len(pieces[-1])
        if size > limit:
            raise _too_large(limit)
        more = message.get("more_body", False)
    return b"".join(pieces)


def _too_large(limit: int) -> KnownasError:
    return errors.PayloadTooLarge(f"The body is over {limit} bytes; send less at once.")
