"""A server that does as it is told, for what a good one never does: a real one, on a socket."""

import asyncio
import contextlib
import http
from collections.abc import Iterator
from typing import NamedTuple

from anyio.from_thread import start_blocking_portal

from conftest import free_port


class Late(NamedTuple):
    """An answer that comes after some seconds."""

    seconds: float
    answer: bytes


Deed = bytes | Late | None
"""An answer, or None for a connection that is closed without one."""


class Misbehaving:
    """Answers the n-th request by the n-th deed, and all after the last as the last."""

    def __init__(self, deeds: tuple[Deed, ...]) -> None:
        """Do these deeds, one a request."""
        self.url = ""
        self.requests: list[bytes] = []
        """Head and body of each request, in the order in which they came."""
        self._deeds = deeds
        self._writers: list[asyncio.StreamWriter] = []

    def header(self, name: str) -> list[str]:
        """Return the value that each request had of a header, "" where it had none."""
        return [_header(request, name) for request in self.requests]

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer what comes by one connection."""
        self._writers.append(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(_header(head, "content-length") or 0)
                self.requests.append(head + await reader.readexactly(length))
                deed = self._deeds[min(len(self.requests), len(self._deeds)) - 1]
                if deed is None:
                    break
                if isinstance(deed, Late):
                    await asyncio.sleep(deed.seconds)
                    deed = deed.answer
                writer.write(deed)
                await writer.drain()
        writer.close()

    def end(self) -> None:
        """Cut all connections off."""
        for writer in self._writers:
            writer.transport.abort()


def answer(status: int, body: bytes = b"", **headers: str) -> bytes:
    """Return the bytes of an answer; an underscore in a header's name is a hyphen."""
    lines = [f"HTTP/1.1 {status} {http.HTTPStatus(status).phrase}", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


@contextlib.contextmanager
def misbehaving(*deeds: Deed) -> Iterator[Misbehaving]:
    """Run a server that does these deeds."""
    server = Misbehaving(deeds)
    port = free_port()
    server.url = f"http://127.0.0.1:{port}"
    with start_blocking_portal() as portal:
        listening = portal.call(asyncio.start_server, server.talk, "127.0.0.1", port)
        yield server

        async def stop() -> None:
            listening.close()
            server.end()

        portal.call(stop)


def _header(request: bytes, name: str) -> str:
    for line in request.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]:
        found, _, value = line.partition(b":")
        if found.strip().lower() == name.encode():
            return value.strip().decode()
    return ""
