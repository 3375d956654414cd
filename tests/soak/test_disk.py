"""Threat row 32: the disk is full, or read-only; for real, on small disks of their own."""

import asyncio
import itertools
from functools import partial

import msgspec
import pytest

from conftest import free_port, knownas, start, stop
from soak import mounts
from soak.wire import Answer, Connection, Requests, connect, run

CLIENTS = 8
MEBIBYTES = 40


class Client:
    """Clients of one server, and what was acknowledged to them."""

    def __init__(self, port: int, key: str) -> None:
        """Remember nothing yet."""
        self.port = port
        self.requests = Requests(key)
        self.there: set[str] = set()
        self.gone: set[str] = set()
        self._numbers = itertools.count()

    async def write_until_refused(self, most: int = 20_000) -> None:
        """Make profiles over several connections until each is refused one."""
        first = next(self._numbers)
        answers = await asyncio.gather(*(self._until_refused(first + most) for _ in range(CLIENTS)))
        for answer in answers:
            assert answer.status == 503, "the disk never was full"
            assert answer.header(b"retry-after") == b"1"
            assert answer.json()["error_code"] == "service_unavailable"

    async def write(self) -> Answer:
        """Make one profile."""
        connection = await connect(self.port)
        answer = await self._make(connection, f"c{next(self._numbers)}")
        connection.close()
        return answer

    async def read_all(self) -> None:
        """Check that all that was acknowledged is there, and what was deleted is not."""
        connection = await connect(self.port)
        for customer in self.there:
            answer = await connection.ask(self.requests.get(customer))
            assert (answer.status, answer.json()["branch_id"]) == (200, f"{customer} branch")
        for customer in self.gone:
            assert (await connection.ask(self.requests.get(customer))).status == 404
        assert (await connection.ask(self.requests.any("GET", "/readyz", "-"))).status == 200
        connection.close()

    async def delete(self, count: int) -> None:
        """Delete profiles over several connections at once, while others try to write."""
        customers = [self.there.pop() for _ in range(count)]
        shares = [customers[number::CLIENTS] for number in range(CLIENTS)]
        await asyncio.gather(*map(self._delete, shares))

    async def _delete(self, customers: list[str]) -> None:
        connection, beside = await connect(self.port), await connect(self.port)
        for customer in customers:
            erasing = connection.ask(self.requests.delete(customer))
            await self._make(beside, f"c{next(self._numbers)}")
            answer = await erasing
            assert answer.status == 204, answer
            self.gone.add(customer)
        connection.close()
        beside.close()

    async def _until_refused(self, most: int) -> Answer:
        connection = await connect(self.port)
        try:
            while (number := next(self._numbers)) < most:
                answer = await self._make(connection, f"c{number}")
                if answer.status != 200:
                    break
            return answer
        finally:
            connection.close()

    async def _make(self, connection: Connection, customer: str) -> Answer:
        answer = await connection.ask(self.requests.create(customer))
        if answer.status == 200:
            values = {"branch_id": f"{customer} branch", "appsflyer_id": customer * 20}
            answer = await connection.ask(self.requests.set(customer, values))
            if answer.status == 200:
                self.there.add(customer)
            # Else the profile is there without identifiers: it is not asked about again.
        return answer


@pytest.mark.parametrize("workers", [1, 2])
def test_row_32_full_disk(workers: int) -> None:
    """On a full disk writes are 503 and reads 200; erasing works; space heals it by itself."""
    with mounts.tmpfs(MEBIBYTES) as disk:
        database = f"sqlite:///{disk}/knownas.db"
        process = start(database, port := free_port(), "--workers", str(workers))
        try:
            new_key = msgspec.json.decode(knownas("key", "create", "--json", database=database))
            client = Client(port, new_key["key"])
            for _ in range(200):
                assert run(client.write).status == 200
            ballast = mounts.fill(disk)
            run(client.write_until_refused)
            run(client.read_all)
            run(partial(client.delete, 150))
            run(client.read_all)
            mounts.fill(disk, "more")  # what the deleted profiles left free
            run(partial(client.delete, 20))
            other = msgspec.json.decode(knownas("key", "list", "--json", database=database))[0]
            knownas("key", "revoke", other["id"], database=database)
            ballast.unlink()
            assert run(client.write).status == 200
            run(client.read_all)
        finally:
            assert stop(process) == 0
        assert knownas("check", database=database) == "All is well.\n"


def test_row_32_read_only_disk() -> None:
    """When the kernel refuses every write, writes are 503, reads 200; and it heals by itself.

    A file system that the kernel made read-only after an error is not writable again before it
    was unmounted; so the healing is tried with files that must not be changed.
    """
    with mounts.ext4(2 * MEBIBYTES) as disk:
        database = f"sqlite:///{disk}/knownas.db"
        files = [disk / "knownas.db", disk / "knownas.db-wal"]
        process = start(database, port := free_port())
        try:
            new_key = msgspec.json.decode(knownas("key", "create", "--json", database=database))
            client = Client(port, new_key["key"])
            for _ in range(200):
                assert run(client.write).status == 200
            mounts.forbid_writing(*files)
            run(client.write_until_refused)
            run(client.read_all)
            mounts.forbid_writing(*files, forbidden=False)
            assert run(client.write).status == 200
            run(client.read_all)
            mounts.break_file_system(disk)
            run(client.write_until_refused)
            run(client.read_all)
        finally:
            assert stop(process) == 0
        mounts.repair(disk)
        process = start(database, client.port)
        run(client.read_all)
        assert run(client.write).status == 200
        assert stop(process) == 0
        assert knownas("check", database=database) == "All is well.\n"
