"""Persons who are erased: gone from everywhere at once, and kept away; for every backend.

Threat row 31, as far as it is the storage's. What is left in files is in `test_erased_bytes.py`.
"""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Final

import msgspec
import pytest

from knownas import as_of, copying, ledger, merging, replaying, writes
from knownas.as_of import Moment
from knownas.editing import Answer, Edit
from knownas.eraser import Eraser
from knownas.erasing import Subjects, Whom, customer_name, profile_name
from knownas.errors import (
    ErasureNotFound,
    FeatureNotConfigured,
    IdentifierShared,
    KnownasError,
    ProfileConflict,
    ProfileNotFound,
)
from knownas.events import event
from knownas.history import Source
from knownas.lookups import Sought
from knownas.model import (
    ALL_KINDS,
    KIND_NUMBER,
    NO_IDENTIFIERS,
    App,
    Profile,
    ProfileId,
    ProfileRef,
    merge_identifiers,
)
from knownas.storage import Storage
from knownas.vault import Vault
from storage.conftest import VAULT, Open

pytestmark = pytest.mark.anyio

IDS: Final = [ProfileId(f"{number:08x}-0000-4000-8000-{number:012}") for number in range(100)]
BRANCH: Final = KIND_NUMBER["branch_id"]
CROWD: Final = 32


class Clock:
    """A clock that is put forward by hand."""

    now = 1_000

    def __call__(self) -> int:
        """Return the time."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    """Give a clock."""
    return Clock()


@pytest.fixture
def ledger_path(tmp_path: Path) -> str:
    """Give the path of a ledger."""
    return str(tmp_path / "ledger")


def eraser_of(storage: Storage, path: str, clock: Clock, vault: Vault = VAULT) -> Eraser:
    """Return what erases from a storage."""
    return Eraser(storage, vault, ledger_path=path, hours=24, clock=clock, new_uuid=uuid.uuid4)


@pytest.fixture
async def eraser(storage: Storage, ledger_path: str, clock: Clock) -> Eraser:
    """Give what erases from the test's storage."""
    return eraser_of(storage, ledger_path, clock)


@pytest.fixture
async def restored(new_database: Callable[[], Open]) -> AsyncIterator[Storage]:
    """Give another database of the same kind, and empty."""
    storage = await new_database()()
    yield storage
    await storage.close()


@pytest.fixture
async def again(restored: Storage, ledger_path: str, clock: Clock) -> Eraser:
    """Give what erases from the other database, with the same ledger."""
    return eraser_of(restored, ledger_path, clock)


def by_id(number: int) -> ProfileRef:
    """Return a reference by profile id."""
    return ProfileRef(profile_id=IDS[number])


def profile(number: int, customer: str | None = None, **values: str) -> Profile:
    """Return a profile as the tests store it."""
    identifiers = merge_identifiers(NO_IDENTIFIERS, values)
    return Profile(IDS[number], customer, identifiers, (("plan", f"plan-{number}"),), 1, 1)


async def added(storage: Storage, app: App, *profiles: Profile) -> None:
    """Add profiles."""
    assert await storage.add_profiles(app.id, profiles, now=1) == len(profiles)


async def edited(storage: Storage, app: App, work: Callable[[Edit], object], now: int = 2) -> None:
    """Make an edit."""
    await storage.edit(app.id, work, now=now)


def merged(survivor: int, source: int) -> Callable[[Edit], object]:
    """Return the edit that makes one profile of two."""
    return lambda edit: merging.merge(
        edit,
        by_id(survivor),
        by_id(source),
        rules={},
        default="source",
        policies={},
        now=2,
        dry_run=False,
    )


async def told(storage: Storage, app: App) -> str:
    """Return all that the feed of an app tells."""
    page = await storage.changes(app.id, None, 10_000)
    return msgspec.json.encode(list(map(event, page.changes))).decode()


async def is_there(storage: Storage, app: App, ref: ProfileRef) -> bool:
    """Tell whether a reference leads to a profile."""
    try:
        await storage.profile(app.id, ref)
    except ProfileNotFound:
        return False
    return True


async def counts(storage: Storage, app: App) -> dict[int, int]:
    """Return what coverage counts by now."""
    total: dict[int, int] = {}
    for day in await storage.coverage(app.id):
        total[day.kind] = total.get(day.kind, 0) + day.change
    return {kind: count for kind, count in total.items() if count}


# --- gone -------------------------------------------------------------------------------------


