"""JSON objects as they are taken from outside: strictly."""

import json
from typing import Any, Final

import msgspec

from knownas.errors import ParseError, ValidationError

MAX_DEPTH: Final = 32

_encode: Final = msgspec.json.Encoder().encode


def parse_object(body: bytes) -> dict[str, Any]:
    """Return the JSON object in a body.

    Raises ParseError for what is not strict UTF-8 JSON, for an object with one key twice, and
    for nesting deeper than 32; ValidationError for JSON that is no object.
    """
    try:
        parsed = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError, ValueError):
        raise ParseError from None
    if body.count(b"[") + body.count(b"{") > MAX_DEPTH and _depth(parsed) > MAX_DEPTH:
        raise ParseError(f"The body is nested deeper than {MAX_DEPTH}.")
    if not isinstance(parsed, dict):
        raise ValidationError("The body must be a JSON object.")
    if not _has_no_twins(body, parsed):
        try:
            json.loads(body.decode(), object_pairs_hook=_refuse_twins)
        except RecursionError:  # within a twin that the first parser dropped
            raise ParseError from None
    return parsed


def _has_no_twins(body: bytes, parsed: dict[str, Any]) -> bool:
    """Tell whether the body surely has no key twice in an object; False says nothing.

    Without escapes each text stands between two quotes, so a body with more quotes than what
    was parsed has when it is written again had something that the parser dropped.
    """
    return b"\\" not in body and body.count(b'"') == _encode(parsed).count(b'"')


def _refuse_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ParseError("An object in the body has the same key twice.")
    return made


def _depth(parsed: object) -> int:
    depth, level = 0, [parsed]
    while level:
        inside: list[object] = []
        nested = False
        for value in level:
            if isinstance(value, dict):
                nested = True
                inside += value.values()
            elif isinstance(value, list):
                nested = True
                inside += value
        depth += nested
        level = inside
    return depth
