"""The webhooks' half of the storage contract: what `knownas.deliveries.Webhooks` promises."""

import asyncio
import inspect
import typing

import pytest

from knownas.deliveries import Delivery, Failure, Report, Waiting, Webhook, Webhooks
from knownas.errors import Unauthorized, ValidationError, WebhookNotFound
from knownas.model import App, AppId, ProfileId, ProfileRef
from knownas.storage import Storage
from storage.conftest import Open
from storage.test_contract import IDS, methods, setting

pytestmark = pytest.mark.anyio

NOW = 1_000
LATER = 9_000
HOOK = Webhook("whk_1", "https://a.example/", b"sealed", ("profile.created",), NOW)
FAILED = Failure(NOW, 500, "The receiver answered 500.")
FIRST, SECOND = IDS[1], IDS[2]


async def hooked(storage: Storage, app: App, webhook: Webhook = HOOK) -> Webhook:
    """Give an app a webhook, which follows from now on."""
    await storage.webhooks.add(app.id, webhook, await storage.end_of_changes(), most=20)
    return webhook


async def changed(storage: Storage, app: App, profile_id: ProfileId, times: int = 1) -> None:
    """Change a profile, which is made where it is not there; each change is one revision."""
    for number in range(times):
        await storage.change_profile(
            app.id,
            ProfileRef(profile_id=profile_id),
            setting(branch_id=f"{number}-{await storage.end_of_changes()}"),
            now=NOW,
            create_as=profile_id,
        )


async def leased(storage: Storage, app: App, lease: str = "me") -> bool:
    """Tell whether the webhook could be leased."""
    held = await storage.webhooks.lease(app.id, HOOK.id, lease, now=NOW, until=NOW + 1)
    return held is not None


async def report(storage: Storage, app: App, of: Report, now: int = NOW) -> None:
    """Write what came of deliveries."""
    assert await leased(storage, app)
    assert await storage.webhooks.report(app.id, HOOK.id, "me", of, now=now, until=0)


async def listed(storage: Storage, app: App) -> dict[tuple[ProfileId, int], int | None]:
    """Return when each delivery that waits is tried again."""
    found = await storage.webhooks.deliveries(app.id, HOOK.id, "pending", None, 100)
    return {one.key: one.next_at for one in found}


async def due(storage: Storage, app: App, now: int = LATER, limit: int = 100) -> list[Waiting]:
    """Return what is due."""
    return await storage.webhooks.due(app.id, HOOK.id, now=now, limit=limit)


# --- The signatures -----------------------------------------------------------------------------


def test_every_method_on_one_app_takes_it_first() -> None:
    """The first parameter is the app, but of the method that looks for work over all apps."""
    for name, method in methods(Webhooks).items():
        _, first, *_ = inspect.signature(method).parameters.values()
        is_app = typing.get_type_hints(method)[first.name] is AppId
        assert is_app == (name != "with_work"), name


async def test_signatures_are_those_of_the_contract(storage: Storage) -> None:
    """A backend has every method of the protocol with the same parameters, in the same order."""
    own = methods(type(storage.webhooks))
    for name, method in methods(Webhooks).items():
        theirs, ours = (inspect.signature(one).parameters for one in (method, own[name]))
        assert [(one.name, one.kind, one.default) for one in ours.values()] == [
            (one.name, one.kind, one.default) for one in theirs.values()
        ], name


# --- Webhooks -----------------------------------------------------------------------------------


async def test_webhooks_are_kept_as_they_were_given(storage: Storage, app: App, other: App) -> None:
    """They are listed oldest first, with the cursor that they began with; another app has none."""
    second = Webhook("whk_0", "http://b.example:81/?x=%20", b"\0\xff", None, NOW + 1)
    await hooked(storage, app, second)
    await hooked(storage, app)
    states = await storage.webhooks.all(app.id)
    assert [one.webhook for one in states] == [HOOK, second]
    assert [one.cursor for one in states] == [await storage.end_of_changes()] * 2
    assert [one[2:] for one in states] == [(0, 0, None)] * 2
    assert await storage.webhooks.all(other.id) == []