async def test_person_is_gone_from_everywhere(
    storage: Storage, app: App, other: App, eraser: Eraser
) -> None:
    """No read finds anything of the person; the app's others and another app's are as before."""
    of_person = profile(1, "kim", branch_id="secret-1", appsflyer_id="shared")
    await added(storage, app, of_person, profile(2, "else", appsflyer_id="shared"))
    await added(storage, other, of_person)
    before = await counts(storage, other)
    erased = await eraser.erase(app, Whom(ProfileRef("kim")), by=Source("erasure", "key_1"))
    assert set(erased.person.profile_ids) == {IDS[1]}
    assert set(erased.person.customers) == {"kim"}
    for ref in (ProfileRef("kim"), by_id(1)):
        assert not await is_there(storage, app, ref)
        assert await is_there(storage, other, ref)
    [held] = await storage.holders_of_each(app.id, [Sought(ALL_KINDS, "secret-1", 9)])
    assert held.found == []
    assert await storage.history(app.id, IDS[1], before=None, limit=9) == []
    assert await storage.shared(app.id, None, 9) == []
    assert (await counts(storage, app)) == {-1: 1, KIND_NUMBER["appsflyer_id"]: 1}
    assert await counts(storage, other) == before
    feed = await told(storage, app)
    assert not any(it in feed for it in ("kim", "secret-1", IDS[1], "plan-1"))
    assert await storage.check() == []
    with pytest.raises(ProfileNotFound):
        await eraser.erase(app, Whom(by_id(1)))


async def test_feed_tells_that_and_not_who(storage: Storage, app: App, eraser: Eraser) -> None:
    """Followers get one event, with the erasure's id and whose key it was."""
    await added(storage, app, profile(1, "kim"))
    cursor = await storage.end_of_changes()
    erased = await eraser.erase(app, Whom(by_id(1)), by=Source("erasure", "key_1"))
    page = await storage.changes(app.id, cursor, 9)
    assert [event(it) for it in page.changes] == [
        {
            "cursor": page.changes[0].cursor,
            "type": "profile.erased",
            "at": 1_000,
            "erasure_id": erased.signed.receipt.id,
            "source": {"via": "erasure", "key_id": "key_1"},
        }
    ]
    with pytest.raises(ProfileNotFound):
        await eraser.erase(app, Whom(ProfileRef(profile_id=ProfileId(erased.signed.receipt.id))))


async def test_receipt_counts(storage: Storage, app: App, eraser: Eraser) -> None:
    """It has how many of what, whom to ask next, and what still waits, but no value."""
    await added(storage, app, profile(1, "kim", branch_id="a", amplitude_user_id="b"))
    await storage.change_profile(
        app.id,
        by_id(1),
        lambda it: msgspec.structs.replace(
            it, identifiers=merge_identifiers(it.identifiers, {"branch_id": "c"})
        ),
        now=2,
    )
    receipt = (await eraser.erase(app, Whom(by_id(1)))).signed.receipt
    assert (receipt.app_id, receipt.erased_at, receipt.complete) == (app.uuid, 1_000, False)
    assert (receipt.erased.profiles, receipt.erased.customers) == (1, 1)
    assert receipt.erased.identifiers == {"amplitude_user_id": 1, "branch_id": 2}
    assert receipt.erased.history == 2
    assert [it.vendor for it in receipt.erased.vendors] == ["Amplitude", "Branch"]
    assert [it.until for it in receipt.waits if it.who == "server"] == [1_000 + 24 * 3_600_000]
    assert all(it.until is None for it in receipt.waits if it.who == "operator")


async def test_receipt_is_complete_when_all_is_done(
    storage: Storage, app: App, other: App, eraser: Eraser, clock: Clock
) -> None:
    """Then nothing waits for the server any more, and receipts of an app are its own."""
    await added(storage, app, profile(1), profile(2))
    ids = []
    for number in (1, 2):
        clock.now += 1
        ids.append((await eraser.erase(app, Whom(by_id(number)))).signed.receipt.id)
    clock.now = 5_000
    await eraser.finish_if_due()
    receipt = (await eraser.receipt(app, ids[0])).receipt
    assert (receipt.complete, receipt.completed_at) == (True, 5_000)
    assert {it.who for it in receipt.waits} == {"operator"}
    assert await storage.erasures.waiting_since() is None
    assert [it.id for it in await eraser.receipts(app, None, 9)] == ids[::-1]
    assert [it.id for it in await eraser.receipts(app, (1_002, ids[1]), 9)] == [ids[0]]
    assert await eraser.receipts(other, None, 9) == []
    with pytest.raises(ErasureNotFound):
        await eraser.receipt(other, ids[0])


