"""Changes of several profiles in one transaction: policies, batches, customers, repeated requests.

What the storage promises of `edit`, for every backend. Merges are in `test_merging.py`.
"""

import asyncio
import functools
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeVar

import msgspec
import pytest

from knownas import writes
from knownas.editing import Answer, Edit, Needs
from knownas.errors import (
    BatchFailed,
    IdempotencyConflict,
    IdentifierTaken,
    ProfileConflict,
    ProfileNotFound,
    Unauthorized,
)
from knownas.history import Source
from knownas.lookups import Sought
from knownas.model import (
    KIND_NUMBER,
    NO_IDENTIFIERS,
    ApiKey,
    App,
    Policies,
    Policy,
    Profile,
    ProfileId,
    ProfileRef,
    merge_identifiers,
)
from knownas.storage import Storage
from knownas.writes import ANSWER_KEPT_MS, Done, Once, Setting
from storage.conftest import Open

pytestmark = pytest.mark.anyio

T = TypeVar("T")

BRANCH, APPSFLYER, ADJUST = (
    KIND_NUMBER[name] for name in ("branch_id", "appsflyer_id", "adjust_device_id")
)
IDS = [ProfileId(f"{number:08x}-0000-4000-8000-{number:012}") for number in range(100)]
REJECT: Policies = {"branch_id": "reject"}
MOVE: Policies = {"branch_id": "move"}
CROWD: Final = 64


def by_id(number: int) -> ProfileRef:
    """Return a reference by profile id."""
    return ProfileRef(profile_id=IDS[number])


def profile(number: int, customer: str | None = None, **values: str) -> Profile:
    """Return a profile as the tests store it."""
    return Profile(
        IDS[number], customer, merge_identifiers(NO_IDENTIFIERS, values), (("plan", "gold"),), 1, 1
    )


async def added(storage: Storage, app: App, *profiles: Profile) -> None:
    """Add profiles."""
    assert await storage.add_profiles(app.id, profiles, now=1) == len(profiles)


async def set_on(  # noqa: PLR0913 - whom, what, and by which rules
    storage: Storage,
    app: App,
    ref: ProfileRef,
    values: Mapping[str, str],
    policies: Policies,
    *,
    create_as: ProfileId | None = None,
    now: int = 2,
) -> Profile:
    """Set identifiers by policy."""
    setting = Setting(ref, values, create_as=create_as)
    return await storage.edit(
        app.id,
        lambda edit: writes.set_identifiers(edit, setting, policies, now),
        now=now,
        needs=writes.needs_of([setting], policies),
    )


async def holding(storage: Storage, app: App, kind: int, value: str) -> list[Profile]:
    """Return who has an identifier."""
    (found,) = await storage.holders_of_each(app.id, [Sought((kind,), value, 100)])
    return [holder.profile for holder in found.found]


# --- What an edit sees and does -----------------------------------------------------------------


async def test_edit_sees_what_it_has_written(storage: Storage, app: App) -> None:
    """A profile that was put is found by id, customer and value; one that was removed is not."""

    def work(edit: Edit) -> list[object]:
        ref = ProfileRef("a", IDS[1])
        seen: list[object] = [edit.find(ref), edit.holders(BRANCH, "b")]
        made = edit.put(None, profile(1, "a", branch_id="b"))
        seen += [edit.find(ref), edit.holders(BRANCH, "b")]
        other = msgspec.structs.replace(
            made, customer_user_id="b", identifiers=profile(1, branch_id="c").identifiers
        )
        changed = edit.put(made, other)
        seen += [edit.find(ref), edit.find(ProfileRef("b")), edit.holders(BRANCH, "b")]
        seen += [
            edit.holders(BRANCH, "c"),
            edit.remove(changed),
            edit.find(ProfileRef("b", IDS[1])),
        ]
        return [made, changed, *seen]

    made, changed, *seen = await storage.edit(app.id, work, now=5)
    assert isinstance(made, Profile)
    assert isinstance(changed, Profile)
    assert (made.revision, changed.revision) == (1, 2)
    assert made.updated_at == changed.updated_at == 5
    assert seen == [
        (None, None),
        [],
        (made, made),
        [made],
        (None, changed),
        (changed, None),
        [],
        [changed],
        3,
        (None, None),
    ]
    assert await storage.count_profiles(app.id) == 0
    actions = [(it.revision, it.action) for it in (await storage.changes(app.id, None, 9)).changes]
    assert actions == [(1, "created"), (2, "changed"), (3, "deleted")]
    assert await storage.check() == []


