"""What the registry needs from a database, and nothing more.

`sqlite.py` is the embedded default. Every implementation passes the one contract suite in
`tests/storage/`. All times are milliseconds since 1970, UTC, and come from the caller: a
database never asks its own clock.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Protocol, TypeVar

from knownas.condition import Condition, Operation, Work
from knownas.deliveries import Webhooks
from knownas.editing import Edit, Needs
from knownas.erasures import Erasures
from knownas.errors import KnownasError, ServiceUnavailable
from knownas.history import SERVER, Change, ChangesPage, CoverageDay, Shared, Source
from knownas.imports import Imports
from knownas.lookups import Holders, Sought
from knownas.model import (
    ApiKey,
    App,
    AppId,
    Identifiers,
    LogPosition,
    Policies,
    Profile,
    ProfileId,
    ProfileRef,
)
from knownas.operators import Operators
from knownas.receiving import Inbound
from knownas.shadows import Shadows
from knownas.upstreams import Upstream

T = TypeVar("T")


class StorageError(Exception):
    """A database cannot be opened; the text is one line that says which and why."""


def unavailable(cause: BaseException) -> ServiceUnavailable:
    """Return the error of a request that may succeed later, for what a driver raised."""
    error = ServiceUnavailable(
        "The database cannot be used for the moment; send the same request again."
    )
    error.__cause__ = cause
    return error


class Storage(Protocol):
    """Apps, keys and profiles, kept durably: when a write returns, a power cut loses nothing of it.

    Any method raises ServiceUnavailable when the database cannot be reached or written; the
    outcome of a write is then unknown, and the same write is safe to repeat. Every method on
    the data of one app takes the app first, and sees nothing of any other.
    """

    migrated: list[str]
    """The names of the schema steps that opening it applied."""

    has_standby: bool
    """Whether a standby answers reads."""

    log_position: LogPosition | None
    """How far the log was after the last write here; None where no standby needs it."""

    work: Work
    """What it has done, for whoever counts it."""

    @property
    def erasures(self) -> Erasures:
        """Its part about persons, who can be erased."""
        ...

    @property
    def webhooks(self) -> Webhooks:
        """Where changes are sent, and what of that is still to do."""
        ...

    @property
    def inbound(self) -> Inbound:
        """What is kept of webhooks that others send."""
        ...

    @property
    def imports(self) -> Imports:
        """Imports that are uploaded."""
        ...

    @property
    def shadows(self) -> Shadows:
        """How apps and their upstreams differ."""
        ...

    @property
    def operators(self) -> Operators:
        """Who uses the console, and what they did."""
        ...

    def identifiers(self, app: AppId, ref: ProfileRef) -> Identifiers | Awaitable[Identifiers]:
        """Return a profile's identifiers: the hot read.

        An embedded database answers at once; only one behind a network returns an awaitable.
        A write that was acknowledged before the call is always seen.

        Raises ProfileNotFound and ProfileConflict as `ProfileRef.settle` does.
        """
        ...

    def identifiers_in_turn(
        self, app: AppId, ref: ProfileRef
    ) -> Identifiers | Awaitable[Identifiers]:
        """Do as `identifiers`; only to be called from within a socket's callback.

        The reads of one turn of the event loop may then share a snapshot or a query. What is
        asked in one turn had all arrived before its first read, so none of it can tell.
        """
        ...

    async def identifiers_after(
        self, app: AppId, ref: ProfileRef, position: LogPosition
    ) -> Identifiers:
        """Do as `identifiers`, by a standby if it has all that was written up to `position`."""
        ...

    async def profile(self, app: AppId, ref: ProfileRef) -> Profile:
        """Return the whole profile. Raises as `identifiers` does."""
        ...

    async def profiles(
        self, app: AppId, refs: Sequence[ProfileRef]
    ) -> list[Profile | KnownasError]:
        """Return what `profile` returns, or the error that it raises, for each reference in order.

        All are read together: from one snapshot, or by as few statements as one profile takes.
        """
        ...

    def holders(self, app: AppId, sought: Sought) -> Holders | Awaitable[Holders]:
        """Return the profiles that have an identifier, or those after a place; point reads only.

        They come kind by kind, within a kind in an order of the storage's own that no change
        of other profiles alters: who has the identifier all the time is on exactly one page.
        A page may have fewer than `sought.limit` and yet a next one. An embedded database
        answers at once where there are few of them.
        """
        ...

    def holders_in_turn(self, app: AppId, sought: Sought) -> Holders | Awaitable[Holders]:
        """Do as `holders`; only to be called from within a socket's callback.

        It shares a turn's snapshot with `identifiers_in_turn`, for the same reason.
        """
        ...

    async def holders_of_each(self, app: AppId, wanted: Sequence[Sought]) -> list[Holders]:
        """Return what `holders` returns for each value in order, all read as by `profiles`."""
        ...

    def change_profile(  # noqa: PLR0913 - whom, how, when, and by whom
        self,
        app: AppId,
        ref: ProfileRef,
        change: Callable[[Profile], Profile],
        *,
        now: int,
        create_as: ProfileId | None = None,
        anew: bool = False,
        by: Source = SERVER,
    ) -> Awaitable[Profile]:
        """Replace a profile by `change(profile)` in one transaction and return what is kept.

        The caller awaits it, or makes a future of it, at once.

        `change` is pure and quick: it may run in another thread, and more than once. It leaves
        the ids as they are. What it raises is raised here, and nothing is written. A result
        equal to the profile writes nothing; else `updated_at` becomes `now`, or stays if that
        is earlier: it never goes back, the revision grows by one, and `changes` has the
        difference as one that came `by` that source.

        `create_as` None: the profile must exist; raises as `identifiers` does. Otherwise a
        profile that `ref` does not find is created, with the id of `ref` or else `create_as`,
        and an anonymous one is bound to the customer of `ref`; raises ProfileConflict as
        `ProfileRef.settle_or_new` does, and Unauthorized when the app was deleted. Of
        simultaneous creates for one customer, one creates and the others change what it created.

        An id and a customer that were erased are not found, and not created: ProfileNotFound. With
        `anew` they are someone else's from then on.
        """
        ...

    async def delete_profile(
        self,
        app: AppId,
        ref: ProfileRef,
        *,
        now: int,
        by: Source = SERVER,
        check: Callable[[Profile], None] | None = None,
    ) -> Profile:
        """Delete a profile with all that belongs to it, and return what it was.

        Its history stays. `check` is called with the profile before that, in the same
        transaction, and is as `change` of `change_profile`: what it raises is raised here, and
        nothing is deleted. Raises as `identifiers` does.
        """
        ...

    async def add_profiles(
        self, app: AppId, profiles: Iterable[Profile], *, now: int, by: Source = SERVER
    ) -> int:
        """Add many profiles in one transaction and return how many were new.

        A profile whose id or customer the app already has, be it that of a merged profile, is
        left out, and so is one of which either was erased. Each begins with revision
        1, or after the last one that its id had here. Raises Unauthorized when the app was
        deleted.
        """
        ...

    async def count_profiles(self, app: AppId) -> int:
        """Return the number of profiles of an app. It reads them all: not for hot paths."""
        ...

    async def profiles_after(
        self, app: AppId, after: ProfileId | None, limit: int
    ) -> list[Profile]:
        """Return an app's next profiles after an id, or its first, in the order of their ids.

        They are as many as `limit`, fewer only where there are no more. An id that no profile
        has is a place between two others.
        """
        ...

    async def replace_profiles(
        self,
        app: AppId,
        gone: Iterable[ProfileId],
        new: Iterable[Profile],
        *,
        now: int,
        by: Source = SERVER,
    ) -> int:
        """Delete profiles, then add others, as they are, and return how many were added.

        It is one transaction, for as many as fit in memory. An id that is both gone and new is
        one change in the history. A profile that is not there needs
        no deleting; one whose id or customer another one still has, or that was erased, is
        left out. Raises Unauthorized when the app was deleted.
        """
        ...

    async def edit(
        self,
        app: AppId,
        work: Callable[[Edit], T],
        *,
        now: int,
        by: Source = SERVER,
        needs: Needs | None = None,
    ) -> T:
        """Make a change that concerns several profiles, in one transaction; return its result.

        `work` is pure and quick: it may run in another thread, and more than once. What it
        raises is raised here, and nothing is written. `needs` say what it will ask for.
        """
        ...

    async def history(
        self, app: AppId, profile_id: ProfileId, *, before: int | None, limit: int
    ) -> list[Change]:
        """Return the changes of a profile whose revision is below `before`, newest first.

        They are there for a deleted profile, too; none for one that never was.
        """
        ...

    async def changes(self, app: AppId, cursor: str | None, limit: int) -> ChangesPage:
        """Return an app's changes after a cursor, or its first, oldest first.

        No change that commits later is ever before a cursor that was given, and the changes of
        one profile come in the order of their revisions. Raises CursorExpired where some that
        came after the cursor may have been pruned, or it is of another feed: that of another
        database, or of this one before it was restored.
        """
        ...

    async def end_of_changes(self) -> str:
        """Return the cursor after which comes all that is not committed yet, and little else."""
        ...

    async def prune(self, *, now: int, before: int, limit: int) -> int:
        """Delete at most `limit` of the oldest changes from before a time, and count them.

        With them go the answers that have expired, the deliveries that were given up before that
        time, old dead letters, sessions that have expired, and what the audit log has of before
        that time. A webhook that had not come so far goes on behind them; where it has missed some
        of its app, that is noted with `now`.
        """
        ...

    async def coverage(self, app: AppId) -> list[CoverageDay]:
        """Return by how much each day changed the number of profiles with each kind."""
        ...

    async def shared(self, app: AppId, after: tuple[int, str] | None, limit: int) -> list[Shared]:
        """Return identifiers that stand on several profiles, after a kind and value, in order."""
        ...

    async def count_shared(self, app: AppId) -> dict[int, int]:
        """Return by kind how many identifiers stand on several profiles; no kind with none."""
        ...

    async def create_app(self, app_uuid: str, name: str, *, now: int) -> App:
        """Create an app. Raises ValidationError when the name is taken."""
        ...

    async def apps(self) -> list[App]:
        """Return all apps, oldest first."""
        ...

    async def set_policies(self, app: AppId, policies: Policies) -> None:
        """Have kinds of identifiers follow these policies. Raises Unauthorized without the app.

        Whoever writes learns of it with the app of its key.
        """
        ...

    async def change_upstream(
        self, app: AppId, change: Callable[[Upstream | None], Upstream | None]
    ) -> Upstream | None:
        """Replace an app's upstream by `change(upstream)` in one transaction; return what is kept.

        None is no upstream. `change` is quick, and may run in another thread, and more than once;
        what it raises is raised here, and nothing is written. Raises Unauthorized without the app.
        """
        ...

    async def delete_app(self, app: AppId) -> None:
        """Delete an app with its keys and all its profiles. Deleting none is a no-op."""
        ...

    async def add_key(
        self,
        app: AppId,
        key: ApiKey,
        digest: bytes,
        *,
        replacing: str | None = None,
        overlap_until: int = 0,
    ) -> None:
        """Keep a key under its digest.

        Raises ValidationError when any app has that digest, Unauthorized when the app was
        deleted.

        In the same transaction the key with the id `replacing`, if given, gets to expire at
        `overlap_until`, or stays where it expires earlier.
        """
        ...

    async def keys(self, app: AppId) -> list[ApiKey]:
        """Return all keys of an app, live or not, oldest first."""
        ...

    async def keys_with_digests(self, app: AppId) -> list[tuple[ApiKey, bytes]]:
        """Return all keys of an app as `keys` does, each with the digest that it is found by."""
        ...

    async def put_keys(self, app: AppId, keys: Sequence[tuple[ApiKey, bytes]]) -> None:
        """Keep keys under their digests, all or none; their own app is of no account.

        A key that the app has already keeps its id and label, and of each end the earlier one:
        none is ever revived. Its rate becomes the given one. Raises ValidationError when another
        app has one of the digests, Unauthorized when the app was deleted.
        """
        ...

    async def end_key(self, app: AppId, key_id: str, *, at: int) -> bool:
        """End a key for good. The first end stays. False: the app has no such key."""
        ...

    async def set_key_rate(self, app: AppId, key_id: str, rate: str | None) -> bool:
        """Give a key, live or not, another `ApiKey.rate`. False: the app has no such key."""
        ...

    async def note_key_uses(self, uses: Mapping[tuple[AppId, str], int]) -> None:
        """Note when keys were used last (ms), by app and key id; the latest time stays.

        Keys that are not there are left out.
        """
        ...

    async def key_by_digest(self, digest: bytes) -> ApiKey | None:
        """Return the key with this digest, live or not: the one look-up across all apps.

        It names no app because it is what finds the app.
        """
        ...

    async def ping(self) -> None:
        """Return if the database answers a read. Raises ServiceUnavailable if not."""
        ...

    def waiting(self) -> Mapping[Operation, int]:
        """Return how many wait, or are under way, by operation: here, in this process."""
        ...

    async def condition(self, *, now: int) -> Condition:
        """Return how the database is, by few and quick statements."""
        ...

    async def check(self) -> list[str]:
        """Return a line for each broken promise of the stored data; none when it is sound."""
        ...

    async def close(self) -> None:
        """Finish what was begun and let go of the database. Safe to call twice."""
        ...
