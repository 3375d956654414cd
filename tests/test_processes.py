"""Real processes: two servers on one file, simultaneous creates, a key revoked, kill -9."""

import asyncio
import signal
import time
from pathlib import Path

import httpx2
import msgspec
import pytest

from conftest import IDENTIFIERS_PATH, PROFILE_PATH, Server, free_port, knownas, start, stop

KILLS = 20
WRITERS = 16


def test_two_processes_share_one_file(server: Server) -> None:
    """A write through one process is read through the other at once."""
    port = free_port()
    process = start(server.database, port)
    headers = {"Authorization": f"Api-Key {server.key}", "adapty-customer-user-id": "shared"}
    try:
        assert httpx2.post(server.url + PROFILE_PATH, headers=headers).status_code == 200
        for round_number in range(50):
            value = f"v{round_number}"
            httpx2.post(server.url + IDENTIFIERS_PATH, headers=headers, json={"branch_id": value})
            found = httpx2.get(f"http://127.0.0.1:{port}{IDENTIFIERS_PATH}", headers=headers).json()
            assert found["branch_id"] == value
    finally:
        assert stop(process) == 0


def test_simultaneous_creates_make_one_profile(server: Server) -> None:
    """64 creates of one new customer at once all answer the same profile."""
    headers = {"Authorization": f"Api-Key {server.key}", "adapty-customer-user-id": "crowd"}

    async def create_all() -> set[str]:
        async with httpx2.AsyncClient(base_url=server.url, headers=headers) as http:
            answers = await asyncio.gather(*(http.post(PROFILE_PATH) for _ in range(64)))
        return {answer.json()["data"]["profile_id"] for answer in answers}

    assert len(asyncio.run(create_all())) == 1


def test_revoked_key_is_refused_within_a_second(server: Server) -> None:
    """A key revoked by another process opens nothing a second later."""
    made = msgspec.json.decode(knownas("key", "create", "--json", database=server.database))
    headers = {"Authorization": f"Api-Key {made['key']}", "adapty-customer-user-id": "nobody"}
    assert httpx2.get(server.url + IDENTIFIERS_PATH, headers=headers).status_code == 404
    knownas("key", "revoke", made["id"], database=server.database)
    time.sleep(1)
    assert httpx2.get(server.url + IDENTIFIERS_PATH, headers=headers).status_code == 401


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_kill_loses_nothing_acknowledged(tmp_path: Path) -> None:
    """After kill -9 amid concurrent writes, every acknowledged one is there and all is sound."""
    database = f"sqlite:///{tmp_path}/knownas.db"
    process = start(database, port := free_port())
    key = msgspec.json.decode(knownas("key", "create", "--json", database=database))["key"]
    acknowledged: dict[str, str] = {}

    async def write(http: httpx2.AsyncClient, customer: str, round_number: int) -> None:
        headers = {"adapty-customer-user-id": customer}
        for number in range(100_000):
            value = f"{round_number}-{number}"
            try:
                answer = await http.post(
                    IDENTIFIERS_PATH, headers=headers, json={"branch_id": value}
                )
            except httpx2.TransportError:
                return
            assert answer.status_code == 200
            acknowledged[customer] = value

    async def write_until_killed(round_number: int) -> None:
        async with httpx2.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", headers={"Authorization": f"Api-Key {key}"}
        ) as http:
            customers = [f"c{number}" for number in range(WRITERS)]
            for customer in customers:
                await http.post(PROFILE_PATH, headers={"adapty-customer-user-id": customer})
            writers = [asyncio.create_task(write(http, one, round_number)) for one in customers]
            await asyncio.sleep(0.2 + 0.02 * round_number)
            process.send_signal(signal.SIGKILL)
            await asyncio.gather(*writers)

    for round_number in range(KILLS):
        asyncio.run(write_until_killed(round_number))
        process.wait()
        process = start(database, port)
        for customer, value in acknowledged.items():
            found = httpx2.get(
                f"http://127.0.0.1:{port}{IDENTIFIERS_PATH}",
                headers={"Authorization": f"Api-Key {key}", "adapty-customer-user-id": customer},
            ).json()["branch_id"]
            # A write that was under way when the process died may have been kept, too.
            assert [int(part) for part in found.split("-")] >= [
                int(part) for part in value.split("-")
            ]
    assert len(acknowledged) == WRITERS
    assert stop(process) == 0
    assert "All is well." in knownas("check", database=database)