async def test_profile_is_made_again_in_the_edit_that_removed_it(
    storage: Storage, app: App
) -> None:
    """Its revisions go on, and what it has no longer is free, its customer too."""
    await added(storage, app, profile(1, "a", branch_id="b"), profile(2))

    def work(edit: Edit) -> list[int]:
        one, two = edit.find(by_id(1))[1], edit.find(by_id(2))[1]
        assert one is not None
        assert two is not None
        end = edit.remove(one)
        edit.put(two, profile(2, "a", branch_id="b"), exclusive=[BRANCH])
        return [end, edit.put(None, profile(1, "c")).revision]

    assert await storage.edit(app.id, work, now=5) == [2, 3]
    for customer, number in (("a", 2), ("c", 1)):
        assert (await storage.profile(app.id, ProfileRef(customer))).profile_id == IDS[number]
    history = await storage.history(app.id, IDS[1], before=None, limit=9)
    assert [it.action for it in history] == ["created", "deleted", "created"]
    assert await storage.check() == []


async def test_edit_finds_its_own_answer_and_change(storage: Storage, app: App) -> None:
    """What was kept and noted in an edit is there for it, and for those after it."""
    await added(storage, app, profile(1))

    def work(edit: Edit) -> tuple[Answer | None, ...]:
        before = edit.answer("key")
        edit.keep_answer("key", Answer(b"1", "[]", 9))
        found = edit.find(by_id(1))[1]
        assert found is not None
        edit.put(found, profile(1, "u"))
        change = edit.change(IDS[1], 2)
        assert change is not None
        assert change.difference.customer == (None, "u")
        return before, edit.answer("key")

    assert await storage.edit(app.id, work, now=5) == (None, Answer(b"1", "[]", 9))
    assert await storage.edit(app.id, lambda edit: edit.answer("key"), now=5) == Answer(
        b"1", "[]", 9
    )
    change = await storage.edit(app.id, lambda edit: edit.change(IDS[1], 2), now=5)
    assert change is not None
    assert (change.revision, change.difference.customer) == (2, (None, "u"))
    assert await storage.edit(app.id, lambda edit: edit.change(IDS[1], 3), now=5) is None


@pytest.mark.parametrize("error", [ProfileConflict(), RuntimeError("a defect")])
async def test_edit_that_raises_has_done_nothing(
    storage: Storage, app: App, error: Exception
) -> None:
    """What it raises is raised to its caller alone; its neighbours in a group are done."""
    await added(storage, app, profile(1, "a", branch_id="b"), profile(2), profile(3))

    def failing(edit: Edit) -> None:
        (one,) = edit.holders(BRANCH, "b")
        edit.remove(one)
        other = edit.find(by_id(2))[1]
        assert other is not None
        edit.put(other, profile(2, "a", branch_id="b"), exclusive=[BRANCH])
        edit.put(None, profile(4))
        edit.keep_answer("key", Answer(b"1", "[]", 9))
        raise error

    def working(number: int) -> Callable[[Edit], Profile]:
        def work(edit: Edit) -> Profile:
            found = edit.find(by_id(3))[1]
            assert found is not None
            attributes = (*found.attributes, (f"a{number}", number))
            return edit.put(found, msgspec.structs.replace(found, attributes=attributes))

        return work

    outcomes = await asyncio.gather(
        storage.edit(app.id, working(0), now=5),
        storage.edit(app.id, failing, now=5),
        storage.edit(app.id, working(1), now=5),
        return_exceptions=True,
    )
    assert outcomes[1] is error
    found = await storage.profile(app.id, by_id(3))
    assert dict(found.attributes) == {"plan": "gold", "a0": 0, "a1": 1}
    assert await storage.profile(app.id, ProfileRef("a")) == profile(1, "a", branch_id="b")
    assert await storage.profile(app.id, by_id(2)) == profile(2)
    assert await storage.count_profiles(app.id) == 3
    assert await storage.edit(app.id, lambda edit: edit.answer("key"), now=5) is None
    assert await storage.check() == []


