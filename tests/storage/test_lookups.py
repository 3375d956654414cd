"""Reverse look-ups and reads of many profiles: what the storage promises, for every backend.

Threat row 5 stands here for the storage; over HTTP it is in `test_native.py`.
"""

import asyncio
import inspect
from collections.abc import Sequence

import msgspec
import pytest

from conftest import INJECTIONS, LOOKALIKES
from knownas.errors import ProfileConflict, ProfileNotFound, ServiceUnavailable
from knownas.lookups import Holder, Holders, Place, Sought
from knownas.model import (
    ALL_KINDS,
    KIND_NUMBER,
    KINDS,
    NO_IDENTIFIERS,
    App,
    AppId,
    Profile,
    ProfileId,
    ProfileRef,
    clear_identifiers,
    merge_identifiers,
)
from knownas.storage import Storage
from storage.conftest import Open

pytestmark = pytest.mark.anyio

APPSFLYER, BRANCH = KIND_NUMBER["appsflyer_id"], KIND_NUMBER["branch_id"]


def profile(number: int, customer: str | None = None, **values: str) -> Profile:
    """Return a profile as the tests store it; its id does not follow the order of making."""
    profile_id = ProfileId(f"{number * 7 % 101:08x}-0000-4000-8000-{number:012}")
    identifiers = merge_identifiers(NO_IDENTIFIERS, values)
    return Profile(profile_id, customer, identifiers, (("plan", "gold"),), 1, 1)


async def holders(storage: Storage, app: App, sought: Sought) -> Holders:
    """Return what a look-up returns, at once or later."""
    found = storage.holders(app.id, sought)
    return await found if inspect.isawaitable(found) else found


async def pages(
    storage: Storage, app: App, value: str, *, kinds: Sequence[int] = ALL_KINDS, limit: int
) -> list[list[Holder]]:
    """Return all pages of the holders of a value."""
    found, after = [], None
    while True:
        page = await holders(storage, app, Sought(kinds, value, limit, after))
        found.append(page.found)
        if page.next is None:
            return found
        after = page.next


# --- Who has a value ------------------------------------------------------------------------


async def test_holder_is_found_by_kind_and_value(storage: Storage, app: App) -> None:
    """A look-up returns the whole profile that has the value, and the kind as which it has it."""
    one, two = profile(1, "u", branch_id="b", appsflyer_id="a"), profile(2, branch_id="c")
    await storage.add_profiles(app.id, [one, two], now=1)
    found = await holders(storage, app, Sought((BRANCH,), "b", 20))
    assert found == Holders([Holder(BRANCH, one)], None)


async def test_other_kind_or_value_finds_nobody(storage: Storage, app: App) -> None:
    """The value counts as the kind that is asked for only, and whole."""
    await storage.add_profiles(app.id, [profile(1, branch_id="b")], now=1)
    for kinds, value in (((APPSFLYER,), "b"), ((BRANCH,), "B"), ((BRANCH,), "b%"), ((), "b")):
        assert await holders(storage, app, Sought(kinds, value, 20)) == Holders([], None)


async def test_value_alone_is_looked_for_as_every_kind(storage: Storage, app: App) -> None:
    """Over all kinds a profile is found once for each kind, in the order of the kinds."""
    every = {kind.name: "same" for kind in KINDS}
    one, two = profile(1, "u", **every), profile(2, branch_id="same")
    await storage.add_profiles(app.id, [one, two], now=1)
    found = await holders(storage, app, Sought(ALL_KINDS, "same", 100))
    assert [holder.kind for holder in found.found] == sorted([*ALL_KINDS, BRANCH])
    assert [holder for holder in found.found if holder.profile == two] == [Holder(BRANCH, two)]
    assert found.next is None


async def test_no_holder_of_another_app_is_found(storage: Storage, app: App, other: App) -> None:
    """The same value in two apps is two values."""
    mine, theirs = profile(1, "u", branch_id="b"), profile(2, "v", branch_id="b")
    await storage.add_profiles(app.id, [mine], now=1)
    await storage.add_profiles(other.id, [theirs], now=1)
    for one, its in ((app, mine), (other, theirs)):
        sought = Sought(ALL_KINDS, "b", 100)
        assert await holders(storage, one, sought) == Holders([Holder(BRANCH, its)], None)
        assert await storage.holders_of_each(one.id, [sought]) == [
            Holders([Holder(BRANCH, its)], None)
        ]


async def test_values_are_compared_byte_by_byte(storage: Storage, app: App) -> None:
    """No folding, normalisation, pattern or code: each text finds the profile that has just it."""
    texts = [*LOOKALIKES, *INJECTIONS]
    stored = [profile(number, branch_id=text) for number, text in enumerate(texts)]
    await storage.add_profiles(app.id, stored, now=1)
    wanted = [Sought((BRANCH,), text, 2) for text in texts]
    expected = [Holders([Holder(BRANCH, one)], None) for one in stored]
    assert await storage.holders_of_each(app.id, wanted) == expected
    assert [await holders(storage, app, sought) for sought in wanted] == expected


