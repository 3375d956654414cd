"""What both clients share: where they send, how a request looks, and what is tried again."""

import uuid
from typing import Any, Final

import httpx2

from knownas_client.calls import Call
from knownas_client.retries import Attempts, Retries

DEFAULT_RETRIES: Final = Retries()
DEFAULT_TIMEOUT: Final = 10.0
_IDEMPOTENCY_KEY: Final = "idempotency-key"


class BaseClient:
    """A server, a key, and on what terms requests are made."""

    def __init__(
        self, url: str, key: str, *, timeout: float, retries: Retries, idempotency: bool
    ) -> None:
        """Take what `Client` and `AsyncClient` document."""
        if httpx2.URL(url).scheme not in {"http", "https"}:
            raise ValueError("The URL is that of a server, as https://ids.example.com.")
        if not key or not (key.isascii() and key.isprintable()):
            raise ValueError("The key is 1 or more printable ASCII characters.")
        self.url = url.rstrip("/")
        self._authorization = f"Api-Key {key}"
        self._timeout = timeout
        self._retries = retries
        self._idempotency = idempotency

    def _attempts(self, call: Call[Any], request: dict[str, Any]) -> Attempts:
        repeatable = call.repeatable or _IDEMPOTENCY_KEY in request["headers"]
        return Attempts(self._retries, repeatable=repeatable)

    def _request(self, call: Call[Any]) -> dict[str, Any]:
        """Return the arguments by which httpx2 sends a call, the same ones for each attempt."""
        headers: dict[str, str | bytes] = {
            "authorization": self._authorization,
            "accept": "application/json",
            "user-agent": "knownas-client",
            **call.headers,
        }
        key = call.idempotency_key
        if call.writes and call.keyed and (key or self._idempotency):
            headers[_IDEMPOTENCY_KEY] = key or str(uuid.uuid4())
        return {
            "method": call.method,
            "url": f"{self.url}{call.path}",
            "headers": headers,
            "params": call.parameters or None,
            "content": call.body,
            "timeout": self._timeout + call.waits,
            "follow_redirects": False,
        }
