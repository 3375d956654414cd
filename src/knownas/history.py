"""What happened to profiles: each change with its time, its source, and what was before and after.

A change holds what differs and nothing else, both ways, so that whoever has a profile as it is
now can walk back, and whoever follows from the beginning can walk forward.
"""

import itertools
from collections.abc import Iterable, Mapping
from typing import Final, Literal, NamedTuple

import msgspec

from knownas.model import (
    KINDS,
    NO_IDENTIFIERS,
    Attributes,
    Identifiers,
    Profile,
    ProfileId,
)

Via = Literal[
    "api",
    "sdk",
    "cli",
    "demo",
    "copy",
    "import",
    "webhook",
    "upstream",
    "merge",
    "undo",
    "erasure",
    "console",
    "server",
]
"""By which way a change came."""


class Source(NamedTuple):
    """Who changed something: the way, and the id of the key where there was one."""

    via: Via
    key_id: str | None = None

    def text(self) -> str:
        """Return it as it is stored."""
        return self.via if self.key_id is None else f"{self.via}:{self.key_id}"

    @classmethod
    def of(cls, text: str) -> "Source":
        """Return what `text` was made of."""
        via, _, key_id = text.partition(":")
        return cls(via, key_id or None)  # type: ignore[arg-type] # only `text` wrote it


SERVER: Final = Source("server")
MERGE: Final = Source("merge")
UNDO: Final = Source("undo")
UPSTREAM: Final = Source("upstream")


class Difference(msgspec.Struct, frozen=True, omit_defaults=True):
    """What differs between two states of a profile; the short names are those in stored rows."""

    identifiers: tuple[tuple[int, str | None, str | None], ...] = msgspec.field(
        name="i", default=()
    )
    """Kind number, old value, new value."""
    customer: tuple[str | None, str | None] | None = msgspec.field(name="c", default=None)
    attributes: tuple[Attributes, Attributes] | None = msgspec.field(name="a", default=None)
    created_at: tuple[int | None, int | None] | None = msgspec.field(name="n", default=None)
    """From None where the profile came into being, to None where it ended."""
    updated_at: tuple[int, int] = msgspec.field(name="u", default=(0, 0))
    shared: tuple[int, ...] = msgspec.field(name="s", default=())
    """The kinds of new identifiers that another profile had already."""
    takes_back: int = msgspec.field(name="m", default=0)
    """The revision of the merge that this undoes."""
    erased: bool = msgspec.field(name="e", default=False)
    """Whether this tells of an erasure; then nothing else is in it."""


class Change(NamedTuple):
    """One entry of the history."""

    cursor: str
    """Its place in the feed: what comes after it is asked for by this."""
    profile_id: ProfileId
    """Of one that tells of an erasure, the id of that."""
    revision: int
    """1 for a profile's first state, and one more with each change."""
    at: int
    """Milliseconds since 1970, UTC; never less than that of the revision before."""
    by: Source
    difference: Difference

    @property
    def action(self) -> Literal["created", "changed", "deleted", "erased"]:
        """What became of the profile; `erased` is told of no profile in particular."""
        if self.difference.erased:
            return "erased"
        created_at = self.difference.created_at
        if created_at is None or None not in created_at:
            return "changed"
        return "created" if created_at[0] is None else "deleted"

    def after(self, before: Profile | None) -> Profile | None:
        """Return the profile as it was after this change, given how it was before."""
        return self._other_side(before, 1, self.revision)

    def before(self, after: Profile | None) -> Profile | None:
        """Return the profile as it was before this change, given how it was after."""
        return self._other_side(after, 0, self.revision - 1)

    def _other_side(self, known: Profile | None, there: int, revision: int) -> Profile | None:
        differs = self.difference
        created_at = known.created_at if known else None
        if differs.created_at is not None:
            created_at = differs.created_at[there]
        if created_at is None:
            return None
        identifiers = list(known.identifiers if known else NO_IDENTIFIERS)
        for kind, *values in differs.identifiers:
            identifiers[kind] = values[there]
        customer = known.customer_user_id if known else None
        attributes = known.attributes if known else ()
        return Profile(
            self.profile_id,
            customer if differs.customer is None else differs.customer[there],
            tuple(identifiers),
            attributes if differs.attributes is None else differs.attributes[there],
            created_at,
            differs.updated_at[there],
            revision,
        )


