"""`knownas --url`: the commands say the same of a server as of its database."""

from pathlib import Path
from typing import Final

import msgspec
import pytest
from click.testing import Result

from conftest import Server, free_port, make_profile
from shell import Shell

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
    ["policy", "list"],
    ["conflicts", "--limit", "1"],
    ["profile", "merge", "--customer", "ann", "--from-customer", "bob", "--dry-run"],
)


@pytest.fixture(scope="module")
def filled(server: Server) -> Server:
    """Give a server with some profiles, and with something of all that is shown."""
    make_profile(server, "ann", branch_id="b-1", appsflyer_id="a-1")
    make_profile(server, "bob", branch_id="b-1", appsflyer_id="a-1")
    make_profile(server, "cem", branch_id="c-1")
    local = Shell(Path(server.database.removeprefix("sqlite:///")))
    local("profile", "clear", "--customer", "cem", "--all")
    local("profile", "delete", "--customer", "cem", "--yes")
    return server


class Remote(Shell):
    """Runs commands that ask a server, beside a database that is not there."""

    def __init__(self, folder: Path, server: Server, key: str | None = None) -> None:
        """Ask with the server's key, or another one."""
        super().__init__(folder / "absent.db")
        self._where = ("--url", server.url, "--key", server.key if key is None else key)

    def run(self, *arguments: str, stdin: str | bytes = "") -> Result:
        """Run a command and return how it ended."""
        ended = super().run(*self._where, *arguments, stdin=stdin)
        assert not self.database.exists()
        return ended


@pytest.fixture
def remote(filled: Server, tmp_path: Path) -> Remote:
    """Give a shell whose commands ask the server."""
    return Remote(tmp_path, filled)


@pytest.mark.parametrize("arguments", READING, ids=" ".join)
def test_reading_is_the_same(filled: Server, remote: Remote, arguments: list[str]) -> None:
    """What is shown for people and for programs is the same, by either way."""
    local = Shell(Path(filled.database.removeprefix("sqlite:///")))
    for form in ([], ["--json"]):
        assert remote(*arguments, *form) == local(*arguments, *form)


def test_changing_is_done_by_the_server(remote: Remote) -> None:
    """Profiles are made, changed, merged, split and deleted by way of the server."""
    assert PROFILE in remote("profile", "create", "--profile", PROFILE)
    assert "dan" in remote("profile", "bind", "--profile", PROFILE, "--customer", "dan")
    assert "branch_id = d-1" in remote("set", "--customer", "dan", "branch_id=d-1")
    assert "d-1" not in remote("profile", "clear", "--customer", "dan", "branch_id")
    remote("profile", "create", "--customer", "eve")
    remote("profile", "merge", "--customer", "eve", "--from-customer", "dan")
    assert PROFILE in remote("profile", "undo-merge", PROFILE)
    assert PROFILE in remote("profile", "delete", "--profile", PROFILE, "--yes")
    assert "profile_not_found" in remote.fails("get", "--profile", PROFILE)


def test_policies_are_set_by_the_server(filled: Server, remote: Remote) -> None:
    """Kinds that are not named keep their policy."""
    local = Shell(Path(filled.database.removeprefix("sqlite:///")))
    for arguments in (["branch_id=reject"], ["appsflyer_id=move"], ["branch_id=allow"]):
        remote("policy", "set", *arguments)
        assert remote("policy", "list") == local("policy", "list")
    remote("policy", "set", "appsflyer_id=allow")
    assert "Unknown identifier" in remote.fails("policy", "set", "none=reject")


def test_person_is_exported_by_the_server(filled: Server, remote: Remote) -> None:
    """All that is kept of them, but for the time, as the database has it."""
    local = Shell(Path(filled.database.removeprefix("sqlite:///")))
    exports = [
        {**msgspec.json.decode(shell("profile", "export", "--customer", "ann")), "exported_at": 0}
        for shell in (remote, local)
    ]
    assert exports[0] == exports[1]
    assert "b-1" in str(exports[0])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["get", "--customer", "nobody"], "404 profile_not_found: Profile not found"),
        (["get", "--customer", "ann", "--app", "other"], "--app: The key says which app it is."),
        (["get", "--customer", "ann", "--database", "sqlite://"], "Say --url or --database"),
        (["serve"], "serve needs the database itself; leave out --url."),
    ],
)
def test_what_cannot_be_done_is_told(remote: Remote, arguments: list[str], said: str) -> None:
    """An error of the server, or of what was asked, is one line."""
    assert remote.fails(*arguments).startswith(said)


def test_server_and_key_are_needed(filled: Server, tmp_path: Path) -> None:
    """Without a key, with a wrong one, or without a server, it is told in one line."""
    assert "Say with which key" in Remote(tmp_path, filled, "").fails("coverage")
    assert "401 unauthorized" in Remote(tmp_path, filled, "secret_live_other").fails("coverage")
    nowhere = filled._replace(url="localhost")
    assert "The URL is that of a server" in Remote(tmp_path, nowhere).fails("coverage")


@pytest.mark.slow
def test_server_that_is_not_there_is_told(filled: Server, tmp_path: Path) -> None:
    """Where nobody listens it is told after some attempts."""
    nowhere = filled._replace(url=f"http://127.0.0.1:{free_port()}")
    assert "5 attempts" in Remote(tmp_path, nowhere).fails("coverage")


def test_key_may_come_from_the_environment(
    filled: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """KNOWNAS_KEY is the key where none is given, and without --url it means nothing."""
    monkeypatch.setenv("KNOWNAS_KEY", filled.key)
    monkeypatch.setenv("KNOWNAS_URL", filled.url)
    shell = Shell(tmp_path / "absent.db")
    assert "b-1" in shell("--url", filled.url, "get", "--customer", "ann")
    assert "absent.db" in shell.fails("get", "--customer", "ann")
