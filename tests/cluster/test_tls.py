"""TLS to PostgreSQL: whom the server believes, and what it says when it does not.

The wheel that the other tests run PostgreSQL from speaks no TLS; Debian's does.
"""

import functools
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import urlencode, urlsplit, urlunsplit

import anyio.to_thread
import pytest

import postgres
from cluster.processes import program
from knownas.errors import ServiceUnavailable
from knownas.storage import StorageError
from knownas.storage.postgres import PostgresStorage
from postgres import Cluster, psql

pytestmark = [pytest.mark.cluster, pytest.mark.anyio]

NAME: Final = "localhost"
"""The host's name, as in its certificate; its address is not there."""
SECRET: Final = "canary"  # noqa: S105 - a test's own
RELOAD: Final = "SELECT pg_reload_conf()"
HOW: Final = "SELECT DISTINCT ssl FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)"
OURS: Final = f"{HOW} WHERE datname = current_database() AND pid <> pg_backend_pid()"


class Authority(NamedTuple):
    """A certificate authority of a test's own, in a folder of its own."""

    folder: Path

    @property
    def certificate(self) -> Path:
        """What `sslrootcert` names."""
        return self.folder / "ca.pem"

    def issue(self, host: str) -> tuple[bytes, bytes]:
        """Return a certificate for a host, and its key."""
        of_the_host = self.folder / "host.pem"
        issuer = ("-CA", str(self.certificate), "-CAkey", str(self.folder / "key.pem"))
        name = ("-addext", f"subjectAltName=DNS:{host}", "-addext", "basicConstraints=CA:FALSE")
        return self._sign(of_the_host, self.folder / "host-key.pem", *issuer, *name)

    def _sign(self, certificate: Path, key: Path, *arguments: str) -> tuple[bytes, bytes]:
        new = ("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")
        files = (
            "-nodes",
            "-subj",
            "/CN=knownas tests",
            "-out",
            str(certificate),
            "-keyout",
            str(key),
        )
        command = [program("openssl"), *new, *files, *arguments]
        subprocess.run(command, check=True, capture_output=True)
        return certificate.read_bytes(), key.read_bytes()

    @classmethod
    def made_in(cls, folder: Path) -> "Authority":
        """Make one."""
        folder.mkdir()
        made = cls(folder)
        made._sign(made.certificate, folder / "key.pem")
        return made


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Give the authority that the database's certificate is from."""
    return Authority.made_in(tmp_path_factory.mktemp("tls") / "authority")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Give another authority, of the same name."""
    return Authority.made_in(tmp_path_factory.mktemp("tls") / "stranger")


def show(cluster: Cluster, authority: Authority) -> None:
    """Have the database show a certificate of an authority from now on."""
    certificate, key = authority.issue(NAME)
    psql(
        cluster.url,
        f"ALTER SYSTEM SET ssl_cert_file = '{cluster.keep('host.pem', certificate)}'",
        f"ALTER SYSTEM SET ssl_key_file = '{cluster.keep('host-key.pem', key)}'",
        "ALTER SYSTEM SET ssl = on",
        RELOAD,
    )


@pytest.fixture(scope="module")
def cluster(authority: Authority) -> Iterator[Cluster]:
    """Give a server that speaks TLS."""
    with postgres.cluster(*postgres.FAST, its_programs=Path(program("pg_ctl")).parent) as made:
        show(made, authority)
        yield made


@pytest.fixture
def database(cluster: Cluster) -> Iterator[str]:
    """Give the URL of a fresh database, for a superuser without TLS."""
    made = postgres.new_database(cluster.url)
    yield made
    postgres.drop_database(cluster.url, made)


def by_tls(database: str, *, host: str = NAME, **options: object) -> str:
    """Return a database's URL with a password and with options of TLS."""
    parts = urlsplit(database)
    netloc = f"postgres:{SECRET}@{host}:{parts.port}"
    return urlunsplit(parts._replace(netloc=netloc, query=urlencode(options)))


async def opened(url: str) -> PostgresStorage:
    """Open a database as the server does when it starts."""
    return await anyio.to_thread.run_sync(PostgresStorage, url)


