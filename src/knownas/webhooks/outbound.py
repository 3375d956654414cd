"""Sends webhooks to addresses that somebody else chose, and nowhere that this could do harm.

The host's name is looked up here, each address that it leads to is checked, and the connection is
made to one of those very addresses: a name that leads elsewhere at the next look-up (DNS
rebinding) changes nothing. Redirects are not followed, and proxies that the environment names are
not used: both would lead to where nothing was checked.
"""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from datetime import UTC
from email.utils import parsedate_to_datetime
from ipaddress import ip_address
from threading import Thread
from typing import Final, Literal, NamedTuple

import httpcore2

from knownas.errors import ValidationError
from knownas.webhooks import signatures, targets
from knownas.webhooks.addresses import Address, Network, is_public
from knownas.webhooks.answers import MAX_ANSWER_BYTES, Answered, Unanswered
from knownas.webhooks.targets import Target

TOTAL_SECONDS: Final = 10.0
CONNECT_SECONDS: Final = 3.0
"""For one of several addresses, so that a silent one leaves time for the next."""

KEPT_SECONDS: Final = 1.0
"""How long a connection is kept for the next delivery: for a burst, and less than any receiver."""

KEPT_CONNECTIONS: Final = 100

_JSON: Final = (("Content-Type", "application/json"),)
_GONE: Final = 410
_BROKEN: Final = (httpcore2.NetworkError, httpcore2.ProtocolError, ssl.SSLError)
_REASONS: Final[tuple[tuple[type[Exception] | tuple[type[Exception], ...], str], ...]] = (
    (ssl.SSLError, "The host does not speak TLS as it should."),
    (socket.gaierror, "The host's name is not known."),
    ((httpcore2.TimeoutException, TimeoutError), "The receiver took too long."),
    (httpcore2.ConnectError, "The host does not accept a connection."),
    (httpcore2.ProtocolError, "The receiver did not answer by HTTP."),
    (Exception, "The connection broke off."),
)
"""Of what went wrong, or of its cause, the first one that fits."""

Resolve = Callable[[str], Sequence[str]]
"""Returns the addresses of a host name; may block; raises OSError."""


class Outcome(NamedTuple):
    """How one attempt to deliver ended."""

    result: Literal["delivered", "failed", "rejected", "refused", "gone"]
    """`rejected`: the receiver never takes this one. `refused`: it may not go there, and nothing
    was sent. `gone`: the receiver wants no more."""
    status: int | None
    """What the receiver answered, if it did."""
    reason: str
    """One sentence for people, "" where it was delivered; of the network here it tells nothing."""
    retry_after: int | None = None
    """Seconds that the receiver asks to be left alone."""


class _Refused(Exception):
    """The host leads where nothing may be sent."""


