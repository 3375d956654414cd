"""Two profiles become one, and two again: what the storage promises, for every backend."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from knownas import merging, writes
from knownas.editing import Needs
from knownas.errors import (
    HistoryExpired,
    IdentifierTaken,
    ProfileConflict,
    ProfileNotFound,
    ValidationError,
)
from knownas.merging import Merge, Side, Undone
from knownas.model import (
    KIND_NUMBER,
    KINDS,
    NO_IDENTIFIERS,
    App,
    AppId,
    Policies,
    Profile,
    ProfileId,
    ProfileRef,
    merge_identifiers,
)
from knownas.storage import Storage
from knownas.writes import Setting
from storage.conftest import Open, identifiers

pytestmark = pytest.mark.anyio

BRANCH, ADJUST = KIND_NUMBER["branch_id"], KIND_NUMBER["adjust_device_id"]
IDS = [ProfileId(f"{number:08x}-0000-4000-8000-{number:012}") for number in range(100)]
NEW_ID: Final = IDS[99]


def by_id(number: int) -> ProfileRef:
    """Return a reference by profile id."""
    return ProfileRef(profile_id=IDS[number])


def profile(number: int, customer: str | None = None, **values: str) -> Profile:
    """Return a profile as the tests store it."""
    return Profile(
        IDS[number], customer, merge_identifiers(NO_IDENTIFIERS, values), (("plan", "gold"),), 1, 1
    )


def setting(**values: str) -> Callable[[Profile], Profile]:
    """Return the change that sets identifiers."""
    return lambda one: msgspec.structs.replace(
        one, identifiers=merge_identifiers(one.identifiers, values)
    )


async def added(storage: Storage, app: App, *profiles: Profile) -> None:
    """Add profiles."""
    assert await storage.add_profiles(app.id, profiles, now=1) == len(profiles)


async def merge(  # noqa: PLR0913 - two profiles, and how they are to become one
    storage: Storage,
    app: AppId,
    survivor: ProfileRef,
    source: ProfileRef,
    *,
    rules: Mapping[str, Side] = {},
    default: Side = "survivor",
    policies: Policies = {},  # noqa: B006 - as above
    dry_run: bool = False,
) -> Merge:
    """Merge the source into the survivor."""
    return await storage.edit(
        app,
        lambda edit: merging.merge(
            edit,
            survivor,
            source,
            rules=rules,
            default=default,
            policies=policies,
            now=5,
            dry_run=dry_run,
        ),
        now=5,
        needs=Needs([survivor, source]),
    )


async def undo(storage: Storage, app: AppId, source: ProfileId) -> Undone:
    """Make two profiles of one again."""
    return await storage.edit(
        app,
        lambda edit: merging.undo(edit, source),
        now=6,
        needs=Needs([ProfileRef(profile_id=source)]),
    )


async def resolved(storage: Storage, app: App, ref: ProfileRef) -> ProfileId:
    """Return which profile a reference names, the same by every way to read it."""
    found = await storage.profile(app.id, ref)
    assert await storage.profiles(app.id, [ref]) == [found]
    assert await identifiers(storage, app.id, ref) == found.identifiers
    return found.profile_id


async def is_nobody(storage: Storage, app: App, ref: ProfileRef) -> bool:
    """Tell whether a reference names no profile, by every way to read it."""
    (answer,) = await storage.profiles(app.id, [ref])
    for read in (storage.profile(app.id, ref), identifiers(storage, app.id, ref)):
        try:
            await read
        except ProfileNotFound:
            continue
        return False
    return isinstance(answer, ProfileNotFound)


# --- One of two ---------------------------------------------------------------------------------


async def test_survivor_takes_over_what_the_source_has(storage: Storage, app: App) -> None:
    """Rules decide where both have something; the answer says what they decided."""
    one = profile(1, "a", branch_id="b1", adjust_device_id="d1")
    two = profile(2, "b", branch_id="b2", adjust_device_id="d2", appsflyer_id="f2")
    await added(storage, app, one, msgspec.structs.replace(two, attributes=(("x", 1),)))
    arguments = {"rules": {"branch_id": "source"}, "policies": {"branch_id": "reject"}}
    planned = await merge(storage, app.id, by_id(1), by_id(2), dry_run=True, **arguments)  # type: ignore[arg-type] # two of its options
    assert await storage.profile(app.id, by_id(1)) == one
    merged = await merge(storage, app.id, by_id(1), by_id(2), **arguments)  # type: ignore[arg-type] # as above
    expected = msgspec.structs.replace(
        profile(1, "a", branch_id="b2", adjust_device_id="d1", appsflyer_id="f2"),
        attributes=(("plan", "gold"), ("x", 1)),
    )
    assert planned.survivor == expected
    assert merged.survivor == msgspec.structs.replace(expected, updated_at=5, revision=2)
    assert [(it.field, it.kept) for it in merged.clashes] == [
        ("branch_id", "source"),
        ("adjust_device_id", "survivor"),
        ("customer_user_id", "survivor"),
    ]
    assert planned.clashes == merged.clashes
    assert await storage.count_profiles(app.id) == 1
    assert await storage.check() == []


@pytest.mark.parametrize("default", ["survivor", "source"])
async def test_both_names_lead_to_the_survivor(storage: Storage, app: App, default: Side) -> None:
    """Ids and customers of both find it, whichever customer it kept, together too."""
    await added(storage, app, profile(1, "a"), profile(2, "b"), profile(3, "c"))
    await merge(storage, app.id, by_id(1), by_id(2), default=default)
    kept = (await storage.profile(app.id, by_id(1))).customer_user_id
    assert kept == ("a" if default == "survivor" else "b")
    for ref in [
        *(by_id(number) for number in (1, 2)),
        *(ProfileRef(customer) for customer in "ab"),
        *(ProfileRef(customer, IDS[number]) for customer in "ab" for number in (1, 2)),
    ]:
        assert await resolved(storage, app, ref) == IDS[1]
    assert await is_nobody(storage, app, ProfileRef("A"))
    with pytest.raises(ProfileConflict):
        await storage.profile(app.id, ProfileRef("b", IDS[3]))


async def test_names_lead_nowhere_in_another_app(storage: Storage, app: App, other: App) -> None:
    """A merge of one app changes nothing for the ids and customers of another."""
    for one in (app, other):
        await added(storage, one, profile(1, "a"), profile(2, "b"))
    await merge(storage, app.id, by_id(1), by_id(2))
    assert await resolved(storage, other, by_id(2)) == IDS[2]
    await storage.delete_profile(other.id, by_id(2), now=7)
    assert await is_nobody(storage, other, by_id(2))
    assert await is_nobody(storage, other, ProfileRef("b"))


async def test_writes_by_a_merged_name_change_the_survivor(storage: Storage, app: App) -> None:
    """Whether they may create or not, plain or in an edit, alone or at once."""
    await added(storage, app, profile(1, "a"), profile(2, "b"))
    await merge(storage, app.id, by_id(1), by_id(2))
    refs = [by_id(2), ProfileRef("b"), ProfileRef("b", IDS[2]), ProfileRef("a", IDS[2])]
    for number, ref in enumerate([*refs, *refs]):
        kept = await storage.change_profile(
            app.id, ref, setting(branch_id=f"b{number}"), now=7,
            create_as=NEW_ID if number < len(refs) else None,
        )  # fmt: skip
        assert (kept.profile_id, kept.identifiers[BRANCH]) == (IDS[1], f"b{number}")
    for ref in refs:
        one = Setting(ref, {"adjust_device_id": "d"}, create_as=NEW_ID)
        kept = await storage.edit(
            app.id,
            lambda edit, one=one: writes.set_identifiers(edit, one, {}, 8),  # type: ignore[misc] # the one of this turn
            now=8,
        )
        assert (kept.profile_id, kept.identifiers[ADJUST]) == (IDS[1], "d")
    await asyncio.gather(
        *(
            storage.change_profile(app.id, ref, setting(branch_id=str(number)), now=9)
            for number, ref in enumerate(refs)
        )
    )
    assert await storage.count_profiles(app.id) == 1
    assert await storage.check() == []


async def test_merged_profile_cannot_be_merged_with_its_survivor(
    storage: Storage, app: App
) -> None:
    """Both are one already; whom nobody knows is not found."""
    await added(storage, app, profile(1), profile(2))
    await merge(storage, app.id, by_id(1), by_id(2))
    with pytest.raises(ProfileConflict):
        await merge(storage, app.id, by_id(1), by_id(2))
    with pytest.raises(ProfileNotFound):
        await merge(storage, app.id, by_id(1), by_id(3))


async def test_identifier_of_a_merged_profile_is_claimed(storage: Storage, app: App) -> None:
    """What the survivor took over is its own, and after the undo the source's again."""
    policies: Policies = {"branch_id": "reject"}
    await added(storage, app, profile(1), profile(2), profile(3))

    async def claim(number: int) -> Profile:
        one = Setting(by_id(number), {"branch_id": "b"})
        return await storage.edit(
            app.id, lambda edit: writes.set_identifiers(edit, one, policies, 4), now=4
        )

    await claim(2)
    await merge(storage, app.id, by_id(1), by_id(2), policies=policies)
    with pytest.raises(IdentifierTaken):
        await claim(3)
    await undo(storage, app.id, IDS[2])
    with pytest.raises(IdentifierTaken):
        await claim(1)
    assert (await claim(2)).identifiers[BRANCH] == "b"
    assert await storage.check() == []


