"""The storage against a dict: any sequence of uses gives what the dict gives."""

import asyncio
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
from knownas.lookups import Holder, Sought
from knownas.model import (
    ALL_KINDS,
    KIND_NUMBER,
    KINDS,
    NO_IDENTIFIERS,
    AppId,
    Profile,
    ProfileId,
    ProfileRef,
    clear_identifiers,
    merge_identifiers,
)
from storage.conftest import Open, identifiers

T = TypeVar("T")

PROFILE_IDS = [ProfileId(f"00000000-0000-4000-8000-00000000000{digit}") for digit in "1234"]
REFS = strategies.builds(
    ProfileRef,
    strategies.sampled_from([None, "user", "User", "us\u00e9r", "use\u0301r"]),
    strategies.sampled_from([None, *PROFILE_IDS]),
).filter(lambda ref: ref != ProfileRef())
KIND_NAMES = strategies.sampled_from([KINDS[0].name, KINDS[7].name, KINDS[-1].name])
NAMES = strategies.sets(KIND_NAMES)
TEXTS = strategies.sampled_from(["a", "b", "\u00e9", "'; DROP TABLE profiles --"])
VALUES = strategies.dictionaries(KIND_NAMES, TEXTS, min_size=1)


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

    @initialize()
    def make_apps(self) -> None:
        """Make two apps, each to be blind for the other."""
        for name in ("one", "two"):
            app = self.run(lambda name=name: self.storage.create_app(name, name, now=0))  # type: ignore[misc]
            self.expected[app.id] = {}

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
                after = msgspec.structs.replace(after, updated_at=self.now)
            return after

        kept = self.same_outcome(
            lambda: self.storage.change_profile(
                app, ref, merged, now=self.now, create_as=new_id if create else None
            ),
            expected,
        )
        if kept is not None:
            self.expected[app][kept.profile_id] = kept

    @rule(first=strategies.booleans(), refs=strategies.lists(REFS, max_size=4), values=VALUES)
    def add(self, *, first: bool, refs: list[ProfileRef], values: dict[str, str]) -> None:
        """Add several profiles, some of which are there already."""
        app = min(self.expected) if first else max(self.expected)
        brought = []
        for ref in refs:
            profile_id = ref.profile_id or self.new_id()
            set_before = merge_identifiers(NO_IDENTIFIERS, values)
            brought.append(Profile(profile_id, ref.customer_user_id, set_before, (), 0, 0))
        before = len(self.expected[app])
        for profile in brought:
            ref = ProfileRef(profile.customer_user_id, profile.profile_id)
            if self.found(app, ref) == (None, None):
                self.expected[app][profile.profile_id] = profile
        added = self.run(lambda: self.storage.add_profiles(app, brought))
        assert added == len(self.expected[app]) - before

    @rule(first=strategies.booleans(), ref=REFS)
    def delete(self, *, first: bool, ref: ProfileRef) -> None:
        """Delete a profile."""
        app = min(self.expected) if first else max(self.expected)
        gone = self.same_outcome(
            lambda: self.storage.delete_profile(app, ref),
            lambda: ref.settle(*self.found(app, ref)),
        )
        if gone is not None:
            del self.expected[app][gone.profile_id]

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
            return (
                before if after == before else msgspec.structs.replace(after, updated_at=self.now)
            )

        kept = self.same_outcome(
            lambda: self.storage.change_profile(app, ref, cleared, now=self.now), expected
        )
        if kept is not None:
            self.expected[app][kept.profile_id] = kept

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
        """Count the profiles, and close the database."""
        for app, profiles in self.expected.items():
            assert self.run(lambda app=app: self.storage.count_profiles(app)) == len(profiles)  # type: ignore[misc]
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
