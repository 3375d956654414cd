"""Reverse look-ups and batches of reads: what is asked, and that the answers are right."""

import json
from collections.abc import Iterator, Sequence
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import urlencode

from bench.databases import Target
from bench.servers import HOST, Running

KINDS: Final = frozenset({"find", "read", "batch"})
"""Of loads."""
BATCH_SIZE: Final = 100

_FIND: Final = "/api/v1/profiles/"
_READ: Final = "/api/v1/profile/"
_BATCH: Final = "/api/v1/batch/read/"


def requests(kind: str, key: str, targets: Sequence[Target]) -> Iterator[bytes]:
    """Yield the requests of a load."""
    if kind == "batch":
        for start in range(0, len(targets) - BATCH_SIZE + 1, BATCH_SIZE):
            body = _batch(targets[start : start + BATCH_SIZE])
            length = f"Content-Length: {len(body)}"
            yield _head("POST", _BATCH, key, "Content-Type: application/json", length) + body
    for target in targets:
        if kind == "read":
            yield _head("GET", _READ, key, f"adapty-customer-user-id: {target.customer}")
        elif kind == "find" and target.identifier is not None:
            yield _head("GET", _find(target.identifier), key)


def check(server: Running, key: str, targets: Sequence[Target]) -> None:
    """Make sure that all ways find the same profiles."""
    headers = {"Authorization": f"Api-Key {key}", "Content-Type": "application/json"}

    def ask(path: str, body: bytes | None = None, **more: str) -> Any:  # noqa: ANN401 - any JSON
        method = "GET" if body is None else "POST"
        named = {name.replace("_", "-"): value for name, value in more.items()}
        status, text = server.ask(method, path, headers | named, body)
        assert status == HTTPStatus.OK, text
        return json.loads(text)["data"]

    some = [target for target in targets if target.identifier is not None][:BATCH_SIZE]
    for target, result in zip(some, ask(_BATCH, _batch(some)), strict=True):
        profile = result["profile"]
        assert profile["profile_id"] == target.profile_id
        assert ask(_READ, adapty_customer_user_id=target.customer) == profile
        assert target.identifier is not None
        kind, _ = target.identifier
        assert {"kind": kind, "profile": profile} in ask(_find(target.identifier))


def _find(identifier: tuple[str, str]) -> str:
    kind, value = identifier
    return f"{_FIND}?{urlencode({'kind': kind, 'value': value})}"


def _batch(targets: Sequence[Target]) -> bytes:
    items = [{"customer_user_id": target.customer} for target in targets]
    return json.dumps({"items": items}, separators=(",", ":")).encode()


def _head(method: str, path: str, key: str, *more: str) -> bytes:
    lines = (f"{method} {path} HTTP/1.1", f"Host: {HOST}", f"Authorization: Api-Key {key}")
    return "\r\n".join((*lines, *more, "", "")).encode()