@pytest.mark.parametrize(
    "needs",
    [
        None,
        Needs([by_id(1), by_id(2), ProfileRef("a")], [(BRANCH, "b")], "key"),
        Needs([by_id(50), ProfileRef("nobody")], [(ADJUST, "x")], "other"),
    ],
)
async def test_needs_are_a_hint(storage: Storage, app: App, needs: Needs | None) -> None:
    """An edit does the same whether all that it asks for was said before, or nothing of it."""
    await added(storage, app, profile(1, "a", branch_id="b"), profile(2), profile(3, "c"))

    def work(edit: Edit) -> list[object]:
        seen: list[object] = [edit.answer("key"), edit.holders(BRANCH, "b")]
        seen += [edit.find(ProfileRef("c", IDS[2])), edit.find(ProfileRef("x", IDS[9]))]
        seen += [edit.alias("c:x"), edit.change(IDS[1], 1), edit.holders(ADJUST, "z")]
        edit.put(None, profile(9, "x"))
        return seen

    seen = await storage.edit(app.id, work, now=5, needs=needs)
    assert seen[:5] == [
        None,
        [profile(1, "a", branch_id="b")],
        (profile(3, "c"), profile(2)),
        (None, None),
        None,
    ]
    assert seen[6] == []
    made = msgspec.structs.replace(profile(9, "x"), updated_at=5)
    assert await storage.profile(app.id, ProfileRef("x")) == made


@pytest.mark.parametrize("seed", range(6))
async def test_many_puts_are_as_one_by_one(
    storage: Storage, app: App, other: App, seed: int
) -> None:
    """Puts and removals in one edit leave history, index and counts as in an edit each."""
    rng = random.Random(seed)  # noqa: S311 - no secret
    steps = [
        (
            rng.randrange(4),
            rng.choice([None, *"abcd"]),
            {name: rng.choice("xyz") for name in rng.sample(sorted(KIND_NUMBER), 3)},
            rng.random() < 0.15,
        )
        for _ in range(40)
    ]

    def step(edit: Edit, at: int) -> None:
        number, customer, values, ends = steps[at]
        owner, before = edit.find(ProfileRef(customer, IDS[number]))
        if before is not None and ends:
            edit.remove(before)
        elif owner is None or owner == before:
            edit.put(before, profile(number, customer, **values))
        else:
            edit.put(before, profile(number, None, **values))

    refs = [ProfileRef(customer, IDS[number]) for number, customer, *_ in steps]
    needs = Needs(refs) if seed % 2 else None

    def all_steps(edit: Edit) -> None:
        for at in range(len(steps)):
            step(edit, at)

    await storage.edit(app.id, all_steps, now=5, needs=needs)
    for at in range(len(steps)):
        await storage.edit(other.id, functools.partial(step, at=at), now=5)
    told = []
    for one in (app, other):
        kept = await storage.profiles_after(one.id, None, 100)
        histories = [await storage.history(one.id, it, before=None, limit=100) for it in IDS[:4]]
        told.append(
            (
                kept,
                [[(it.revision, it.at, it.difference) for it in of] for of in histories],
                [it for it in await storage.coverage(one.id) if it.change],
                await storage.shared(one.id, None, 1_000),
                [await holding(storage, one, kind, "x") for kind in KIND_NUMBER.values()],
            )
        )
    assert told[0] == told[1]
    assert await storage.check() == []