class Sender:
    """Delivers messages to the public internet, and to the networks that the operator allows."""

    def __init__(
        self,
        networks: Sequence[Network] = (),
        *,
        seconds: float = TOTAL_SECONDS,
        resolve: Resolve | None = None,
    ) -> None:
        """Take the networks that are allowed, too, and the seconds that a delivery may last.

        Certificates are checked against those that the system trusts, or SSL_CERT_FILE. `resolve`
        is the system's look-up unless a test needs a name that changes. Raises OSError when the
        trusted certificates cannot be read.
        """
        self._networks = tuple(networks)
        self._seconds = seconds
        resolve = resolve or system_addresses
        tls = httpcore2.default_ssl_context()
        self._pools = {
            scheme: httpcore2.AsyncConnectionPool(
                ssl_context=tls,
                max_connections=None,
                max_keepalive_connections=KEPT_CONNECTIONS,
                keepalive_expiry=KEPT_SECONDS,
                network_backend=_CheckedNetwork(scheme, resolve, self._is_allowed),
            )
            for scheme in ("http", "https")
        }

    async def close(self) -> None:
        """Close the connections that are kept."""
        for pool in self._pools.values():
            await pool.aclose()

    def clean_url(self, text: str) -> str:
        """Return a URL that messages may be sent to, in its one form.

        Raises ValidationError for what `targets.parse` refuses, for http:// where no network is
        allowed that it could lead to, and for an address that is not public nor allowed. Where a
        name leads is only known when it is sent to.
        """
        return self._target(text).url

    def _target(self, text: str) -> Target:
        target = targets.parse(text)
        address = targets.address_of(target.host)
        if target.scheme == "http" and not self._networks:
            raise ValidationError("Must begin with https://.", source="url")
        if address is not None and not self._is_allowed(target.scheme, address):
            raise ValidationError(_refusal(target.scheme), source="url")
        return target

    def _is_allowed(self, scheme: str, address: Address) -> bool:
        """Tell whether a connection may be made; without TLS only to what the operator names."""
        if any(address in network for network in self._networks):
            return True
        return scheme == "https" and is_public(address)

    async def send(
        self, url: str, body: bytes, *, message_id: str, secrets: Iterable[str], now_ms: int
    ) -> Outcome:
        """Send a JSON body once, signed with each of the secrets, and return how it ended.

        The time is that of this attempt, in milliseconds. Raises ValueError for an id or a secret
        that `signatures.signed_headers` refuses; whatever the receiver does is an outcome.
        """
        signed = signatures.signed_headers(
            secrets, message_id=message_id, timestamp=now_ms // 1_000, body=body
        )
        answer = await self.exchange(
            "POST", url, [*_JSON, *signed.items()], body, now_ms=now_ms, seconds=self._seconds
        )
        if isinstance(answer, Unanswered):
            return Outcome("refused" if answer.is_refused else "failed", None, answer.reason)
        return _outcome(answer)

    async def exchange(  # noqa: PLR0913 - all that a request is made of
        self,
        method: str,
        url: str,
        headers: Sequence[tuple[str, str | bytes]],
        body: bytes = b"",
        *,
        now_ms: int,
        seconds: float,
    ) -> Answered | Unanswered:
        """Send a request once and return what came back within so many seconds.

        What goes wrong after the status line takes nothing back of what that says.
        """
        try:
            target = self._target(url)
        except ValidationError as error:
            return Unanswered(error.fields[0].message, is_refused=True)
        answer: Answered | None = None
        is_new = False

        async def trace(event: str, _about: object) -> None:
            nonlocal is_new
            is_new = is_new or event == "connection.connect_tcp.started"

        try:
            async with asyncio.timeout(seconds):
                while answer is None:
                    try:
                        async with self._pools[target.scheme].stream(
                            method,
                            _request_url(target),
                            headers=_request_headers(target, headers, body),
                            content=body or None,
                            extensions={"trace": trace},
                        ) as response:
                            retry_after = _retry_after(response.headers, now_ms)
                            answer = Answered(response.status, retry_after, None)
                            answer = answer._replace(body=await _read_to_the_end(response))
                    except _BROKEN:
                        # A kept connection may be one that the receiver has just closed: the
                        # message goes by a new one then, which at worst repeats it.
                        if is_new or answer is not None:
                            raise
        except _Refused:
            return Unanswered(_refusal(target.scheme), is_refused=True)
        except (*_BROKEN, httpcore2.TimeoutException, OSError) as error:
            return answer or Unanswered(_reason(error))
        return answer


def system_addresses(host: str) -> Sequence[str]:
    """Return the addresses of a host name as the system knows them, in the order to try them.

    Blocks. Raises OSError when there are none.
    """
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return [str(socket_address[0]) for *_, socket_address in found]


class _CheckedNetwork(httpcore2.AsyncNetworkBackend):
    """Connects to addresses that it has looked up and checked itself, and to nothing else."""

    def __init__(
        self, scheme: str, resolve: Resolve, is_allowed: Callable[[str, Address], bool]
    ) -> None:
        self._scheme = scheme
        self._resolve = resolve
        self._is_allowed = is_allowed
        self._network = httpcore2.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109, ARG002 - the signature of the base
        local_address: str | None = None,  # noqa: ARG002 - as above
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,  # noqa: ARG002 - as above
    ) -> httpcore2.AsyncNetworkStream:
        """Return a connection to the first address of a host that accepts one.

        Raises _Refused when any of its addresses is not allowed: a name that leads to both kinds
        was not made by somebody who means well.
        """
        addresses = await self._addresses(host)
        if not all(self._is_allowed(self._scheme, address) for address in addresses):
            raise _Refused
        failure: Exception = socket.gaierror(socket.EAI_NONAME, "no address")
        for address in addresses:
            try:
                stream = await self._network.connect_tcp(
                    str(address), port, timeout=CONNECT_SECONDS
                )
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failure = error
            else:
                return _BeforeTls(stream) if self._scheme == "https" else stream
        raise failure

    async def _addresses(self, host: str) -> list[Address]:
        """Return the addresses of a host, each once."""
        address = targets.address_of(host)
        if address is not None:
            return [address]
        found = await _in_a_thread(lambda: self._resolve(host))
        return [ip_address(one) for one in dict.fromkeys(found)]