# --- Names through several merges, and after the end of the survivor ----------------------------


async def test_names_lead_through_several_merges(storage: Storage, app: App) -> None:
    """1 into 2 into 3 into 4: each id and customer finds the last, for reads and writes."""
    await added(storage, app, *(profile(number, f"u{number}") for number in (1, 2, 3, 4)))
    for number in (1, 2, 3):
        await merge(storage, app.id, by_id(number + 1), by_id(number))
    for number in (1, 2, 3, 4):
        for ref in (by_id(number), ProfileRef(f"u{number}"), ProfileRef("u1", IDS[number])):
            assert await resolved(storage, app, ref) == IDS[4]
            kept = await storage.change_profile(
                app.id, ref, setting(branch_id=str(number)), now=7, create_as=NEW_ID
            )
            assert (kept.profile_id, kept.identifiers[BRANCH]) == (IDS[4], str(number))
    with pytest.raises(ValidationError):
        await undo(storage, app.id, IDS[1])
    for number in (3, 2, 1):
        await undo(storage, app.id, IDS[number])
        assert await resolved(storage, app, ProfileRef("u1")) == IDS[number]
    for number in (1, 2, 3, 4):
        assert await resolved(storage, app, ProfileRef(f"u{number}", IDS[number])) == IDS[number]
    assert await storage.check() == []


