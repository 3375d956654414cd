"""`knownas operator …`, and what is kept of a password."""

import json
import subprocess
from pathlib import Path

import pytest

from conftest import knownas, stored

PASSWORD = "correct horse battery staple"  # noqa: S105 - a test's own


@pytest.fixture
def made(tmp_path: Path) -> str:
    """Give the URL of a new database."""
    database = f"sqlite:///{tmp_path}/knownas.db"
    knownas("migrate", database=database)
    return database


def operator(database: str, *arguments: str, password: str = PASSWORD) -> str:
    """Run `knownas operator` and return what it printed."""
    return knownas("operator", *arguments, database=database, stdin=f"{password}\n")


def refusal(database: str, *arguments: str, password: str = PASSWORD) -> str:
    """Run `knownas operator`, which is to fail, and return the line that says why."""
    with pytest.raises(subprocess.CalledProcessError) as failed:
        operator(database, *arguments, password=password)
    told: str = failed.value.stderr
    assert told.count("\n") == 1
    return told


def test_operators_are_made_listed_and_removed(made: str) -> None:
    """Each command says what it did, as JSON where that is asked for."""
    told = operator(made, "create", "ann", "--role", "admin", "--password-stdin")
    assert told == "ann may sign in at /console/ as admin.\n"
    operator(made, "create", "bob", "--password-stdin", "--json")
    listed = json.loads(operator(made, "list", "--json"))
    assert [(one["name"], one["role"]) for one in listed] == [("ann", "admin"), ("bob", "viewer")]
    assert operator(made, "passwd", "ann", "--password-stdin") == "ann has another password.\n"
    assert operator(made, "remove", "bob") == "Removed bob.\n"
    assert len(json.loads(operator(made, "list", "--json"))) == 1


def test_what_is_wrong_is_told(made: str) -> None:
    """A bad or taken name, a short password and an unknown operator are told in one line."""
    operator(made, "create", "ann", "--password-stdin")
    assert "already" in refusal(made, "create", "ann", "--password-stdin")
    assert "name: Must be" in refusal(made, "create", "Ann Smith", "--password-stdin")
    assert "this has 5" in refusal(made, "create", "bob", "--password-stdin", password="short")  # noqa: S106 - a test's own
    assert "no operator 'bob'" in refusal(made, "remove", "bob")
    assert "no operator 'bob'" in refusal(made, "passwd", "bob", "--password-stdin")


def test_identities_at_an_issuer_are_told(made: str) -> None:
    """An operator who has one needs no password, and it is of one operator only."""
    told = operator(made, "create", "ann", "--oidc", "Ann@Example.com", password="")
    assert told == "ann may sign in at /console/ as viewer.\n"
    operator(made, "create", "bob", "--password-stdin")
    assert operator(made, "oidc", "bob", "sub:4711") == "bob is sub:4711 at the issuer.\n"
    listed = json.loads(operator(made, "list", "--json"))
    assert [one["oidc"] for one in listed] == ["ann@example.com", "sub:4711"]
    assert "Another operator" in refusal(made, "oidc", "bob", "ANN@example.com")
    assert "already" in refusal(made, "create", "cy", "--oidc", "sub:4711")
    assert "Must be an e-mail" in refusal(made, "oidc", "bob", "bob")
    assert "Must be an e-mail" in refusal(made, "oidc", "bob", "b\u00f6b@example.com")
    assert "no operator 'cy'" in refusal(made, "oidc", "cy", "sub:1")
    assert operator(made, "oidc", "bob") == "bob is nobody at the issuer.\n"


def test_password_is_not_kept(made: str) -> None:
    """The database has a hash by argon2id, with a salt, and the password nowhere."""
    operator(made, "create", "ann", "--password-stdin")
    operator(made, "create", "bob", "--password-stdin")
    kept = stored(made)
    assert PASSWORD.encode() not in kept
    assert kept.count(b"$argon2id$") >= 2
