"""Reads from a standby over HTTP: the header that a write gives and a read takes."""

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

import postgres
from conftest import (
    IDENTIFIERS_PATH,
    PROFILE_PATH,
    Server,
    ask,
    error_code,
    free_port,
    knownas,
    sources,
    start,
    stop,
)
from knownas import bootstrap
from knownas.settings import SettingsError, load
from postgres import psql

HEADER: Final = "knownas-log-position"


@pytest.fixture(scope="module")
def standby_and_server() -> Iterator[tuple[str, Server]]:
    """Give the URL of a standby, and a server over it and its primary."""
    with postgres.cluster() as primary:
        database = postgres.new_database(primary.url)
        with postgres.cluster(primary=primary) as standby:
            there = postgres.same_database(standby.url, database)
            process = start(
                database,
                port := free_port(),
                KNOWNAS_READ_DATABASE=there,
                KNOWNAS_ACCESS_LOG="off",
            )
            key = knownas("key", "create", database=database).strip()
            yield standby.url, Server(f"http://127.0.0.1:{port}", key, "", database)
            assert stop(process) == 0


@pytest.fixture
def url(standby_and_server: tuple[str, Server]) -> str:
    """Give the URL of the standby."""
    return standby_and_server[0]


@pytest.fixture
def served(standby_and_server: tuple[str, Server]) -> Server:
    """Give the server."""
    return standby_and_server[1]


def test_client_reads_its_own_write(served: Server, url: str) -> None:
    """Whatever it writes, and however far behind the standby is."""
    made = ask(served, "POST", PROFILE_PATH, customer="c")
    assert HEADER in made.headers
    for number in range(20):
        if number == 10:
            psql(url, "SELECT pg_wal_replay_pause()")
        body = {"branch_id": f"b{number}"}
        written = ask(served, "POST", IDENTIFIERS_PATH, body=body, customer="c")
        assert written.status_code == 200
        position = written.headers[HEADER]
        answer = ask(served, "GET", IDENTIFIERS_PATH, customer="c", headers=[(HEADER, position)])
        assert answer.json()["branch_id"] == f"b{number}"
        assert HEADER not in answer.headers
        # Who knows of no header reads from the primary.
        assert ask(served, "GET", IDENTIFIERS_PATH, customer="c").json() == answer.json()
    psql(url, "SELECT pg_wal_replay_resume()")


def test_revoked_key_is_refused_though_the_standby_knows_it(served: Server, url: str) -> None:
    """Keys are read from the primary."""
    psql(url, "SELECT pg_wal_replay_pause()")
    created = knownas("key", "create", "--json", database=served.database)
    key = json.loads(created)
    with_it = served._replace(key=key["key"])
    position = ask(served, "POST", PROFILE_PATH, customer="k").headers[HEADER]
    headers = [(HEADER, position)]
    assert ask(with_it, "GET", IDENTIFIERS_PATH, customer="k", headers=headers).status_code == 200
    knownas("key", "revoke", key["id"], database=served.database)
    time.sleep(1)
    refused = ask(with_it, "GET", IDENTIFIERS_PATH, customer="k", headers=headers)
    assert error_code(refused) == (401, "unauthorized")
    psql(url, "SELECT pg_wal_replay_resume()")


@pytest.mark.parametrize(
    "position", ["1", "1.2", "0" * 23, "0" * 25, "0" * 23 + "g", "0" * 23 + "A"]
)
def test_position_that_is_none_is_a_400_that_names_the_header(
    served: Server, position: str
) -> None:
    """It would be read from the primary silently else, or not at all."""
    answer = ask(served, "GET", IDENTIFIERS_PATH, customer="c", headers=[(HEADER, position)])
    assert error_code(answer) == (400, "validation_error")
    assert sources(answer) == [HEADER]


def test_server_without_a_standby_gives_no_header_and_takes_any(server: Server) -> None:
    """So a client may talk to both kinds."""
    written = ask(server, "POST", PROFILE_PATH, customer="c")
    assert HEADER not in written.headers
    answer = ask(server, "GET", IDENTIFIERS_PATH, customer="c", headers=[(HEADER, "0" * 24)])
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("database", "standby"),
    [("sqlite://", "postgresql://u@h/d"), ("postgresql://u@h/d", "sqlite:///knownas.db")],
)
def test_only_postgresql_has_standbys(database: str, standby: str) -> None:
    """A line says so."""
    settings = load({"KNOWNAS_DATABASE": database, "KNOWNAS_READ_DATABASE": standby})
    with pytest.raises(SettingsError, match="KNOWNAS_READ_DATABASE"):
        bootstrap.open_registry(settings, with_standby=True)


def test_commands_do_without_the_standby(tmp_path: Path) -> None:
    """What is set for the server does not keep them from another database."""
    settings = load(
        {
            "KNOWNAS_DATABASE": f"sqlite:///{tmp_path}/knownas.db",
            "KNOWNAS_READ_DATABASE": "postgresql://u@h/d",
        }
    )
    asyncio.run(bootstrap.open_registry(settings).close())