async def test_shared_identifier_erases_nobody(storage: Storage, app: App, eraser: Eraser) -> None:
    """A value that two have is refused; one that a person has twice, or alone, is not."""
    await added(
        storage,
        app,
        profile(1, branch_id="both"),
        profile(2, branch_id="both"),
        profile(3, branch_id="mine", appsflyer_id="mine"),
    )
    for kinds in ((BRANCH,), ALL_KINDS):
        with pytest.raises(IdentifierShared):
            await eraser.erase(app, Whom(None, kinds, "both"))
    assert ledger.read([eraser.ledger_path]) == []
    assert await storage.count_profiles(app.id) == 3
    await eraser.erase(app, Whom(None, ALL_KINDS, "mine"))
    assert not await is_there(storage, app, by_id(3))
    with pytest.raises(ProfileNotFound):
        await eraser.erase(app, Whom(None, (BRANCH,), "mine"))


async def test_merged_person_goes_with_all_sources(
    storage: Storage, app: App, eraser: Eraser
) -> None:
    """By whichever name: the chain of merges, its customers, and the way back."""
    await added(
        storage, app, *(profile(it, f"kim-{it}", branch_id=f"branch-{it}") for it in range(4))
    )
    await edited(storage, app, merged(1, 2))
    await edited(storage, app, merged(3, 1))
    erased = await eraser.erase(app, Whom(by_id(2)))
    assert set(erased.person.profile_ids) == {IDS[1], IDS[2], IDS[3]}
    assert set(erased.person.customers) == {"kim-1", "kim-2", "kim-3"}
    for number in (1, 2, 3):
        assert not await is_there(storage, app, by_id(number))
        assert not await is_there(storage, app, ProfileRef(f"kim-{number}"))
        assert await storage.history(app.id, IDS[number], before=None, limit=9) == []
        with pytest.raises(ProfileNotFound):
            await edited(storage, app, lambda edit, it=number: merging.undo(edit, IDS[it]))  # type: ignore[misc]
    assert await is_there(storage, app, by_id(0))
    assert len(ledger.read([eraser.ledger_path])[0].subjects) == 6


async def test_deleted_person_is_erased_from_the_history(
    storage: Storage, app: App, eraser: Eraser
) -> None:
    """By the id, or by the customer, which leads to every profile that was deleted with it."""
    await added(storage, app, profile(1, "kim", branch_id="a"), profile(9, branch_id="z"))
    await storage.delete_profile(app.id, by_id(1), now=2)
    await added(storage, app, profile(2, "kim", branch_id="b"))
    await storage.delete_profile(app.id, by_id(2), now=3)
    await added(storage, app, profile(3, "kim", branch_id="c"))
    erased = await eraser.erase(app, Whom(ProfileRef("kim")))
    assert set(erased.person.profile_ids) == {IDS[1], IDS[2], IDS[3]}
    assert erased.person.identifiers == {BRANCH: {"a", "b", "c"}}
    await storage.delete_profile(app.id, by_id(9), now=3)
    erased = await eraser.erase(app, Whom(by_id(9)))
    assert (erased.person.profile, erased.person.changes) == (None, 2)
    page = await storage.changes(app.id, None, 99)
    assert [it.action for it in page.changes] == ["erased", "erased"]


async def test_deleted_customer_is_found(storage: Storage, app: App, eraser: Eraser) -> None:
    """Where no profile of the customer is left, its history is found by the customer."""
    await added(storage, app, profile(1, "kim"), profile(2, "else"))
    await storage.delete_profile(app.id, by_id(1), now=2)
    erased = await eraser.erase(app, Whom(ProfileRef("kim")))
    assert erased.person.profile_ids == (IDS[1],)
    with pytest.raises(ProfileNotFound):
        await eraser.erase(app, Whom(ProfileRef("kim")))


# --- what others' histories have ----------------------------------------------------------------


