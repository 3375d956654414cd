"""Batches: any number of items, by as many requests as that takes."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import msgspec

from knownas_client.calls import NDJSON, Answer, Call, reading_data
from knownas_client.errors import ApiError, from_body
from knownas_client.models import Found, Profile, ReadItem, WriteItem, Written

MAX_ITEMS: Final = 1_000
"""Items of the largest batch."""
MAX_BATCH_BYTES: Final = 4 * 1024 * 1024
"""Bytes of the body of the largest batch."""

_BASE: Final = "/api/v1/batch"


class _ReadResult(msgspec.Struct, frozen=True):
    profile: Profile | None = None
    profiles: list[Profile] = []
    more: bool = False
    errors: list[Any] = []
    error_code: str | None = None
    status_code: int = 0


class _WriteResult(msgspec.Struct, frozen=True):
    profile_id: str = ""
    revision: int = 0
    errors: list[Any] = []
    error_code: str | None = None
    status_code: int = 0


_read_read_results = reading_data(list[_ReadResult])
_read_write_results = reading_data(list[_WriteResult])


def _chunks(items: Iterable[Mapping[str, Any]]) -> Iterator[bytes]:
    """Yield bodies of lines, each as large as a batch may be."""
    lines: list[bytes] = []
    size = 0
    for item in items:
        line = msgspec.json.encode(item)
        if lines and (len(lines) == MAX_ITEMS or size + len(line) >= MAX_BATCH_BYTES):
            yield b"\n".join(lines)
            lines, size = [], 0
        lines.append(line)
        size += len(line) + 1
    if lines:
        yield b"\n".join(lines)


def reads(items: Iterable[ReadItem]) -> Iterator[Call[list[Profile | Found | ApiError]]]:
    """Yield the calls that read items, each as large as it may be."""
    for body in _chunks(items):
        yield Call(
            method="POST",
            path=f"{_BASE}/read/",
            headers={"content-type": NDJSON},
            body=body,
            read=_read_each,
        )


def writes(
    items: Iterable[WriteItem], *, create: bool, atomic: bool
) -> Iterator[Call[list[Written | ApiError]]]:
    """Yield the calls that write items, each as large as it may be.

    Raises ValueError when what is all or nothing is too much for one.
    """
    bodies = _chunks(items)
    if atomic:
        first, *rest = [*bodies] or [b""]
        if rest:
            raise ValueError(
                f"All or nothing is up to {MAX_ITEMS:,} items and {MAX_BATCH_BYTES:,} bytes."
            )
        bodies = iter([first] if first else [])
    parameters = {
        **({"create": "true"} if create else {}),
        **({"atomic": "true"} if atomic else {}),
    }
    for body in bodies:
        yield Call(
            method="POST",
            path=f"{_BASE}/write/",
            headers={"content-type": NDJSON},
            parameters=parameters,
            body=body,
            writes=True,
            read=_written_each,
        )


def _read_each(answer: Answer) -> list[Profile | Found | ApiError]:
    return [_read_one(result) for result in _read_read_results(answer)]


def _read_one(result: _ReadResult) -> Profile | Found | ApiError:
    if result.error_code is not None:
        return _failed(result)
    return result.profile or Found(result.profiles, result.more)


def _written_each(answer: Answer) -> list[Written | ApiError]:
    return [
        Written(result.profile_id, result.revision)
        if result.error_code is None
        else _failed(result)
        for result in _read_write_results(answer)
    ]


def _failed(result: _ReadResult | _WriteResult) -> ApiError:
    return from_body(result.status_code, {"error_code": result.error_code, "errors": result.errors})