async def test_edit_of_a_deleted_app_makes_no_profile(storage: Storage, other: App) -> None:
    """A key that is believed for half a second more cannot write into nothing."""
    await storage.delete_app(other.id)
    with pytest.raises(Unauthorized):
        await set_on(storage, other, by_id(1), {"branch_id": "b"}, REJECT, create_as=IDS[1])
    assert await storage.count_profiles(other.id) == 0


async def test_edit_sees_one_app(storage: Storage, app: App, other: App) -> None:
    """Profiles, values, names and answers of another app are not there."""
    await added(storage, other, profile(1, "a", branch_id="b"))
    answer = Answer(b"1", "[]", 9)
    await storage.edit(other.id, lambda edit: edit.keep_answer("key", answer), now=1)

    def work(edit: Edit) -> list[object]:
        return [
            edit.find(ProfileRef("a", IDS[1])),
            edit.holders(BRANCH, "b"),
            edit.answer("key"),
            edit.change(IDS[1], 1),
        ]

    assert await storage.edit(app.id, work, now=5) == [(None, None), [], None, None]


# --- Policies -----------------------------------------------------------------------------------


async def test_policies_are_kept_with_the_app(storage: Storage, app: App, other: App) -> None:
    """They are told with the list of apps and with each key; none is the beginning."""
    key = ApiKey("key_1", app, "secret", "one", 1)
    await storage.add_key(app.id, key, b"digest")
    assert [it.policies for it in await storage.apps()] == [{}, {}]
    await storage.set_policies(app.id, {**REJECT, "appsflyer_id": "move"})
    expected = {"branch_id": "reject", "appsflyer_id": "move"}
    assert [it.policies for it in await storage.apps()] == [expected, {}]
    assert [it.app.policies for it in await storage.keys(app.id)] == [expected]
    found = await storage.key_by_digest(b"digest")
    assert found is not None
    assert found.app.policies == expected
    await storage.set_policies(app.id, {})
    assert [it.policies for it in await storage.apps()] == [{}, {}]
    await storage.delete_app(other.id)
    with pytest.raises(Unauthorized):
        await storage.set_policies(other.id, REJECT)


async def test_taken_identifier_is_rejected(storage: Storage, app: App) -> None:
    """With an entry for each that is taken, and nothing of the request is done."""
    await added(storage, app, profile(1, branch_id="b", appsflyer_id="a"), profile(2))
    policies: Policies = {**REJECT, "appsflyer_id": "reject"}
    values = {"branch_id": "b", "appsflyer_id": "a", "adjust_device_id": "d"}
    with pytest.raises(IdentifierTaken) as raised:
        await set_on(storage, app, by_id(2), values, policies)
    assert [it.source for it in raised.value.fields] == ["branch_id", "appsflyer_id"]
    assert await storage.profile(app.id, by_id(2)) == profile(2)


async def test_own_identifier_is_not_taken(storage: Storage, app: App) -> None:
    """Who has a value may set it again; other kinds and values are not in its way."""
    await added(storage, app, profile(1, branch_id="b"), profile(2, adjust_device_id="c"))
    for values in ({"branch_id": "b"}, {"branch_id": "c"}, {"branch_id": "c"}):
        kept = await set_on(storage, app, by_id(1), values, REJECT)
        assert kept.identifiers[BRANCH] == values["branch_id"]
    assert kept.revision == 2


async def test_identifier_moves(storage: Storage, app: App) -> None:
    """Everyone else who has it loses it, in the same transaction, and history tells of each."""
    await added(storage, app, *(profile(number, branch_id="b") for number in (1, 2, 3)), profile(4))
    kept = await set_on(storage, app, by_id(4), {"branch_id": "b"}, MOVE)
    assert await holding(storage, app, BRANCH, "b") == [kept]
    for number in (1, 2, 3):
        (change, _) = await storage.history(app.id, IDS[number], before=None, limit=9)
        assert change.difference.identifiers == ((BRANCH, "b", None),)
    assert await storage.shared(app.id, None, 9) == []
    assert await storage.check() == []


