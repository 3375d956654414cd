"""The client's errors: one class for each of the server's, in whatever dialect it speaks."""

import pickle

import msgspec
import pytest

from knownas.errors import FieldError, InternalError, kept_error
from knownas.http import wire
from knownas_client import errors

LIVE = {"not_authenticated", "profile_does_not_exist"}
SAID = (FieldError("appsflyer_id", "Must be a string."), FieldError(None, "And more."))


def test_every_error_code_has_a_class() -> None:
    """What the server can answer, and what Adapty's was seen to answer, is no bare ApiError."""
    assert set(errors.BY_CODE) == {*wire.STATUS, *LIVE}


@pytest.mark.parametrize("dialect", ["schema", "example", "live"])
@pytest.mark.parametrize("code", wire.STATUS)
def test_error_body_is_understood(code: str, dialect: str) -> None:
    """A body of each dialect becomes the class of its code, with all that it says."""
    error = kept_error(code, SAID)
    assert code == "internal_error" or not isinstance(error, InternalError)
    body = wire.error_body(error, dialect)
    made = errors.from_answer(wire.STATUS[code], body, request_id="r", retry_after=2.0)
    assert type(made) is errors.BY_CODE[code]
    assert (made.status, made.request_id, made.retry_after) == (wire.STATUS[code], "r", 2.0)
    assert made.code == msgspec.json.decode(body)["error_code"]
    assert made.errors
    if dialect == "schema":
        assert made.errors == tuple(errors.FieldError(*one) for one in SAID)


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"null", b"[]", b'"text"', b"\xff\xfe", b"<html>", b"[" * 100_000),
        b'{"error_code": 1}',
        b'{"error_code": "new", "errors": null}',
        b'{"error_code": "new", "errors": [1, {"errors": 2}]}',
    ],
    ids=lambda body: body[:40].decode("latin-1") or "empty",
)
def test_any_answer_is_some_error(body: bytes) -> None:
    """Whatever stands in an answer of failure, it becomes an ApiError with that status."""
    made = errors.from_answer(418, body, request_id=None, retry_after=None)
    assert type(made) is errors.ApiError
    assert made.status == 418
    assert str(made).startswith("418 ")


def test_error_is_pickled_as_it_is() -> None:
    """An error may cross processes, as those of parallel tests and of workers do."""
    error = errors.RateLimited(429, "rate_limited", (errors.FieldError(None, "No."),), "r", 2.0)
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - of this line
    assert type(again) is errors.RateLimited
    assert (str(again), again.retry_after) == (str(error), 2.0)
