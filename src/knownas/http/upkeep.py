"""What a server does beside the requests.

It lets go of old history, and of what was erased, and imports files that were uploaded.
"""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from typing import Final

from knownas import logs
from knownas.erasing import Subjects
from knownas.errors import ServiceUnavailable
from knownas.metrics import SAMPLE_SECONDS, Metrics
from knownas.registry import Registry
from knownas.transfer.uploaded import Worker

PERIOD_SECONDS: Final = 600.0
"""How often it looks; of several processes whichever comes first finds something to do."""

CHANGES_AT_ONCE: Final = 2_000
"""So few to a transaction that no write waits long for it."""

PAUSE_SECONDS: Final = 0.05

SHARED_SECONDS: Final = 1.0
"""How long an erasure waits for others, to share the rest of the work with them."""

USES_SECONDS: Final = 60.0
"""How often it is written when keys were used last, at least."""

LOOK_SECONDS: Final = 60.0
"""How often it looks for what other processes, or failures, have left: of erasures, of imports."""


async def keep_up(registry: Registry, history_days: int, period: float = PERIOD_SECONDS) -> None:
    """Prune the history again and again, until it is cancelled."""
    log = logs.get()
    while True:
        # Not all processes at the same time.
        await asyncio.sleep(period * random.uniform(0.5, 1.0))  # noqa: S311 - hides nothing
        with contextlib.suppress(ServiceUnavailable):
            pruned = await prune(registry, history_days)
            if pruned:
                log.info("history_pruned", changes=pruned)


async def prune(registry: Registry, history_days: int) -> int:
    """Prune all changes older than that many days, a few at a time, and count them."""
    total = 0
    while pruned := await registry.prune(history_days, CHANGES_AT_ONCE):
        total += pruned
        await asyncio.sleep(PAUSE_SECONDS)
    return total


async def keep_sampling(metrics: Metrics) -> None:
    """Measure this process again and again, for whichever is asked, until it is cancelled."""
    while True:
        metrics.sample()
        await asyncio.sleep(SAMPLE_SECONDS)


async def keep_key_uses(registry: Registry) -> None:
    """Write again and again which keys were used when, until it is cancelled."""
    while True:
        await asyncio.sleep(USES_SECONDS * random.uniform(0.5, 1.0))  # noqa: S311 - hides nothing
        with contextlib.suppress(ServiceUnavailable):
            await registry.keyring.write_uses()


async def keep_erasing(registry: Registry) -> None:
    """Do again and again what erasures wait for from this server, until it is cancelled."""
    while True:
        await _tried(registry.eraser.finish_if_due(), "erasures_wait")
        await registry.eraser.wait(LOOK_SECONDS)
        await asyncio.sleep(SHARED_SECONDS)


async def keep_importing(registry: Registry, run: Callable[[], Awaitable[None]] | None) -> None:
    """Import what was uploaded, here or by processes that have ended, until it is cancelled.

    `run` has another process do it, so that it takes no time of this one's; without it, it is done
    here.
    """
    worker = Worker(registry.storage, Subjects(registry.vault), registry.now)

    async def import_all() -> None:
        await worker.keep_up()
        while await worker.is_wanted():
            await (worker.work() if run is None else run())

    while True:
        await _tried(import_all(), "imports_wait")
        await registry.uploads.wait(LOOK_SECONDS)


async def _tried(work: Awaitable[object], event: str) -> None:
    """Wait for work that is tried again later, whatever comes of it; what went wrong is logged."""
    try:
        await work
    except ServiceUnavailable:
        logs.get().warning(event)
    except Exception as error:  # noqa: BLE001 - it is tried again, whatever it is
        logs.get().error(event, type=type(error).__name__, at=logs.place_of(error))