async def refusal(url: str) -> str:
    """Return why a database is not opened: in one line, without the password."""
    with pytest.raises(StorageError) as raised:
        await opened(url)
    line = str(raised.value)
    assert "\n" not in line
    assert SECRET not in line
    return line


@pytest.fixture
async def storage(database: str, authority: Authority) -> AsyncIterator[PostgresStorage]:
    """Give a storage that asks the database for all that can be asked for."""
    root = authority.certificate
    made = await opened(by_tls(database, sslmode="verify-full", sslrootcert=root))
    yield made
    await made.close()


async def test_verify_full_is_encrypted(storage: PostgresStorage, database: str) -> None:
    """With the right authority and the right name all goes over TLS."""
    app = await storage.create_app("uuid", "one", now=1)
    assert await storage.apps() == [app]
    await storage.ping()
    assert psql(database, OURS) == "t"


async def test_control_without_tls_is_not(database: str) -> None:
    """What the others look at tells the difference."""
    storage = await opened(by_tls(database, sslmode="disable"))
    await storage.ping()
    assert psql(database, OURS) == "f"
    await storage.close()


@pytest.mark.parametrize("mode", ["prefer", "require"])
async def test_require_is_encrypted_and_believes_anyone(database: str, mode: str) -> None:
    """Without an authority it does not matter who shows the certificate, nor for which host."""
    storage = await opened(by_tls(database, host="127.0.0.1", sslmode=mode))
    await storage.ping()
    assert psql(database, OURS) == "t"
    await storage.close()


@pytest.mark.parametrize("mode", ["require", "verify-ca", "verify-full"])
async def test_wrong_authority_is_refused(database: str, stranger: Authority, mode: str) -> None:
    """Where an authority is named, a certificate that is not from it stops the start."""
    url = by_tls(database, sslmode=mode, sslrootcert=stranger.certificate)
    assert "its certificate is refused: " in await refusal(url)


async def test_wrong_host_is_refused(database: str, authority: Authority) -> None:
    """A right certificate that is another host's stops the start, with verify-full alone."""
    wanted = functools.partial(
        by_tls, database, host="127.0.0.1", sslrootcert=authority.certificate
    )
    line = await refusal(wanted(sslmode="verify-full"))
    assert "its certificate is refused: " in line
    assert "127.0.0.1" in line.partition("refused")[2]
    await (await opened(wanted(sslmode="verify-ca"))).close()


async def test_server_without_tls_is_refused(postgres_url: str) -> None:
    """What would go in clear text is not sent."""
    assert "it speaks no TLS" in await refusal(by_tls(postgres_url, sslmode="require"))


@pytest.mark.parametrize(
    ("content", "says"), [(None, "no such file as sslrootcert"), (b"no certificate", "TLS fails")]
)
async def test_unusable_authority_is_named(
    database: str, tmp_path: Path, content: bytes | None, says: str
) -> None:
    """A file that is not there, or is no certificate, is not taken for a wrong URL."""
    root = tmp_path / "ca.pem"
    if content is not None:
        root.write_bytes(content)
    assert says in await refusal(by_tls(database, sslmode="verify-full", sslrootcert=root))


async def test_no_authority_is_named(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To verify, it needs somebody to believe."""
    monkeypatch.setenv("HOME", str(tmp_path))
    assert "sslrootcert names none" in await refusal(by_tls(database, sslmode="verify-full"))


async def test_certificate_that_becomes_wrong_is_503(
    cluster: Cluster, storage: PostgresStorage, authority: Authority, stranger: Authority
) -> None:
    """As one that runs out: 503 and no crash, until the database shows a right one again."""
    others = "pid <> pg_backend_pid() AND backend_type = 'client backend'"
    end_all = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}"  # noqa: S608 - a constant
    await storage.ping()
    show(cluster, stranger)
    try:
        await anyio.sleep(0.2)
        psql(cluster.url, end_all)
        for ask in (storage.ping, storage.apps):
            with pytest.raises(ServiceUnavailable):
                await ask()
    finally:
        show(cluster, authority)
    await anyio.sleep(0.2)
    await storage.ping()
    assert await storage.apps() == []
