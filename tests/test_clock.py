"""Threat row 36: the clock jumps, and nothing comes back to life or goes out of order."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from knownas.errors import Unauthorized
from knownas.keyring import KEY_CACHE_SECONDS
from knownas.model import ProfileRef
from knownas.registry import Registry
from knownas.storage.sqlite import SqliteStorage

HOUR = 3_600_000
NOON = 1_800_000_000_000
SOMEONE = ProfileRef("someone")


class Clock:
    """A time of day that jumps, beside a time that only runs."""

    def __init__(self) -> None:
        """Begin at noon of some day."""
        self.now = NOON
        self.running = 0.0

    def pass_cache(self) -> None:
        """Let so much time run that no key is believed without being read again."""
        self.running += KEY_CACHE_SECONDS


Use = Callable[[Registry, Clock], Awaitable[None]]


def on_a_registry(use: Use) -> None:
    """Run a use of a registry with a clock that jumps."""

    async def main() -> None:
        clock = Clock()
        registry = Registry(
            SqliteStorage(None), clock=lambda: clock.now, monotonic=lambda: clock.running
        )
        try:
            await use(registry, clock)
        finally:
            await registry.close()

    asyncio.run(main())


def test_row_36_key_seen_expired_stays_so_when_the_clock_is_put_back() -> None:
    """A key that was refused as expired is refused whatever the clock says later."""

    async def use(registry: Registry, clock: Clock) -> None:
        app = await registry.create_app("app")
        text, key = await registry.keyring.create(app, "secret", expires_at=NOON + HOUR)
        header = b"Api-Key " + text.encode()
        assert (await registry.keyring.authenticate(header)).id == key.id
        clock.now += 2 * HOUR
        with pytest.raises(Unauthorized):  # though it is in the cache
            await registry.keyring.authenticate(header)
        clock.now = NOON
        clock.pass_cache()
        # Its end is noted beside the answer, with the next write at the latest.
        await registry.create_app("other")
        with pytest.raises(Unauthorized):
            await registry.keyring.authenticate(header)
        (kept,) = await registry.keyring.of_app(app.id)
        assert kept.ended_at == NOON + 2 * HOUR

    on_a_registry(use)


def test_row_36_key_is_believed_by_a_time_that_only_runs() -> None:
    """A revoked key is not believed any longer because the clock was put back."""

    async def use(registry: Registry, clock: Clock) -> None:
        app = await registry.create_app("app")
        text, key = await registry.keyring.create(app, "secret")
        header = b"Api-Key " + text.encode()
        await registry.keyring.authenticate(header)
        await registry.storage.end_key(app.id, key.id, at=clock.now)  # by another process
        clock.now -= 24 * HOUR
        clock.pass_cache()
        with pytest.raises(Unauthorized):
            await registry.keyring.authenticate(header)

    on_a_registry(use)


@pytest.mark.parametrize("jump", [-24 * HOUR, -1, 0, 1, 24 * HOUR])
def test_row_36_last_change_is_never_the_older(jump: int) -> None:
    """Whatever the clock does between two changes, the later one has no earlier date."""

    async def use(registry: Registry, clock: Clock) -> None:
        app = await registry.create_app("app")
        made = await registry.put_profile(app.id, SOMEONE, {})
        clock.now += jump
        changed = await registry.set_identifiers(app, SOMEONE, {"branch_id": "b"})
        assert changed.created_at == NOON
        assert changed.updated_at == max(NOON, NOON + jump) >= made.updated_at
        assert await registry.profile(app.id, SOMEONE) == changed

    on_a_registry(use)
