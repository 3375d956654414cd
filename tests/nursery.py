"""Processes of the `knownas` command that need not import it anew: the tests start hundreds.

A nursery is a process that has imported what a server imports, and forks for each command. What
it forks runs as `python -m knownas` does: with arguments, an environment, a folder and streams of
its own, and to an end of its own.
"""

import atexit
import contextlib
import gc
import importlib
import os
import runpy
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Final, NamedTuple

import msgspec

_LOADED: Final = (
    "knownas.cli.apps",
    "knownas.cli.keys",
    "knownas.cli.serve",
    "knownas.storage.postgres",
)
"""What is imported once for all."""

_NUMBER: Final = struct.Struct("!i")


class Birth(msgspec.Struct, frozen=True):
    """What to run, and where."""

    arguments: Sequence[str]
    environment: Mapping[str, str]
    folder: str


class Process:
    """A process that a nursery has made; as `subprocess.Popen`, as far as the tests need that."""

    def __init__(self, arguments: Sequence[str], pid: int, news: socket.socket) -> None:
        """Take the process's id, and the socket on which its exit code will come."""
        self.args = arguments
        self.pid = pid
        self.returncode: int | None = None
        self._news = news

    def poll(self) -> int | None:
        """Return its exit code, minus the signal that killed it, or None while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.wait(0)
        return None

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end and return its exit code. Raises subprocess.TimeoutExpired."""
        if self.returncode is None:
            told = select.poll()  # unlike select, it takes any number of a file
            told.register(self._news, select.POLLIN)
            if not told.poll(None if timeout is None else timeout * 1_000):
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            (self.returncode,) = _NUMBER.unpack(self._news.recv(_NUMBER.size))
            self._news.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Ask it to stop."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Kill it."""
        self.send_signal(signal.SIGKILL)


class Nursery:
    """A process that forks for each command; it ends with this one."""

    def __init__(self) -> None:
        """Start it."""
        self._turn = threading.Lock()
        self._orders, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
        atexit.register(self._end)

    def start(
        self, arguments: Sequence[str], environment: Mapping[str, str], streams: Sequence[IO[bytes]]
    ) -> Process:
        """Start `knownas` with its standard input, output and error on the given files."""
        order = msgspec.json.encode(Birth(arguments, environment, str(Path.cwd())))
        news, theirs = socket.socketpair()
        with theirs, self._turn:
            handed = [*(stream.fileno() for stream in streams), theirs.fileno()]
            socket.send_fds(self._orders, [_NUMBER.pack(len(order))], handed)
            self._orders.sendall(order)
        (pid,) = _NUMBER.unpack(news.recv(_NUMBER.size))
        return Process(["knownas", *arguments], pid, news)

    def run(self, arguments: Sequence[str], environment: Mapping[str, str], stdin: str = "") -> str:
        """Run `knownas` to its end, return what it printed. Raises CalledProcessError."""
        with contextlib.ExitStack() as stack:
            streams = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(3)]
            streams[0].write(stdin.encode())
            streams[0].seek(0)
            process = self.start(arguments, environment, streams)
            code = process.wait()
            for stream in streams:
                stream.seek(0)
            output, errors = (stream.read().decode() for stream in streams[1:])
        if code:
            raise subprocess.CalledProcessError(code, process.args, output, errors)
        return output

    def _end(self) -> None:
        self._orders.close()
        self._process.wait()


class _Order(NamedTuple):
    """A birth, the streams of the child, and the socket for the news of it."""

    birth: Birth
    descriptors: Sequence[int]
    news: socket.socket


def _next_order(orders: socket.socket) -> _Order | None:
    """Return the next order; None where there will be none."""
    head, descriptors, _, _ = socket.recv_fds(orders, _NUMBER.size, 4)
    if not head:
        return None
    *streams, news = descriptors
    (length,) = _NUMBER.unpack(head)
    order = b""
    while len(order) < length:
        order += orders.recv(length - len(order))
    return _Order(msgspec.json.decode(order, type=Birth), streams, socket.socket(fileno=news))


def _tend(orders: socket.socket) -> Birth | None:
    """Fork for each order, and tell of each end.

    Returns in a child what it is to be, and None when there are no more orders.
    """
    woken, waker = socket.socketpair()
    waker.settimeout(0)  # as set_wakeup_fd wants it
    signal.signal(signal.SIGCHLD, lambda *_: None)  # so that the end of a child wakes
    signal.set_wakeup_fd(waker.fileno())
    children: dict[int, socket.socket] = {}
    while True:
        ready, _, _ = select.select([orders, woken], [], [])
        if woken in ready:
            woken.recv(4_096)
            while children and (ended := os.waitpid(-1, os.WNOHANG))[0]:
                with children.pop(ended[0]) as news, contextlib.suppress(OSError):
                    news.send(_NUMBER.pack(os.waitstatus_to_exitcode(ended[1])))
        if orders in ready:
            order = _next_order(orders)
            if order is None:
                return None
            pid = os.fork()
            if not pid:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for one in (orders, woken, waker, order.news, *children.values()):
                    one.close()
                for number, descriptor in enumerate(order.descriptors):
                    os.dup2(descriptor, number)
                    os.close(descriptor)
                return order.birth
            children[pid] = order.news
            order.news.send(_NUMBER.pack(pid))
            for descriptor in order.descriptors:
                os.close(descriptor)


def _main() -> None:
    for name in _LOADED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # what is there now is shared, and not looked at again
    birth = _tend(socket.socket(fileno=int(sys.argv[1])))
    if birth is None:
        return
    os.chdir(birth.folder)
    os.environ.clear()
    os.environ.update(birth.environment)
    time.tzset()
    sys.argv = ["knownas", *birth.arguments]
    runpy.run_module("knownas", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _main()
