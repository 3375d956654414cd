"""The registry: by which identifiers every other system knows a user.

Every use case is one method here, or of `keyring`, `webhooks`, `upstreams`, `desk`, `eraser` or
`uploads`. It speaks of apps, keys, profiles and identifiers; of HTTP and SQL it knows nothing. What
it is given has been through the `clean_…` functions of `knownas.model`, so it is valid; what it
raises is in `knownas.errors`.
"""

import time
import uuid
from collections.abc import Awaitable, Callable, Container, Mapping, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple, NoReturn

import msgspec

from knownas import as_of, demo, merging, writes
from knownas.as_of import Moment
from knownas.condition import Condition
from knownas.desk import Desk
from knownas.editing import Check, Edit, Needs
from knownas.eraser import Eraser
from knownas.errors import (
    FeatureNotConfigured,
    HistoryExpired,
    KnownasError,
    PreconditionFailed,
    ProfileNotFound,
    ValidationError,
)
from knownas.history import (
    DAY_MS,
    MERGE,
    SERVER,
    UNDO,
    Change,
    ChangesPage,
    Coverage,
    Shared,
    Source,
    coverage_by_day,
)
from knownas.keyring import Keyring
from knownas.lookups import Holders, Sought
from knownas.merging import Merge, Side, Undone
from knownas.model import (
    App,
    AppId,
    Identifiers,
    LogPosition,
    Policies,
    Profile,
    ProfileId,
    ProfileRef,
    clean_app_name,
    clear_identifiers,
    merge_attributes,
    merge_identifiers,
)
from knownas.storage import Storage
from knownas.uploads import Uploads
from knownas.upstream.terms import Upstreams
from knownas.vault import Vault
from knownas.webhooks.endpoints import Endpoints
from knownas.webhooks.inbound import Reception
from knownas.writes import Done, Once, Setting

if TYPE_CHECKING:
    from knownas.webhooks.outbound import Sender

_DEMO_CHUNK: Final = 50_000
"""Profiles to a transaction: the more they are, the fewer times each page is written."""


class _Terms(NamedTuple):
    """Who changes a profile, and on what terms."""

    by: Source
    once: Once | None = None
    check: Check | None = None
    anew: bool = False
    """Whether an erased id or customer may be someone else's from now on."""


def system_clock() -> int:
    """Return the time of day in milliseconds since 1970, UTC."""
    return time.time_ns() // 1_000_000


def _no_sender() -> NoReturn:
    raise FeatureNotConfigured