class ChangesPage(NamedTuple):
    """A part of the feed, oldest first."""

    changes: list[Change]
    cursor: str
    """What to ask for the next part with, whether there is one yet or not."""


class CoverageDay(NamedTuple):
    """By how much a day changed how many profiles have what."""

    day: int
    """Days since 1970, UTC; 0 for all that was before coverage was counted."""
    kind: int
    """The number of a kind; `ALL_PROFILES` for the profiles themselves."""
    change: int


ALL_PROFILES: Final = -1
DAY_MS: Final = 86_400_000


class Coverage(msgspec.Struct, frozen=True):
    """How many profiles there are, and by name of the kind how many of them have it."""

    profiles: int
    identifiers: dict[str, int]


class Shared(NamedTuple):
    """An identifier that more than one profile has."""

    kind: int
    value: str
    profiles: int


def difference(
    before: Profile | None,
    after: Profile | None,
    shared: Iterable[int] = (),
    takes_back: int = 0,
) -> Difference:
    """Return what differs between two states of one profile, of which None is that it is not."""
    old = before.identifiers if before else NO_IDENTIFIERS
    new = after.identifiers if after else NO_IDENTIFIERS
    customers = (
        before.customer_user_id if before else None,
        after.customer_user_id if after else None,
    )
    attributes = (before.attributes if before else (), after.attributes if after else ())
    created = (before.created_at if before else None, after.created_at if after else None)
    return Difference(
        identifiers=differing(old, new),
        customer=None if customers[0] == customers[1] else customers,
        attributes=None if attributes[0] == attributes[1] else attributes,
        created_at=None if created[0] == created[1] else created,
        updated_at=(before.updated_at if before else 0, after.updated_at if after else 0),
        shared=tuple(shared),
        takes_back=takes_back,
    )


def differing(old: Identifiers, new: Identifiers) -> tuple[tuple[int, str | None, str | None], ...]:
    """Return what differs: kind number, old value, new value."""
    if old == new:
        return ()
    if old is NO_IDENTIFIERS:
        return tuple([(kind, None, one) for kind, one in enumerate(new) if one is not None])
    return tuple(
        [
            (kind, one, other)
            for kind, (one, other) in enumerate(zip(old, new, strict=True))
            if one != other
        ]
    )


def counts_of(differs: Difference) -> list[tuple[int, int]]:
    """Return for each kind that the profile has now and had not, or the reverse, +1 or -1."""
    counted = [
        (kind, -1 if new is None else 1)
        for kind, old, new in differs.identifiers
        if old is None or new is None
    ]
    if differs.created_at is not None and None in differs.created_at:
        counted.append((ALL_PROFILES, -1 if differs.created_at[1] is None else 1))
    return counted


def coverage_of(before: Profile | None, after: Profile | None) -> list[tuple[int, int]]:
    """Return what `counts_of` does for two states of one profile."""
    return counts_of(difference(before, after))


def coverage_by_day(changes: Iterable[CoverageDay]) -> tuple[Coverage, dict[int, Coverage]]:
    """Return how it is now, and how it was at the end of each day that changed something.

    The changes come in the order of their days.
    """
    total = dict.fromkeys(range(ALL_PROFILES, len(KINDS)), 0)
    days: dict[int, Coverage] = {}
    for day, of_day in itertools.groupby(changes, key=lambda one: one.day):
        for one in of_day:
            total[one.kind] += one.change
        days[day] = _coverage(total)
    return _coverage(total), days


def _coverage(total: Mapping[int, int]) -> Coverage:
    return Coverage(
        total[ALL_PROFILES], {kind.name: total[number] for number, kind in enumerate(KINDS)}
    )
