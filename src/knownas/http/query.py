"""The query string of a request: its parameters, each at most once, as strict UTF-8."""

import re
from collections.abc import Container, Mapping
from typing import Final
from urllib.parse import unquote_to_bytes

from starlette.requests import Request

from knownas.errors import FieldError, ValidationError

_is_number: Final = re.compile(r"0|[1-9][0-9]{0,18}").fullmatch
_is_cut_short: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})").search


def parameters(query: bytes, known: Container[str]) -> dict[str, str]:
    """Return the parameters of a query string, decoded; a plus sign is a space.

    Raises ValidationError with one entry per parameter that is not known, stands twice, or is
    not percent-encoded UTF-8.
    """
    given: dict[str, str] = {}
    problems: list[FieldError] = []
    for part in filter(None, query.split(b"&")):
        raw_name, _, raw = part.replace(b"+", b" ").partition(b"=")
        name = unquote_to_bytes(raw_name).decode(errors="replace")
        if name not in known:
            problems.append(FieldError(name, "Unknown parameter."))
        elif name in given:
            problems.append(FieldError(name, "This parameter stands twice."))
        elif _is_cut_short(raw):
            problems.append(FieldError(name, "A percent sign must be sent as %25."))
        else:
            try:
                given[name] = unquote_to_bytes(raw).decode()
            except UnicodeDecodeError:
                problems.append(FieldError(name, "Must be percent-encoded UTF-8."))
    if problems:
        raise ValidationError(fields=problems)
    return given


def refuse_any(request: Request) -> None:
    """Raise ValidationError when a request that takes no parameter has one."""
    parameters(request.scope["query_string"], ())


def number(given: Mapping[str, str], name: str, least: int, most: int) -> int | None:
    """Return a parameter that is a whole number, None where it is not given.

    Raises ValidationError for anything else than `least` to `most` in plain digits.
    """
    text = given.get(name)
    if text is None:
        return None
    if not _is_number(text) or not least <= int(text) <= most:
        raise ValidationError(f"Must be a whole number from {least} to {most}.", source=name)
    return int(text)


def switch(given: Mapping[str, str], name: str) -> bool:
    """Tell whether a parameter is `true`; where it is not given it is not.

    Raises ValidationError for anything else than `true` and `false`.
    """
    text = given.get(name, "false")
    if text not in {"true", "false"}:
        raise ValidationError("Must be true or false.", source=name)
    return text == "true"