async def test_app_has_so_many_webhooks_at_most(storage: Storage, app: App, other: App) -> None:
    """Of many that are added at once so many are kept; another app's do not count."""
    await hooked(storage, other)
    cursor = await storage.end_of_changes()
    outcomes = await asyncio.gather(
        *(
            storage.webhooks.add(app.id, HOOK._replace(id=f"whk_{number}"), cursor, most=4)
            for number in range(9)
        ),
        return_exceptions=True,
    )
    assert sum(isinstance(one, ValidationError) for one in outcomes) == 5
    assert len(await storage.webhooks.all(app.id)) == 4


async def test_webhook_of_a_deleted_app_is_refused_and_gone(
    storage: Storage, app: App, other: App
) -> None:
    """An app takes its webhooks and deliveries with it, and gets no new ones; another keeps its."""
    for one in (app, other):
        await hooked(storage, one)
        await changed(storage, one, FIRST)
        await report(storage, one, Report(kept=[Delivery(FIRST, 1)]))
    await storage.delete_app(app.id)
    assert await storage.webhooks.all(app.id) == []
    assert await storage.webhooks.deliveries(app.id, HOOK.id, None, None, 10) == []
    with pytest.raises(Unauthorized):
        await hooked(storage, app)
    assert [one.pending for one in await storage.webhooks.all(other.id)] == [1]


async def test_changed_webhook_is_kept(storage: Storage, app: App, other: App) -> None:
    """A change is kept whole; one that fails changes nothing; what is not there is not found."""
    await hooked(storage, app)
    cursor = (await storage.webhooks.all(app.id))[0].cursor
    changes = HOOK._replace(
        url="https://b.example/", secrets=b"other", types=None, disabled_at=5,
        disabled_because="so", lost_at=6,
    )  # fmt: skip
    assert await storage.webhooks.change(app.id, HOOK.id, lambda _: changes) == changes

    def fail(_webhook: Webhook) -> Webhook:
        raise ValidationError

    with pytest.raises(ValidationError):
        await storage.webhooks.change(app.id, HOOK.id, fail)
    [state] = await storage.webhooks.all(app.id)
    assert (state.webhook, state.cursor) == (changes, cursor)
    for of, webhook_id in ((other, HOOK.id), (app, "whk_none")):
        with pytest.raises(WebhookNotFound):
            await storage.webhooks.change(of.id, webhook_id, lambda one: one)


async def test_deleted_webhook_takes_its_deliveries_along(
    storage: Storage, app: App, other: App
) -> None:
    """A webhook of the same id that is made later has none of them."""
    await hooked(storage, app)
    await changed(storage, app, FIRST)
    await report(storage, app, Report(kept=[Delivery(FIRST, 1)]))
    assert not await storage.webhooks.delete(other.id, HOOK.id)
    assert await storage.webhooks.delete(app.id, HOOK.id)
    assert not await storage.webhooks.delete(app.id, HOOK.id)
    await hooked(storage, app)
    assert await listed(storage, app) == {}


# --- Work and leases ----------------------------------------------------------------------------


async def test_work_is_what_follows_the_cursor(storage: Storage, app: App, other: App) -> None:
    """A webhook has work where its app has changes after its cursor, and only while enabled."""
    await hooked(storage, app)
    await hooked(storage, other)
    work = storage.webhooks.with_work
    assert await work(now=NOW) == []
    await changed(storage, app, FIRST)
    assert await work(now=NOW) == [(app.id, HOOK.id)]
    await storage.webhooks.change(app.id, HOOK.id, lambda one: one._replace(disabled_at=1))
    assert await work(now=NOW) == []
    await storage.webhooks.change(app.id, HOOK.id, lambda one: one._replace(disabled_at=None))
    await report(storage, app, Report(cursor=await storage.end_of_changes()))
    assert await work(now=NOW) == []


async def test_work_is_what_is_due(storage: Storage, app: App) -> None:
    """A webhook has work as soon as the time of a delivery has come."""
    await hooked(storage, app)
    await changed(storage, app, FIRST)
    cursor = await storage.end_of_changes()
    waits = Delivery(FIRST, 1, next_at=LATER, attempts=1, failure=FAILED)
    await report(storage, app, Report(kept=[waits], cursor=cursor))
    assert await storage.webhooks.with_work(now=LATER - 1) == []
    assert await storage.webhooks.with_work(now=LATER) == [(app.id, HOOK.id)]


