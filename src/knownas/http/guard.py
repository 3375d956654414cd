"""A limit on key guessing: distinct unknown keys by client address.

A client with one stale key repeats the same key and is never limited; a valid key is never
asked about. The counts are of one process, forgotten each minute, and bounded in number.
"""

import ipaddress
import time
from collections.abc import Callable
from typing import Final

from starlette.datastructures import Address

from knownas.errors import RateLimited

_WINDOW_SECONDS: Final = 60.0
_MAX_ADDRESSES: Final = 10_000
_IPV6_NETWORK_BITS: Final = 64


class KeyGuard:
    """Counts the distinct bad keys of each address within a window of a minute."""

    def __init__(self, limit: int, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Allow `limit` distinct bad keys an address a minute."""
        self._limit = limit
        self._monotonic = monotonic
        self._window_ends = 0.0
        self._tried: dict[str, set[int]] = {}

    def bad_key(self, client: Address | None, authorization: bytes | None) -> None:
        """Count a key that was refused. Raises RateLimited past the limit."""
        if client is None or authorization is None:
            return
        now = self._monotonic()
        if now >= self._window_ends or len(self._tried) >= _MAX_ADDRESSES:
            self._window_ends = now + _WINDOW_SECONDS
            self._tried.clear()
        tried = self._tried.setdefault(network_of(client.host), set())
        attempt = hash(authorization)
        if attempt in tried:
            return
        if len(tried) >= self._limit:
            raise RateLimited(
                "Too many unknown API keys from this address; wait as long as Retry-After says.",
                retry_after=max(1, round(self._window_ends - now)),
            )
        tried.add(attempt)


def network_of(host: str) -> str:
    """Return the address, or for IPv6 the network that one subscriber has to itself."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped:  # an IPv4 client of a socket that listens on both
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, _IPV6_NETWORK_BITS), strict=False))
    return host
