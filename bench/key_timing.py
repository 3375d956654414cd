"""Whether the time of a refusal tells anything about stored keys (threat row 4).

Keys of our own form with a right checksum, so that each is looked up: half of them drawn at
random, half of them a stored key but for one character. Both kinds are sent in random order over
one connection. Two medians differ by chance, too: how far, is found by dealing the same times out
at random to two kinds that mean nothing, many times over.
"""

import random
import re
import socket
import statistics
import string
import time
import zlib
from typing import Final

from bench.contenders import PATH
from bench.results import KeyTiming
from bench.servers import HOST, Running
from knownas import keys

_SEED: Final = 3
_DEALS: Final = 300
_CHECKSUM_CHARACTERS: Final = 6
_LENGTH: Final = re.compile(rb"\r\ncontent-length: (\d+)", re.IGNORECASE)
_ALPHABET: Final = string.digits + string.ascii_uppercase + string.ascii_lowercase


def measure(server: Running, stored_key: str, *, requests: int) -> KeyTiming:
    """Send so many keys of each kind to a server, and compare the medians."""
    rng = random.Random(_SEED)
    kinds = ["unknown", "near miss"] * requests
    rng.shuffle(kinds)
    sent = [
        keys.mint("secret") if kind == "unknown" else _near_miss(stored_key, rng) for kind in kinds
    ]
    times = _times(server, sent)
    by_kind = [
        [taken for taken, of in zip(times, kinds, strict=True) if of == kind]
        for kind in ("unknown", "near miss")
    ]
    unknown, near_miss = map(statistics.median, by_kind)
    return KeyTiming(
        requests=requests,
        unknown_us=unknown,
        near_miss_us=near_miss,
        noise_us=_noise(times, rng),
    )


def _near_miss(key: str, rng: random.Random) -> str:
    """Return a key with one character changed and the checksum that goes with it."""
    body = key[:-_CHECKSUM_CHARACTERS]
    changeable = range(body.rindex("_") + 1, len(body))
    position = rng.choice(changeable)
    other = rng.choice(_ALPHABET.replace(body[position], ""))
    changed = body[:position] + other + body[position + 1 :]
    number = zlib.crc32(changed.encode())  # the checksum, as docs/keys.md describes it
    for _ in range(_CHECKSUM_CHARACTERS):
        number, digit = divmod(number, len(_ALPHABET))
        changed = changed[: len(body)] + _ALPHABET[digit] + changed[len(body) :]
    assert not keys.is_mistyped(changed)
    return changed


def _times(server: Running, sent: list[str]) -> list[float]:
    """Return the microseconds until each key was refused."""
    times = []
    with socket.create_connection((HOST, server.port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for key in sent:
            request = (
                f"GET {PATH} HTTP/1.1\r\nHost: {HOST}\r\nAuthorization: Api-Key {key}\r\n"
                "adapty-customer-user-id: user-1\r\n\r\n"
            ).encode()
            began = time.perf_counter_ns()
            connection.sendall(request)
            answer = b""
            while not _is_whole(answer):
                answer += connection.recv(65_536)
            times.append((time.perf_counter_ns() - began) / 1e3)
            assert answer.startswith(b"HTTP/1.1 401 "), answer[:100]
    return times


def _is_whole(answer: bytes) -> bool:
    head, end, body = answer.partition(b"\r\n\r\n")
    length = _LENGTH.search(head)
    return bool(end and length and len(body) >= int(length[1]))


def _noise(times: list[float], rng: random.Random) -> float:
    """Return how far the medians of two random halves are apart, 95 times of 100."""
    apart = []
    half = len(times) // 2
    dealt = list(times)
    for _ in range(_DEALS):
        rng.shuffle(dealt)
        apart.append(abs(statistics.median(dealt[:half]) - statistics.median(dealt[half:])))
    return statistics.quantiles(apart, n=20)[-1]