async def test_look_up_follows_every_change(storage: Storage, app: App) -> None:
    """A value that was set, replaced, cleared or deleted is found, or not, by the next read."""
    made = profile(1, branch_id="old")
    await storage.add_profiles(app.id, [made], now=1)
    ref = ProfileRef(profile_id=made.profile_id)

    async def found(value: str) -> list[Profile]:
        page = await holders(storage, app, Sought((BRANCH,), value, 20))
        return [holder.profile for holder in page.found]

    def change(now: int, **values: str) -> Profile:
        identifiers = merge_identifiers(clear_identifiers(made.identifiers, {BRANCH}), values)
        return msgspec.structs.replace(made, identifiers=identifiers, updated_at=now, revision=now)

    assert await found("old") == [made]
    for now, values in ((2, {"branch_id": "new"}), (3, {}), (4, {"branch_id": "old"})):
        after = change(now, **values)
        await storage.change_profile(app.id, ref, lambda _, after=after: after, now=now)  # type: ignore[misc]
        for value in ("old", "new"):
            assert await found(value) == ([after] if values.get("branch_id") == value else [])
    await storage.delete_profile(app.id, ref, now=1)
    assert await found("old") == []


# --- Pages ----------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 2, 9, 10, 19, 20, 21, 33, 50, 51, 52, 100])
async def test_pages_hold_each_holder_once(storage: Storage, app: App, limit: int) -> None:
    """Whatever the size of a page, each holder is on one, and each page but the last is full."""
    stored = [profile(n, branch_id="b") for n in range(39)]
    stored += [profile(n, appsflyer_id="b") for n in range(39, 48)]
    stored += [profile(48, appsflyer_id="b", branch_id="b"), profile(49, branch_id="c")]
    await storage.add_profiles(app.id, stored, now=1)
    found = await pages(storage, app, "b", limit=limit)
    assert [len(page) for page in found[:-1]] == [limit] * (len(found) - 1)
    assert 0 < len(found[-1]) <= limit
    every = [(holder.kind, holder.profile.profile_id) for page in found for holder in page]
    expected = [
        (kind, one.profile_id)
        for one in stored
        for kind in (APPSFLYER, BRANCH)
        if one.identifiers[kind] == "b"
    ]
    assert sorted(every) == sorted(expected)
    assert [kind for kind, _ in every] == sorted(kind for kind, _ in every)


async def test_changes_between_pages_hide_nothing(storage: Storage, app: App) -> None:
    """Who has the value all the time is found once, whatever becomes of the others meanwhile."""
    stored = [profile(n, branch_id="b") for n in range(30)]
    await storage.add_profiles(app.id, stored[:20], now=1)
    seen: list[ProfileId] = []
    gone: set[ProfileId] = set()
    after = None
    for turn in range(30):
        page = await holders(storage, app, Sought((BRANCH,), "b", 3, after))
        seen += [holder.profile.profile_id for holder in page.found]
        if page.next is None:
            break
        after = page.next
        if turn < 3:  # the last one of the page, the very place, and one that is perhaps to come
            for leaving in (page.found[-1].profile.profile_id, stored[turn].profile_id):
                if leaving not in gone:
                    await storage.delete_profile(app.id, ProfileRef(profile_id=leaving), now=1)
                    gone.add(leaving)
            await storage.add_profiles(app.id, [stored[20 + turn]], now=1)
    staying = {one.profile_id for one in stored[:20]} - gone
    assert staying <= set(seen)
    assert len(seen) == len(set(seen))


async def test_any_place_is_one(storage: Storage, app: App) -> None:
    """A place that no page gave finds what comes after it, or nothing."""
    one = profile(1, branch_id="b")
    await storage.add_profiles(app.id, [one], now=1)
    for place, comes in (
        (Place(0, 0), True),
        (Place(BRANCH, 0), True),
        (Place(BRANCH - 1, 2**128 - 1), True),
        (Place(BRANCH, 2**128 - 1), False),
        (Place(BRANCH + 1, 0), False),
        (Place(255, 0), False),
    ):
        found = await holders(storage, app, Sought(ALL_KINDS, "b", 5, place))
        assert found == Holders([Holder(BRANCH, one)] if comes else [], None), place


async def test_holders_of_each_are_those_of_one(storage: Storage, app: App) -> None:
    """Many look-ups at once return what each returns alone, in their order, places included."""
    stored = [profile(n, branch_id=f"b{n % 7}", appsflyer_id=f"b{n % 3}") for n in range(60)]
    await storage.add_profiles(app.id, stored, now=1)
    wanted = [
        Sought(kinds, f"b{value}", limit, after)
        for kinds in ((BRANCH,), ALL_KINDS)
        for value in (3, 0, 0, 9, 2)
        for limit in (1, 5, 50)
        for after in (None, Place(APPSFLYER, 2**128 - 1))
    ]
    expected = [await holders(storage, app, sought) for sought in wanted]
    assert await storage.holders_of_each(app.id, wanted) == expected
    assert await storage.holders_of_each(app.id, []) == []


