"""What a server does beside the requests: history is pruned when it is old enough."""

import asyncio
from pathlib import Path

import pytest

from knownas.as_of import Moment
from knownas.errors import CursorExpired, HistoryExpired
from knownas.history import DAY_MS
from knownas.http.upkeep import CHANGES_AT_ONCE, keep_up, prune
from knownas.model import App, ProfileRef
from knownas.registry import Registry
from knownas.storage.sqlite import SqliteStorage

pytestmark = pytest.mark.anyio

WHO = ProfileRef("user")
MORE_THAN_ONE_STEP = CHANGES_AT_ONCE + 1


class Clock:
    """A time of day that a test sets."""

    now = 1_000 * DAY_MS

    def __call__(self) -> int:
        """Return it."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    """Give a clock that stands still."""
    return Clock()


@pytest.fixture
async def registry(tmp_path: Path, clock: Clock) -> Registry:
    """Give a registry on a fresh database."""
    return Registry(SqliteStorage(f"{tmp_path}/knownas.db"), clock=clock)


@pytest.fixture
async def app(registry: Registry) -> App:
    """Give an app with a profile that changed twice a day for more changes than go at once."""
    app = await registry.create_app("one")
    await registry.put_profile(app.id, WHO, {})
    return app


async def test_only_what_is_old_enough_is_pruned(
    registry: Registry, app: App, clock: Clock
) -> None:
    """However much it is, all that is older goes, and nothing that is not."""
    for number in range(MORE_THAN_ONE_STEP - 1):
        await registry.set_identifiers(app, WHO, {"branch_id": str(number)})
    clock.now += 10 * DAY_MS
    await registry.set_identifiers(app, WHO, {"branch_id": "late"})
    first = (await registry.changes(app.id, None, 1)).cursor
    assert await prune(registry, 11) == 0
    assert await prune(registry, 9) == MORE_THAN_ONE_STEP
    left = await registry.history(app.id, WHO, before=None, limit=10)
    assert [change.revision for change in left] == [MORE_THAN_ONE_STEP + 1]
    with pytest.raises(CursorExpired):
        await registry.changes(app.id, first, 1)
    assert len((await registry.changes(app.id, None, 10)).changes) == 1
    assert await registry.storage.check() == []
    await registry.close()


async def test_state_before_the_oldest_change_is_known(
    registry: Registry, app: App, clock: Clock
) -> None:
    """How a profile was is told from when that state began, though its change is pruned."""
    await registry.set_identifiers(app, WHO, {"branch_id": "early"})
    began = clock.now
    clock.now += 10 * DAY_MS
    await registry.set_identifiers(app, WHO, {"branch_id": "late"})
    assert await prune(registry, 9) == 2
    was = await registry.profile_as_of(app.id, WHO, Moment(at=began + 1))
    assert "early" in was.identifiers
    assert was.revision == 2
    with pytest.raises(HistoryExpired):
        await registry.profile_as_of(app.id, WHO, Moment(at=began - 1))
    with pytest.raises(HistoryExpired):
        await registry.profile_as_of(app.id, WHO, Moment(revision=1))
    await registry.close()


async def test_server_prunes_by_itself(registry: Registry, app: App, clock: Clock) -> None:
    """Nobody has to ask for it."""
    clock.now += 10 * DAY_MS
    beside = asyncio.create_task(keep_up(registry, 9, period=0.01))
    for _ in range(1_000):
        await asyncio.sleep(0.01)
        if not (await registry.changes(app.id, None, 1)).changes:
            break
    assert (await registry.changes(app.id, None, 1)).changes == []
    beside.cancel()
    await registry.close()
