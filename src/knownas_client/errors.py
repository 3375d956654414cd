"""What a call can fail with, a class for each `error_code` of the server.

KnownasError
├── ConnectionFailed        (no answer came, or none that could be read)
├── UnexpectedAnswer        (an answer of success that is not what the call has)
└── ApiError                (any answer of failure; with a code that is not known, just this)
    ├── BadRequest
    │   ├── ValidationError     validation_error
    │   ├── ParseError          parse_error
    │   └── ProfileConflict     profile_conflict
    ├── Unauthorized            unauthorized, not_authenticated
    ├── NotFound                not_found
    │   ├── ProfileNotFound     profile_not_found, profile_does_not_exist
    │   ├── ErasureNotFound     erasure_not_found
    │   ├── WebhookNotFound     webhook_not_found
    │   ├── DeadLetterNotFound  dead_letter_not_found
    │   ├── UpstreamNotFound    upstream_not_found
    │   └── ImportNotFound      import_not_found
    ├── MethodNotAllowed        method_not_allowed
    ├── RequestTimeout          request_timeout
    ├── Conflict
    │   ├── IdentifierTaken     identifier_taken
    │   ├── IdentifierShared    identifier_shared
    │   ├── BatchFailed         batch_failed
    │   ├── IdempotencyConflict idempotency_conflict
    │   ├── UploadConflict      upload_conflict
    │   └── TooManyImports      too_many_imports
    ├── Gone
    │   ├── CursorExpired       cursor_expired
    │   └── HistoryExpired      history_expired
    ├── PreconditionFailed      precondition_failed
    ├── PayloadTooLarge         payload_too_large
    ├── UnsupportedMediaType    unsupported_media_type
    ├── HeadersTooLarge         headers_too_large
    ├── RateLimited             rate_limited
    ├── InternalError           internal_error
    ├── FeatureNotConfigured    feature_not_configured
    ├── InsufficientStorage     insufficient_storage
    └── ServiceUnavailable      service_unavailable
"""

from collections.abc import Iterable
from typing import Any, ClassVar, Final, NamedTuple

import msgspec

_SHOWN: Final = 200
"""Characters that are shown of an answer which is no error body."""


class FieldError(NamedTuple):
    """What is wrong with one header or field; `source` is None for the request as a whole."""

    source: str | None
    message: str


class KnownasError(Exception):
    """Base of all that a call raises because of how it went."""


class ConnectionFailed(KnownasError):
    """No answer came, or none that could be read: `__cause__` is what httpx2 raised."""


class UnexpectedAnswer(KnownasError):
    """The answer says success, but is not what the call has: ask whether it is the right server."""