async def test_undone_merge_leaves_nothing_with_the_survivor(
    storage: Storage, app: App, eraser: Eraser
) -> None:
    """What a merge brought to the survivor is replaced, in its history, by what was there before.

    What the survivor had and was given itself stays, at every revision.
    """
    survivor = profile(1, "mine", branch_id="my-branch", appsflyer_id="both")
    source = profile(2, "theirs", branch_id="secret-1", adjust_device_id="secret-2")
    source = msgspec.structs.replace(
        source, attributes=(("plan", "secret-3"), ("city", "secret-4"), ("same", "x"))
    )
    await added(storage, app, survivor, source)
    await edited(storage, app, merged(1, 2))
    await storage.change_profile(
        app.id,
        by_id(1),
        lambda it: msgspec.structs.replace(
            it,
            identifiers=merge_identifiers(
                it.identifiers,
                {"adjust_device_id": "later", "pushwoosh_hwid": "t"},
            ),
            attributes=(*it.attributes, ("mine", "y")),
        ),
        now=3,
    )
    await edited(storage, app, lambda edit: merging.undo(edit, IDS[2]), now=4)
    now = await storage.profile(app.id, by_id(1))
    await eraser.erase(app, Whom(by_id(2)))
    feed = await told(storage, app)
    assert not any(
        it in feed for it in ("theirs", "secret-1", "secret-2", "secret-3", "secret-4", IDS[2])
    )
    assert await storage.profile(app.id, by_id(1)) == now
    changes = await storage.history(app.id, IDS[1], before=None, limit=9)
    assert [it.revision for it in changes] == [4, 3, 2, 1]
    for revision in (1, 2, 3):
        was = await as_of.profile_as_of(storage, app.id, by_id(1), Moment(revision=revision))
        assert was.customer_user_id == "mine"
        assert was.identifiers[BRANCH] == "my-branch"
        assert was.identifiers[KIND_NUMBER["appsflyer_id"]] == "both"
        assert dict(was.attributes)["plan"] == "plan-1"
    assert was.identifiers[KIND_NUMBER["adjust_device_id"]] == "later"
    assert dict(was.attributes) == {"plan": "plan-1", "same": "x", "mine": "y"} or (
        dict(was.attributes) == {"plan": "plan-1", "mine": "y"}
    )
    state = None
    for change in reversed(changes):
        state = change.after(state)
    assert state == now


async def test_chain_of_undone_merges_leaves_nothing(
    storage: Storage, app: App, eraser: Eraser
) -> None:
    """Who was in a profile that was in another one leaves nothing in that either."""
    await added(
        storage, app, *(profile(it, f"kim-{it}", branch_id=f"branch-{it}") for it in (1, 2, 3))
    )
    await edited(storage, app, merged(2, 1))
    await edited(storage, app, merged(3, 2))
    await edited(storage, app, lambda edit: merging.undo(edit, IDS[2]))
    await edited(storage, app, lambda edit: merging.undo(edit, IDS[1]))
    await eraser.erase(app, Whom(by_id(1)))
    feed = await told(storage, app)
    assert not any(it in feed for it in ("kim-1", "branch-1", IDS[1], "plan-1"))
    assert all(it in feed for it in ("kim-2", "branch-2", IDS[2], "kim-3", "branch-3", IDS[3]))
    for number in (2, 3):
        assert (await storage.profile(app.id, by_id(number))).identifiers[
            BRANCH
        ] == f"branch-{number}"


async def test_customer_that_moved_on_is_gone_from_the_history_it_left(
    storage: Storage, app: App, eraser: Eraser
) -> None:
    """The profile that had the customer before keeps its own history, without that name."""
    await added(storage, app, profile(1, "kim", branch_id="mine"), profile(2))
    await edited(storage, app, lambda edit: writes.bind_customer(edit, IDS[2], "kim", rebind=True))
    erased = await eraser.erase(app, Whom(ProfileRef("kim")))
    assert erased.person.profile_ids == (IDS[2],)
    feed = await told(storage, app)
    assert "kim" not in feed
    assert "mine" in feed
    assert await is_there(storage, app, by_id(1))
    assert len(await storage.history(app.id, IDS[1], before=None, limit=9)) == 2


async def test_answers_of_the_person_are_gone(storage: Storage, app: App, eraser: Eraser) -> None:
    """What was kept under an Idempotency-Key goes where it names the person, and else stays."""
    await added(storage, app, profile(1), profile(2))

    def keep(edit: Edit) -> None:
        for number in (1, 2):
            edit.keep_answer(f"key-{number}", Answer(b"f", f'[["{IDS[number]}",1]]', 9_999))

    await edited(storage, app, keep)
    await eraser.erase(app, Whom(by_id(1)))
    found: list[Answer | None] = []
    await edited(storage, app, lambda edit: found.extend(edit.answer(f"key-{it}") for it in (1, 2)))
    assert found[-2] is None
    assert found[-1] is not None