async def test_names_end_with_the_survivor(storage: Storage, app: App) -> None:
    """Of a deleted survivor the merged names find nobody, and are free for new profiles."""
    await added(storage, app, profile(1, "a"), profile(2, "b"), profile(3, "c"))
    await merge(storage, app.id, by_id(1), by_id(2))
    await merge(storage, app.id, by_id(1), by_id(3))
    await storage.delete_profile(app.id, ProfileRef("b"), now=7)
    for ref in (by_id(2), ProfileRef("b"), ProfileRef("b", IDS[2]), ProfileRef("c", IDS[3])):
        assert await is_nobody(storage, app, ref)
    made = await storage.change_profile(
        app.id, ProfileRef("b", IDS[2]), setting(), now=8, create_as=NEW_ID
    )
    assert (made.profile_id, made.customer_user_id, made.revision) == (IDS[2], "b", 3)
    bulk = await storage.add_profiles(app.id, [profile(3, "c"), profile(1, "a")], now=9)
    assert bulk == 2
    for number, customer in ((1, "a"), (2, "b"), (3, "c")):
        assert await resolved(storage, app, ProfileRef(customer, IDS[number])) == IDS[number]
        with pytest.raises(ProfileNotFound):
            await undo(storage, app.id, IDS[number])
    assert await storage.check() == []


