"""Everything that can go wrong, each with a stable code.

    KnownasError
    ├── Unauthorized            unauthorized
    ├── NotFound                not_found
    │   ├── ProfileNotFound     profile_not_found
    │   ├── ErasureNotFound     erasure_not_found
    │   ├── WebhookNotFound     webhook_not_found
    │   ├── DeadLetterNotFound  dead_letter_not_found
    │   ├── UpstreamNotFound    upstream_not_found
    │   └── ImportNotFound      import_not_found
    ├── Gone                    (what is not kept any more)
    │   ├── CursorExpired       cursor_expired
    │   └── HistoryExpired      history_expired
    ├── Conflict                (what another profile or request stands in the way of)
    │   ├── IdentifierTaken     identifier_taken
    │   ├── IdentifierShared    identifier_shared
    │   ├── BatchFailed         batch_failed
    │   ├── IdempotencyConflict idempotency_conflict
    │   ├── UploadConflict      upload_conflict
    │   └── TooManyImports      too_many_imports
    ├── MethodNotAllowed        method_not_allowed
    ├── BadRequest              (any of the 400s)
    │   ├── ValidationError     validation_error
    │   ├── ParseError          parse_error
    │   └── ProfileConflict     profile_conflict
    ├── RequestTimeout          request_timeout
    ├── PreconditionFailed      precondition_failed
    ├── PayloadTooLarge         payload_too_large
    ├── UnsupportedMediaType    unsupported_media_type
    ├── HeadersTooLarge         headers_too_large
    ├── RateLimited             rate_limited
    ├── InternalError           internal_error
    ├── FeatureNotConfigured    feature_not_configured
    ├── InsufficientStorage     insufficient_storage
    └── ServiceUnavailable      service_unavailable

An error knows its code and what to tell the client, never an HTTP status: the table from code
to status is in `knownas.http.wire` alone. Source of the codes: the wire contract, section 4.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import ClassVar, NamedTuple


class FieldError(NamedTuple):
    """What is wrong with one header or body field; `source` is None for the request as a whole."""

    source: str | None
    message: str


class KnownasError(Exception):
    """Base of every error that a client is told about."""

    code: ClassVar[str]
    message: ClassVar[str]
    """What is said where the raiser says nothing of its own."""
    retry_after: int | None = None
    """Seconds after which the same request may succeed, where that is worth a promise."""

    def __init__(
        self,
        message: str | None = None,
        *,
        source: str | None = None,
        fields: Sequence[FieldError] = (),
        retry_after: int | None = None,
    ) -> None:
        """Take one message about `source`, or several `fields`; `retry_after` is in seconds."""
        self.fields = tuple(fields) or (FieldError(source, message or self.message),)
        if retry_after is not None:
            self.retry_after = retry_after
        super().__init__(self.code)

    def within(self, place: str) -> list[FieldError]:
        """Return what is wrong as it is said of a part of a larger request."""
        return [
            FieldError(place if source is None else f"{place}.{source}", message)
            for source, message in self.fields
        ]


class Unauthorized(KnownasError):
    """No key, or one that is unknown, revoked, expired, or of the wrong type: always the same."""

    code = "unauthorized"
    message = "Invalid API key"


class NotFound(KnownasError):
    """Nothing is served at this path."""

    code = "not_found"
    message = "Nothing is served at this path. The API is described at /docs."


class ProfileNotFound(NotFound):
    """No profile of this app has that id or customer."""

    code = "profile_not_found"
    message = "Profile not found"


class ErasureNotFound(NotFound):
    """No person of this app was erased under that id."""

    code = "erasure_not_found"
    message = "There is no erasure of this id; GET /api/v1/erasures/ lists those that there are."


class WebhookNotFound(NotFound):
    """No webhook of this app has that id."""

    code = "webhook_not_found"
    message = "There is no such webhook; GET /api/v1/webhooks/ lists those that there are."


class DeadLetterNotFound(NotFound):
    """No dead letter of this app has that id."""

    code = "dead_letter_not_found"
    message = (
        "There is no such dead letter; GET /api/v1/inbound/dead-letters/ lists those that there "
        "are."
    )


class UpstreamNotFound(NotFound):
    """The app has no upstream."""

    code = "upstream_not_found"
    message = "The app has no upstream; PUT /api/v1/upstream/ gives it one."


class ImportNotFound(NotFound):
    """No import of this app has that id."""

    code = "import_not_found"
    message = "There is no such import; GET /api/v1/imports/ lists those that there are."


class Gone(KnownasError):
    """What is asked for was there, and is not kept any more."""


class CursorExpired(Gone):
    """The feed no longer has all that came after a cursor."""

    code = "cursor_expired"
    message = (
        "The history after this cursor is not kept any more. Read the profiles anew, then follow "
        "from a new cursor: without one the feed begins with the oldest change that it has."
    )


class HistoryExpired(Gone):
    """The history does not reach back that far."""

    code = "history_expired"
    message = "The history that is kept does not reach back that far."


class Conflict(KnownasError):
    """The request is sound, and something that is there stands in its way."""


class IdentifierTaken(Conflict):
    """Another profile has an identifier of a kind that only one may have."""

    code = "identifier_taken"
    message = (
        "Another profile has this identifier, and the app's policy for its kind is to reject "
        "it: clear it there first, or merge the two."
    )


class IdentifierShared(Conflict):
    """Several profiles have the identifier by which one person is to be found."""

    code = "identifier_shared"
    message = (
        "Several profiles have this identifier, and nothing was erased: GET /api/v1/profiles/ "
        "lists them; name one of them by its profile_id."
    )


class BatchFailed(Conflict):
    """One item of a batch that is all or nothing cannot be done."""

    code = "batch_failed"
    message = "Nothing of the batch was done."


class IdempotencyConflict(Conflict):
    """An Idempotency-Key was used for another request before."""

    code = "idempotency_conflict"
    message = (
        "This Idempotency-Key was sent with another request before; make a new key for each "
        "request, and repeat one only with the same body."
    )


class UploadConflict(Conflict):
    """A piece of a file does not follow what is here of it."""

    code = "upload_conflict"
    message = "The file goes on elsewhere; send what follows from Upload-Offset on."

    def __init__(
        self,
        message: str | None = None,
        *,
        source: str | None = "upload-offset",
        fields: Sequence[FieldError] = (),
        offset: int = 0,
    ) -> None:
        """Take how many bytes of the file are here, beside what any error takes."""
        super().__init__(message, source=source, fields=fields)
        self.offset = offset


class TooManyImports(Conflict):
    """The app has as many imports under way as it may have."""

    code = "too_many_imports"
    message = (
        "The app has too many imports that have not ended; wait for one, or cancel one: "
        "GET /api/v1/imports/ lists them."
    )


class MethodNotAllowed(KnownasError):
    """The path exists, this method on it does not."""

    code = "method_not_allowed"
    message = "This path does not take this method; the Allow header lists those that it takes."


class BadRequest(KnownasError):
    """The request cannot be served as it was sent."""


class ValidationError(BadRequest):
    """A header or a field has a value that is not allowed."""

    code = "validation_error"
    message = "The request is not valid."


class ParseError(BadRequest):
    """The body, or the request itself, is not what its type says."""

    code = "parse_error"
    message = "The body is not valid JSON."


class ProfileConflict(BadRequest):
    """The request names two different people."""

    code = "profile_conflict"
    message = (
        "adapty-customer-user-id and adapty-profile-id name two different profiles; send only one."
    )


class RequestTimeout(KnownasError):
    """The request did not arrive in time."""

    code = "request_timeout"
    message = "The request took too long to arrive; send it again."


class PreconditionFailed(KnownasError):
    """What is to be changed is not what the client believes it to be."""

    code = "precondition_failed"
    message = (
        "The profile is not as If-Match or If-None-Match says, or not there; read it again and "
        "repeat the request."
    )


class PayloadTooLarge(KnownasError):
    """The body is over the limit of its route."""

    code = "payload_too_large"
    message = "The body is too large."


class UnsupportedMediaType(KnownasError):
    """The body is not plain JSON."""

    code = "unsupported_media_type"
    message = "Send the body as application/json, without a Content-Encoding."


class HeadersTooLarge(KnownasError):
    """There are too many headers, or they are too long."""

    code = "headers_too_large"
    message = "The request's headers are too large."


class RateLimited(KnownasError):
    """Too many of these in too short a time."""

    code = "rate_limited"
    retry_after = 1
    message = "Too many requests; wait as many seconds as Retry-After says."


class InternalError(KnownasError):
    """A defect of this server."""

    code = "internal_error"
    message = "Internal server error. Report the Request-Id of this answer to the operator."


class FeatureNotConfigured(KnownasError):
    """The operator has not set up what this feature needs."""

    code = "feature_not_configured"
    message = (
        "This needs a master key, and the server has none: its operator runs "
        "`knownas master-key create` and sets KNOWNAS_MASTER_KEY_FILE."
    )


class InsufficientStorage(KnownasError):
    """There is no space for what is sent."""

    code = "insufficient_storage"
    message = (
        "The server has no space for this; its operator makes some, then the same is sent again."
    )


class ServiceUnavailable(KnownasError):
    """The store cannot be reached or written now; the same request may succeed later."""

    code = "service_unavailable"
    retry_after = 1
    message = "The service is unavailable for the moment; send the same request again."


def kept_error(code: str, fields: Sequence[FieldError]) -> KnownasError:
    """Return the error of a code with what was said, for an answer that is given again."""
    kinds = [KnownasError]
    for kind in kinds:
        if kind.__dict__.get("code") == code:
            return kind(fields=fields)
        kinds += kind.__subclasses__()
    return InternalError(fields=fields)


@contextlib.contextmanager
def noting(problems: list[FieldError], place: str | None = None) -> Iterator[None]:
    """Add what a ValidationError of the block says to `problems`, as said of a `place`."""
    try:
        yield
    except ValidationError as error:
        problems += error.fields if place is None else error.within(place)
