"""The calls of uploaded imports, and how a file is sent: in pieces, each where the last one ended.

An upload is a generator: it yields calls, is sent what they answer, and returns the import. So both
clients send files in the same way.
"""

import contextlib
import os
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal, NamedTuple

import msgspec

from knownas_client.calls import Answer, Call, json_body, nothing, reading_data
from knownas_client.errors import UploadConflict
from knownas_client.models import Import

PIECE_BYTES: Final = 4 * 1024 * 1024
"""The largest piece: half of what a server takes."""

FIRST_PIECE_BYTES: Final = 256 * 1024
"""The first piece: it has to arrive within some seconds, however slow the way is."""

_PATH: Final = "/api/v1/imports/"

_read_import = reading_data(Import)

Steps = Generator[Call[Any], Any, Import]


class Plan(NamedTuple):
    """How a file is to be imported."""

    format: str | None = None
    dry_run: bool = False
    atomic: bool = False
    on_error: Literal["skip", "stop"] = "skip"


def begin(name: str, size: int, plan: Plan) -> Call[Import]:
    """Begin an import, of whose file nothing is sent yet."""
    return Call(
        method="POST",
        path=_PATH,
        headers={"content-type": "application/json"},
        **json_body({"name": name, "size": size, **plan._asdict()}),
        writes=True,
        keyed=False,
        repeatable=False,
        read=_read_import,
    )


def append(import_id: str, offset: int, piece: bytes, *, is_last: bool) -> Call[int]:
    """Send the piece of a file that begins at `offset`; return where the next one begins."""
    return Call(
        method="PATCH",
        path=f"{_PATH}{import_id}/",
        headers={
            "content-type": "application/partial-upload",
            "upload-offset": str(offset),
            "upload-complete": "?1" if is_last else "?0",
        },
        body=piece,
        writes=True,
        keyed=False,
        read=_read_offset,
    )


def _read_offset(answer: Answer) -> int:
    try:
        return int(answer.headers["upload-offset"])
    except ValueError as error:
        raise msgspec.DecodeError(str(error)) from error


def get(import_id: str) -> Call[Import]:
    """Read how far an import is."""
    return Call(method="GET", path=f"{_PATH}{import_id}/", read=_read_import)


def listed() -> Call[list[Import]]:
    """List an app's imports."""
    return Call(method="GET", path=_PATH, read=reading_data(list[Import]))


def cancel(import_id: str) -> Call[None]:
    """Cancel an import, or forget one that has ended."""
    return Call(
        method="DELETE",
        path=f"{_PATH}{import_id}/",
        writes=True,
        keyed=False,
        repeatable=False,
        read=nothing,
    )


def upload(
    path: str | os.PathLike[str],
    plan: Plan,
    resume: str | None,
    progress: Callable[[int, int], None] | None,
) -> Steps:
    """Send a file, or with `resume` the rest of one, and return its import. Raises OSError."""
    with Path(path).open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        call = begin(Path(path).name, size, plan) if resume is None else get(resume)
        found: Import = yield call
        while found.state == "uploading":
            # An answer may be lost, or another one have sent it meanwhile.
            with contextlib.suppress(UploadConflict):
                yield from _send(file, size, found, progress)
            found = yield get(found.id)
        return found


def _send(
    file: BinaryIO, size: int, found: Import, progress: Callable[[int, int], None] | None
) -> Generator[Call[Any], Any, None]:
    """Send what is not there yet."""
    offset, length = found.received, FIRST_PIECE_BYTES
    is_last = False
    while not is_last:
        file.seek(offset)
        piece = file.read(length)
        is_last = offset + len(piece) >= size
        offset = yield append(found.id, offset, piece, is_last=is_last)
        length = PIECE_BYTES
        if progress is not None:
            progress(offset, size)
