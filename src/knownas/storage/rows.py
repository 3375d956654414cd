"""Identifiers and attributes as they stand in a row, whichever database it is of."""

import msgspec

from knownas.model import NO_IDENTIFIERS, Attributes, Identifiers

_decode_identifiers = msgspec.json.Decoder(tuple[str | None, ...]).decode
_decode_attributes = msgspec.json.Decoder(tuple[tuple[str, str | int | float], ...]).decode
_encode = msgspec.json.Encoder().encode


def from_identifiers(identifiers: Identifiers) -> str:
    """Return the JSON list by position of the kind, without the nulls at its end."""
    set_count = len(identifiers)
    while set_count and identifiers[set_count - 1] is None:
        set_count -= 1
    return _encode(identifiers[:set_count]).decode()


def to_identifiers(text: str) -> Identifiers:
    """Return what `from_identifiers` was given, and None for kinds that came later."""
    identifiers = _decode_identifiers(text)
    return identifiers + NO_IDENTIFIERS[len(identifiers) :]


def from_attributes(attributes: Attributes) -> str | None:
    """Return the JSON list of [key, value]; None where there is none."""
    return _encode(attributes).decode() if attributes else None


def to_attributes(text: str | None) -> Attributes:
    """Return what `from_attributes` was given."""
    return () if text is None else _decode_attributes(text)
