"""How a database says that it is: its size, what it holds, who follows it, and its work."""

import asyncio
import uuid

import pytest

from knownas.condition import OPERATIONS, Operation, Queue
from knownas.deliveries import UPSTREAM, Delivery, Failure, Report
from knownas.erasing import Erasure
from knownas.model import App, ProfileRef
from knownas.storage import Storage
from storage.conftest import identifiers
from storage.test_contract import IDS, setting
from storage.test_webhooks import HOOK, changed, hooked, leased

pytestmark = pytest.mark.anyio

NOW = 1_000
LATER = 61_000


async def test_fresh_database_is_well(storage: Storage, app: App, other: App) -> None:
    """It has a size and an engine, its apps have no profiles, and nothing is behind."""
    found = await storage.condition(now=LATER)
    assert found.engine in type(storage).__name__.lower().replace("postgres", "postgresql")
    assert found.version.split(".")[0].isdecimal()
    assert found.size > 50_000
    assert found.profiles == ((app.name, 0), (other.name, 0))
    assert (found.feed_lag, found.erasures_since, found.replica) == (0, None, None)
    assert found.queues == (Queue("webhook", 0, 0, 0, 0), Queue("upstream", 0, 0, 0, 0))


async def test_profiles_are_counted_by_app(storage: Storage, app: App, other: App) -> None:
    """Those that were deleted are not among them."""
    for one in IDS[1:4]:
        await changed(storage, app, one)
    await changed(storage, other, IDS[1])
    await storage.delete_profile(app.id, ProfileRef(profile_id=IDS[1]), now=NOW)
    assert (await storage.condition(now=NOW)).profiles == ((app.name, 2), (other.name, 1))


async def test_webhook_that_has_not_come_to_a_change_is_as_far_behind(
    storage: Storage, app: App
) -> None:
    """By the time of the oldest such change; what it has come to counts no more."""
    await hooked(storage, app)
    assert (await storage.condition(now=LATER)).queues[0].lag == 0
    await changed(storage, app, IDS[1], times=2)
    assert (await storage.condition(now=LATER)).queues[0] == Queue("webhook", 0, 0, 0, LATER - NOW)
    assert await leased(storage, app)
    end = Report(cursor=await storage.end_of_changes())
    assert await storage.webhooks.report(app.id, HOOK.id, "me", end, now=NOW, until=0)
    assert (await storage.condition(now=LATER)).queues[0].lag == 0


async def test_deliveries_are_counted_by_target_and_state(storage: Storage, app: App) -> None:
    """Those to upstreams by themselves; a webhook that is switched off is not behind."""
    failure = Failure(NOW, 500, "The receiver answered 500.")
    await hooked(storage, app)
    await hooked(storage, app, HOOK._replace(id=UPSTREAM))
    await changed(storage, app, IDS[1], times=3)
    for webhook_id, states in ((HOOK.id, ("dead", "pending")), (UPSTREAM, ("dead", "dead"))):
        assert await storage.webhooks.lease(app.id, webhook_id, "me", now=NOW, until=NOW + 1)
        kept = [
            Delivery(IDS[1], number, state, 1, NOW if state == "pending" else None, failure)  # type: ignore[arg-type] # one of the two
            for number, state in enumerate(states, 1)
        ]
        report = Report(kept=kept)
        assert await storage.webhooks.report(app.id, webhook_id, "me", report, now=NOW, until=0)
    await storage.webhooks.change(app.id, HOOK.id, lambda it: it._replace(disabled_at=NOW))
    assert (await storage.condition(now=LATER)).queues == (
        Queue("webhook", 1, 1, 1, 0),
        Queue("upstream", 0, 2, 0, LATER - NOW),
    )


async def test_erasure_that_waits_is_told_with_its_time(storage: Storage, app: App) -> None:
    """Of several the oldest one."""
    for number, at in enumerate((7, 5)):
        erasure = Erasure(str(uuid.UUID(int=number)), at, "{}")
        await storage.erasures.put(app.id, [erasure])
    assert (
        await storage.condition(now=NOW)
    ).erasures_since == await storage.erasures.waiting_since()


async def test_work_is_told_with_its_size_and_time(storage: Storage, app: App) -> None:
    """Writes that are made together are told as one group; nothing waits when all is done."""
    told: list[tuple[Operation, int, int]] = []
    storage.work.tell = lambda *done: told.append(done)
    writes = [
        storage.change_profile(
            app.id,
            ProfileRef(profile_id=one),
            setting(branch_id="b"),
            now=NOW,
            create_as=one,
        )
        for one in IDS[1:6]
    ]
    assert sum(storage.waiting().values()) == 5
    await asyncio.gather(*writes)
    groups = [size for operation, size, _ in told if operation == "write"]
    assert (sum(groups), groups) == (5, groups if len(groups) > 1 else [5])
    await identifiers(storage, app.id, ProfileRef(profile_id=IDS[1]))
    await storage.changes(app.id, None, 10)
    await storage.count_profiles(app.id)
    assert {operation for operation, _, _ in told} >= {"write", "aside"}
    assert all(elapsed > 0 and size > 0 for _, size, elapsed in told)
    assert {operation for operation, _, _ in told} <= set(OPERATIONS)
    assert set(storage.waiting()) <= set(OPERATIONS)
    assert not any(storage.waiting().values())
