"""Real processes: two servers on one file, simultaneous creates, a key revoked."""

import asyncio
import time

import httpx2
import msgspec

from conftest import IDENTIFIERS_PATH, PLAIN, PROFILE_PATH, Server, free_port, knownas, start, stop

DATABASES = ("sqlite", "postgresql")


def test_two_processes_share_one_file(server: Server) -> None:
    """A write through one process is read through the other at once."""
    port = free_port()
    process = start(server.database, port)
    headers = {"Authorization": f"Api-Key {server.key}", "adapty-customer-user-id": "shared"}
    try:
        assert PLAIN.post(server.url + PROFILE_PATH, headers=headers).status_code == 200
        for round_number in range(50):
            value = f"v{round_number}"
            PLAIN.post(server.url + IDENTIFIERS_PATH, headers=headers, json={"branch_id": value})
            found = PLAIN.get(f"http://127.0.0.1:{port}{IDENTIFIERS_PATH}", headers=headers).json()
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
    assert PLAIN.get(server.url + IDENTIFIERS_PATH, headers=headers).status_code == 404
    knownas("key", "revoke", made["id"], database=server.database)
    time.sleep(1)
    assert PLAIN.get(server.url + IDENTIFIERS_PATH, headers=headers).status_code == 401
