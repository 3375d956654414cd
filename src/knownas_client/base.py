"""What both clients share: where they send, how a request looks, and what is tried again."""

import uuid
from typing import Any, Final

import httpx2

from knownas_client.calls import Answer, Call
from knownas_client.retries import Attempts, Retries

DEFAULT_RETRIES: Final = Retries()
DEFAULT_TIMEOUT: Final = 10.0
_IDEMPOTENCY_KEY: Final = "idempotency-key"
_LOG_POSITION: Final = "knownas-log-position"


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
        self._log_position = ""

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
        if call.of_standby and self._log_position:
            headers[_LOG_POSITION] = self._log_position
        return {
            "method": call.method,
            "url": f"{self.url}{call.path}",
            "headers": headers,
            "params": call.parameters or None,
            "content": call.body,
            "timeout": self._timeout + call.waits,
            "follow_redirects": False,
        }

    def _answer(self, response: httpx2.Response) -> Answer:
        """Return what came back, and keep how far the server's log was, if it says so.

        Positions are of one length, so the later one is the greater text.
        """
        position = response.headers.get(_LOG_POSITION, "")
        self._log_position = max(self._log_position, position)
        return Answer(response.status_code, response.headers, response.content)
