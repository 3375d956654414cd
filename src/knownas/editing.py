"""What a storage gives to a change that concerns more than one profile, or more than profiles.

`Storage.edit` runs such a change, a pure function of an `Edit`, in one transaction. Here stands
what it is given; which changes there are stands in `knownas.writes` and `knownas.merging`.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Final, NamedTuple, Protocol

import msgspec

from knownas.history import Change, Difference
from knownas.model import Profile, ProfileId, ProfileRef

MAX_HOLDERS: Final = 100
"""How many profiles that have one identifier are looked at, at most."""


class Alias(NamedTuple):
    """Where the id or the customer of a merged profile leads."""

    profile_id: ProfileId
    """The survivor, which may have been merged into another one since."""
    revision: int
    """The source's: that of its end."""
    survivor_revision: int
    """The survivor's: that of the merge."""
    merged_at: int


class Answer(NamedTuple):
    """What a request with an Idempotency-Key was answered."""

    fingerprint: bytes
    """Of the request."""
    answer: str
    """JSON, for whoever asked the storage to keep it."""
    expires_at: int


class Ages(msgspec.Struct, frozen=True, array_like=True):
    """Of which time the identifiers of a profile are, as it was kept with it."""

    revision: int = 0
    """The profile's, up to which the times tell it; of what came later the history does."""
    times: Mapping[int, int] = {}
    """By number of the kind, also of those that were cleared."""

    def followed_by(self, changes: Iterable[tuple[int, Difference]]) -> dict[int, int]:
        """Return the times after later changes: the time and the difference of each, in order."""
        times = dict(self.times)
        for at, difference in changes:
            times.update((kind, at) for kind, _, _ in difference.identifiers)
        return times


MAX_CHANGES: Final = 1_000
"""How many changes of a profile are looked at for the ages of its identifiers, at most."""


class TakenBack(NamedTuple):
    """The merge that a change undoes."""

    source: ProfileId
    """Which was merged."""
    revision: int
    """The survivor's: that of the merge."""


class Needs(NamedTuple):
    """What an edit will ask for, as far as is known before: it is then read at once.

    What is not named costs another way to the database, and nothing else.
    """

    refs: Sequence[ProfileRef] = ()
    values: Sequence[tuple[int, str]] = ()
    """Identifiers whose holders are asked for: kind number and value."""
    answer: str | None = None
    ages: bool = False
    """Whether the ages of the profiles that `refs` name are asked for."""


class Check(NamedTuple):
    """What a change of one profile is made to depend on."""

    refuse: Callable[[Profile], None]
    """Told the profile before it is changed, in the same transaction: what it raises stops that.

    It is pure and quick, as `Storage.change_profile` wants it.
    """
    may_create: bool
    """Whether the change may be made where there is no profile yet, or the customer has none."""


class Edit(Protocol):
    """A transaction on one app, as the function sees it that makes the change.

    What was written through it is seen by what is read through it.
    """

    def find(self, ref: ProfileRef) -> tuple[Profile | None, Profile | None]:
        """Return what the customer and what the profile id of `ref` find, aliases included."""
        ...

    def admit(self, before: Profile | None, after: Profile) -> None:
        """Raise what `put` would where the app was deleted, or a name that is new was erased."""
        ...

    def put(
        self,
        before: Profile | None,
        after: Profile,
        *,
        exclusive: Collection[int] = (),
        anew: bool = False,
        undoes: TakenBack | None = None,
    ) -> Profile:
        """Write a profile, new where `before` is None, and return it as it is kept.

        Its time and revision are the storage's. Nothing is written where nothing differs, unless
        the change `undoes` a merge, which its entry in the history then tells. A customer must be
        free: taken from whoever had it before. An id or a customer that is a profile's own leads
        nowhere else any more. Identifiers of the `exclusive` kinds are claimed: of two
        transactions that claim one at once, one is made anew and finds the other's.

        Raises Unauthorized for a new profile where the app was deleted, and ProfileNotFound for an
        id or a customer, new to the profile, that was erased; with `anew` it is someone else's
        from then on.
        """
        ...

    def remove(self, profile: Profile) -> int:
        """Delete a profile and return the revision of its end."""
        ...

    def holders(self, kind: int, value: str) -> list[Profile]:
        """Return profiles that have an identifier, at most `MAX_HOLDERS`."""
        ...

    def change(self, profile_id: ProfileId, revision: int) -> Change | None:
        """Return what made a revision of a profile, if the history still has it."""
        ...

    def alias(self, name: str) -> Alias | None:
        """Return where a merged profile's name leads; `alias_names` makes such names."""
        ...

    def lead(self, name: str, alias: Alias | None) -> None:
        """Have a name lead somewhere, or with None nowhere."""
        ...

    def ages(self, profile: Profile) -> Mapping[int, int]:
        """Return, by number of the kind, of which time the identifiers of a profile are.

        It is the time that `keep_ages` was given, or that of a later change which set or cleared
        it. No time: nothing is known, or no more than `MAX_CHANGES` ago.
        """
        ...

    def keep_ages(self, profile: Profile, times: Mapping[int, int]) -> None:
        """Keep of which times the identifiers of a profile are, as it is now."""
        ...

    def answer(self, key: str) -> Answer | None:
        """Return what was kept under an Idempotency-Key, expired or not."""
        ...

    def keep_answer(self, key: str, answer: Answer) -> None:
        """Keep an answer, in the place of one that is there."""
        ...


def alias_names(ref: ProfileRef) -> tuple[str | None, str | None]:
    """Return the alias of the customer and that of the profile id of a reference."""
    return (
        None if ref.customer_user_id is None else f"c:{ref.customer_user_id}",
        None if ref.profile_id is None else f"p:{ref.profile_id}",
    )
