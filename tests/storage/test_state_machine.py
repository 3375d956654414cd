"""The storage against a dict: any sequence of uses gives what the dict gives."""

import asyncio
import functools
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import TypeVar

import msgspec
import pytest
from hypothesis import settings, strategies
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from conftest import TIMES
from knownas import merging, writes
from knownas.editing import Ages, Alias, Answer, Edit, TakenBack, alias_names
from knownas.erasing import (
    Erasure,
    Person,
    Record,
    Subjects,
    Tombstone,
    Whom,
    names_of,
    profile_name,
)
from knownas.errors import KnownasError
from knownas.history import ALL_PROFILES, SERVER, Change, difference
from knownas.lookups import Holder, Sought
from knownas.model import (
    ALL_KINDS,
    KIND_NUMBER,
    KINDS,
    NO_IDENTIFIERS,
    AppId,
    Policies,
    Policy,
    Profile,
    ProfileId,
    ProfileRef,
    clear_identifiers,
    merge_identifiers,
)
from knownas.storage import rows
from knownas.webhooks.applying import apply
from knownas.webhooks.received import Event, Party, Told
from storage.conftest import VAULT, Open, identifiers
from storage.erased import DictErasures, refuse_erased
from storage.erased import Told as ToldOf

T = TypeVar("T")

PATIENCE = 100
PROFILE_IDS = [ProfileId(f"00000000-0000-4000-8000-00000000000{digit}") for digit in "1234"]
REFS = strategies.builds(
    ProfileRef,
    strategies.sampled_from([None, "user", "User", "us\u00e9r", "use\u0301r"]),
    strategies.sampled_from([None, *PROFILE_IDS]),
).filter(lambda ref: ref != ProfileRef())
POLICIES: list[Policy] = ["allow", "reject", "move"]
KIND_NAMES = strategies.sampled_from([KINDS[0].name, KINDS[7].name, KINDS[-1].name])
NAMES = strategies.sets(KIND_NAMES)
TEXTS = strategies.sampled_from(["a", "b", "\u00e9", "'; DROP TABLE profiles --"])
VALUES = strategies.dictionaries(KIND_NAMES, TEXTS, min_size=1)


SUBJECTS = Subjects(VAULT)


def unordered(person: Person) -> Person:
    """Return a person with its names in one order."""
    ids, customers = sorted(person.profile_ids), sorted(person.customers)
    return person._replace(profile_ids=tuple(ids), customers=tuple(customers))


