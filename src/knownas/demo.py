"""Plausible profiles for trying things out: the same ones for the same seed.

The values have the shapes that the vendors' own have. A shape is a format string over

    {uuid} {UUID}   a random UUID in lower or upper case
    {d:N}           N decimal digits, the first not 0
    {x:N} {X:N}     N hexadecimal digits in lower or upper case
    {a:N}           N letters and digits

A profile is made of the hash of its seed and number, not by a random generator: to seed one
takes longer than all the rest.
"""

import functools
import hashlib
import random
import string
from collections.abc import Callable, Iterator
from typing import Final

from knownas.model import KINDS, Profile, ProfileId

_KINDS_A_PROFILE: Final = (2, 6, 10)
"""Fewest, most likely, and most identifiers of a demo profile."""
_ANONYMOUS_SHARE: Final = 0.1
_ALPHABETS: Final = {
    "d": string.digits,
    "x": "0123456789abcdef",
    "X": "0123456789ABCDEF",
    "a": string.digits + string.ascii_letters,
}
_VALUE_BYTES: Final = 32
"""Bytes of hash behind one value."""
_CHOICES: Final = 4_096
"""Ways to choose the kinds of a profile: made once, since to choose takes long."""

_Maker = Callable[[bytes], str]


def profiles(*, seed: int, start: int, count: int, now: int) -> Iterator[Profile]:
    """Yield the demo profiles numbered `start` to `start + count - 1`, made at `now` (ms)."""
    choices = _choices()
    makers = [_maker(kind.shape) for kind in KINDS]
    make_profile_id = _maker("{uuid}")
    most = _KINDS_A_PROFILE[-1]
    anonymous_below = int(_ANONYMOUS_SHARE * 256)
    for number in range(start, start + count):
        raw = hashlib.shake_128(b"%d:%d" % (seed, number)).digest(_VALUE_BYTES * (most + 1))
        choice = int.from_bytes(raw[-2:], "big") % _CHOICES
        identifiers: list[str | None] = [None] * len(KINDS)
        at = _VALUE_BYTES
        for kind in choices[choice]:
            identifiers[kind] = makers[kind](raw[at : at + _VALUE_BYTES])
            at += _VALUE_BYTES
        yield Profile(
            profile_id=ProfileId(make_profile_id(raw)),
            customer_user_id=None if raw[-3] < anonymous_below else f"user-{number}",
            identifiers=tuple(identifiers),
            attributes=(),
            created_at=now,
            updated_at=now,
        )


@functools.cache
def _choices() -> list[tuple[int, ...]]:
    """Return sets of kinds, the likely sizes more often."""
    rng = random.Random(0)
    fewest, most_likely, most = _KINDS_A_PROFILE
    return [
        tuple(rng.sample(range(len(KINDS)), round(rng.triangular(fewest, most, most_likely))))
        for _ in range(_CHOICES)
    ]


def _maker(shape: str) -> _Maker:
    """Return what makes a text of a shape from `_VALUE_BYTES` random bytes."""
    parts: list[_Maker] = []
    start = 0
    for literal, name, length, _ in string.Formatter().parse(shape):
        if literal:
            parts.append(functools.partial(_same, literal))
        if name in {"uuid", "UUID"}:
            parts.append(_uuid if name == "uuid" else _upper_uuid)
        elif name is not None:
            end = start + int(length or 0)
            parts.append(_characters(name, start, end))
            start = end
    return parts[0] if len(parts) == 1 else lambda raw: "".join([part(raw) for part in parts])


def _same(literal: str, _raw: bytes) -> str:
    return literal


def _uuid(raw: bytes) -> str:
    digits = raw[:16].hex()
    variant = "89ab"[raw[16] % 4]
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"


def _upper_uuid(raw: bytes) -> str:
    return _uuid(raw).upper()


def _characters(name: str, start: int, end: int) -> _Maker:
    """Return what makes a text of an alphabet from the bytes `start` to `end`."""
    alphabet = _ALPHABETS[name]
    table = (alphabet * 256)[:256].encode()
    if alphabet != string.digits:
        return lambda raw: raw[start:end].translate(table).decode()
    return lambda raw: f"{1 + raw[start] % 9}{raw[start + 1 : end].translate(table).decode()}"
