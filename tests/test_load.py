"""`knownas bench`: it loads a server, counts what goes wrong, and leaves nothing behind."""

import subprocess

import apsw
import msgspec
import pytest

from conftest import Server, free_port, knownas

SMALL = ("--connections", "4", "--seconds", "0.5", "--profiles", "20")


def load(server: Server, *arguments: str) -> dict[str, object]:
    """Load a server a little, and return the report."""
    command = ("bench", "--url", server.url, *SMALL, *arguments, "--json")
    report: dict[str, object] = msgspec.json.decode(knownas(*command, database=server.database))
    return report


@pytest.mark.parametrize("writes", ["0", "50"])
def test_load_is_answered(server: Server, writes: str) -> None:
    """Every request of a load is answered well, whether it reads or writes."""
    report = load(server, "--writes", writes)
    assert report["errors"] == {}
    requests, rate, p50, p99 = (
        msgspec.convert(report[name], float)
        for name in ("requests", "requests_per_second", "p50_ms", "p99_ms")
    )
    assert requests > 0
    assert rate > 0
    assert 0 < p50 <= p99


def test_load_leaves_nothing_behind(server: Server) -> None:
    """The profiles of a load are deleted, and its key is revoked."""
    load(server)
    keys = msgspec.json.decode(knownas("key", "list", "--json", database=server.database))
    ended = [key["ended_at"] is not None for key in keys if key["label"] == "knownas bench"]
    assert ended
    assert all(ended)
    assert knownas("check", database=server.database) == "All is well.\n"
    connection = apsw.Connection(server.database.removeprefix("sqlite:///"))
    assert connection.execute("SELECT count(*) FROM profiles").get == 0
    connection.close()


def test_load_says_why_it_cannot(server: Server) -> None:
    """A server that is not there, and one that does not take the key, are told in one line."""
    nowhere = f"http://127.0.0.1:{free_port()}"
    assert "Cannot reach" in refusal(server, nowhere)
    assert "no http:// or https:// address" in refusal(server, "ftp://127.0.0.1")
    assert "status 401" in refusal(server, server.url, key="not-a-key")


def refusal(server: Server, url: str, key: str = "") -> str:
    """Return the one line that a load says which cannot be."""
    with pytest.MonkeyPatch.context() as patch:
        if key:
            patch.setenv("KNOWNAS_KEY", key)
        with pytest.raises(subprocess.CalledProcessError) as failed:
            knownas("bench", "--url", url, *SMALL, database=server.database)
    said: str = failed.value.stderr
    assert said.count("\n") == 1
    return said
