"""Serving the application with uvicorn: one process, or several on one listening socket."""

import signal
import socket
from collections.abc import Callable

import uvicorn
from uvicorn.supervisors import Multiprocess

from knownas.http.app import Application


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


def run(
    make_app: Callable[[], Application],
    listening: socket.socket,
    *,
    workers: int,
    trusted_proxies: str,
) -> None:
    """Serve until SIGTERM or SIGINT, then finish what was begun and return.

    `make_app` is called once in each process, so with several workers it must be picklable.
    """
    config = uvicorn.Config(
        make_app,
        factory=True,
        loop="uvloop",
        http="httptools",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=bool(trusted_proxies),
        forwarded_allow_ips=trusted_proxies or None,
        workers=workers,
        backlog=2_048,
    )
    server = uvicorn.Server(config)
    # uvicorn raises the signal anew when it is done; a clean stop ends with 0 all the same.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    if workers == 1:
        server.run(sockets=[listening])
    else:
        Multiprocess(config, sockets=[listening]).run()
