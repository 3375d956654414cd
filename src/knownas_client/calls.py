"""A call before it is sent, and its answer: what both clients share knows nothing of sockets."""

import email.utils
import re
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Generic, NamedTuple, TypedDict, TypeVar

import msgspec

from knownas_client.errors import ApiError, UnexpectedAnswer, from_answer

T = TypeVar("T")

JSON: Final = "application/json"
NDJSON: Final = "application/x-ndjson"

_has_control: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]").search
_NOT_MODIFIED: Final = 304


class Who(TypedDict, total=False):
    """Whom a call is about: by one of these, or by both where they name the same profile."""

    customer_user_id: str | None
    profile_id: str | uuid.UUID | None


class Once(TypedDict, total=False):
    """By which Idempotency-Key a write is known again; without one the client makes one."""

    idempotency_key: str | None


class WriteOf(Who, Once, total=False):
    """A write, and whom it is about."""


class ConditionalWriteOf(WriteOf, total=False):
    """A write that is made only if the profile is, or is not, as a tag says."""

    if_match: str | None
    if_none_match: str | None


class Answer(NamedTuple):
    """What came back."""

    status: int
    headers: Mapping[str, str]
    """By name, whatever its case."""
    body: bytes

    @property
    def is_not_modified(self) -> bool:
        """Whether the asker has the content already."""
        return self.status == _NOT_MODIFIED

    @property
    def retry_after(self) -> float | None:
        """After how many seconds to try again; None where it does not say, or not clearly."""
        given = self.headers.get("retry-after", "").strip()
        if given.isdecimal():
            return float(given)
        try:
            return max(0.0, email.utils.parsedate_to_datetime(given).timestamp() - time.time())
        except ValueError:
            return None

    def error(self) -> ApiError:
        """Return the error that it tells."""
        return from_answer(
            self.status,
            self.body,
            request_id=self.headers.get("request-id"),
            retry_after=self.retry_after,
        )


@dataclass(frozen=True, kw_only=True)
class Call(Generic[T]):
    """One request, and how its answer is read."""

    method: str
    path: str
    read: Callable[[Answer], T]
    headers: Mapping[str, str | bytes] = field(default_factory=dict)
    parameters: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    writes: bool = False
    """Whether it may change something."""
    keyed: bool = True
    """Whether the server does a write once that comes twice with one Idempotency-Key."""
    idempotency_key: str | None = None
    waits: float = 0.0
    """Seconds for which the server may have nothing to say, beside the usual."""
    of_standby: bool = False
    """Whether a standby may answer it, if it has what this client has written."""
    repeatable: bool = True
    """Whether, without an Idempotency-Key too, doing it twice is as doing it once."""

    def result(self, answer: Answer) -> T:
        """Return what an answer says. Raises ApiError and UnexpectedAnswer."""
        if not 200 <= answer.status < 300 and not (  # noqa: PLR2004 - the statuses of success
            answer.is_not_modified and "if-none-match" in self.headers
        ):
            raise answer.error()
        try:
            return self.read(answer)
        except (msgspec.DecodeError, LookupError) as error:
            raise UnexpectedAnswer(f"{self.method} {self.path}: {error}") from error


class Page(NamedTuple, Generic[T]):
    """Some of many, and where the next ones are: None after the last."""

    items: list[T]
    next: Any


class Paging(NamedTuple, Generic[T]):
    """A list that comes by pages."""

    page: Callable[[Any], Call[Page[T]]]
    """Makes the call for the page at a place."""
    start: Any = None


class Wrapped(msgspec.Struct, Generic[T], frozen=True):
    """A body whose content stands in `data`."""

    data: T


def reading(body: type[T]) -> Callable[[Answer], T]:
    """Return what reads a JSON body of a type."""
    decode = msgspec.json.Decoder(body).decode
    return lambda answer: decode(answer.body)


def reading_data(data: type[T]) -> Callable[[Answer], T]:
    """Return what reads the `data` of a JSON body."""
    decode: Callable[[bytes], Wrapped[T]] = msgspec.json.Decoder(Wrapped[data]).decode  # type: ignore[valid-type]  # a type that is known when it runs
    return lambda answer: decode(answer.body).data


def nothing(_answer: Answer) -> None:
    """Read nothing: the status says it all."""


def who_headers(who: Who) -> dict[str, str | bytes]:
    """Return the headers that name whom a call is about.

    Raises ValueError where nobody is named, or by what no header can have.
    """
    headers: dict[str, str | bytes] = {}
    customer, profile_id = who.get("customer_user_id"), who.get("profile_id")
    if customer is not None and (trimmed := customer.strip(" \t")):
        if _has_control(trimmed):
            raise ValueError("A customer_user_id has no control characters.")
        headers["adapty-customer-user-id"] = trimmed.encode()
    if profile_id is not None:
        headers["adapty-profile-id"] = str(uuid.UUID(str(profile_id)))
    if not headers:
        raise ValueError("Say whom: by customer_user_id or profile_id.")
    return headers


def condition_headers(conditions: ConditionalWriteOf) -> dict[str, str | bytes]:
    """Return the headers that say on what a write depends."""
    given = {
        "if-match": conditions.get("if_match"),
        "if-none-match": conditions.get("if_none_match"),
    }
    return {name: value for name, value in given.items() if value is not None}


def json_body(content: object) -> dict[str, Any]:
    """Return the members of a call that sends JSON."""
    return {"body": msgspec.json.encode(content)}


def given(**parameters: object) -> dict[str, str]:
    """Return the parameters of a query string that are not None."""
    return {name: str(value) for name, value in parameters.items() if value is not None}