class DictEdit:
    """An edit on the machine's dicts: what any storage's edit has to do."""

    def __init__(self, machine: "StorageMachine", app: AppId) -> None:
        """Change what `machine` expects of an app."""
        self.machine = machine
        self.app = app

    def run(self, work: Callable[[Edit], T]) -> T:
        """Do `work`, and take it back where it raises."""
        kept = (
            dict(self.machine.expected[self.app]),
            *(
                dict(it)
                for it in (
                    self.machine.revisions,
                    self.machine.seen,
                    self.machine.changes,
                    self.machine.aliases,
                    self.machine.answers,
                    self.machine.ages,
                )
            ),
            set(self.machine.erased),
            list(self.machine.told),
        )
        try:
            return work(self)
        except KnownasError:
            self.machine.expected[self.app] = kept[0]  # type: ignore[assignment] # in this order
            (
                self.machine.revisions,
                self.machine.seen,
                self.machine.changes,
                self.machine.aliases,
                self.machine.answers,
                self.machine.ages,
                self.machine.erased,
                self.machine.told,
            ) = kept[1:]  # type: ignore[assignment] # as above
            raise

    def find(self, ref: ProfileRef) -> tuple[Profile | None, Profile | None]:
        """See `Edit.find`."""
        profiles = self.machine.expected[self.app]
        by_customer = by_id = None
        of_customer, of_id = alias_names(ref)
        if of_customer is not None:
            owners = [it for it in profiles.values() if it.customer_user_id == ref.customer_user_id]
            by_customer = owners[0] if owners else self.follow(of_customer)
        if ref.profile_id is not None and of_id is not None:
            by_id = profiles.get(ref.profile_id) or self.follow(of_id)
        return by_customer, by_id

    def follow(self, name: str) -> Profile | None:
        """Return the profile to which an alias leads."""
        alias = self.alias(name)
        if alias is None:
            return None
        live = self.machine.expected[self.app].get(alias.profile_id)
        return live or self.follow(f"p:{alias.profile_id}")

    def admit(self, before: Profile | None, after: Profile) -> None:
        """See `Edit.admit`."""
        refuse_erased(self.machine, self.app, before, after, anew=False)

    def put(
        self,
        before: Profile | None,
        after: Profile,
        *,
        exclusive: Collection[int] = (),
        anew: bool = False,
        undoes: TakenBack | None = None,
    ) -> Profile:
        """See `Edit.put`."""
        del exclusive
        if after == before and undoes is None:
            return after
        after = refuse_erased(self.machine, self.app, before, after, anew=anew)
        kept = msgspec.structs.replace(
            after,
            updated_at=self.machine.now,
            revision=self.machine.next_revision(self.app, after.profile_id),
        )
        self.machine.note(self.app, after.profile_id, kept, undoes)
        return kept

    def remove(self, profile: Profile) -> int:
        """See `Edit.remove`."""
        self.machine.note(self.app, profile.profile_id, None)
        return profile.revision + 1

    def holders(self, kind: int, value: str) -> list[Profile]:
        """See `Edit.holders`."""
        profiles = self.machine.expected[self.app].values()
        return [it for it in profiles if it.identifiers[kind] == value]

    def change(self, profile_id: ProfileId, revision: int) -> Change | None:
        """See `Edit.change`."""
        return self.machine.changes.get((self.app, profile_id, revision))

    def alias(self, name: str) -> Alias | None:
        """See `Edit.alias`."""
        return self.machine.aliases.get((self.app, name))

    def lead(self, name: str, alias: Alias | None) -> None:
        """See `Edit.lead`."""
        if alias is None:
            self.machine.aliases.pop((self.app, name), None)
        else:
            self.machine.aliases[self.app, name] = alias

    def ages(self, profile: Profile) -> Mapping[int, int]:
        """See `Edit.ages`."""
        place = (self.app, profile.profile_id)
        kept = self.machine.ages.get(place, Ages())
        changes = (
            self.machine.changes[(*place, revision)]
            for revision in range(kept.revision + 1, profile.revision + 1)
        )
        return kept.followed_by((it.at, it.difference) for it in changes)

    def keep_ages(self, profile: Profile, times: Mapping[int, int]) -> None:
        """See `Edit.keep_ages`."""
        self.machine.ages[self.app, profile.profile_id] = Ages(profile.revision, dict(times))

    def answer(self, key: str) -> Answer | None:
        """See `Edit.answer`."""
        return self.machine.answers.get((self.app, key))

    def keep_answer(self, key: str, answer: Answer) -> None:
        """See `Edit.keep_answer`."""
        self.machine.answers[self.app, key] = answer


