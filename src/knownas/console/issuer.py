"""The OpenID Connect issuer at which operators may sign in: what it is asked, what is believed.

Sources: OpenID Connect Core 1.0 (3.1, the authorization code flow) and Discovery 1.0, RFC 7636
(PKCE), RFC 9207 (`iss` in the answer). Imported only where there is an issuer: its library is an
extra. No proxy of the environment is used, and no redirect is followed.
"""

import asyncio
import base64
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple, TypeVar
from urllib.parse import quote_plus, urlencode, urlsplit

import httpcore2
import msgspec
from joserfc import jwt
from joserfc.jwk import Key, KeySet, import_key

from knownas.console.tickets import IssuerError, Ticket

SECONDS: Final = 10.0
"""How long all that is asked of the issuer at once may take."""

LEEWAY_SECONDS: Final = 60
"""By how much its clock may differ from ours."""

DISCOVERED_MS: Final = 3_600_000
"""How long it is believed where the issuer's endpoints are. Its keys are read at each sign-in."""

_MAX_BYTES: Final = 256 * 1024
_AT_ONCE: Final = 8
_OK: Final = 200
_REFUSED: Final = (400, 401, 403)
_TIMEOUTS: Final = {"connect": 3.0, "read": SECONDS, "write": SECONDS, "pool": SECONDS}
_BROKEN: Final = (
    httpcore2.NetworkError,
    httpcore2.ProtocolError,
    httpcore2.TimeoutException,
    httpcore2.UnsupportedProtocol,
    OSError,
    ValueError,  # an address that is none
)
_ALGORITHMS: Final = [
    f"{family}{bits}" for family in ("RS", "PS", "ES") for bits in (256, 384, 512)
]
"""By which an ID token may be signed: never `none`, and never by a secret that two know."""
_KEY_TYPES: Final = ("RSA", "EC")
_LOCAL: Final = ("localhost", "127.0.0.1", "::1")

_Answer = TypeVar("_Answer")


class Person(NamedTuple):
    """Whom the issuer vouches for."""

    subject: str
    email: str
    """The verified address; "" where there is none."""