# --- kept away ----------------------------------------------------------------------------------


def keep(found: Profile) -> Profile:
    """Change nothing."""
    return found


async def test_erased_names_are_not_brought_back(
    storage: Storage, app: App, other: App, eraser: Eraser
) -> None:
    """Neither by an import, a copy, a batch, nor by who creates without being asked to."""
    await added(storage, app, profile(1, "kim"))
    await eraser.erase(app, Whom(by_id(1)))
    back = [profile(1), profile(2, "kim"), profile(3, "else")]
    assert await storage.add_profiles(app.id, back, now=2_000) == 1
    assert await storage.replace_profiles(app.id, [IDS[3]], back, now=2_000) == 1
    for ref in (by_id(1), ProfileRef("kim"), ProfileRef("kim", IDS[2]), ProfileRef("x", IDS[1])):
        with pytest.raises(ProfileNotFound):
            await storage.change_profile(app.id, ref, keep, now=2_000, create_as=IDS[4])
        setting = writes.Setting(ref, {"branch_id": "a"}, create_as=IDS[5])
        with pytest.raises(ProfileNotFound):
            await edited(
                storage,
                app,
                lambda edit, it=setting: writes.set_identifiers(edit, it, {}, 2_000),  # type: ignore[misc]
            )
    await added(storage, app, profile(6))
    with pytest.raises(ProfileNotFound):  # nor may the customer come to an anonymous profile
        await storage.change_profile(
            app.id, ProfileRef("kim", IDS[6]), keep, now=2_000, create_as=IDS[6]
        )
    assert await storage.count_profiles(app.id) == 2
    assert await storage.add_profiles(other.id, back, now=2_000) == 3


async def test_someone_begins_anew(
    storage: Storage, app: App, eraser: Eraser, clock: Clock
) -> None:
    """Who is created expressly is somebody else: with nothing of before, and to stay."""
    await added(storage, app, profile(1, "kim", branch_id="old"))
    clock.now = 5_000
    await eraser.erase(app, Whom(by_id(1)))
    # Even where the clock was put back meanwhile.
    new = await storage.change_profile(
        app.id, ProfileRef("kim", IDS[1]), keep, now=4_000, create_as=IDS[1], anew=True
    )
    assert (new.revision, new.created_at, new.identifiers) == (1, 5_000, NO_IDENTIFIERS)
    assert await storage.profile(app.id, ProfileRef("kim")) == new
    checked = await eraser.check(
        app, [profile_name(IDS[1]), customer_name("kim"), customer_name("else")]
    )
    assert [(it.name, it.erased_at, it.revived_at) for it in checked] == [
        (profile_name(IDS[1]), 5_000, 4_000),
        (customer_name("kim"), 5_000, 4_000),
    ]
    assert await eraser.replay() == []
    await storage.delete_profile(app.id, by_id(1), now=6_000)
    assert await storage.add_profiles(app.id, [profile(1, "kim")], now=6_000) == 1
    await eraser.erase(app, Whom(by_id(1)))
    assert await storage.add_profiles(app.id, [profile(1, "kim")], now=7_000) == 0


async def test_customer_is_bound_anew(storage: Storage, app: App, eraser: Eraser) -> None:
    """Who binds an erased customer expressly means somebody else."""
    await added(storage, app, profile(1, "kim"), profile(2))
    await eraser.erase(app, Whom(by_id(1)))
    await edited(storage, app, lambda edit: writes.bind_customer(edit, IDS[2], "kim", rebind=False))
    assert (await storage.profile(app.id, ProfileRef("kim"))).profile_id == IDS[2]
    assert [it.revived_at for it in await eraser.check(app, [customer_name("kim")])] == [2]


async def test_nobody_new_comes_where_the_key_is_missing(
    storage: Storage, app: App, other: App, eraser: Eraser, new_without_key: Callable[[], Open]
) -> None:
    """Without the master key nobody can be told from who was erased, so nobody is let in."""
    await added(storage, app, profile(1, "kim"), profile(2))
    await eraser.erase(app, Whom(by_id(1)))
    without = await new_without_key()()
    with pytest.raises(FeatureNotConfigured):
        await without.add_profiles(app.id, [profile(3)], now=2)
    with pytest.raises(FeatureNotConfigured):
        await without.change_profile(app.id, by_id(3), keep, now=2, create_as=IDS[3], anew=True)
    assert await without.add_profiles(other.id, [profile(3)], now=2) == 1
    await without.change_profile(
        app.id, by_id(2), lambda it: msgspec.structs.replace(it, attributes=()), now=2
    )
    await without.close()