async def test_lease_is_held_by_one(open_storage: Open) -> None:
    """Of many who ask at once, over two connections, one gets it, until it ends or is let go."""
    one, two = await open_storage(), await open_storage()
    app = await one.create_app("uuid", "one", now=1)
    await hooked(one, app)
    await changed(one, app, FIRST)

    async def take(storage: Storage, name: str, now: int = NOW) -> bool:
        held = await storage.webhooks.lease(app.id, HOOK.id, name, now=now, until=now + 10)
        return held is not None

    taken = await asyncio.gather(
        *(take(storage, f"{number}") for number, storage in enumerate([one, two] * 8))
    )
    assert sum(taken) == 1
    holder = str(taken.index(True))
    assert await two.webhooks.with_work(now=NOW) == []
    assert await take(two, holder)  # renewed
    assert not await take(two, "other", NOW + 9)
    assert await take(two, "other", NOW + 10)
    assert not await take(one, holder, NOW + 11)
    end = {"now": NOW, "until": 0}
    assert await two.webhooks.report(app.id, HOOK.id, "other", Report(), **end)
    assert await take(one, holder, NOW + 12)


async def test_lease_tells_what_there_is_to_know(storage: Storage, app: App, other: App) -> None:
    """It has the webhook, its cursor and how much waits; none for what is disabled or not there."""
    await hooked(storage, app)
    await changed(storage, app, FIRST, 2)
    cursor = await storage.end_of_changes()
    kept = [Delivery(FIRST, 1), Delivery(FIRST, 2, "dead", failure=FAILED)]
    await report(storage, app, Report(kept=kept, cursor=cursor))
    held = await storage.webhooks.lease(app.id, HOOK.id, "me", now=NOW, until=NOW)
    assert held == (HOOK, cursor, 1)
    assert await storage.webhooks.lease(other.id, HOOK.id, "me", now=NOW, until=NOW) is None
    await storage.webhooks.change(app.id, HOOK.id, lambda one: one._replace(disabled_at=1))
    assert await storage.webhooks.lease(app.id, HOOK.id, "me", now=NOW, until=NOW) is None


async def test_report_under_a_lost_lease_writes_nothing(
    storage: Storage, app: App, other: App
) -> None:
    """Who was too slow learns of it, and the one who holds the lease finds all as it was."""
    await hooked(storage, app)
    await changed(storage, app, FIRST)
    assert await leased(storage, app, "slow")
    await storage.webhooks.lease(app.id, HOOK.id, "quick", now=LATER, until=LATER)
    before = await storage.webhooks.all(app.id)
    late = Report(
        kept=[Delivery(FIRST, 1)],
        cursor=await storage.end_of_changes(),
        disabled_because="late",
        failure=FAILED,
    )
    for of, name in ((app, "slow"), (other, "quick")):
        assert not await storage.webhooks.report(of.id, HOOK.id, name, late, now=NOW, until=0)
    assert await storage.webhooks.all(app.id) == before
    assert await listed(storage, app) == {}


# --- Deliveries ---------------------------------------------------------------------------------


async def test_first_of_a_profile_has_a_time_and_the_others_wait(
    storage: Storage, app: App
) -> None:
    """When the first one is settled, the next one's time is now."""
    await hooked(storage, app)
    await changed(storage, app, FIRST, 3)
    await changed(storage, app, SECOND)
    kept = [
        Delivery(FIRST, 1, attempts=1, next_at=LATER, failure=FAILED),
        Delivery(FIRST, 2, next_at=5),
        Delivery(SECOND, 1),
    ]
    await report(storage, app, Report(kept=kept))
    await report(storage, app, Report(kept=[Delivery(FIRST, 3)]), now=NOW + 1)
    waits = {(FIRST, 1): LATER, (FIRST, 2): None, (FIRST, 3): None, (SECOND, 1): NOW}
    assert await listed(storage, app) == waits
    await report(storage, app, Report(settled=[(FIRST, 1), (SECOND, 1)]), now=NOW + 2)
    assert await listed(storage, app) == {(FIRST, 2): NOW + 2, (FIRST, 3): None}
    dead = Delivery(FIRST, 2, "dead", 12, failure=FAILED)
    await report(storage, app, Report(kept=[dead]), now=NOW + 3)
    assert await listed(storage, app) == {(FIRST, 3): NOW + 3}
    assert await storage.webhooks.deliveries(app.id, HOOK.id, "dead", None, 9) == [dead]


