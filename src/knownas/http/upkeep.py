"""What a server does beside the requests: it lets go of history that is kept long enough."""

import asyncio
import contextlib
import random
from typing import Final

from knownas import logs
from knownas.errors import ServiceUnavailable
from knownas.registry import Registry

PERIOD_SECONDS: Final = 600.0
"""How often it looks; of several processes whichever comes first finds something to do."""

CHANGES_AT_ONCE: Final = 2_000
"""So few to a transaction that no write waits long for it."""

PAUSE_SECONDS: Final = 0.05


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