async def test_simultaneous_writes_bring_nothing_back(
    storage: Storage, app: App, eraser: Eraser
) -> None:
    """Amid a crowd of creates and merges of the same person, the erasure is whole."""
    await added(storage, app, profile(1, "kim", branch_id="mine"), profile(2, "else"))

    async def create(number: int) -> None:
        ref = ProfileRef("kim") if number % 2 else by_id(1)
        await storage.change_profile(
            app.id,
            ref,
            lambda it: msgspec.structs.replace(
                it, identifiers=merge_identifiers(it.identifiers, {"branch_id": f"branch-{number}"})
            ),
            now=2,
            create_as=IDS[number + 10],
        )

    writes_before, writes_after = (
        [create(number) for number in numbers]
        for numbers in (range(CROWD), range(CROWD, 2 * CROWD))
    )
    _, *outcomes = await asyncio.gather(
        eraser.erase(app, Whom(by_id(1))),
        *writes_before,
        edited(storage, app, merged(2, 1)),
        *writes_after,
        return_exceptions=True,
    )
    assert all(it is None or isinstance(it, KnownasError) for it in outcomes)
    assert not await is_there(storage, app, ProfileRef("kim"))
    assert not await is_there(storage, app, by_id(1))
    assert IDS[1] not in await told(storage, app)
    assert await storage.check() == []


# --- ledgers and copies -------------------------------------------------------------------------


async def twin(storage: Storage, app: App, *profiles: Profile) -> App:
    """Make an app of the same UUID in another database, with profiles."""
    made = await storage.create_app(app.uuid, app.name, now=1)
    await added(storage, made, *profiles)
    return made


async def test_ledger_erases_from_an_older_database(
    storage: Storage, app: App, eraser: Eraser, restored: Storage, again: Eraser
) -> None:
    """What a backup brought back is erased again, all of it, and once; who came later stays."""
    people = [profile(1, "kim-1"), profile(2, "kim-2", branch_id="branch-2"), profile(3, "kim-3")]
    await added(storage, app, *people)
    for number in (1, 2):
        await eraser.erase(app, Whom(by_id(number)))
    old = await twin(restored, app, *people)
    await restored.delete_profile(old.id, by_id(1), now=2)
    await edited(restored, old, merged(3, 2))
    await edited(restored, old, lambda edit: merging.undo(edit, IDS[2]))
    later = Profile(IDS[9], None, NO_IDENTIFIERS, (), 9_000, 9_000)
    await added(restored, old, later)
    [done] = await again.replay()
    assert (done.app, done.erasures, done.persons) == (app.name, 2, 2)
    assert await again.replay() == []
    feed = await told(restored, old)
    assert not any(it in feed for it in ("kim-1", "kim-2", "branch-2", IDS[1], IDS[2]))
    assert await is_there(restored, old, by_id(3))
    assert await is_there(restored, old, by_id(9))
    assert await restored.add_profiles(old.id, people, now=10_000) == 0
    assert await restored.check() == []
    receipts = await eraser.receipts(app, None, 9)
    assert [it.erased for it in await again.receipts(old, None, 9)] == [
        it.erased for it in receipts
    ]
    await again.finish()
    assert all(it.complete for it in await again.receipts(old, None, 9))


async def test_ledger_takes_a_merge_apart_that_was_undone_later(
    storage: Storage, app: App, eraser: Eraser, restored: Storage, again: Eraser
) -> None:
    """Where the backup has two in one, of whom one was erased after they were two, one stays."""
    people = [profile(1, "kim-1", branch_id="branch-1"), profile(2, "kim-2", branch_id="branch-2")]
    await added(storage, app, *people)
    await eraser.erase(app, Whom(by_id(2)))
    old = await twin(restored, app, *people)
    await edited(restored, old, merged(1, 2))
    [done] = await again.replay()
    assert done.persons == 1
    left = await restored.profile(old.id, by_id(1))
    assert (left.customer_user_id, left.identifiers[BRANCH]) == ("kim-1", "branch-1")
    feed = await told(restored, old)
    assert not any(it in feed for it in ("kim-2", "branch-2", IDS[2]))


