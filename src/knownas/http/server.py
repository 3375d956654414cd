"""Serving with uvicorn: the listening socket, the processes, and how they stop."""

import contextlib
import errno
import os
import resource
import signal
import socket
from collections.abc import Callable
from typing import Final

import uvicorn
from starlette.applications import Starlette
from uvicorn.supervisors import Multiprocess

from knownas.http.app import Application
from knownas.http.edge import Edge, EdgeConfig
from knownas.http.protocol import Protocol

SPARE_FILES: Final = 384
"""Open files that a process needs beside those of its connections."""


class _Config(EdgeConfig):
    """uvicorn's configuration, with what a process adds to it when it starts."""

    def load(self) -> None:
        """Load the application, and make the edge of what it was made of."""
        super().load()
        app = self.loaded_app
        while not isinstance(app, Starlette):  # within uvicorn's own wrappers
            app = app.app
        self.edge = Edge(app.state)


def listen(host: str, port: int) -> socket.socket:
    """Return a bound, inheritable socket. Raises OSError when the address cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except OSError:
        bound.close()
        raise
    bound.set_inheritable(True)
    return bound


def inherit(descriptor: int) -> socket.socket:
    """Return the listening socket that whoever started this process has passed on to it.

    Raises OSError when the descriptor is no TCP socket.
    """
    inherited = socket.socket(fileno=descriptor)
    is_tcp = inherited.family in {socket.AF_INET, socket.AF_INET6}
    if not is_tcp or inherited.type != socket.SOCK_STREAM:
        raise OSError(errno.EPROTOTYPE, os.strerror(errno.EPROTOTYPE))
    inherited.set_inheritable(True)
    return inherited


def run(
    make_app: Callable[[], Application],
    listening: socket.socket,
    *,
    workers: int,
    trusted_proxies: str,
    max_connections: int,
) -> None:
    """Serve until SIGTERM or SIGINT, then finish what was begun and return.

    `make_app` is called once in each process, so with several workers it must be picklable.
    """
    # Connections over the limit are open, too, until they were told so.
    _allow_files(2 * max_connections + SPARE_FILES)
    config = _Config(
        make_app,
        factory=True,
        loop="uvloop",
        http=Protocol,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=bool(trusted_proxies),
        forwarded_allow_ips=trusted_proxies or None,
        workers=workers,
        backlog=2_048,
    )
    if workers > 1:
        Multiprocess(config, sockets=[listening]).run()
        return
    server = uvicorn.Server(config)
    # uvicorn handles these while it serves, and at the end raises anew what it got, which is to
    # change nothing then: a clean stop ends with 0. What comes before it serves stops it, too.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, server.handle_exit)
    server.run(sockets=[listening])


def _allow_files(number: int) -> None:
    """Raise the limit on open files to what is needed, as far as the system lets it be raised."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = number if hard == resource.RLIM_INFINITY else min(number, hard)
    if soft != resource.RLIM_INFINITY and soft < needed:
        with contextlib.suppress(ValueError, OSError):  # macOS has a lower limit of its own
            resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