@pytest.mark.parametrize("way", ["clear", "change", "delete", "move"])
async def test_claim_ends_with_the_identifier(storage: Storage, app: App, way: str) -> None:
    """What its holder no longer has is free for the next one, however it was lost."""
    await added(storage, app, profile(1), profile(2))
    await set_on(storage, app, by_id(1), {"branch_id": "b"}, REJECT)
    with pytest.raises(IdentifierTaken):
        await set_on(storage, app, by_id(2), {"branch_id": "b"}, REJECT)
    if way == "clear":
        await storage.change_profile(
            app.id, by_id(1), lambda one: msgspec.structs.replace(one, identifiers=NO_IDENTIFIERS),
            now=3,
        )  # fmt: skip
    elif way == "change":
        await set_on(storage, app, by_id(1), {"branch_id": "c"}, REJECT)
    elif way == "delete":
        await storage.delete_profile(app.id, by_id(1), now=3)
    kept = await set_on(
        storage, app, by_id(2), {"branch_id": "b"}, MOVE if way == "move" else REJECT
    )
    assert await holding(storage, app, BRANCH, "b") == [kept]
    assert await storage.check() == []


async def test_policy_that_ends_ends_the_claims(storage: Storage, app: App) -> None:
    """Under `allow` a value that was claimed stands on several; a later policy finds them."""
    await added(storage, app, profile(1), profile(2), profile(3))
    await set_on(storage, app, by_id(1), {"branch_id": "b"}, REJECT)
    await set_on(storage, app, by_id(2), {"branch_id": "b"}, {})
    assert len(await holding(storage, app, BRANCH, "b")) == 2
    with pytest.raises(IdentifierTaken):
        await set_on(storage, app, by_id(3), {"branch_id": "b"}, REJECT)
    kept = await set_on(storage, app, by_id(3), {"branch_id": "b"}, MOVE)
    assert await holding(storage, app, BRANCH, "b") == [kept]


@pytest.mark.parametrize("policy", ["reject", "move"])
@pytest.mark.parametrize("create", [False, True])
async def test_one_of_many_claims_wins(
    storage: Storage, open_storage: Open, app: App, policy: Policy, *, create: bool
) -> None:
    """Of 64 at once over two openings exactly one has the value in the end.

    Where it is rejected, exactly one was told that it has it.
    """
    if not create:
        await added(storage, app, *map(profile, range(CROWD)))
    openings = [storage, await open_storage()]
    outcomes = await asyncio.gather(
        *(
            set_on(
                openings[number % 2],
                app,
                by_id(number),
                {"branch_id": "b", "adjust_device_id": str(number)},
                {"branch_id": policy},
                create_as=IDS[number] if create else None,
            )
            for number in range(CROWD)
        ),
        return_exceptions=True,
    )
    (winner,) = await holding(storage, app, BRANCH, "b")
    won = [it for it in outcomes if isinstance(it, Profile)]
    if policy == "reject":
        assert won == [winner]
        assert sum(isinstance(it, IdentifierTaken) for it in outcomes) == CROWD - 1
        assert await storage.count_profiles(app.id) == (1 if create else CROWD)
    else:
        assert len(won) == CROWD
        assert winner in won
        assert await storage.count_profiles(app.id) == CROWD
    assert await storage.check() == []


async def test_simultaneous_creates_by_policy_make_one_profile(
    storage: Storage, open_storage: Open, app: App
) -> None:
    """Edits and plain writes that create one customer at once, over two openings, make one."""
    openings = [storage, await open_storage()]
    kinds = ["branch_id", "adjust_device_id"]

    async def make(number: int) -> Profile:
        ref, values = ProfileRef("new"), {kinds[number % 2]: "b"}
        if number % 4 < 2:
            return await set_on(
                openings[number % 2], app, ref, values, REJECT, create_as=IDS[number]
            )
        return await openings[number % 2].change_profile(
            app.id, ref, lambda one: one, now=2, create_as=IDS[number]
        )

    made = await asyncio.gather(*map(make, range(CROWD)))
    assert len({one.profile_id for one in made}) == 1
    assert await storage.count_profiles(app.id) == 1
    assert await storage.check() == []


