"""Reverse look-ups: who has an identifier. What is asked, and what is answered."""

from collections.abc import Sequence
from typing import NamedTuple

from knownas.model import Profile


class Place(NamedTuple):
    """Where a list of holders goes on; only the storage that gave it knows what it means."""

    kind: int
    at: int
    """0 to 2**128 - 1."""


class Sought(NamedTuple):
    """A value whose holders are looked for."""

    kinds: Sequence[int]
    """As which kinds, by their numbers, ascending."""
    value: str
    limit: int
    """At most so many holders, 1 or more."""
    after: Place | None = None


class Holder(NamedTuple):
    """A profile that has the value, and the kind as which it has it."""

    kind: int
    profile: Profile


class Holders(NamedTuple):
    """A page of holders, by kind."""

    found: list[Holder]
    next: Place | None
    """After where the next page begins; None where there is none."""