async def test_due_deliveries_come_with_their_changes_and_what_waits_for_them(
    storage: Storage, app: App
) -> None:
    """The longest due comes first, behind each its profile's later ones; dead ones do not come."""
    await hooked(storage, app)
    await changed(storage, app, FIRST, 3)
    await changed(storage, app, SECOND)
    kept = [
        Delivery(FIRST, 1, "dead", 12, failure=FAILED),
        Delivery(FIRST, 2, attempts=1, next_at=NOW + 2, failure=FAILED._replace(status=None)),
        Delivery(FIRST, 3),
        Delivery(SECOND, 1, attempts=2, next_at=NOW + 1, failure=FAILED),
    ]
    await report(storage, app, Report(kept=kept))
    assert await due(storage, app, NOW) == []
    found = await due(storage, app)
    assert [one.delivery for one in found] == [kept[3], kept[1], kept[2]]
    told = {
        (one.profile_id, one.revision): one
        for one in (await storage.changes(app.id, None, 100)).changes
    }
    assert [one.change for one in found] == [told[one.delivery.key] for one in found]
    assert [one.delivery for one in await due(storage, app, limit=1)] == [kept[3]]


async def test_delivery_of_what_is_not_kept_has_no_change(storage: Storage, app: App) -> None:
    """A pruned change is not there for its delivery; a new delivery of it is not written."""
    await hooked(storage, app)
    await changed(storage, app, FIRST)
    await report(storage, app, Report(kept=[Delivery(FIRST, 1)]))
    assert await storage.prune(now=LATER, before=LATER, limit=10) == 1
    assert [one.change for one in await due(storage, app)] == [None]
    await report(storage, app, Report(settled=[(FIRST, 1)]))
    await report(storage, app, Report(kept=[Delivery(FIRST, 1), Delivery(SECOND, 7)]))
    assert await listed(storage, app) == {}


async def test_profiles_of_which_something_waits_are_held_back(storage: Storage, app: App) -> None:
    """A profile with nothing but a dead delivery is not."""
    await hooked(storage, app)
    await changed(storage, app, FIRST)
    await changed(storage, app, SECOND)
    kept = [Delivery(FIRST, 1), Delivery(SECOND, 1, "dead", failure=FAILED)]
    await report(storage, app, Report(kept=kept))
    asked = [FIRST, SECOND, IDS[3]]
    assert await storage.webhooks.held_back(app.id, HOOK.id, asked) == {FIRST}
    assert await storage.webhooks.held_back(app.id, "whk_none", asked) == set()
    assert await storage.webhooks.held_back(app.id, HOOK.id, []) == set()


async def test_state_tells_the_last_failure_and_why_it_is_disabled(
    storage: Storage, app: App
) -> None:
    """Both stay when later reports have none; the first reason for disabling stays."""
    await hooked(storage, app)
    await report(storage, app, Report(failure=FAILED))
    later = Failure(NOW + 1, None, "The receiver took too long.")
    await report(storage, app, Report(failure=later, disabled_because="It answered 410."), NOW + 5)
    [state] = await storage.webhooks.all(app.id)
    assert state.last_failure == later
    assert (state.webhook.disabled_at, state.webhook.disabled_because) == (
        NOW + 5,
        "It answered 410.",
    )


async def test_deliveries_are_listed_by_pages(storage: Storage, app: App, other: App) -> None:
    """Each is on one page, whatever the state that is asked for; another app has none of them."""
    await hooked(storage, app)
    for one in (SECOND, FIRST, IDS[3]):
        await changed(storage, app, one, 2)
    kept = [
        Delivery(one, revision, "dead" if revision == 1 else "pending", failure=FAILED)
        for one in (FIRST, SECOND, IDS[3])
        for revision in (1, 2)
    ]
    await report(storage, app, Report(kept=kept))
    read = storage.webhooks.deliveries
    pages, after = [], None
    while page := await read(app.id, HOOK.id, None, after, 4):
        pages.append([one.key for one in page])
        after = page[-1].key
    assert pages == [[one.key for one in kept[:4]], [one.key for one in kept[4:]]]
    dead = await read(app.id, HOOK.id, "dead", (FIRST, 1), 9)
    assert dead == [kept[2], kept[4]]
    assert await read(other.id, HOOK.id, None, None, 9) == []