# --- Batches ------------------------------------------------------------------------------------


async def batch(  # noqa: PLR0913 - what is to be done, and how
    storage: Storage,
    app: App,
    settings: Sequence[Setting],
    policies: Policies = REJECT,
    *,
    atomic: bool = False,
    hinted: bool = True,
) -> list[Done]:
    """Write a batch."""
    return await storage.edit(
        app.id,
        lambda edit: writes.write_batch(edit, settings, policies, 2, atomic=atomic),
        now=2,
        needs=writes.needs_of(settings, policies) if hinted else None,
    )


@pytest.mark.parametrize("hinted", [True, False])
async def test_item_fails_alone(storage: Storage, app: App, *, hinted: bool) -> None:
    """Each item sees what those before it did; one that cannot be done leaves the others be."""
    await added(storage, app, profile(1, "a"), profile(2, branch_id="x"), profile(3))
    settings = [
        Setting(ProfileRef("a"), {"branch_id": "b"}),
        Setting(by_id(50), {"branch_id": "c"}),
        Setting(by_id(3), {"branch_id": "b"}),
        Setting(ProfileRef("new"), {"branch_id": "d"}, create_as=IDS[4]),
        Setting(ProfileRef("new"), {"adjust_device_id": "e"}, create_as=IDS[5]),
        Setting(by_id(2), {"adjust_device_id": "f"}, ["branch_id"]),
        Setting(by_id(3), {"branch_id": "x"}),
    ]
    done = await batch(storage, app, settings, hinted=hinted)
    assert [(it.profile_id, it.revision) for it in done if it.error is None] == [
        (IDS[1], 2),
        (IDS[4], 1),
        (IDS[4], 2),
        (IDS[2], 2),
        (IDS[3], 2),
    ]
    assert [it.error and it.error[0] for it in done[1:3]] == [
        "profile_not_found",
        "identifier_taken",
    ]
    for number, values in [
        (1, {"branch_id": "b"}),
        (2, {"adjust_device_id": "f"}),
        (3, {"branch_id": "x"}),
        (4, {"branch_id": "d", "adjust_device_id": "e"}),
    ]:
        found = await storage.profile(app.id, by_id(number))
        assert found.identifiers == merge_identifiers(NO_IDENTIFIERS, values)
    assert await storage.check() == []


async def test_atomic_batch_is_all_or_nothing(storage: Storage, app: App) -> None:
    """With one item that cannot be done none is; the error says which and why."""
    await added(storage, app, profile(1), profile(2, branch_id="x"))
    settings = [
        Setting(by_id(1), {"adjust_device_id": "b"}),
        Setting(by_id(1), {"branch_id": "x"}),
        Setting(by_id(50), {"branch_id": "c"}),
    ]
    with pytest.raises(BatchFailed) as raised:
        await batch(storage, app, settings, atomic=True)
    assert [it.source for it in raised.value.fields] == ["items[1].branch_id", "items[2]"]
    assert await storage.profile(app.id, by_id(1)) == profile(1)
    assert len(await batch(storage, app, settings[:1], atomic=True)) == 1


async def test_batch_of_a_thousand_is_one_transaction(storage: Storage, app: App) -> None:
    """As many items as a request may have are all made, each with its own outcome."""
    count = 1_000
    settings = [
        Setting(
            ProfileRef(f"user-{number}"),
            {"branch_id": f"b{number % 900}"},
            create_as=ProfileId(f"10000000-0000-4000-8000-{number:012}"),
        )
        for number in range(count)
    ]
    done = await batch(storage, app, settings)
    assert [it.error and it.error[0] for it in done] == [None] * 900 + ["identifier_taken"] * 100
    assert await storage.count_profiles(app.id) == 900
    assert await storage.check() == []


# --- Customers that change hands ----------------------------------------------------------------