async def test_ledger_leaves_who_began_anew(
    storage: Storage, app: App, eraser: Eraser, restored: Storage, again: Eraser
) -> None:
    """A profile that began after the erasure stays, and may stay away from no import."""
    await added(storage, app, profile(1, "kim"))
    await eraser.erase(app, Whom(by_id(1)))
    new = msgspec.structs.replace(profile(5, "kim"), created_at=2_000, updated_at=2_000)
    old = await twin(restored, app, new)
    [done] = await again.replay()
    assert (done.erasures, done.persons) == (1, 0)
    assert await is_there(restored, old, ProfileRef("kim"))
    assert [it.revived_at for it in await again.check(old, [customer_name("kim")])] == [2_000]


async def test_copy_takes_erasures_along(
    storage: Storage, app: App, eraser: Eraser, restored: Storage, again: Eraser
) -> None:
    """A copy made before loses who was erased since, and both keep them away."""
    target, in_target = restored, again
    subjects = Subjects(VAULT)

    async def copy() -> copying.AppCopy:
        [copied] = await copying.copy(
            storage, target, subjects=subjects, overwrite=False, progress=lambda *_: None
        )
        return copied

    await added(
        storage, app, profile(1, "kim", branch_id="branch-1"), profile(2), profile(3, "three")
    )
    assert (await copy()).is_same
    erased = await eraser.erase(app, Whom(by_id(1)))
    copied = await copy()
    assert (copied.is_same, copied.erased, copied.left_out) == (True, 1, 0)
    [there] = await target.apps()
    feed = await told(target, there)
    assert not any(it in feed for it in ("branch-1", IDS[1]))
    assert await target.add_profiles(there.id, [profile(1), profile(7, "kim")], now=9) == 0
    assert (await in_target.receipt(there, erased.signed.receipt.id)).receipt.erased.profiles == 1
    assert await in_target.public_key() == await eraser.public_key()
    # Erased in the target alone, it is not brought again; and one who began anew is.
    await in_target.erase(there, Whom(by_id(3)))
    await storage.change_profile(
        app.id, ProfileRef("kim"), keep, now=2_000, create_as=IDS[8], anew=True
    )
    copied = await copy()
    assert (copied.is_same, copied.erased, copied.left_out) == (False, 0, 1)
    assert await is_there(target, there, ProfileRef("kim"))
    assert not await is_there(target, there, by_id(3))


async def test_two_databases_that_erased_on_their_own_become_one(
    storage: Storage, app: App, eraser: Eraser, restored: Storage, again: Eraser
) -> None:
    """Each has a key of its own; who was erased in either is kept away by both keys."""
    target, in_target = restored, again
    there = await twin(target, app, profile(1), profile(2))
    await added(storage, app, profile(1), profile(2))
    await eraser.erase(app, Whom(by_id(1)))
    await in_target.erase(there, Whom(by_id(2)))
    brought = await replaying.kept(storage, app)
    await replaying.bring(target, Subjects(VAULT), there, brought, lambda: 5_000)
    assert len(await target.erasures.keys(there.id)) == 2
    assert await target.add_profiles(there.id, [profile(1), profile(2)], now=9) == 0
    assert {it.name for it in await in_target.check(there, list(map(profile_name, IDS[:3])))} == {
        profile_name(IDS[1]),
        profile_name(IDS[2]),
    }


async def test_app_takes_its_erasures_with_it(storage: Storage, app: App, eraser: Eraser) -> None:
    """A deleted app leaves neither tombstones nor receipts."""
    await added(storage, app, profile(1))
    await eraser.erase(app, Whom(by_id(1)))
    await storage.delete_app(app.id)
    assert await storage.erasures.keys(app.id) == []
    assert await storage.erasures.tombstones_after(app.id, b"", 9) == []
    assert await storage.erasures.page(app.id, None, 9) == []
    assert await storage.erasures.waiting_since() is None


async def test_conflicting_references_erase_nobody(
    storage: Storage, app: App, eraser: Eraser
) -> None:
    """A customer and an id that lead to two persons are refused."""
    await added(storage, app, profile(1, "kim"), profile(2))
    with pytest.raises(ProfileConflict):
        await eraser.erase(app, Whom(ProfileRef("kim", IDS[2])))
    assert await storage.count_profiles(app.id) == 2