class _Discovery(msgspec.Struct, frozen=True):
    """What the issuer tells of itself."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    token_endpoint_auth_methods_supported: tuple[str, ...] = ("client_secret_basic",)
    authorization_response_iss_parameter_supported: bool = False


class _Tokens(msgspec.Struct, frozen=True):
    """What the issuer gives for a code."""

    id_token: str


class _Keys(msgspec.Struct, frozen=True):
    """What the issuer signs with."""

    keys: list[dict[str, Any]]


class _Claims(msgspec.Struct, frozen=True):
    """What an ID token says, as far as it is of interest; `email_verified` may be of any type."""

    sub: str
    aud: str | list[str]
    nonce: str
    azp: str | None = None
    email: str | None = None
    email_verified: Any = False


class Issuer:
    """The issuer, as the client that it knows this server by."""

    def __init__(
        self,
        url: str,
        client_id: str,
        client_secret: str,
        clock: Callable[[], int],
        *,
        seconds: float = SECONDS,
    ) -> None:
        """Ask the issuer of a URL, within so many seconds; `clock` gives ms since 1970.

        Raises ValueError for a URL that is not safe to ask, OSError when the certificates that
        are to be trusted cannot be read.
        """
        if not is_safe(url):
            raise ValueError(
                "must be an https:// URL, or http:// on this machine, as the issuer writes it"
            )
        self._url = url
        self._client_id = client_id
        self._client_secret = client_secret
        self._clock = clock
        self._seconds = seconds
        self._tls = httpcore2.default_ssl_context()
        self._at_once = asyncio.Semaphore(_AT_ONCE)
        self._discovery: _Discovery | None = None
        self._discovered_until = 0

    @property
    def host(self) -> str:
        """What people know it by."""
        return urlsplit(self._url).netloc

    async def address(self, ticket: Ticket, back: str) -> str:
        """Return where a browser signs in, to come to the address `back`. Raises IssuerError."""
        async with self._talking() as pool:
            found = await self._discovered(pool)
        asked = {
            "response_type": "code",
            "client_id": self._client_id,
            "redirect_uri": back,
            "scope": "openid email",
            "state": ticket.state,
            "nonce": ticket.nonce,
            "code_challenge": ticket.challenge,
            "code_challenge_method": "S256",
        }
        joint = "&" if "?" in found.authorization_endpoint else "?"
        return f"{found.authorization_endpoint}{joint}{urlencode(asked)}"

    async def person(self, ticket: Ticket, back: str, code: str, iss: str) -> Person:
        """Return who signed in, by the code and the issuer that the browser came back with.

        `iss` is "" where the browser brought none. Raises IssuerError for all that is not as it
        has to be.
        """
        async with self._talking() as pool:
            found = await self._discovered(pool)
            is_told = found.authorization_response_iss_parameter_supported
            if (iss or is_told) and iss != self._url:
                raise IssuerError("answer", "it is of another issuer", status=403)
            tokens = await self._redeemed(pool, found, ticket, back, code)
            keys = await self._ask(pool, "GET", found.jwks_uri, "keys", _Keys)
        return self._verified(tokens.id_token, keys, ticket)

    @asynccontextmanager
    async def _talking(self) -> AsyncIterator[httpcore2.AsyncConnectionPool]:
        """Give connections for what is asked at once, all of which has one deadline."""
        try:
            async with (
                asyncio.timeout(self._seconds),
                self._at_once,
                httpcore2.AsyncConnectionPool(ssl_context=self._tls) as pool,
            ):
                yield pool
        except TimeoutError:
            raise IssuerError("all", f"it took more than {self._seconds:g} s") from None

    async def _discovered(self, pool: httpcore2.AsyncConnectionPool) -> _Discovery:
        """Return what the issuer tells of itself (Discovery 1.0, 4)."""
        now = self._clock()
        if self._discovery is not None and now < self._discovered_until:
            return self._discovery
        url = f"{self._url.rstrip('/')}/.well-known/openid-configuration"
        found = await self._ask(pool, "GET", url, "discovery", _Discovery)
        if found.issuer != self._url:
            # Another one's document: its tokens would be believed (Discovery 1.0, 4.3).
            raise IssuerError("discovery", "KNOWNAS_OIDC_ISSUER is not what it calls itself")
        if not all(map(is_safe, (found.authorization_endpoint, found.token_endpoint))):
            raise IssuerError("discovery", "an endpoint is not an https:// URL")
        self._discovery, self._discovered_until = found, now + DISCOVERED_MS
        return found

    async def _redeemed(
        self,
        pool: httpcore2.AsyncConnectionPool,
        found: _Discovery,
        ticket: Ticket,
        back: str,
        code: str,
    ) -> _Tokens:
        """Return what the issuer gives for a code (Core 1.0, 3.1.3)."""
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": back,
            "code_verifier": ticket.verifier,
        }
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        methods = found.token_endpoint_auth_methods_supported
        if "client_secret_basic" in methods or "client_secret_post" not in methods:
            # Both are encoded first (RFC 6749, 2.3.1).
            pair = f"{quote_plus(self._client_id)}:{quote_plus(self._client_secret)}"
            headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
        else:
            form |= {"client_id": self._client_id, "client_secret": self._client_secret}
        content = urlencode(form).encode()
        return await self._ask(
            pool, "POST", found.token_endpoint, "token", _Tokens, headers, content
        )

    async def _ask(  # noqa: PLR0913, PLR0917 - all that a request is made of
        self,
        pool: httpcore2.AsyncConnectionPool,
        method: str,
        url: str,
        step: str,
        answer: type[_Answer],
        headers: Mapping[str, str] = {},
        content: bytes | None = None,
    ) -> _Answer:
        """Return what the issuer answers. Raises IssuerError."""
        if not is_safe(url):
            raise IssuerError(step, "its address is not an https:// URL")
        sent = [("Accept", "application/json"), ("User-Agent", "knownas"), *headers.items()]
        body = b""
        try:
            async with pool.stream(
                method, url, headers=sent, content=content, extensions={"timeout": _TIMEOUTS}
            ) as response:
                status = response.status
                async for part in response.aiter_stream():
                    body += part
                    if len(body) > _MAX_BYTES:
                        raise IssuerError(step, "the answer is too long")
        except _BROKEN as error:
            raise IssuerError(step, f"no answer: {type(error).__name__}") from None
        if step == "token" and status in _REFUSED:
            raise IssuerError(step, f"it answered {status}: {_error_code(body)}", status=403)
        if status != _OK:
            raise IssuerError(step, f"it answered {status}")
        try:
            return msgspec.json.decode(body, type=answer)
        except (ValueError, RecursionError):  # msgspec's own errors are values', too
            raise IssuerError(step, "the answer is not the JSON that it has to be") from None

    def _verified(self, token: str, keys: _Keys, ticket: Ticket) -> Person:
        """Return who an ID token is of (Core 1.0, 3.1.3.7)."""
        rules = jwt.JWTClaimsRegistry(
            now=self._clock() // 1_000,
            leeway=LEEWAY_SECONDS,
            iss={"essential": True, "value": self._url},
            aud={"essential": True, "value": self._client_id},
            sub={"essential": True},
            exp={"essential": True},
            iat={"essential": True},
            nonce={"essential": True, "value": ticket.nonce},
        )
        try:
            decoded = jwt.decode(token, _key_set(keys), algorithms=_ALGORITHMS)
            rules.validate(decoded.claims)
            claims = msgspec.convert(decoded.claims, _Claims)
        except Exception as error:  # noqa: BLE001 - whatever a token makes the libraries raise
            raise IssuerError("ID token", _told(error)) from None
        others = [one for one in claims.aud if one != self._client_id]
        is_for_others = isinstance(claims.aud, list) and bool(others)
        if (is_for_others or claims.azp is not None) and claims.azp != self._client_id:
            raise IssuerError("ID token", "it was made for another client")
        is_verified = claims.email_verified is True
        return Person(claims.sub, (claims.email or "") if is_verified else "")


def is_safe(url: str) -> bool:
    """Tell whether a URL may be asked: by TLS, or on this very machine."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return False
    is_plain = url.isascii() and url.isprintable() and " " not in url and not parts.fragment
    is_private = parts.scheme == "https" or (parts.scheme == "http" and host in _LOCAL)
    return is_plain and is_private and bool(host) and "@" not in parts.netloc


def _key_set(keys: _Keys) -> KeySet:
    """Return those of the keys that could have signed a token; others may stand beside them."""
    found: list[Key] = []
    for key in keys.keys:
        if key.get("kty") in _KEY_TYPES:
            try:
                found.append(import_key(key))
            except Exception:  # noqa: BLE001, S112 - whatever a broken key makes the library raise
                continue
    return KeySet(found)


def _told(error: Exception) -> str:
    """Return which rule a token breaks, without anything that stands in it."""
    claim = getattr(error, "claim", "")
    return f"{type(error).__name__} {claim}".rstrip()


def _error_code(body: bytes) -> str:
    """Return the `error` of an answer (RFC 6749, 5.2), as far as it is a word."""
    try:
        code = msgspec.json.decode(body)["error"]
    except (ValueError, RecursionError, LookupError, TypeError):
        return "?"
    return code if isinstance(code, str) and is_word(code) else "?"


def is_word(text: str) -> bool:
    """Tell whether a text is as the codes of errors are, so that it can be shown and logged."""
    return len(text) <= 40 and text.isascii() and text.replace("_", "").isalpha()  # noqa: PLR2004 - longer than any