class ApiError(KnownasError):
    """The server, or something in front of it, answered with a failure."""

    codes: ClassVar[tuple[str, ...]] = ()
    """The values of `error_code` that this class stands for."""

    def __init__(
        self,
        status: int,
        code: str,
        errors: tuple[FieldError, ...] = (),
        request_id: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        """Take what the answer says; `code` is "" where it is no error body of the API.

        `retry_after` is in seconds.
        """
        super().__init__(status, code, errors, request_id, retry_after)
        self.status = status
        self.code = code
        self.errors = errors
        self.request_id = request_id
        self.retry_after = retry_after

    def __str__(self) -> str:
        """Say all of it on one line."""
        said = "; ".join(
            message if source is None else f"{source}: {message}" for source, message in self.errors
        )
        request = f" [request {self.request_id}]" if self.request_id else ""
        return f"{self.status} {self.code or 'without an error code'}: {said}{request}"


class BadRequest(ApiError):
    """The request cannot be served as it was sent."""


class ValidationError(BadRequest):
    """A header or a field has a value that is not allowed: `errors` says which."""

    codes = ("validation_error",)


class ParseError(BadRequest):
    """The body, or the request itself, is not what its type says."""

    codes = ("parse_error",)


class ProfileConflict(BadRequest):
    """The request names two different people."""

    codes = ("profile_conflict",)


class Unauthorized(ApiError):
    """The key is missing, unknown, revoked, expired, or of the wrong type."""

    codes = ("unauthorized", "not_authenticated")


class NotFound(ApiError):
    """Nothing is served at this path: the URL may be that of another server."""

    codes: ClassVar[tuple[str, ...]] = ("not_found",)


class ProfileNotFound(NotFound):
    """No profile of this app has that id or customer."""

    codes = ("profile_not_found", "profile_does_not_exist")


class ErasureNotFound(NotFound):
    """No person of this app was erased under that id."""

    codes = ("erasure_not_found",)


class WebhookNotFound(NotFound):
    """No webhook of this app has that id."""

    codes = ("webhook_not_found",)


class DeadLetterNotFound(NotFound):
    """No dead letter of this app has that id."""

    codes = ("dead_letter_not_found",)


class UpstreamNotFound(NotFound):
    """The app has no upstream."""

    codes = ("upstream_not_found",)


class ImportNotFound(NotFound):
    """No import of this app has that id."""

    codes = ("import_not_found",)


class MethodNotAllowed(ApiError):
    """The path exists, this method on it does not."""

    codes = ("method_not_allowed",)


class RequestTimeout(ApiError):
    """The request did not arrive in time."""

    codes = ("request_timeout",)


class Conflict(ApiError):
    """The request is sound, and something that is there stands in its way."""


class IdentifierTaken(Conflict):
    """Another profile has an identifier of a kind that only one may have."""

    codes = ("identifier_taken",)


class IdentifierShared(Conflict):
    """Several profiles have the identifier by which one person is to be found."""

    codes = ("identifier_shared",)


class BatchFailed(Conflict):
    """One item of a batch that is all or nothing cannot be done; nothing of it was."""

    codes = ("batch_failed",)


class IdempotencyConflict(Conflict):
    """An Idempotency-Key was used for another request before."""

    codes = ("idempotency_conflict",)


class UploadConflict(Conflict):
    """A file goes on elsewhere, or is not taken any more: read the import, then go on there."""

    codes = ("upload_conflict",)


class TooManyImports(Conflict):
    """The app has as many imports under way as it may have."""

    codes = ("too_many_imports",)


class Gone(ApiError):
    """What is asked for was there, and is not kept any more."""


class CursorExpired(Gone):
    """The feed no longer has all that came after a cursor: read anew, then follow anew."""

    codes = ("cursor_expired",)


class HistoryExpired(Gone):
    """The history does not reach back that far."""

    codes = ("history_expired",)


class PreconditionFailed(ApiError):
    """The profile is not as `if_match` or `if_none_match` says: read it again."""

    codes = ("precondition_failed",)


class PayloadTooLarge(ApiError):
    """The body is over the limit of its route."""

    codes = ("payload_too_large",)


class UnsupportedMediaType(ApiError):
    """The body is of a type that the route does not take."""

    codes = ("unsupported_media_type",)


class HeadersTooLarge(ApiError):
    """There are too many headers, or they are too long."""

    codes = ("headers_too_large",)


class RateLimited(ApiError):
    """Too many requests in too short a time: `retry_after` says how long to wait."""

    codes = ("rate_limited",)


class InternalError(ApiError):
    """A defect of the server: tell its operator the `request_id`."""

    codes = ("internal_error",)


class FeatureNotConfigured(ApiError):
    """The operator has not set up what this feature needs."""

    codes = ("feature_not_configured",)


class InsufficientStorage(ApiError):
    """The server has no space for what was sent; its operator has to make some."""

    codes = ("insufficient_storage",)


class ServiceUnavailable(ApiError):
    """The store cannot be reached or written now; the outcome of a write is not known."""

    codes = ("service_unavailable",)


def _classes(base: type[ApiError]) -> Iterable[type[ApiError]]:
    for one in base.__subclasses__():
        yield one
        yield from _classes(one)


BY_CODE: Final = {code: one for one in _classes(ApiError) for code in one.codes}
"""The class of each `error_code`, those of the dialect `live` included."""


def from_body(
    status: int,
    body: object,
    *,
    request_id: str | None = None,
    retry_after: float | None = None,
) -> ApiError:
    """Return the error that a parsed error body tells, in any of the three dialects."""
    parts: dict[str, Any] = body if isinstance(body, dict) else {}
    code = parts.get("error_code")
    code = code if isinstance(code, str) else ""
    entries = parts.get("errors")
    said = [one for entry in entries for one in _said(entry)] if isinstance(entries, list) else []
    return BY_CODE.get(code, ApiError)(status, code, tuple(said), request_id, retry_after)


def from_answer(
    status: int, body: bytes, *, request_id: str | None, retry_after: float | None
) -> ApiError:
    """Return the error that an answer tells; what is no error body is quoted, cut short."""
    try:
        parsed = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError, ValueError):
        parsed = None
    if isinstance(parsed, dict) and "error_code" in parsed:
        return from_body(status, parsed, request_id=request_id, retry_after=retry_after)
    text = " ".join(body[: 4 * _SHOWN].decode(errors="replace").split())[:_SHOWN]
    said = FieldError(None, text or "The answer is empty.")
    return ApiError(status, "", (said,), request_id, retry_after)


def _said(entry: object) -> list[FieldError]:
    """Return what an entry of `errors` says: a text, or a source with its texts."""
    if not isinstance(entry, dict):
        return [FieldError(None, str(entry))]
    source, texts = entry.get("source"), entry.get("errors")
    texts = texts if isinstance(texts, list) else [texts]
    return [FieldError(source if isinstance(source, str) else None, str(text)) for text in texts]