async def test_name_that_came_back_leads_nowhere_else(storage: Storage, app: App) -> None:
    """Whatever was merged into what before, an id that was made again and deleted is nobody."""
    same = setting()
    for survivor, source in ((2, 1), (1, 2)):
        for number in (1, 2):
            await storage.change_profile(app.id, by_id(number), same, now=4, create_as=IDS[number])
        await merge(storage, app.id, by_id(survivor), by_id(source))
        await storage.delete_profile(app.id, by_id(survivor), now=6)
        assert await is_nobody(storage, app, by_id(1))
        assert await is_nobody(storage, app, by_id(2))
    for number in (1, 2):
        await storage.change_profile(app.id, by_id(number), same, now=7, create_as=IDS[number])
        assert await resolved(storage, app, by_id(number)) == IDS[number]
        await storage.delete_profile(app.id, by_id(number), now=8)
        assert await is_nobody(storage, app, by_id(number))


async def test_profile_with_a_merged_name_is_not_added(storage: Storage, app: App) -> None:
    """Adding and replacing leave out whose id or customer leads to a profile that is there."""
    await added(storage, app, profile(1, "a"), profile(2, "b"), profile(3, "c"))
    await merge(storage, app.id, by_id(1), by_id(2))
    await merge(storage, app.id, by_id(3), by_id(1))
    brought = [profile(1), profile(2), profile(4, "b"), profile(5, "a"), profile(6, "f")]
    assert await storage.add_profiles(app.id, brought, now=7) == 1
    assert await resolved(storage, app, ProfileRef("b", IDS[2])) == IDS[3]
    brought = [profile(2, "b"), profile(6, "f")]
    assert await storage.replace_profiles(app.id, [IDS[2], IDS[6]], brought, now=8) == 1
    assert await resolved(storage, app, ProfileRef("b", IDS[2])) == IDS[3]
    # Without the last survivor the one before it may come back, and is led to as ever.
    brought = [profile(1), profile(2), profile(7, "b")]
    assert await storage.replace_profiles(app.id, [IDS[3]], brought, now=9) == 1
    assert await resolved(storage, app, ProfileRef("b", IDS[2])) == IDS[1]
    assert await storage.check() == []


async def test_merged_customer_can_be_bound_elsewhere(storage: Storage, app: App) -> None:
    """By rebinding, as if the survivor had it; from then on it leads there alone."""
    await added(storage, app, profile(1, "a"), profile(2, "b"), profile(3))
    await merge(storage, app.id, by_id(1), by_id(2))

    async def bind(*, rebind: bool) -> Profile:
        return await storage.edit(
            app.id,
            lambda edit: writes.bind_customer(edit, IDS[3], "b", rebind=rebind),
            now=7,
            needs=Needs([by_id(3), ProfileRef("b")]),
        )

    with pytest.raises(ProfileConflict):
        await bind(rebind=False)
    await bind(rebind=True)
    assert await resolved(storage, app, ProfileRef("b")) == IDS[3]
    assert await resolved(storage, app, by_id(2)) == IDS[1]
    await storage.delete_profile(app.id, by_id(3), now=8)
    assert await is_nobody(storage, app, ProfileRef("b"))


# --- Two of one ---------------------------------------------------------------------------------

TEXTS = st.sampled_from(["x", "y", "\u00e9"])
CUSTOMERS = st.sampled_from([None, "a", "b"])
SOME_IDENTIFIERS = st.dictionaries(
    st.sampled_from([KINDS[0].name, KINDS[7].name, KINDS[-1].name]), TEXTS
)
ATTRIBUTES = st.dictionaries(st.sampled_from(["plan", "age", "k"]), st.sampled_from(["x", 1, 2.5]))
SIDES: st.SearchStrategy[Side] = st.sampled_from(["survivor", "source"])


