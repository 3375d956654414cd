"""`knownas --url`: the commands say the same of a server as of its database."""

import os
import subprocess
import sys
from typing import Final

import pytest

from conftest import Server, free_port, knownas, make_profile

PROFILE: Final = "3b9f6c1d-7e24-4a85-9c30-8d1f5e7a2b46"

READING: Final = (
    ["get", "--customer", "ann"],
    ["profile", "show", "--customer", "ann"],
    ["profile", "show", "--customer", "ann", "--revision", "1"],
    ["profile", "find", "b-1"],
    ["profile", "find", "branch_id", "b-1", "--limit", "1"],
    ["profile", "find", "nobody's"],
    ["profile", "history", "--customer", "ann"],
    ["profile", "history", "--customer", "ann", "--limit", "1"],
    ["changes"],
    ["coverage"],
    ["conflicts"],
    ["conflicts", "--limit", "1"],
    ["profile", "merge", "--customer", "ann", "--from-customer", "bob", "--dry-run"],
)


@pytest.fixture(scope="module")
def filled(server: Server) -> Server:
    """Give a server with some profiles, and with something of all that is shown."""
    make_profile(server, "ann", branch_id="b-1", appsflyer_id="a-1")
    make_profile(server, "bob", branch_id="b-1", appsflyer_id="a-1")
    make_profile(server, "cem", branch_id="c-1")
    knownas("profile", "clear", "--customer", "cem", "--all", database=server.database)
    knownas("profile", "delete", "--customer", "cem", "--yes", database=server.database)
    return server


def remote(
    server: Server, *arguments: str, key: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command that asks the server, where no database is named, and return what came."""
    environment = {name: v for name, v in os.environ.items() if not name.startswith("KNOWNAS_")}
    environment["KNOWNAS_KEY"] = server.key if key is None else key
    command = [sys.executable, "-m", "knownas", "--url", server.url, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("arguments", READING, ids=" ".join)
def test_reading_is_the_same(filled: Server, arguments: list[str]) -> None:
    """What is shown for people and for programs is the same, by either way."""
    for form in ([], ["--json"]):
        asked = remote(filled, *arguments, *form)
        assert (asked.returncode, asked.stderr) == (0, "")
        assert asked.stdout == knownas(*arguments, *form, database=filled.database)


def test_changing_is_done_by_the_server(filled: Server) -> None:
    """Profiles are made, changed, merged, split and deleted by way of the server."""

    def done(*arguments: str) -> str:
        result = remote(filled, *arguments)
        assert result.returncode == 0, result.stderr
        return result.stdout

    assert PROFILE in done("profile", "create", "--profile", PROFILE)
    assert "dan" in done("profile", "bind", "--profile", PROFILE, "--customer", "dan")
    assert "branch_id = d-1" in done("set", "--customer", "dan", "branch_id=d-1")
    assert "d-1" not in done("profile", "clear", "--customer", "dan", "branch_id")
    done("profile", "create", "--customer", "eve")
    done("profile", "merge", "--customer", "eve", "--from-customer", "dan")
    assert PROFILE in done("profile", "undo-merge", PROFILE)
    assert PROFILE in done("profile", "delete", "--profile", PROFILE, "--yes")
    assert remote(filled, "get", "--profile", PROFILE).returncode == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["get", "--customer", "nobody"], "404 profile_not_found: Profile not found"),
        (["get", "--customer", "ann", "--app", "other"], "--app: The key says which app it is."),
        (["get", "--customer", "ann", "--database", "sqlite://"], "Say --url or --database"),
        (["profile", "export", "--customer", "ann"], "--url: This needs the database itself"),
        (["serve"], "serve needs the database itself; leave out --url."),
    ],
)
def test_what_cannot_be_done_is_told(filled: Server, arguments: list[str], said: str) -> None:
    """An error of the server, or of what was asked, is one line."""
    result = remote(filled, *arguments)
    assert result.returncode == 1
    [line] = result.stderr.splitlines()
    assert line.startswith(f"knownas: {said}")


def test_server_and_key_are_needed(filled: Server) -> None:
    """Without a key, with a wrong one, or without a server, it is told in one line."""
    cases = (
        (filled, "", "Say with which key"),
        (filled, "secret_live_unknown", "401 unauthorized"),
        (filled._replace(url="localhost"), "k", "The URL is that of a server"),
    )
    for server, key, said in cases:
        result = remote(server, "coverage", key=key)
        assert result.returncode == 1
        [line] = result.stderr.splitlines()
        assert said in line


@pytest.mark.slow
def test_server_that_is_not_there_is_told(filled: Server) -> None:
    """Where nobody listens it is told after some attempts."""
    nowhere = filled._replace(url=f"http://127.0.0.1:{free_port()}")
    [line] = remote(nowhere, "coverage").stderr.splitlines()
    assert "5 attempts" in line