class StorageMachine(RuleBasedStateMachine):
    """Two apps, a few customers and ids, all that the storage does to a profile."""

    def __init__(self, open_storage: Open) -> None:
        """Open an empty database."""
        super().__init__()
        self.runner = asyncio.Runner()
        self.storage = self.run(open_storage)
        self.now = 0
        self.made = 0
        self.expected: dict[AppId, dict[ProfileId, Profile]] = {}
        self.revisions: dict[tuple[AppId, ProfileId], int] = {}
        """The last revision of each id, of deleted profiles too."""
        self.seen: dict[tuple[AppId, ProfileId, int], Profile | None] = {}
        """Every state that there was."""
        self.followed: dict[AppId, dict[ProfileId, Profile]] = {}
        """What a follower of the feed has made of it."""
        self.cursors: dict[AppId, str | None] = {}
        self.changes: dict[tuple[AppId, ProfileId, int], Change] = {}
        self.aliases: dict[tuple[AppId, str], Alias] = {}
        self.answers: dict[tuple[AppId, str], Answer] = {}
        self.ages: dict[tuple[AppId, ProfileId], Ages] = {}
        self.erased: set[tuple[AppId, str]] = set()
        """The names under which nobody has begun anew since they were erased."""
        self.told: list[tuple[AppId, ToldOf]] = []
        """Of whom else changes tell."""
        self.keys: dict[AppId, bytes] = {}

    @initialize()
    def make_apps(self) -> None:
        """Make two apps, each to be blind for the other."""
        for name in ("one", "two"):
            app = self.run(lambda name=name: self.storage.create_app(name, name, now=0))  # type: ignore[misc]
            self.expected[app.id] = {}
            self.followed[app.id] = {}
            self.cursors[app.id] = None
            sealed = SUBJECTS.new_key(app.uuid)
            self.keys[app.id] = sealed
            put_key = functools.partial(
                self.storage.erasures.put_key, app.id, SUBJECTS.key_id(app.uuid, sealed), sealed
            )
            self.run(put_key)

    def note(
        self,
        app: AppId,
        profile_id: ProfileId,
        after: Profile | None,
        undoes: TakenBack | None = None,
        *,
        is_other: bool = False,
    ) -> None:
        """Remember what a profile has become; `after` has the revision that it must have.

        It may be another one in the place of the one before.
        """
        revision = self.revisions.get((app, profile_id), 0) + 1
        assert after is None or after.revision == revision
        self.revisions[app, profile_id] = revision
        before = self.expected[app].get(profile_id)
        differs = difference(before, after, takes_back=undoes.revision if undoes else 0)
        if (name := rows.about(before, after, undoes)) is not None:
            self.told.append((app, ToldOf(name, profile_id, revision)))
        self.changes[app, profile_id, revision] = Change(
            "", profile_id, revision, self.now, SERVER, differs
        )
        self.seen[app, profile_id, revision] = after
        if before is None or after is None or is_other:
            self.ages.pop((app, profile_id), None)
        if after is None:
            del self.expected[app][profile_id]
        else:
            self.expected[app][profile_id] = after
            for name in alias_names(ProfileRef(after.customer_user_id, profile_id)):
                self.aliases.pop((app, name or ""), None)

    def is_erased(self, app: AppId, profile: Profile) -> bool:
        """Tell whether a profile may not come back."""
        return any((app, name) in self.erased for name in names_of(profile))

    def next_revision(self, app: AppId, profile_id: ProfileId) -> int:
        """Return the revision of the next state of a profile."""
        return self.revisions.get((app, profile_id), 0) + 1

    def run(self, use: Callable[[], Awaitable[T]]) -> T:
        """Run one use of the storage to its end."""

        async def main() -> T:
            return await use()

        return self.runner.run(main())

    def new_id(self) -> ProfileId:
        """Return an id that was not given out before."""
        self.made += 1
        return ProfileId(f"10000000-0000-4000-8000-{self.made:012}")

    def found(self, app: AppId, ref: ProfileRef) -> tuple[Profile | None, Profile | None]:
        """Return what the dict has for the two halves of a reference."""
        return DictEdit(self, app).find(ref)

    def same_outcome(self, use: Callable[[], Awaitable[T]], expected: Callable[[], T]) -> T | None:
        """Check that both return the same, or raise the same error."""
        try:
            wanted = expected()
        except KnownasError as error:
            with pytest.raises(type(error)):
                self.run(use)
            return None
        assert self.run(use) == wanted
        return wanted

    @rule(
        first=strategies.booleans(),
        ref=REFS,
        values=VALUES,
        create=strategies.sampled_from(["no", "yes", "anew"]),
    )
    def change(self, *, first: bool, ref: ProfileRef, values: dict[str, str], create: str) -> None:
        """Set identifiers, on an existing or a new profile."""
        app = min(self.expected) if first else max(self.expected)
        self.now += 1
        new_id = self.new_id()

        def merged(profile: Profile) -> Profile:
            return msgspec.structs.replace(
                profile, identifiers=merge_identifiers(profile.identifiers, values)
            )

        def expected() -> Profile:
            by_customer, by_id = self.found(app, ref)
            if create == "no":
                after = merged(ref.settle(by_customer, by_id))
            else:
                after = merged(ref.settle_or_new(by_customer, by_id, new_id, self.now))
                before = by_customer or by_id
                after = refuse_erased(self, app, before, after, anew=create == "anew")
            if after != self.expected[app].get(after.profile_id):
                after = msgspec.structs.replace(
                    after,
                    updated_at=self.now,
                    revision=self.next_revision(app, after.profile_id),
                )
            return after

        kept = self.same_outcome(
            lambda: self.storage.change_profile(
                app,
                ref,
                merged,
                now=self.now,
                create_as=None if create == "no" else new_id,
                anew=create == "anew",
            ),
            expected,
        )
        if kept is not None and kept != self.expected[app].get(kept.profile_id):
            self.note(app, kept.profile_id, kept)

    @rule(first=strategies.booleans(), refs=strategies.lists(REFS, max_size=4), values=VALUES)
    def add(self, *, first: bool, refs: list[ProfileRef], values: dict[str, str]) -> None:
        """Add several profiles, some of which are there already."""
        app = min(self.expected) if first else max(self.expected)
        self.now += 1
        brought = []
        for ref in refs:
            profile_id = ref.profile_id or self.new_id()
            set_before = merge_identifiers(NO_IDENTIFIERS, values)
            brought.append(Profile(profile_id, ref.customer_user_id, set_before, (), 0, 0))
        before = len(self.expected[app])
        for profile in brought:
            ref = ProfileRef(profile.customer_user_id, profile.profile_id)
            if self.found(app, ref) == (None, None) and not self.is_erased(app, profile):
                revision = self.next_revision(app, profile.profile_id)
                added_one = msgspec.structs.replace(profile, revision=revision)
                self.note(app, profile.profile_id, added_one)
        added = self.run(lambda: self.storage.add_profiles(app, brought, now=self.now))
        assert added == len(self.expected[app]) - before

    @rule(first=strategies.booleans(), ref=REFS)
    def delete(self, *, first: bool, ref: ProfileRef) -> None:
        """Delete a profile."""
        app = min(self.expected) if first else max(self.expected)
        self.now += 1
        gone = self.same_outcome(
            lambda: self.storage.delete_profile(app, ref, now=self.now),
            lambda: ref.settle(*self.found(app, ref)),
        )
        if gone is not None:
            self.note(app, gone.profile_id, None)

    @rule(first=strategies.booleans(), refs=strategies.lists(REFS, max_size=3), values=VALUES)
    def replace(self, *, first: bool, refs: list[ProfileRef], values: dict[str, str]) -> None:
        """Put profiles in the place of those with their ids, or delete these."""
        app = min(self.expected) if first else max(self.expected)
        self.now += 1
        gone = [ref.profile_id for ref in refs if ref.profile_id is not None]
        brought: dict[ProfileId, Profile] = {}
        left = {key: it for key, it in self.expected[app].items() if key not in gone}
        for ref in refs:
            profile_id = ref.profile_id or self.new_id()
            identifiers = merge_identifiers(NO_IDENTIFIERS, values)
            brought[profile_id] = Profile(
                profile_id, ref.customer_user_id, identifiers, (), 0, self.now
            )
        new: dict[ProfileId, Profile] = {}
        before, self.expected[app] = self.expected[app], left
        for key, one in brought.items():
            ref = ProfileRef(one.customer_user_id, key)
            if self.found(app, ref) == (None, None) and not self.is_erased(app, one):
                new[key] = msgspec.structs.replace(one, revision=self.next_revision(app, key))
                self.expected[app] = {**self.expected[app], key: new[key]}
        self.expected[app] = before
        for key in set(gone) & self.expected[app].keys() - new.keys():
            self.note(app, key, None)
        for key, one in new.items():
            self.note(app, key, one, is_other=key in gone)
        added = self.run(
            lambda: self.storage.replace_profiles(app, gone, brought.values(), now=self.now)
        )
        assert added == len(new)

    def edit(self, app: AppId, work: Callable[[Edit], T]) -> T | None:
        """Run an edit on the storage and on the dict, and compare what they return or raise."""
        self.now += 1
        return self.same_outcome(
            lambda: self.storage.edit(app, work, now=self.now),
            lambda: DictEdit(self, app).run(work),
        )

    @rule(
        first=strategies.booleans(),
        refs=strategies.lists(REFS, min_size=1, max_size=3),
        values=VALUES,
        policy=strategies.sampled_from(POLICIES),
        atomic=strategies.booleans(),
        key=strategies.sampled_from([None, "a", "b"]),
    )
    def write_batch(  # noqa: PLR0913 - all that a batch is made of
        self,
        *,
        first: bool,
        refs: list[ProfileRef],
        values: dict[str, str],
        policy: Policy,
        atomic: bool,
        key: str | None,
    ) -> None:
        """Set and clear identifiers on several profiles by one policy, perhaps a second time."""
        app = min(self.expected) if first else max(self.expected)
        policies: Policies = dict.fromkeys([KINDS[0].name, KINDS[7].name], policy)
        new_ids = {number: self.new_id() for number in range(0, len(refs), 2)}
        settings = [
            writes.Setting(ref, values, [KINDS[-1].name][:number], new_ids.get(number))
            for number, ref in enumerate(refs)
        ]
        request = None if key is None else writes.Once(key, repr((refs, values)).encode())

        def work(edit: Edit) -> object:
            return writes.once(
                edit,
                request,
                self.now,
                lambda: writes.write_batch(edit, settings, policies, self.now, atomic=atomic),
            )

        self.edit(app, work)

    @rule(
        first=strategies.booleans(),
        ref=REFS,
        others=strategies.lists(REFS, max_size=2),
        values=VALUES,
        ago=strategies.sampled_from([0, 1, 3, -5]),
    )
    def tell(
        self,
        *,
        first: bool,
        ref: ProfileRef,
        others: list[ProfileRef],
        values: dict[str, str],
        ago: int,
    ) -> None:
        """Have an event tell identifiers that it has from some time ago."""
        app = min(self.expected) if first else max(self.expected)
        new_id = self.new_id()
        at = max(self.now - ago, 0)
        parties = [Party(one.profile_id, one.customer_user_id) for one in (ref, *others)]
        told = {name: Told(value, at) for name, value in values.items()}
        event = Event(None, parties[0], told, parties[1:])

        def work(edit: Edit) -> object:
            return apply(edit, event, policies={}, now=self.now, create_as=new_id)

        self.edit(app, work)

    @rule(
        first=strategies.booleans(),
        profile_id=strategies.sampled_from(PROFILE_IDS),
        customer=strategies.sampled_from([None, "user", "User"]),
        rebind=strategies.booleans(),
    )
    def bind(
        self, *, first: bool, profile_id: ProfileId, customer: str | None, rebind: bool
    ) -> None:
        """Have a customer change hands."""
        app = min(self.expected) if first else max(self.expected)
        self.edit(app, lambda edit: writes.bind_customer(edit, profile_id, customer, rebind=rebind))

    @rule(
        first=strategies.booleans(),
        survivor=REFS,
        source=REFS,
        default=strategies.sampled_from(["survivor", "source"]),
        dry_run=strategies.booleans(),
    )
    def merge(
        self,
        *,
        first: bool,
        survivor: ProfileRef,
        source: ProfileRef,
        default: merging.Side,
        dry_run: bool,
    ) -> None:
        """Make one profile of two."""
        app = min(self.expected) if first else max(self.expected)
        self.edit(
            app,
            lambda edit: merging.merge(
                edit,
                survivor,
                source,
                rules={},
                default=default,
                policies={},
                now=self.now,
                dry_run=dry_run,
            ),
        )

    @rule(first=strategies.booleans(), profile_id=strategies.sampled_from(PROFILE_IDS))
    def undo_merge(self, *, first: bool, profile_id: ProfileId) -> None:
        """Make two profiles of one again."""
        app = min(self.expected) if first else max(self.expected)
        self.edit(app, lambda edit: merging.undo(edit, profile_id))

    @rule(
        first=strategies.booleans(),
        whom=strategies.one_of(
            REFS.filter(lambda ref: None in msgspec.structs.astuple(ref)).map(Whom),
            TEXTS.map(lambda value: Whom(None, ALL_KINDS, value)),
        ),
    )
    def erase(self, *, first: bool, whom: Whom) -> None:
        """Erase a person, by whatever name or value."""
        app = min(self.expected) if first else max(self.expected)
        self.now += 1
        erasure_id = self.new_id()

        def record(person: Person) -> Record:
            stones = [
                Tombstone(subject, erasure_id, self.now)
                for subject in self.subjects(app, person.names)
            ]
            return Record(erasure_id, stones, Erasure(erasure_id, self.now, "{}"))

        async def erased() -> Person:
            return unordered(
                await self.storage.erasures.erase(app, whom, record, now=self.now, by=SERVER)
            )

        self.same_outcome(erased, lambda: unordered(DictErasures(self, app).erase(whom)))

    def subjects(self, app: AppId, names: Sequence[str]) -> list[bytes]:
        """Return the subjects of names."""
        uuid = "one" if app == min(self.expected) else "two"
        return SUBJECTS.of(uuid, [self.keys[app]], names)

    def forget_erased(self, app: AppId) -> None:
        """Do as a follower does who is told of an erasure: ask who of those it knows was erased."""
        ids = list(self.followed[app])
        subjects = self.subjects(app, list(map(profile_name, ids)))
        stones = self.run(lambda: self.storage.erasures.tombstones(app, subjects))
        erased_at = {stone.subject: stone.erased_at for stone in stones}
        for profile_id, subject in zip(ids, subjects, strict=True):
            if self.followed[app][profile_id].created_at < erased_at.get(subject, 0):
                del self.followed[app][profile_id]

    @rule(first=strategies.booleans(), limit=strategies.sampled_from([1, 2, 1000]))
    def follow(self, *, first: bool, limit: int) -> None:
        """Read on in the feed, and change the follower's copy accordingly."""
        app = min(self.expected) if first else max(self.expected)
        page = self.run(lambda: self.storage.changes(app, self.cursors[app], limit))
        self.cursors[app] = page.cursor
        for change in page.changes:
            if change.action == "erased":
                self.forget_erased(app)
                continue
            before = self.followed[app].get(change.profile_id)
            after = change.after(before)
            # One who was read before an erasure may have more, until its next change.
            if before == self.seen.get((app, change.profile_id, change.revision - 1)):
                assert change.before(after) == before
                assert after == self.seen[app, change.profile_id, change.revision]
            if after is None:
                del self.followed[app][change.profile_id]
            else:
                self.followed[app][change.profile_id] = after

    @rule(first=strategies.booleans(), profile_id=strategies.sampled_from(PROFILE_IDS))
    def walk_back(self, *, first: bool, profile_id: ProfileId) -> None:
        """Take a profile back through its history, to every state that it had."""
        app = min(self.expected) if first else max(self.expected)
        state = self.expected[app].get(profile_id)
        changes = self.run(lambda: self.storage.history(app, profile_id, before=None, limit=1000))
        assert [it.revision for it in changes] == list(range(len(changes), 0, -1))
        for change in changes:
            assert state == self.seen[app, profile_id, change.revision]
            state = change.before(state)
        assert state is None

    @rule(first=strategies.booleans())
    def count(self, *, first: bool) -> None:
        """Hold what is counted against what there is."""
        app = min(self.expected) if first else max(self.expected)
        profiles = self.expected[app].values()
        counted = Counter({ALL_PROFILES: len(profiles)})
        holders: Counter[tuple[int, str]] = Counter()
        for one in profiles:
            held = [(kind, value) for kind, value in enumerate(one.identifiers) if value]
            counted.update(kind for kind, _ in held)
            holders.update(held)
        total: Counter[int] = Counter()
        for of_day in self.run(lambda: self.storage.coverage(app)):
            total[of_day.kind] += of_day.change
        assert +total == +counted
        shared = {key: count for key, count in holders.items() if count > 1}
        listed = self.run(lambda: self.storage.shared(app, None, 1000))
        assert [(it.kind, it.value) for it in listed] == sorted(shared)
        assert {(it.kind, it.value): it.profiles for it in listed} == shared
        by_kind = self.run(lambda: self.storage.count_shared(app))
        assert by_kind == Counter(kind for kind, _ in shared)

    @rule(first=strategies.booleans(), ref=REFS)
    def read(self, *, first: bool, ref: ProfileRef) -> None:
        """Read a profile, whole and by its identifiers alone."""
        app = min(self.expected) if first else max(self.expected)
        found = self.same_outcome(
            lambda: self.storage.profile(app, ref), lambda: ref.settle(*self.found(app, ref))
        )
        if found is not None:
            of_hot_read = self.run(lambda: identifiers(self.storage, app, ref))
            assert of_hot_read == found.identifiers

    @rule(first=strategies.booleans(), ref=REFS, names=NAMES)
    def clear(self, *, first: bool, ref: ProfileRef, names: set[str]) -> None:
        """Clear identifiers of an existing profile."""
        app = min(self.expected) if first else max(self.expected)
        self.now += 1

        def cleared(profile: Profile) -> Profile:
            kinds = {KIND_NUMBER[name] for name in names}
            return msgspec.structs.replace(
                profile, identifiers=clear_identifiers(profile.identifiers, kinds)
            )

        def expected() -> Profile:
            before = ref.settle(*self.found(app, ref))
            after = cleared(before)
            if after == before:
                return before
            return msgspec.structs.replace(after, updated_at=self.now, revision=before.revision + 1)

        kept = self.same_outcome(
            lambda: self.storage.change_profile(app, ref, cleared, now=self.now), expected
        )
        if kept is not None and kept != self.expected[app].get(kept.profile_id):
            self.note(app, kept.profile_id, kept)

    @rule(first=strategies.booleans(), refs=strategies.lists(REFS, max_size=6))
    def read_many(self, *, first: bool, refs: list[ProfileRef]) -> None:
        """Read several profiles at once, some of which are not there."""
        app = min(self.expected) if first else max(self.expected)
        for ref, answer in zip(
            refs, self.run(lambda: self.storage.profiles(app, refs)), strict=True
        ):
            if isinstance(answer, Profile):
                assert answer == ref.settle(*self.found(app, ref))
            else:
                with pytest.raises(type(answer)):
                    ref.settle(*self.found(app, ref))

    @rule(first=strategies.booleans(), value=TEXTS, limit=strategies.integers(1, 4))
    def find(self, *, first: bool, value: str, limit: int) -> None:
        """Find who has a value, page by page."""
        app = min(self.expected) if first else max(self.expected)
        sought = Sought(ALL_KINDS, value, limit)
        found: list[Holder] = []
        while True:
            (page,) = self.run(lambda s=sought: self.storage.holders_of_each(app, [s]))  # type: ignore[misc]
            found += page.found
            if page.next is None:
                break
            sought = sought._replace(after=page.next)
        expected = [
            Holder(kind, profile)
            for kind in ALL_KINDS
            for profile in self.expected[app].values()
            if profile.identifiers[kind] == value
        ]
        assert len(found) == len(expected)
        assert all(holder in expected for holder in found)
        assert [holder.kind for holder in found] == [holder.kind for holder in expected]

    @invariant()
    def is_sound(self) -> None:
        """Hold the tables to each other."""
        assert self.run(self.storage.check) == []

    def teardown(self) -> None:
        """Count the profiles, compare them with the follower's, and close the database."""
        for app, profiles in self.expected.items():
            assert self.run(lambda app=app: self.storage.count_profiles(app)) == len(profiles)  # type: ignore[misc]
            for _ in range(PATIENCE):  # somebody else's transaction may hold up the feed
                self.follow(first=app == min(self.expected), limit=10_000)
                if self.followed[app] == profiles:
                    break
                time.sleep(0.02)
            assert self.followed[app] == profiles
        self.run(self.storage.close)
        self.runner.close()


@pytest.mark.timeout(600 * TIMES)
def test_storage_does_as_a_dict_does(new_database: Callable[[], Open]) -> None:
    """Whatever sequence of uses is made, each returns or raises what it does on the dict."""

    class Machine(StorageMachine):
        """Each run has a database of its own."""

        def __init__(self) -> None:
            """Open it."""
            super().__init__(new_database())

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=10 * TIMES, stateful_step_count=25, deadline=None, derandomize=True
        ),
    )