def test_merge_then_undo_is_the_identity(new_database: Callable[[], Open]) -> None:
    """Customers, identifiers, attributes, age: all is as it was, whatever the rules were."""
    runner = asyncio.Runner()

    async def start() -> tuple[Storage, App]:
        storage = await new_database()()
        return storage, await storage.create_app("u", "one", now=1)

    storage, app = runner.run(start())
    made = iter(range(1, 1_000_000))

    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(
        parts=st.tuples(*[st.tuples(st.booleans(), SOME_IDENTIFIERS, ATTRIBUTES)] * 2),
        rules=st.dictionaries(st.sampled_from(sorted(merging.RULES)), SIDES),
        default=SIDES,
        policies=st.sampled_from([{}, {KINDS[0].name: "reject", KINDS[7].name: "move"}]),
    )
    def check(
        parts: tuple[tuple[bool, dict[str, str], dict[str, str | float]], ...],
        rules: dict[str, Side],
        default: Side,
        policies: Policies,
    ) -> None:
        first, second = before = [
            Profile(
                ProfileId(f"30000000-0000-4000-8000-{number:012}"),
                f"user {number}" if has_customer else None,
                merge_identifiers(NO_IDENTIFIERS, values),
                tuple(attributes.items()),
                1 + at,
                3,
            )
            for at, (has_customer, values, attributes) in enumerate(parts)
            for number in [next(made)]
        ]
        refs = [ProfileRef(profile_id=one.profile_id) for one in before]

        async def there_and_back() -> None:
            await storage.add_profiles(app.id, before, now=3)
            await merge(storage, app.id, *refs, rules=rules, default=default, policies=policies)
            undone = await undo(storage, app.id, second.profile_id)
            after = [await storage.profile(app.id, ref) for ref in refs]
            assert [undone.survivor, undone.source] == after
            assert [bare(one) for one in after] == [bare(first), bare(second)]
            for one in before:
                if one.customer_user_id is not None:
                    found = await storage.profile(app.id, ProfileRef(one.customer_user_id))
                    assert found.profile_id == one.profile_id
            with pytest.raises(ProfileNotFound):
                await undo(storage, app.id, second.profile_id)

        runner.run(there_and_back())

    try:
        check()
        assert runner.run(storage.check()) == []
    finally:
        runner.run(storage.close())
        runner.close()


def bare(one: Profile) -> Profile:
    """Return a profile without what every write changes."""
    return msgspec.structs.replace(one, updated_at=0, revision=0)


async def test_writes_after_the_merge_stay_with_the_survivor(storage: Storage, app: App) -> None:
    """What was set, cleared or bound since stays as it is at the undo; the source is as it was."""
    one = profile(1, branch_id="b1", appsflyer_id="f")
    two = profile(2, "b", branch_id="b2", adjust_device_id="d2", mixpanel_user_id="m2")
    await added(storage, app, one, msgspec.structs.replace(two, attributes=(("x", 1), ("y", 2))))
    await merge(storage, app.id, by_id(1), by_id(2), default="source")

    def change(before: Profile) -> Profile:
        after = setting(adjust_device_id="later", tenjin_analytics_installation_id="t")(before)
        return msgspec.structs.replace(after, attributes=(*after.attributes, ("z", 3)))

    await storage.change_profile(app.id, by_id(2), change, now=7)
    undone = await undo(storage, app.id, IDS[2])
    expected = profile(
        1,
        branch_id="b1",
        appsflyer_id="f",
        adjust_device_id="later",
        tenjin_analytics_installation_id="t",
    )
    assert undone.survivor.identifiers == expected.identifiers
    assert undone.survivor.customer_user_id is None
    assert dict(undone.survivor.attributes) == {"plan": "gold", "z": 3}
    assert undone.source.identifiers == two.identifiers
    assert undone.source.customer_user_id == "b"
    assert await resolved(storage, app, ProfileRef("b", IDS[2])) == IDS[2]
    assert await storage.check() == []


async def test_undo_needs_the_history_of_the_merge(storage: Storage, app: App) -> None:
    """Once that is pruned, a merge is for good."""
    await added(storage, app, profile(1, branch_id="b"), profile(2, "b"))
    await merge(storage, app.id, by_id(1), by_id(2))
    for _ in range(3):
        await storage.prune(now=9, before=9, limit=100)
    with pytest.raises(HistoryExpired):
        await undo(storage, app.id, IDS[2])
    assert await resolved(storage, app, ProfileRef("b")) == IDS[1]


async def test_undo_of_nothing_is_refused(storage: Storage, app: App) -> None:
    """Neither a profile that was never merged nor one that there never was can be split."""
    await added(storage, app, profile(1))
    for number in (1, 2):
        with pytest.raises(ProfileNotFound):
            await undo(storage, app.id, IDS[number])


# --- Many at once -------------------------------------------------------------------------------