async def bind(
    storage: Storage, app: App, number: int, customer: str | None, *, rebind: bool = False
) -> Profile:
    """Bind a customer to a profile."""
    return await storage.edit(
        app.id,
        lambda edit: writes.bind_customer(edit, IDS[number], customer, rebind=rebind),
        now=2,
        by=Source("api", "key_1"),
        needs=Needs([by_id(number), *([ProfileRef(customer)] if customer else [])]),
    )


async def test_customer_is_bound_and_let_go(storage: Storage, app: App) -> None:
    """A free customer is bound to an anonymous profile; None leaves it without one."""
    await added(storage, app, profile(1))
    assert (await bind(storage, app, 1, "a")).customer_user_id == "a"
    assert (await bind(storage, app, 1, "a")).revision == 2
    assert (await storage.profile(app.id, ProfileRef("a"))).profile_id == IDS[1]
    with pytest.raises(ProfileConflict):
        await bind(storage, app, 1, "b")
    assert (await bind(storage, app, 1, None, rebind=True)).customer_user_id is None
    with pytest.raises(ProfileNotFound):
        await storage.profile(app.id, ProfileRef("a"))
    with pytest.raises(ProfileNotFound):
        await bind(storage, app, 50, "a")
    assert await storage.check() == []


async def test_customer_is_taken_only_by_rebinding(storage: Storage, app: App) -> None:
    """Then the profile that had it is left without, both noted as by the same source."""
    await added(storage, app, profile(1, "a"), profile(2, "b"))
    with pytest.raises(ProfileConflict):
        await bind(storage, app, 2, "a")
    kept = await bind(storage, app, 2, "a", rebind=True)
    assert kept.customer_user_id == "a"
    assert await storage.profile(app.id, ProfileRef("a")) == kept
    assert (await storage.profile(app.id, by_id(1))).customer_user_id is None
    with pytest.raises(ProfileNotFound):
        await storage.profile(app.id, ProfileRef("b"))
    noted = (await storage.changes(app.id, None, 9)).changes[-2:]
    assert [it.by for it in noted] == [Source("api", "key_1")] * 2
    assert await storage.check() == []


async def test_customers_are_swapped_in_one_edit(storage: Storage, app: App) -> None:
    """What one profile loses another may get in the same transaction, identifiers too."""
    await added(storage, app, profile(1, "a", branch_id="x"), profile(2, "b", branch_id="y"))

    def swap(edit: Edit) -> None:
        one, two = edit.find(by_id(1))[1], edit.find(by_id(2))[1]
        assert one is not None
        assert two is not None
        bare = edit.put(one, profile(1))
        two = edit.put(two, profile(2, "a", branch_id="x"), exclusive=[BRANCH])
        edit.put(bare, profile(1, "b", branch_id="y"), exclusive=[BRANCH])

    await storage.edit(app.id, swap, now=2)
    for customer, number, value in (("a", 2, "x"), ("b", 1, "y")):
        found = await storage.profile(app.id, ProfileRef(customer))
        assert (found.profile_id, found.identifiers[BRANCH]) == (IDS[number], value)
    assert await storage.check() == []


async def test_customer_has_one_profile_whoever_rebinds(
    storage: Storage, open_storage: Open, app: App
) -> None:
    """Of many that take one customer at once, over two openings, one has it in the end."""
    await added(storage, app, *map(profile, range(16)))
    openings = [storage, await open_storage()]
    await asyncio.gather(
        *(bind(openings[number % 2], app, number, "a", rebind=True) for number in range(16))
    )
    owner = await storage.profile(app.id, ProfileRef("a"))
    profiles = await storage.profiles_after(app.id, None, 99)
    assert [one for one in profiles if one.customer_user_id is not None] == [owner]
    assert await storage.check() == []


# --- Requests that are sent again ---------------------------------------------------------------


async def set_once(  # noqa: PLR0913 - what, and when
    storage: Storage, app: App, once: Once, value: str, *, number: int = 1, now: int = 2
) -> tuple[Done, bool]:
    """Set an identifier once, however often it is asked for."""
    setting = Setting(by_id(number), {"branch_id": value})

    def work(edit: Edit) -> tuple[list[Done], bool]:
        def do() -> list[Done]:
            kept = writes.set_identifiers(edit, setting, {}, now)
            return [Done(kept.profile_id, kept.revision)]

        return writes.once(edit, once, now, do)

    [done], is_new = await storage.edit(
        app.id, work, now=now, needs=writes.needs_of([setting], {}, once)
    )
    return done, is_new


