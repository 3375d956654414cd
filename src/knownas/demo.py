"""Plausible profiles for trying things out: the same ones for the same seed.

The values have the shapes that the vendors' own have. A shape is a format string over

    {uuid} {UUID}   a random UUID in lower or upper case
    {d:N}           N decimal digits, the first not 0
    {x:N} {X:N}     N hexadecimal digits in lower or upper case
    {a:N}           N letters and digits
"""

import random
import string
import uuid
from collections.abc import Iterator
from typing import Final

from knownas.model import KINDS, Profile, ProfileId

_KINDS_A_PROFILE: Final = (2, 6, 10)
"""Fewest, most likely, and most identifiers of a demo profile."""
_ANONYMOUS_SHARE: Final = 0.1
_ALPHANUMERIC: Final = string.digits + string.ascii_letters


class _Field:
    """Random text of one alphabet, as long as the format specification says."""

    def __init__(self, rng: random.Random, alphabet: str) -> None:
        self._rng = rng
        self._alphabet = alphabet

    def __format__(self, length: str) -> str:
        text = "".join(self._rng.choices(self._alphabet, k=int(length)))
        return text if text[0] != "0" else "7" + text[1:]


def profiles(*, seed: int, start: int, count: int, now: int) -> Iterator[Profile]:
    """Yield the demo profiles numbered `start` to `start + count - 1`, made at `now` (ms)."""
    for number in range(start, start + count):
        rng = random.Random(f"{seed}:{number}")
        random_uuid = uuid.UUID(int=rng.getrandbits(128), version=4)
        fields = {
            "d": _Field(rng, string.digits),
            "x": _Field(rng, "0123456789abcdef"),
            "X": _Field(rng, "0123456789ABCDEF"),
            "a": _Field(rng, _ALPHANUMERIC),
        }
        count_set = min(
            round(rng.triangular(*_KINDS_A_PROFILE[::2], _KINDS_A_PROFILE[1])), len(KINDS)
        )
        chosen = set(rng.sample(range(len(KINDS)), count_set))
        identifiers: list[str | None] = []
        for kind_number, kind in enumerate(KINDS):
            if kind_number in chosen:
                value = str(uuid.UUID(int=rng.getrandbits(128), version=4))
                identifiers.append(kind.shape.format(uuid=value, UUID=value.upper(), **fields))
            else:
                identifiers.append(None)
        yield Profile(
            profile_id=ProfileId(str(random_uuid)),
            customer_user_id=None if rng.random() < _ANONYMOUS_SHARE else f"user-{number}",
            identifiers=tuple(identifiers),
            attributes=(),
            created_at=now,
            updated_at=now,
        )