async def test_no_write_is_lost_in_a_merge(storage: Storage, open_storage: Open, app: App) -> None:
    """Writes to both names while they are merged, over two openings, are all on the survivor."""
    await added(storage, app, profile(1, "a"), profile(2, "b"))
    openings = [storage, await open_storage()]
    refs = [by_id(1), by_id(2), ProfileRef("a"), ProfileRef("b")]

    async def write(number: int) -> None:
        await asyncio.sleep(number % 8 / 1_000)
        await openings[number % 2].change_profile(
            app.id,
            refs[number % 4],
            lambda one: msgspec.structs.replace(
                one, attributes=(*one.attributes, (f"a{number}", number))
            ),
            now=7,
            create_as=NEW_ID,
        )

    async def merge_later() -> None:
        await asyncio.sleep(0.004)
        await merge(openings[1], app.id, by_id(1), by_id(2))

    await asyncio.gather(merge_later(), *map(write, range(48)))
    assert await storage.count_profiles(app.id) == 1
    found = await storage.profile(app.id, ProfileRef("b", IDS[2]))
    assert found.profile_id == IDS[1]
    assert dict(found.attributes) == {"plan": "gold"} | {f"a{it}": it for it in range(48)}
    assert await storage.check() == []


async def test_reads_find_somebody_throughout_a_merge(
    storage: Storage, open_storage: Open, app: App
) -> None:
    """While profiles are merged one into the next, none of their names is ever nobody's."""
    count = 12
    await added(storage, app, *(profile(number, f"u{number}") for number in range(count)))
    reader = await open_storage()
    merging_ends = asyncio.Event()

    async def merge_all() -> None:
        try:
            for number in range(count - 1):
                await merge(storage, app.id, by_id(number + 1), by_id(number))
                await asyncio.sleep(0.001)
        finally:
            merging_ends.set()

    async def read_on() -> int:
        reads = 0
        while not merging_ends.is_set():
            for number in range(count):
                await identifiers(reader, app.id, by_id(number))
                await identifiers(reader, app.id, ProfileRef(f"u{number}"))
                await asyncio.sleep(0)
                reads += 2
        return reads

    _, reads = await asyncio.gather(merge_all(), read_on())
    assert reads > 0
    assert await resolved(storage, app, ProfileRef("u0")) == IDS[count - 1]


async def test_merges_at_once_take_turns(storage: Storage, open_storage: Open, app: App) -> None:
    """Chains, cycles and rivals over two openings: whoever remains, all names lead to somebody."""
    count = 12
    await added(storage, app, *(profile(number, f"u{number}") for number in range(count)))
    openings = [storage, await open_storage()]
    outcomes = await asyncio.gather(
        *(
            merge(openings[number % 2], app.id, by_id((number + step) % count), by_id(number))
            for step in (1, 5)
            for number in range(count)
        ),
        return_exceptions=True,
    )
    assert all(isinstance(it, Merge | ProfileConflict) for it in outcomes), outcomes
    assert await storage.count_profiles(app.id) == 1
    (last,) = await storage.profiles_after(app.id, None, 9)
    for number in range(count):
        assert await resolved(storage, app, ProfileRef(f"u{number}", IDS[number])) == (
            last.profile_id
        )
    assert await storage.check() == []


async def test_merge_and_undo_at_once_leave_all_sound(
    storage: Storage, open_storage: Open, app: App
) -> None:
    """Each of many merges, undos and creates over two openings is done or refused, whole."""
    await added(storage, app, profile(1, "a", branch_id="b1"), profile(2, "b", branch_id="b2"))
    openings = [storage, await open_storage()]

    async def one(number: int) -> object:
        where = openings[number % 2]
        if number % 4 == 0:
            return await undo(where, app.id, IDS[2])
        if number % 4 == 1:
            return await where.change_profile(
                app.id, ProfileRef("b", IDS[2]), setting(branch_id="b2"), now=7, create_as=NEW_ID
            )
        return await merge(where, app.id, by_id(1), by_id(2))

    outcomes = await asyncio.gather(*map(one, range(40)), return_exceptions=True)
    refused = [it for it in outcomes if isinstance(it, BaseException)]
    assert all(isinstance(it, ProfileConflict | ProfileNotFound) for it in refused), refused
    owner = await resolved(storage, app, ProfileRef("b", IDS[2]))
    assert owner == (IDS[1] if await storage.count_profiles(app.id) == 1 else IDS[2])
    assert await storage.check() == []