class Registry:
    """All that this server does, over one storage."""

    def __init__(  # noqa: PLR0913 - what it works on, and what a test puts in its place
        self,
        storage: Storage,
        *,
        auto_create_profiles: bool = False,
        key_rate: str | None = None,
        vault: Vault | None = None,
        open_sender: "Callable[[], Sender]" = _no_sender,
        ledger_path: str = "",
        erasure_hours: int = 24,
        import_bytes: int = 10 * 1024**3,
        clock: Callable[[], int] = system_clock,
        monotonic: Callable[[], float] = time.monotonic,
        new_uuid: Callable[[], uuid.UUID] = uuid.uuid4,
    ) -> None:
        """Work on `storage`; `clock` gives ms since 1970, `monotonic` seconds.

        With `auto_create_profiles`, setting identifiers on an unknown profile creates it.
        What needs stored secrets is refused without a `vault`; `open_sender` makes what webhooks
        are sent by. What `key_rate` means stands at `Keyring`, `ledger_path` and `erasure_hours`
        at `Eraser`, `import_bytes` at `Uploads`.
        """
        self.storage = storage
        self.keyring = Keyring(
            storage, key_rate=key_rate, clock=clock, monotonic=monotonic, new_uuid=new_uuid
        )
        self.vault = vault or Vault("", {})
        self.webhooks = Endpoints(storage, self.vault, open_sender, clock=clock, new_uuid=new_uuid)
        self.reception = Reception(storage, clock=clock, new_uuid=new_uuid)
        self.upstreams = Upstreams(
            storage, self.vault, self.webhooks.sender, clock=clock, monotonic=monotonic
        )
        self.desk = Desk(storage, clock=clock, new_uuid=new_uuid)
        self.eraser = Eraser(
            storage,
            self.vault,
            ledger_path=ledger_path,
            hours=erasure_hours,
            clock=clock,
            new_uuid=new_uuid,
        )
        self.uploads = Uploads(storage, most_bytes=import_bytes, clock=clock, new_uuid=new_uuid)
        self._auto_create_profiles = auto_create_profiles
        self._clock = clock
        self._new_uuid = new_uuid

    # --- Profiles and their identifiers -----------------------------------------------------

    def identifiers(self, app: AppId, ref: ProfileRef) -> Identifiers | Awaitable[Identifiers]:
        """Return a profile's identifiers; an awaitable only where the storage is remote.

        Raises ProfileNotFound and ProfileConflict.
        """
        return self.storage.identifiers(app, ref)

    async def identifiers_after(
        self, app: AppId, ref: ProfileRef, position: LogPosition
    ) -> Identifiers:
        """Do as `identifiers`, by a standby that has all that was written up to `position`."""
        return await self.storage.identifiers_after(app, ref, position)

    def identifiers_in_turn(
        self, app: AppId, ref: ProfileRef
    ) -> Identifiers | Awaitable[Identifiers]:
        """Do as `identifiers`, for a caller that is a socket's callback (see the storage)."""
        return self.storage.identifiers_in_turn(app, ref)

    def set_identifiers(  # noqa: PLR0913 - whom, what, and on what terms
        self,
        app: App,
        ref: ProfileRef,
        values: Mapping[str, str],
        *,
        by: Source = SERVER,
        once: Once | None = None,
        check: Check | None = None,
    ) -> Awaitable[Profile]:
        """Merge `values` (by kind name) into a profile's identifiers; begun at once.

        Kinds not in `values` stay. Raises ProfileNotFound, unless profiles are created
        automatically, ProfileConflict, and IdentifierTaken as the app's policies have it. What
        `check` means stands at `put_profile`.
        """
        create_as = self._new_profile_id() if self._auto_create_profiles else None
        if not app.policies:

            def change(profile: Profile) -> Profile:
                identifiers = merge_identifiers(profile.identifiers, values)
                return msgspec.structs.replace(profile, identifiers=identifiers)

            return self._change(app.id, ref, change, create_as, _Terms(by, once, check))
        now = self._clock()
        may_create = check is None or check.may_create
        setting = Setting(ref, values, create_as=create_as if may_create else None)
        return self._edit_one(
            app.id,
            lambda edit: writes.set_identifiers(edit, setting, app.policies, now, check),
            writes.needs_of([setting], app.policies),
            _Terms(by, once, check),
            creates=create_as is not None,
        )

    def _change(
        self,
        app: AppId,
        ref: ProfileRef,
        change: Callable[[Profile], Profile],
        create_as: ProfileId | None,
        terms: "_Terms",
    ) -> Awaitable[Profile]:
        """Have one profile changed; begun at once."""
        now = self._clock()
        if terms.once is None and terms.check is None:
            return self.storage.change_profile(
                app, ref, change, now=now, create_as=create_as, anew=terms.anew, by=terms.by
            )
        check = terms.check
        create = create_as if check is None or check.may_create else None
        return self._edit_one(
            app,
            lambda edit: writes.change_one(
                edit, ref, change, create, now, anew=terms.anew, check=check
            ),
            Needs([ref]),
            terms,
            creates=create_as is not None,
        )

    async def _edit_one(
        self,
        app: AppId,
        work: Callable[[Edit], Profile],
        needs: Needs,
        terms: "_Terms",
        *,
        creates: bool = False,
    ) -> Profile:
        """Change one profile in an edit; return it, of a repeated request as it was then."""
        try:
            [profile] = await self._edit(app, lambda edit: [work(edit)], needs, terms)
        except ProfileNotFound:
            if terms.check is not None and creates and not terms.check.may_create:
                raise PreconditionFailed from None
            raise
        return profile

    async def _edit(
        self,
        app: AppId,
        work: Callable[[Edit], Sequence[Profile]],
        needs: Needs,
        terms: "_Terms",
    ) -> Sequence[Profile]:
        """Change profiles in an edit; return what `work` does, of a repeated request as then."""
        now = self._clock()
        worked_on: list[Profile] = []

        def edit_once(edit: Edit) -> tuple[list[Done], bool]:
            def do() -> list[Done]:
                worked_on[:] = work(edit)
                return [Done(profile.profile_id, profile.revision) for profile in worked_on]

            return writes.once(edit, terms.once, now, do)

        answer = terms.once and terms.once.key
        needs = needs._replace(answer=answer)
        done, is_new = await self.storage.edit(app, edit_once, now=now, by=terms.by, needs=needs)
        return worked_on if is_new else [await self._as_done(app, one) for one in done]

    async def _as_done(self, app: AppId, done: Done) -> Profile:
        """Return a profile as it was then, or as it is where the history does not reach back."""
        ref = ProfileRef(profile_id=done.profile_id)
        try:
            return await as_of.profile_as_of(self.storage, app, ref, Moment(revision=done.revision))
        except HistoryExpired:
            return await self.storage.profile(app, ref)

    async def profile(self, app: AppId, ref: ProfileRef) -> Profile:
        """Return a profile. Raises ProfileNotFound and ProfileConflict."""
        return await self.storage.profile(app, ref)

    async def profile_from_anywhere(self, app: App, ref: ProfileRef) -> Profile:
        """Return a profile, from the app's upstream where it is not here yet.

        Raises as `profile`, and as `Upstreams.fetch`.
        """
        try:
            return await self.storage.profile(app.id, ref)
        except ProfileNotFound:
            return await self.upstreams.fetch(app, ref)

    async def profiles(
        self, app: AppId, refs: Sequence[ProfileRef]
    ) -> list[Profile | KnownasError]:
        """Return what `profile` returns, or the error that it raises, for each reference."""
        return await self.storage.profiles(app, refs)

    def holders(self, app: AppId, sought: Sought) -> Holders | Awaitable[Holders]:
        """Return a page of the profiles that have an identifier; at once where that is quick."""
        return self.storage.holders(app, sought)

    async def holders_of_each(self, app: AppId, wanted: Sequence[Sought]) -> list[Holders]:
        """Return what `holders` returns for each of several identifiers, read together."""
        return await self.storage.holders_of_each(app, wanted)

    def clear_identifiers(
        self,
        app: AppId,
        ref: ProfileRef,
        kinds: Container[int],
        *,
        by: Source = SERVER,
        once: Once | None = None,
    ) -> Awaitable[Profile]:
        """Clear a profile's identifiers of these kinds, set or not; begun at once.

        Raises ProfileNotFound and ProfileConflict.
        """

        def change(profile: Profile) -> Profile:
            identifiers = clear_identifiers(profile.identifiers, kinds)
            return msgspec.structs.replace(profile, identifiers=identifiers)

        return self._change(app, ref, change, None, _Terms(by, once))

    async def write_batch(  # noqa: PLR0913 - what is to be done, how, and by whom
        self,
        app: App,
        settings: Sequence[Setting],
        *,
        atomic: bool,
        create: bool,
        by: Source = SERVER,
        once: Once | None = None,
    ) -> list[Done]:
        """Set and clear identifiers of many profiles in one transaction; a result for each.

        One that fails has an error as its result, and where they are `atomic` BatchFailed is
        raised. With `create` a profile that is not there is made.
        """
        now = self._clock()
        if create:
            settings = [one._replace(create_as=self._new_profile_id()) for one in settings]

        def work(edit: Edit) -> list[Done]:
            done, _ = writes.once(
                edit,
                once,
                now,
                lambda: writes.write_batch(edit, settings, app.policies, now, atomic=atomic),
            )
            return done

        needs = writes.needs_of(settings, app.policies, once)
        return await self.storage.edit(app.id, work, now=now, by=by, needs=needs)

    async def put_profile(  # noqa: PLR0913 - whom, what, and on what terms
        self,
        app: AppId,
        ref: ProfileRef,
        attributes: Mapping[str, str | float | None],
        *,
        by: Source = SERVER,
        once: Once | None = None,
        check: Check | None = None,
    ) -> Profile:
        """Create a profile, or return the existing one, with the attribute patch applied.

        With both halves of `ref`, the customer is bound to an anonymous profile of that id. Where
        either was erased, it is someone else's from now on.
        A `check` may allow that nothing is created or bound: where `ref` names no profile that
        could be checked, PreconditionFailed is raised then.
        Raises ProfileConflict, and ValidationError past 30 attributes.
        """
        terms = _Terms(by, once, check, anew=True)
        return await self._change(app, ref, _patch(attributes), self._new_profile_id(), terms)

    async def update_profile(  # noqa: PLR0913 - whom, what, and on what terms
        self,
        app: AppId,
        ref: ProfileRef,
        attributes: Mapping[str, str | float | None],
        *,
        by: Source = SERVER,
        once: Once | None = None,
        check: Check | None = None,
    ) -> Profile:
        """Apply an attribute patch (None removes) to an existing profile and return it.

        Raises ProfileNotFound, ProfileConflict, and ValidationError past 30 attributes.
        """
        terms = _Terms(by, once, check)
        return await self._change(app, ref, _patch(attributes), None, terms)

    async def delete_profile(
        self,
        app: AppId,
        ref: ProfileRef,
        *,
        by: Source = SERVER,
        once: Once | None = None,
        check: Check | None = None,
    ) -> Profile:
        """Delete a profile with its identifiers, and return what it was.

        Raises ProfileNotFound and ProfileConflict.
        """
        if once is not None:
            return await self._edit_one(
                app,
                lambda edit: writes.remove_one(edit, ref, check),
                Needs([ref]),
                _Terms(by, once, check),
            )
        refuse = None if check is None else check.refuse
        return await self.storage.delete_profile(app, ref, now=self._clock(), by=by, check=refuse)

    # --- Identity ---------------------------------------------------------------------------

    async def bind_customer(  # noqa: PLR0913 - who and whose, and on what terms
        self,
        app: AppId,
        profile_id: ProfileId,
        customer: str | None,
        *,
        rebind: bool,
        by: Source = SERVER,
        once: Once | None = None,
    ) -> Profile:
        """Have a customer be that of a profile; None leaves the profile without one.

        With `rebind` both may have had another. Raises ProfileNotFound, and ProfileConflict.
        """
        refs = [ProfileRef(profile_id=profile_id)]
        if customer is not None:
            refs.append(ProfileRef(customer))
        return await self._edit_one(
            app,
            lambda edit: writes.bind_customer(edit, profile_id, customer, rebind=rebind),
            Needs(refs),
            _Terms(by, once),
        )

    async def merge(  # noqa: PLR0913 - two profiles, how they become one, and by whom
        self,
        app: App,
        survivor: ProfileRef,
        source: ProfileRef,
        *,
        rules: Mapping[str, Side],
        default: Side,
        dry_run: bool,
        by: Source = MERGE,
        once: Once | None = None,
    ) -> Merge:
        """Merge the source into the survivor, or only say what would come of it.

        Raises ProfileNotFound, ProfileConflict when both are one, and ValidationError as
        `merging.plan`.
        """
        now = self._clock()

        def work(edit: Edit) -> list[Profile]:
            merged = merging.merge(
                edit,
                survivor,
                source,
                rules=rules,
                default=default,
                policies=app.policies,
                now=now,
                dry_run=dry_run,
            )
            return [merged.before, merged.survivor, merged.source]

        terms = _Terms(by, None if dry_run else once)
        before, after, gone = await self._edit(app.id, work, Needs([survivor, source]), terms)
        return merging.plan(before, gone, rules, default)._replace(survivor=after)

    async def undo_merge(
        self, app: AppId, source_id: ProfileId, *, by: Source = UNDO, once: Once | None = None
    ) -> Undone:
        """Make the profile that was merged again; what was written since stays where it is.

        Raises ProfileNotFound, HistoryExpired, and ValidationError as `merging.undo`.
        """
        return Undone(
            *await self._edit(
                app,
                lambda edit: merging.undo(edit, source_id),
                Needs([ProfileRef(profile_id=source_id)]),
                _Terms(by, once),
            )
        )

    # --- What was, what changed, how many -------------------------------------------------------

    async def profile_as_of(self, app: AppId, ref: ProfileRef, moment: Moment) -> Profile:
        """Return a profile as it was. Raises ProfileNotFound and HistoryExpired."""
        return await as_of.profile_as_of(self.storage, app, ref, moment)

    async def history(
        self, app: AppId, ref: ProfileRef, *, before: int | None, limit: int
    ) -> list[Change]:
        """Return a profile's changes before a revision, newest first. Raises ProfileNotFound."""
        return await as_of.history_of(self.storage, app, ref, before, limit)

    async def changes(self, app: AppId, cursor: str | None, limit: int) -> ChangesPage:
        """Return an app's changes after a cursor, oldest first. Raises CursorExpired."""
        return await self.storage.changes(app, cursor, limit)

    async def end_of_changes(self) -> str:
        """Return the cursor of whoever wants only what is still to come."""
        return await self.storage.end_of_changes()

    async def prune(self, history_days: int, limit: int) -> int:
        """Delete at most `limit` changes older than that many days, and return how many they were.

        The answers that nobody gets any more go with them.
        """
        now = self._clock()
        return await self.storage.prune(now=now, before=now - history_days * DAY_MS, limit=limit)

    async def coverage(self, app: AppId) -> tuple[Coverage, dict[int, Coverage]]:
        """Return how many profiles have what: now, and at the end of each day that changed it."""
        return coverage_by_day(await self.storage.coverage(app))

    async def shared(self, app: AppId, after: tuple[int, str] | None, limit: int) -> list[Shared]:
        """Return identifiers that several profiles have, in the order of kind and value."""
        return await self.storage.shared(app, after, limit)

    async def count_shared(self, app: AppId) -> dict[int, int]:
        """Return by kind how many identifiers several profiles have."""
        return await self.storage.count_shared(app)

    def _new_profile_id(self) -> ProfileId:
        return ProfileId(str(self._new_uuid()))

    # --- Apps -------------------------------------------------------------------------------

    async def create_app(self, name: str) -> App:
        """Create an app. Raises ValidationError for a bad name, or one that is taken."""
        return await self.storage.create_app(
            str(self._new_uuid()), clean_app_name(name), now=self._clock()
        )

    async def apps(self) -> list[App]:
        """Return all apps, oldest first."""
        return await self.storage.apps()

    async def app(self, name: str) -> App:
        """Return the app of this name. Raises ValidationError when there is none."""
        for app in await self.storage.apps():
            if app.name == name:
                return app
        raise ValidationError(
            f"There is no app {name!r}; `knownas app list` shows those that there are, "
            f"`knownas app create {name}` makes it.",
            source="app",
        )

    async def policies(self, app: App) -> Policies:
        """Return the policies of an app, those of all kinds that are not `allow`."""
        return app.policies

    async def set_policies(self, app: AppId, policies: Policies) -> None:
        """Have kinds follow these policies, all others `allow`; known to all in half a second."""
        await self.storage.set_policies(app, policies)
        self.keyring.forget()

    async def delete_app(self, app: AppId) -> None:
        """Delete an app with its keys and all its profiles."""
        await self.storage.delete_app(app)

    # --- The registry itself ----------------------------------------------------------------

    def now(self) -> int:
        """Return the registry's time of day in milliseconds since 1970, UTC."""
        return self._clock()

    async def ping(self) -> None:
        """Return if the storage answers. Raises ServiceUnavailable if not."""
        await self.storage.ping()

    async def condition(self) -> Condition:
        """Return how the database is. Raises ServiceUnavailable."""
        return await self.storage.condition(now=self._clock())

    async def check(self) -> list[str]:
        """Return a line for each broken promise of the stored data; none when it is sound."""
        return await self.storage.check()

    async def fill_with_demo(
        self, app: AppId, count: int, *, seed: int, progress: Callable[[int], None]
    ) -> int:
        """Add `count` plausible profiles after those that are there; return how many were new.

        `progress` is called with the number of profiles just written.
        """
        start = await self.storage.count_profiles(app)
        added = 0
        for first in range(start, start + count, _DEMO_CHUNK):
            chunk = min(_DEMO_CHUNK, start + count - first)
            now = self._clock()
            made = demo.profiles(seed=seed, start=first, count=chunk, now=now)
            added += await self.storage.add_profiles(app, made, now=now, by=Source("demo"))
            progress(chunk)
        return added

    async def close(self) -> None:
        """Finish what was begun and let go of the storage."""
        await self.keyring.close()
        await self.upstreams.close()
        await self.webhooks.close()
        await self.storage.close()


def _patch(attributes: Mapping[str, str | float | None]) -> Callable[[Profile], Profile]:
    """Return the change that applies an attribute patch."""
    return lambda profile: msgspec.structs.replace(
        profile, attributes=merge_attributes(profile.attributes, attributes)
    )