async def test_repeated_request_is_done_once(storage: Storage, app: App) -> None:
    """It gets the answer of the first time, whatever has happened to the profile since."""
    await added(storage, app, profile(1))
    once = Once("key", b"print")
    assert await set_once(storage, app, once, "a") == (Done(IDS[1], 2), True)
    assert await set_once(storage, app, Once("other", b"print"), "b") == (Done(IDS[1], 3), True)
    assert await set_once(storage, app, once, "a") == (Done(IDS[1], 2), False)
    assert (await storage.profile(app.id, by_id(1))).identifiers[BRANCH] == "b"
    await storage.delete_profile(app.id, by_id(1), now=3)
    assert await set_once(storage, app, once, "a") == (Done(IDS[1], 2), False)


async def test_key_serves_one_request(storage: Storage, app: App, other: App) -> None:
    """Another request under the same key is refused; another app's key is another key."""
    await added(storage, app, profile(1))
    await added(storage, other, profile(1))
    await set_once(storage, app, Once("key", b"one"), "a")
    with pytest.raises(IdempotencyConflict):
        await set_once(storage, app, Once("key", b"two"), "b")
    assert (await storage.profile(app.id, by_id(1))).identifiers[BRANCH] == "a"
    assert (await set_once(storage, other, Once("key", b"two"), "b"))[1]
    assert (await set_once(storage, app, Once("KEY", b"two"), "b"))[1]


async def test_failed_request_may_be_sent_again(storage: Storage, app: App) -> None:
    """What raised has left no answer."""
    once = Once("key", b"print")
    with pytest.raises(ProfileNotFound):
        await set_once(storage, app, once, "a")
    await added(storage, app, profile(1))
    assert (await set_once(storage, app, once, "a"))[1]


async def test_answer_expires(storage: Storage, app: App) -> None:
    """Then the request is a new one, whether the old answer was pruned or not."""
    await added(storage, app, profile(1))
    for now, is_new in [
        (2, True),
        (1 + ANSWER_KEPT_MS, False),
        (2 + ANSWER_KEPT_MS, True),
        (3 + ANSWER_KEPT_MS, False),
    ]:
        once = Once("key", b"print" if now < 2 + ANSWER_KEPT_MS else b"another")
        assert (await set_once(storage, app, once, str(now), now=now))[1] == is_new
    await storage.prune(now=1 + 2 * ANSWER_KEPT_MS, before=0, limit=100)
    assert await storage.edit(app.id, lambda edit: edit.answer("key"), now=1) is not None
    await storage.prune(now=2 + 2 * ANSWER_KEPT_MS, before=0, limit=100)
    assert await storage.edit(app.id, lambda edit: edit.answer("key"), now=1) is None
    assert (await set_once(storage, app, Once("key", b"third"), "c", now=9))[1]


@pytest.mark.parametrize("expired", [False, True])
async def test_equal_keys_at_once_are_done_once(
    storage: Storage, open_storage: Open, app: App, *, expired: bool
) -> None:
    """Of many requests with one key, over two openings and on different profiles, one is done."""
    await added(storage, app, *map(profile, range(CROWD)))
    now = 2
    if expired:
        await set_once(storage, app, Once("key", b"old"), "old", number=0)
        now += ANSWER_KEPT_MS
    openings = [storage, await open_storage()]
    outcomes = await asyncio.gather(
        *(
            set_once(openings[number % 2], app, Once("key", b"print"), "a", number=number, now=now)
            for number in range(CROWD)
        )
    )
    assert sum(is_new for _, is_new in outcomes) == 1
    assert len({done.profile_id for done, _ in outcomes}) == 1
    assert len(await holding(storage, app, BRANCH, "a")) == 1
    assert await storage.check() == []