async def test_simultaneous_look_ups_are_kept_apart(storage: Storage, app: App, other: App) -> None:
    """Look-ups of one turn of the loop, over two apps, each get their own answer."""
    for one, customer in ((app, "u"), (other, "v")):
        stored = [profile(n, f"{customer}{n}", branch_id=f"b{n % 40}") for n in range(80)]
        await storage.add_profiles(one.id, stored, now=1)
    wanted = [
        (one, Sought((BRANCH,), f"b{n}", 1 + n % 3)) for n in range(45) for one in (app, other)
    ]
    found = await asyncio.gather(*(holders(storage, one, sought) for one, sought in wanted))
    for (one, sought), page in zip(wanted, found, strict=True):
        assert page == await holders(storage, one, sought)


# --- Many profiles ----------------------------------------------------------------------------


async def test_profiles_answer_each_reference_in_order(
    storage: Storage, app: App, other: App
) -> None:
    """Each reference gets what a read of it alone gets, or the error of that."""
    one, two = profile(1, "u", branch_id="b"), profile(2)
    await storage.add_profiles(app.id, [one, two], now=1)
    await storage.add_profiles(other.id, [profile(3, "w")], now=1)
    refs = [
        ProfileRef("u"),
        ProfileRef("w"),
        ProfileRef(None, two.profile_id),
        ProfileRef("u", one.profile_id),
        ProfileRef("u", two.profile_id),
        ProfileRef("u", profile(3).profile_id),
        ProfileRef(None, profile(3).profile_id),
        ProfileRef("u"),
    ]
    found = await storage.profiles(app.id, refs)
    assert [it if isinstance(it, Profile) else type(it) for it in found] == [
        *(one, ProfileNotFound, two, one),
        *(ProfileConflict, ProfileNotFound, ProfileNotFound, one),
    ]
    assert await storage.profiles(app.id, []) == []


async def test_a_thousand_profiles_are_read_at_once(storage: Storage, app: App) -> None:
    """A batch of a thousand is answered whole, as are several at once."""
    stored = [profile(n, f"user-{n}", branch_id=f"b{n}") for n in range(1_000)]
    await storage.add_profiles(app.id, stored, now=1)
    batches = [[ProfileRef(f"user-{n}") for n in range(at, at + 800)] for at in (0, 100, 200)]
    found = await asyncio.gather(*(storage.profiles(app.id, batch) for batch in batches))
    assert found == [stored[at : at + 800] for at in (0, 100, 200)]


async def test_batch_sees_what_was_acknowledged(storage: Storage, app: App) -> None:
    """A write that was acknowledged before a batch is in it; so it goes from write to write."""
    await storage.add_profiles(app.id, [profile(1, "u")], now=1)
    for number in range(50):
        values = {"branch_id": f"b{number}"}

        def change(before: Profile, values: dict[str, str] = values) -> Profile:
            merged = merge_identifiers(before.identifiers, values)
            return msgspec.structs.replace(before, identifiers=merged)

        await storage.change_profile(app.id, ProfileRef("u"), change, now=2)
        (read,) = await storage.profiles(app.id, [ProfileRef("u")])
        assert isinstance(read, Profile)
        assert read.identifiers[BRANCH] == values["branch_id"]
        sought = Sought((BRANCH,), values["branch_id"], 1)
        assert await holders(storage, app, sought) == Holders([Holder(BRANCH, read)], None)
        assert await storage.holders_of_each(app.id, [sought]) == [
            Holders([Holder(BRANCH, read)], None)
        ]


async def test_look_ups_beside_writes_are_whole(storage: Storage, app: App) -> None:
    """While a value wanders between profiles, whoever is found has it."""
    stored = [profile(n, f"user-{n}", branch_id="b") for n in range(12)]
    await storage.add_profiles(app.id, stored, now=1)
    stop = asyncio.Event()

    async def wander() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            value = "b" if number % 3 else "c"

            def change(before: Profile, value: str = value) -> Profile:
                merged = merge_identifiers(before.identifiers, {"branch_id": value})
                return msgspec.structs.replace(before, identifiers=merged)

            ref = ProfileRef(f"user-{number % 12}")
            await storage.change_profile(app.id, ref, change, now=number)

    wanderer = asyncio.create_task(wander())
    for _ in range(60):
        for page in await pages(storage, app, "b", limit=5):
            assert all(holder.profile.identifiers[holder.kind] == "b" for holder in page)
        await asyncio.sleep(0)
    stop.set()
    await wanderer


async def test_closed_storage_looks_nothing_up(open_storage: Open) -> None:
    """After its end a look-up is refused as something that may be repeated elsewhere."""
    storage = await open_storage()
    app = AppId(1)
    await storage.profiles(app, [ProfileRef("u")])
    await storage.close()
    with pytest.raises(ServiceUnavailable):
        await storage.profiles(app, [ProfileRef("u")])
    with pytest.raises(ServiceUnavailable):
        await storage.holders_of_each(app, [Sought((BRANCH,), "b", 1)])
