"""A process that delivers webhooks and does nothing else, with short leases: to be killed.

`python dispatching.py DATABASE MASTER_KEY_FILE`
"""

import asyncio
import functools
import signal
import sys
from ipaddress import ip_network

from knownas import bootstrap, serving
from knownas.registry import Registry
from knownas.vault import Vault
from knownas.webhooks.dispatcher import Dispatcher
from knownas.webhooks.outbound import Sender
from knownas.webhooks.rounds import Pace


def fail(error: Exception) -> None:
    """End with an error that nobody expects."""
    raise SystemExit(repr(error))


async def main(database: str, key_file: str) -> None:
    """Deliver until SIGTERM."""
    sender = Sender([ip_network("127.0.0.1/32")])
    registry = Registry(
        bootstrap.open_storage(database), vault=Vault.open(key_file), open_sender=lambda: sender
    )
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    await Dispatcher(
        registry.storage,
        functools.partial(serving.open_courier, registry),
        clock=registry.now,
        tell=fail,
        pace=Pace(look=0.05, lease=1.0),
    ).run(stopping)
    await registry.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