async def test_replayed_deliveries_begin_anew_before_what_waits(
    storage: Storage, app: App, other: App
) -> None:
    """One dead delivery or so many are due at once; what waited for its time waits for them."""
    await hooked(storage, app)
    await changed(storage, app, FIRST, 3)
    await changed(storage, app, SECOND)
    kept = [
        Delivery(FIRST, 1, "dead", 12, failure=FAILED),
        Delivery(FIRST, 2, "dead", 12, failure=FAILED),
        Delivery(FIRST, 3, attempts=1, next_at=LATER, failure=FAILED),
        Delivery(SECOND, 1, "dead", 12, failure=FAILED),
    ]
    await report(storage, app, Report(kept=kept))
    replay = storage.webhooks.replay
    assert await replay(other.id, HOOK.id, None, now=NOW, limit=9) == 0
    assert await replay(app.id, HOOK.id, (FIRST, 3), now=NOW, limit=9) == 0
    assert await replay(app.id, HOOK.id, (FIRST, 2), now=NOW + 1, limit=9) == 1
    assert await listed(storage, app) == {(FIRST, 2): NOW + 1, (FIRST, 3): None}
    assert await replay(app.id, HOOK.id, None, now=NOW + 2, limit=1) == 1
    assert await replay(app.id, HOOK.id, None, now=NOW + 2, limit=9) == 1
    waits = {(FIRST, 1): NOW + 2, (FIRST, 2): None, (FIRST, 3): None, (SECOND, 1): NOW + 2}
    assert await listed(storage, app) == waits
    assert await replay(app.id, HOOK.id, None, now=NOW + 3, limit=9) == 0
    found = {one.delivery.key: one.delivery.attempts for one in await due(storage, app)}
    assert found == {(FIRST, 1): 0, (FIRST, 2): 0, (FIRST, 3): 1, (SECOND, 1): 0}


async def test_hastened_deliveries_are_due(storage: Storage, app: App) -> None:
    """Only what waits for its time is tried now; what waits for an earlier one goes on waiting."""
    await hooked(storage, app)
    await changed(storage, app, FIRST, 2)
    await changed(storage, app, SECOND)
    kept = [
        Delivery(FIRST, 1, attempts=1, next_at=LATER, failure=FAILED),
        Delivery(FIRST, 2),
        Delivery(SECOND, 1, "dead", 12, failure=FAILED),
    ]
    await report(storage, app, Report(kept=kept))
    await storage.webhooks.hasten(app.id, HOOK.id, now=NOW + 1)
    assert await listed(storage, app) == {(FIRST, 1): NOW + 1, (FIRST, 2): None}


# --- Pruning ------------------------------------------------------------------------------------


async def test_webhook_that_missed_changes_says_so(storage: Storage, app: App, other: App) -> None:
    """One whose own app's changes were pruned goes on behind them; a quiet one has lost nothing."""
    await hooked(storage, app)
    await hooked(storage, other)
    await changed(storage, app, FIRST, 3)
    assert await storage.prune(now=LATER, before=NOW + 1, limit=2) == 2
    [missed], [quiet] = await storage.webhooks.all(app.id), await storage.webhooks.all(other.id)
    assert (missed.webhook.lost_at, quiet.webhook.lost_at) == (LATER, None)
    left = await storage.changes(app.id, missed.cursor, 10)
    assert [one.revision for one in left.changes] == [3]
    assert (await storage.changes(other.id, quiet.cursor, 10)).changes == []


async def test_pruning_behind_a_webhook_leaves_it_alone(storage: Storage, app: App) -> None:
    """Who has come far enough has lost nothing, and goes on from where it was."""
    await hooked(storage, app)
    await changed(storage, app, FIRST)
    cursor = await storage.end_of_changes()
    await report(storage, app, Report(cursor=cursor))
    assert await storage.prune(now=LATER, before=LATER, limit=10) == 1
    [state] = await storage.webhooks.all(app.id)
    assert (state.webhook.lost_at, state.cursor) == (None, cursor)


async def test_what_is_long_dead_is_pruned(storage: Storage, app: App) -> None:
    """Deliveries that were given up before the time go with the history; others stay."""
    await hooked(storage, app)
    await changed(storage, app, FIRST)
    await changed(storage, app, SECOND)
    kept = [
        Delivery(FIRST, 1, "dead", 12, failure=FAILED),
        Delivery(SECOND, 1, "dead", 12, failure=FAILED._replace(at=LATER)),
    ]
    await report(storage, app, Report(kept=kept))
    await storage.prune(now=LATER, before=NOW + 1, limit=10)
    assert await storage.webhooks.deliveries(app.id, HOOK.id, None, None, 9) == kept[1:]
