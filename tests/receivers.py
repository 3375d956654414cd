"""Receivers of webhooks: real sockets, real TLS, certificates of the tests' own authority."""

import asyncio
import datetime as dt
import ipaddress
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

NO_CONTENT: Final = b"HTTP/1.1 204 No Content\r\n\r\n"
DAY: Final = dt.timedelta(days=1)

Answering = Callable[[asyncio.StreamWriter], Awaitable[None]]


class Authority:
    """A certificate authority."""

    def __init__(self, folder: Path) -> None:
        """Make one; `file` is what its believers are given."""
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "knownas tests")])
        mine = self._signed(self._name, self._key.public_key()).add_extension(
            x509.BasicConstraints(ca=True, path_length=None), critical=True
        )
        self.file = folder / "ca.pem"
        self.file.write_bytes(_pem(mine.sign(self._key, hashes.SHA256())))

    def server_context(self, *hosts: str, days: int = 1) -> ssl.SSLContext:
        """Return what a server for some names and addresses speaks TLS by, `days` < 0 for past."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = (
            self._signed(x509.Name([]), key.public_key(), days)
            .add_extension(
                x509.SubjectAlternativeName(list(map(_general_name, hosts))), critical=True
            )
            .sign(self._key, hashes.SHA256())
        )
        file = self._folder / "server.pem"
        file.write_bytes(
            _pem(certificate)
            + key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        return context

    def _signed(
        self, name: x509.Name, key: ec.EllipticCurvePublicKey, days: int = 1
    ) -> x509.CertificateBuilder:
        end = dt.datetime.now(dt.UTC) + days * DAY
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(end - 30 * DAY)
            .not_valid_after(end)
        )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


class Received(NamedTuple):
    """A request as it came."""

    line: str
    headers: dict[str, str]
    """By their names in lower case."""
    body: bytes


class Receiver:
    """A server of one answer, which keeps what it was sent."""

    def __init__(self, answer: bytes | Answering, *, keeps: bool) -> None:
        """Take the bytes to answer with or what writes them; `keeps` leaves connections open."""
        self.port = 0
        self.keeps = keeps
        self.answer = answer
        self.connections = 0
        self.names: list[str | None] = []
        """The host that each client asked for in its TLS greeting."""
        self.requests: list[Received] = []
        self.writers: dict[asyncio.StreamWriter, asyncio.Task[None]] = {}
        """The connections that are open, and what serves each."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Keep each request of a connection, and answer it."""
        task = asyncio.current_task()
        assert task is not None
        self.writers[writer] = task
        self.connections += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                line, *lines = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
                headers = {n.lower(): value for n, value in (it.split(": ", 1) for it in lines)}
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                self.requests.append(Received(line, headers, body))
                if isinstance(self.answer, bytes):
                    writer.write(self.answer)
                    await writer.drain()
                else:
                    await self.answer(writer)
                if not self.keeps:
                    writer.close()
                    await writer.wait_closed()
                    return
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            writer.transport.abort()  # the client is gone, or the test is over
        finally:
            del self.writers[writer]

    def greet(self, _socket: ssl.SSLObject, name: str | None, _context: ssl.SSLContext) -> None:
        """Keep the host's name of a TLS greeting."""
        self.names.append(name)


@asynccontextmanager
async def receiving(
    address: str = "127.0.0.1",
    *,
    answer: bytes | Answering = NO_CONTENT,
    tls: ssl.SSLContext | None = None,
    port: int = 0,
    keeps: bool = False,
) -> AsyncIterator[Receiver]:
    """Run a receiver on an address, by TLS where there is a context for it."""
    receiver = Receiver(answer, keeps=keeps)
    if tls is not None:
        tls.sni_callback = receiver.greet
    server = await asyncio.start_server(receiver.serve, address, port, ssl=tls)
    receiver.port = server.sockets[0].getsockname()[1]
    try:
        yield receiver
    finally:
        server.close()
        tasks = list(receiver.writers.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks)
        await server.wait_closed()
