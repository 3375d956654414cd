"""TLS to PostgreSQL: what is asked for is what is done, and what cannot be trusted is refused."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import postgres
from cluster.processes import program, unprivileged
from conftest import IDENTIFIERS_PATH, PROFILE_PATH, Server, ask, free_port, knownas, start, stop

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(120)]


class Encrypted(NamedTuple):
    """A PostgreSQL that takes TLS alone, and whom to trust."""

    url: str
    """Of a database; without how to connect."""
    ca: Path
    other_ca: Path


@pytest.fixture(scope="module")
def encrypted() -> Iterator[Encrypted]:
    """Give a server whose certificate is for `localhost`. The wheel's programs have no TLS."""
    programs = Path(program("pg_ctl")).parent
    with tempfile.TemporaryDirectory(prefix="knownas-tls-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        ca, other_ca = _authority(folder / "ca"), _authority(folder / "other")
        certificate = _certificate(folder, ca)
        settings = (
            *("ssl=on", f"ssl_cert_file={certificate}", f"ssl_key_file={folder}/server.key"),
            "ssl_min_protocol_version=TLSv1.2",
        )
        with postgres.cluster(*settings, programs_in=programs) as cluster:
            made = postgres.new_database(cluster.url)
            cluster.require_tls()
            yield Encrypted(made.replace("127.0.0.1", "localhost"), ca, other_ca)


def _authority(folder: Path) -> Path:
    """Make a certificate authority and return its certificate."""
    folder.mkdir()
    _openssl(
        *("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=test"),
        *("-keyout", f"{folder}/ca.key", "-out", f"{folder}/ca.crt"),
    )
    return folder / "ca.crt"


def _certificate(folder: Path, ca: Path) -> Path:
    """Make the server's key and certificate, for `localhost` and no address."""
    _openssl(
        *("req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost"),
        *("-keyout", f"{folder}/server.key", "-out", f"{folder}/server.csr"),
    )
    names = folder / "names"
    names.write_text("subjectAltName=DNS:localhost\n")
    _openssl(
        *("x509", "-req", "-in", f"{folder}/server.csr", "-days", "2", "-CAcreateserial"),
        *("-CA", str(ca), "-CAkey", str(ca.with_suffix(".key")), "-extfile", str(names)),
        *("-out", f"{folder}/server.crt"),
    )
    key = folder / "server.key"
    key.chmod(0o600)
    if given := unprivileged():
        os.chown(key, given["user"], given["group"])
    return folder / "server.crt"


def _openssl(*arguments: str) -> None:
    subprocess.run([program("openssl"), *arguments], check=True, capture_output=True)


@pytest.mark.parametrize("mode", ["require", "verify-ca", "verify-full"])
def test_connection_is_encrypted(encrypted: Encrypted, mode: str) -> None:
    """All of them, and the server works."""
    url = f"{encrypted.url}?sslmode={mode}&sslrootcert={encrypted.ca}"
    process = start(url, port := free_port())
    key = knownas("key", "create", database=url).strip()
    server = Server(f"http://127.0.0.1:{port}", key, "", url)
    assert ask(server, "POST", PROFILE_PATH, customer="c").status_code == 200
    body = {"branch_id": "b"}
    assert ask(server, "POST", IDENTIFIERS_PATH, body=body, customer="c").status_code == 200
    assert ask(server, "GET", IDENTIFIERS_PATH, customer="c").json()["branch_id"] == "b"
    assert stop(process) == 0


@pytest.mark.parametrize(
    ("options", "host"),
    [
        ("sslmode=verify-full&sslrootcert={other_ca}", "localhost"),
        ("sslmode=verify-ca&sslrootcert={other_ca}", "localhost"),
        ("sslmode=verify-full&sslrootcert={ca}", "127.0.0.1"),
        ("sslmode=disable", "localhost"),
    ],
    ids=["another authority", "the same, any name", "another name", "no TLS"],
)
def test_server_that_cannot_be_trusted_is_refused(
    encrypted: Encrypted, options: str, host: str
) -> None:
    """By one line, at the start, which shows no password."""
    given = options.format(ca=encrypted.ca, other_ca=encrypted.other_ca)
    url = f"{encrypted.url}?{given}".replace("localhost", host)
    url = url.replace("postgres@", "postgres:canary@")
    ended = subprocess.run(
        [sys.executable, "-m", "knownas", "check", "--database", url],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode != 0
    assert len(ended.stderr.strip().splitlines()) == 1, ended.stderr
    assert "canary" not in ended.stderr + ended.stdout
