"""Imports that are uploaded: begun, sent in pieces, looked at, cancelled.

Names and meanings of the headers are those of the draft "Resumable Uploads for HTTP":
https://datatracker.ietf.org/doc/draft-ietf-httpbis-resumable-upload/.
"""

import re
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from knownas.errors import FieldError, ImportNotFound, ValidationError, noting
from knownas.http import fields, query, wire
from knownas.http.asking import authenticated, registry_of
from knownas.imports import Import, Plan
from knownas.model import clean_customer_text
from knownas.transfer import formats
from knownas.uploads import PIECE_BYTES

PATH: Final = "/api/v1/imports/{id}/"

BODY_LIMIT: Final = PIECE_BYTES
"""Bytes of the largest piece."""

_MEDIA_TYPES: Final = (b"application/partial-upload", b"application/octet-stream")
_FIELDS: Final = ("name", "format", "size", "dry_run", "atomic", "on_error")
_ON_ERROR: Final = ("skip", "stop")
_MAX_SIZE: Final = 2**53

_is_id: Final = re.compile(r"imp_[0-9a-f]{16}").fullmatch
_is_number: Final = re.compile(rb"0|[1-9][0-9]{0,15}").fullmatch


async def begin(request: Request) -> Response:
    """Begin an import, of whose file nothing is here yet."""
    key, headers = await authenticated(request, "secret")
    query.refuse_any(request)
    body = await wire.json_object(request, headers)
    problems = wire.unknown_fields(body, *_FIELDS)
    plan = Plan(
        _choice(body, "format", formats.IMPORTS, problems),
        fields.switch(body, "dry_run", problems),
        fields.switch(body, "atomic", problems),
        "stop" if _choice(body, "on_error", _ON_ERROR, problems) == "stop" else "skip",
    )
    name, size = _name(body, problems), _size(body, problems)
    if problems:
        raise ValidationError(fields=problems)
    begun = await registry_of(request).uploads.begin(key.app.id, name, plan, size)
    response = wire.json_response({"data": import_data(begun)})
    response.status_code = 201
    response.headers["Location"] = PATH.format(id=begun.id)
    response.headers["Upload-Limit"] = f"max-append-size={PIECE_BYTES}"
    return response


async def append(request: Request) -> Response:
    """Take the next piece of a file."""
    key, headers = await authenticated(request, "secret")
    query.refuse_any(request)
    import_id = _id(request)
    offset, is_last = _place(headers)
    piece = await wire.bounded_body(request, headers)
    if piece or not is_last:
        wire.media_type_of(headers, piece, "The body is empty. Send a piece of it.", *_MEDIA_TYPES)
    taken = await registry_of(request).uploads.append(
        key.app.id, import_id, offset, piece, is_last=is_last
    )
    return Response(status_code=204, headers=_upload_headers(taken))


async def get_import(request: Request) -> Response:
    """Answer how far an import is, and what came of it."""
    key, _ = await authenticated(request, "secret")
    query.refuse_any(request)
    found = await registry_of(request).uploads.get(key.app.id, _id(request))
    response = wire.json_response({"data": import_data(found)})
    response.headers.update(_upload_headers(found))
    return response


async def get_imports(request: Request) -> Response:
    """Answer the imports of the app, the newest first."""
    key, _ = await authenticated(request, "secret")
    query.refuse_any(request)
    found = await registry_of(request).uploads.all(key.app.id)
    return wire.json_response({"data": list(map(import_data, found))})


async def cancel(request: Request) -> Response:
    """Cancel an import, or forget one that has ended."""
    key, _ = await authenticated(request, "secret")
    query.refuse_any(request)
    await registry_of(request).uploads.cancel(key.app.id, _id(request))
    return Response(status_code=204)


def import_data(one: Import) -> dict[str, Any]:
    """Return an import as it is shown."""
    progress = one.progress
    return {
        "id": one.id,
        "name": one.name,
        "format": one.plan.format,
        "dry_run": one.plan.dry_run,
        "atomic": one.plan.atomic,
        "on_error": one.plan.on_error,
        "state": one.state,
        "size": one.size,
        "received": one.received,
        "created_at": one.created_at,
        "changed_at": one.changed_at,
        "progress": {
            "done": progress.done,
            "of": progress.of,
            "rows": progress.rows,
            "rows_per_second": one.rows_per_second,
        },
        "report": one.report,
        "failure": one.failure,
    }


def _upload_headers(one: Import) -> dict[str, str]:
    is_complete = one.size is not None and one.size == one.received and one.state != "uploading"
    return {
        "Upload-Offset": str(one.received),
        "Upload-Complete": "?1" if is_complete else "?0",
    }


def _id(request: Request) -> str:
    import_id: str = request.path_params.get("id", "")
    if not _is_id(import_id):
        raise ImportNotFound
    return import_id


def _place(headers: wire.Headers) -> tuple[int, bool]:
    """Return where a piece begins, and whether it is the last one. Raises ValidationError."""
    problems: list[FieldError] = []
    offset = headers.get(wire.UPLOAD_OFFSET)
    if not _is_number(offset):
        problems.append(
            FieldError(wire.UPLOAD_OFFSET, "Must be the number of bytes that were sent before.")
        )
    complete = headers.get(wire.UPLOAD_COMPLETE) or b"?0"
    if complete not in {b"?0", b"?1"}:
        problems.append(FieldError(wire.UPLOAD_COMPLETE, "Must be ?1 with the last piece, or ?0."))
    if problems:
        raise ValidationError(fields=problems)
    return int(offset), complete == b"?1"


def _choice(
    body: dict[str, Any], name: str, allowed: tuple[str, ...], problems: list[FieldError]
) -> str | None:
    given = body.get(name)
    if given is None or (isinstance(given, str) and given in allowed):
        return given
    problems.append(FieldError(name, f"Must be one of {', '.join(allowed)}."))
    return None


def _name(body: dict[str, Any], problems: list[FieldError]) -> str:
    given = body.get("name")
    if isinstance(given, str):
        with noting(problems):
            return clean_customer_text(given, source="name")
    elif given is not None:
        problems.append(FieldError("name", "Must be a string."))
    return ""


def _size(body: dict[str, Any], problems: list[FieldError]) -> int | None:
    given = body.get("size")
    if given is None or (type(given) is int and 0 <= given <= _MAX_SIZE):
        return given
    problems.append(FieldError("size", "Must be the bytes of the file, a whole number, or null."))
    return None
