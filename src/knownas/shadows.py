"""How two servers that know the same profiles differ: counted by kind, listed without values."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple, Protocol, get_args

from knownas.history import ALL_PROFILES
from knownas.model import KINDS, AppId, ProfileId

Result = Literal["same", "different", "missing_here", "missing_there", "failed"]
"""What came of a comparison, of a kind of identifier or of a whole profile.

A profile is `missing_there` where it is not known there at all, and `failed` where the upstream did
not answer; it is `different` where any kind is not the same.
"""

RESULTS: Final[tuple[Result, ...]] = get_args(Result)

Counts = Mapping[tuple[int, Result], int]
"""By number of the kind, `knownas.history.ALL_PROFILES` for the profiles themselves, and result."""


class Differing(NamedTuple):
    """A profile that was not the same at the last comparison."""

    profile_id: ProfileId
    at: int
    """When it was compared."""
    kinds: Mapping[str, Result]
    """By name, those that are not the same."""


class Shadows(Protocol):
    """The comparisons of all apps, kept as `knownas.storage.Storage` keeps everything."""

    async def note(
        self,
        app: AppId,
        counts: Counts,
        differing: Sequence[Differing],
        alike: Collection[ProfileId],
        *,
        most: int,
    ) -> None:
        """Add counts, and keep who differs, in the place of what was kept of the same profile.

        Who is `alike` is not kept any more. Of those that differ the newest are kept, about as
        many as `most`. A profile that is not there is not kept.
        """
        ...

    async def counts(self, app: AppId) -> Counts:
        """Return the counts of an app, none that is zero."""
        ...

    async def differing(self, app: AppId, limit: int) -> list[Differing]:
        """Return who differs, the newest comparison first."""
        ...

    async def forget(self, app: AppId) -> None:
        """Begin to count anew."""
        ...


def counts_by_name(counts: Counts) -> dict[str, dict[Any, Any]]:
    """Return counts as programs are shown them: of the profiles, and of each kind that was met."""

    def of(kind: int) -> dict[Result, int]:
        return {result: counts.get((kind, result), 0) for result in RESULTS}

    met = {number for number, _ in counts}
    kinds = {
        kind.name: {result: count for result, count in of(number).items() if result != "failed"}
        for number, kind in enumerate(KINDS)
        if number in met
    }
    return {"profiles": of(ALL_PROFILES), "identifiers": kinds}
