"""The storage against a dict: any sequence of uses gives what the dict gives."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
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

from knownas.errors import KnownasError
from knownas.history import ALL_PROFILES
from knownas.model import (
    KINDS,
    NO_IDENTIFIERS,
    AppId,
    Profile,
    ProfileId,
    ProfileRef,
    merge_identifiers,
)
from storage.conftest import Open, identifiers

T = TypeVar("T")

PATIENCE = 100
PROFILE_IDS = [ProfileId(f"00000000-0000-4000-8000-00000000000{digit}") for digit in "1234"]
REFS = strategies.builds(
    ProfileRef,
    strategies.sampled_from([None, "user", "User", "us\u00e9r", "use\u0301r"]),
    strategies.sampled_from([None, *PROFILE_IDS]),
).filter(lambda ref: ref != ProfileRef())
VALUES = strategies.dictionaries(
    strategies.sampled_from([KINDS[0].name, KINDS[7].name, KINDS[-1].name]),
    strategies.sampled_from(["a", "b", "\u00e9", "'; DROP TABLE profiles --"]),
    min_size=1,
)


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

    @initialize()
    def make_apps(self) -> None:
        """Make two apps, each to be blind for the other."""
        for name in ("one", "two"):
            app = self.run(lambda name=name: self.storage.create_app(name, name, now=0))  # type: ignore[misc]
            self.expected[app.id] = {}
            self.followed[app.id] = {}
            self.cursors[app.id] = None

    def note(self, app: AppId, profile_id: ProfileId, after: Profile | None) -> None:
        """Remember what a profile has become; `after` has the revision that it must have."""
        revision = self.revisions.get((app, profile_id), 0) + 1
        assert after is None or after.revision == revision
        self.revisions[app, profile_id] = revision
        self.seen[app, profile_id, revision] = after
        if after is None:
            del self.expected[app][profile_id]
        else:
            self.expected[app][profile_id] = after

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
        profiles = self.expected[app]
        by_customer = [
            profile
            for profile in profiles.values()
            if ref.customer_user_id is not None and profile.customer_user_id == ref.customer_user_id
        ]
        by_id = profiles.get(ref.profile_id) if ref.profile_id is not None else None
        return (by_customer[0] if by_customer else None), by_id

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

    @rule(first=strategies.booleans(), ref=REFS, values=VALUES, create=strategies.booleans())
    def change(self, *, first: bool, ref: ProfileRef, values: dict[str, str], create: bool) -> None:
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
            if create:
                after = merged(ref.settle_or_new(by_customer, by_id, new_id, self.now))
            else:
                after = merged(ref.settle(by_customer, by_id))
            if after != self.expected[app].get(after.profile_id):
                after = msgspec.structs.replace(
                    after,
                    updated_at=self.now,
                    revision=self.next_revision(app, after.profile_id),
                )
            return after

        kept = self.same_outcome(
            lambda: self.storage.change_profile(
                app, ref, merged, now=self.now, create_as=new_id if create else None
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
            if self.found(app, ref) == (None, None):
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
        customers = {it.customer_user_id for it in left.values()} - {None}
        for key, one in brought.items():
            if one.customer_user_id not in customers and key not in left:
                new[key] = msgspec.structs.replace(one, revision=self.next_revision(app, key))
                customers |= {one.customer_user_id} - {None}
        for key in set(gone) & self.expected[app].keys() - new.keys():
            self.note(app, key, None)
        for key, one in new.items():
            self.note(app, key, one)
        added = self.run(
            lambda: self.storage.replace_profiles(app, gone, brought.values(), now=self.now)
        )
        assert added == len(new)

    @rule(first=strategies.booleans(), limit=strategies.sampled_from([1, 2, 1000]))
    def follow(self, *, first: bool, limit: int) -> None:
        """Read on in the feed, and change the follower's copy accordingly."""
        app = min(self.expected) if first else max(self.expected)
        page = self.run(lambda: self.storage.changes(app, self.cursors[app], limit))
        self.cursors[app] = page.cursor
        for change in page.changes:
            before = self.followed[app].get(change.profile_id)
            assert change.before(change.after(before)) == before
            after = change.after(before)
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


def test_storage_does_as_a_dict_does(new_database: Callable[[], Open]) -> None:
    """Whatever sequence of uses is made, each returns or raises what it does on the dict."""

    class Machine(StorageMachine):
        """Each run has a database of its own."""

        def __init__(self) -> None:
            """Open it."""
            super().__init__(new_database())

    run_state_machine_as_test(
        Machine,
        settings=settings(max_examples=25, stateful_step_count=25, deadline=None, derandomize=True),
    )
