"""A proxy between a server and its upstream, which passes on, or does what goes wrong on a way."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

import msgspec

from receivers import Received

Fault = Callable[[Received], Awaitable[bytes | None]]
"""Returns what is sent instead of the upstream's answer; None to pass that on."""

CUT: Final = b""
"""The connection ends without an answer."""


def answer(status: int, body: object = None, *headers: str) -> bytes:
    """Return an answer as it is sent: of bytes as they are, of anything else as JSON."""
    content = body if isinstance(body, bytes) else msgspec.json.encode(body)
    lines = [f"HTTP/1.1 {status} S", f"Content-Length: {len(content)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + content


def always(sent: bytes) -> Fault:
    """Return the fault that answers everything with the same."""

    async def fault(_request: Received) -> bytes:
        return sent

    return fault


def late(seconds: float) -> Fault:
    """Return the fault that lets everybody wait."""

    async def fault(_request: Received) -> None:
        await asyncio.sleep(seconds)

    return fault


class Proxy:
    """What stands between."""

    def __init__(self, target: int) -> None:
        """Lead to a port of this machine."""
        self.port = 0
        self.target = target
        self.fault: Fault | None = None
        self.cut_after: int | None = None
        """So many bytes of an answer are passed on, and then the connection ends."""
        self.requests: list[Received] = []
        self.serving: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """The base of the API behind it."""
        return f"http://127.0.0.1:{self.port}"

    def asked(self) -> list[str]:
        """Return the methods and the ends of the paths that were asked for."""
        words = [request.line.split() for request in self.requests]
        return [f"{method} {path.rstrip('/').rpartition('/')[2]}" for method, path, _ in words]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass one request on, and end the connection."""
        task = asyncio.current_task()
        assert task is not None
        self.serving.add(task)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            line, *lines = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
            headers = {name.lower(): value for name, value in (it.split(": ", 1) for it in lines)}
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            request = Received(line, headers, body)
            self.requests.append(request)
            sent = None if self.fault is None else await self.fault(request)
            if sent is None:
                sent = await self._passed_on(head, body)
            writer.write(sent[: self.cut_after])
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass  # the client is gone
        finally:
            self.serving.discard(task)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _passed_on(self, head: bytes, body: bytes) -> bytes:
        """Return the upstream's answer."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.target)
        writer.write(head.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n") + body)
        try:
            return await reader.read()
        finally:
            writer.close()
            await writer.wait_closed()


@asynccontextmanager
async def proxying(target: int) -> AsyncIterator[Proxy]:
    """Run a proxy to a port of this machine."""
    proxy = Proxy(target)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        serving = list(proxy.serving)
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)
        await server.wait_closed()
