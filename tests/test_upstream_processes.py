"""Write-through by real processes that are killed while they tell the upstream."""

import asyncio
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from conftest import Server
from hooks import SECONDS, opened
from knownas.model import AppId
from knownas.registry import Registry
from knownas.upstream.terms import Terms
from proxies import Proxy, proxying
from receivers import Received
from upstreams import made, new_customer, until_there, written

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

DATABASES = ("sqlite", "postgresql")


class Killed:
    """Processes that tell the upstream of a database, each killed at some request of a proxy."""

    def __init__(self, proxy: Proxy, database: str, key_file: str) -> None:
        """Kill at every ninth request, four times."""
        self.kills = 0
        self._proxy = proxy
        self._script = str(Path(__file__).with_name("dispatching.py"))
        self._arguments = (database, key_file)
        self._process: subprocess.Popen[bytes] | None = None
        proxy.fault = self._kill

    async def _kill(self, _request: Received) -> None:
        if len(self._proxy.requests) % 9 == 0 and self.kills < 4 and self._process is not None:
            self.kills += 1
            self._process.kill()

    async def run(self, registry: Registry, app: AppId) -> None:
        """Start one after the other until all is told."""
        ended: int = -signal.SIGKILL
        while ended == -signal.SIGKILL:
            self._process = subprocess.Popen([sys.executable, self._script, *self._arguments])  # noqa: ASYNC220 - a few, and nobody waits
            await self._until_told(registry, app, self._process)
            ended = self._process.wait()

    async def _until_told(
        self, registry: Registry, app: AppId, process: "subprocess.Popen[bytes]"
    ) -> None:
        deadline = time.monotonic() + SECONDS
        while process.poll() is None:
            assert time.monotonic() < deadline
            state = await registry.upstreams.forwarding(app)
            assert state is not None
            page = await registry.changes(app, state.cursor, 1)
            if not page.changes and not state.pending:
                process.terminate()
            await asyncio.sleep(0.02)


async def test_kill_loses_nothing(server: Server, there: Server, key_file: str) -> None:
    """Of a process that is killed at every ninth request another one tells all that is left."""
    registry = opened(server, key_file)
    app = await registry.app("default")
    customers = [new_customer() for _ in range(6)]
    async with proxying(int(there.url.rpartition(":")[2])) as proxy:
        terms = Terms(url=proxy.url, key=there.key, read_through=False, write_through=True)
        await registry.upstreams.set(app, terms)
        for customer in customers:
            await made(server, customer, branch_id="0")
        for number in range(1, 8):
            for customer in customers:
                await written(server, customer, {"branch_id": str(number)})
        killed = Killed(proxy, server.database, key_file)
        await killed.run(registry, app.id)
        assert killed.kills >= 2
        for customer in customers:
            await until_there(there, customer, {"branch_id": "7"})
    await registry.close()