class _BeforeTls(httpcore2.AsyncNetworkStream):
    """A connection that is closed when its TLS handshake is cancelled, as by a deadline.

    httpcore2 alone leaves it open: it belongs to nothing yet.
    """

    def __init__(self, stream: httpcore2.AsyncNetworkStream) -> None:
        self._stream = stream

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - the signature of the base
    ) -> httpcore2.AsyncNetworkStream:
        """Return the connection by TLS."""
        try:
            return await self._stream.start_tls(ssl_context, server_hostname, timeout)
        except BaseException:
            await self._stream.aclose()
            raise


async def _in_a_thread(look_up: Callable[[], Sequence[str]]) -> Sequence[str]:
    """Run a look-up, which may block for as long as some name server is silent.

    It has a thread of its own. The loop's threads are few, and look up the database's hosts, too;
    and no end of the process waits for a daemon.
    """
    found: Future[Sequence[str]] = Future()
    found.set_running_or_notify_cancel()

    def run() -> None:
        try:
            found.set_result(look_up())
        except Exception as error:  # noqa: BLE001 - raised again where it is waited for
            found.set_exception(error)

    Thread(target=run, name="webhook look-up", daemon=True).start()
    return await asyncio.wrap_future(found)


def _request_url(target: Target) -> httpcore2.URL:
    return httpcore2.URL(
        scheme=target.scheme, host=target.host, port=target.port, target=target.path
    )


def _request_headers(
    target: Target, headers: Sequence[tuple[str, str | bytes]], body: bytes
) -> list[tuple[bytes, bytes]]:
    lines = [("Host", target.authority), ("User-Agent", "knownas"), *headers]
    if body:
        lines.append(("Content-Length", str(len(body))))
    return [
        (name.encode(), value if isinstance(value, bytes) else value.encode())
        for name, value in lines
    ]


def _outcome(answer: Answered) -> Outcome:
    status = answer.status
    if status // 100 == 2:  # noqa: PLR2004 - the class of status that means success
        return Outcome("delivered", status, "")
    if status == _GONE:
        return Outcome("gone", status, "The receiver answered 410: it wants no more of these.")
    return Outcome("failed", status, f"The receiver answered {status}.", answer.retry_after)


def _retry_after(headers: Sequence[tuple[bytes, bytes]], now_ms: int) -> int | None:
    """Return the seconds of a header `Retry-After`, which may also be a date; None without one."""
    given = next((value for name, value in headers if name.lower() == b"retry-after"), b"")
    text = given.decode("latin-1").strip()
    if text.isascii() and text.isdigit() and len(text) <= 9:  # noqa: PLR2004 - fits any column
        return int(text)
    with contextlib.suppress(ValueError, OverflowError):
        when = parsedate_to_datetime(text)
        until = (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
        return max(0, round(until - now_ms / 1_000))
    return None


async def _read_to_the_end(response: httpcore2.Response) -> bytes | None:
    """Read the body as it comes, and stop where it gets too long."""
    body = b""
    async for part in response.aiter_stream():
        body += part
        if len(body) >= MAX_ANSWER_BYTES:
            return None
    return body


def _refusal(scheme: str) -> str:
    if scheme == "http":
        return (
            "Plain http:// goes only to the networks that the operator allows "
            "(KNOWNAS_WEBHOOK_NETWORKS)."
        )
    return (
        "The host must not lead to an address that is not public, unless the operator allows "
        "its network (KNOWNAS_WEBHOOK_NETWORKS)."
    )


def _reason(error: Exception) -> str:
    """Say for people why nothing was answered."""
    cause = error.__context__ or error  # the pool removes the cause
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"The host's certificate is not good: {cause.verify_message.rstrip('.')}."
    return next(
        sentence
        for kinds, sentence in _REASONS
        if isinstance(error, kinds) or isinstance(cause, kinds)
    )
