"""Where a webhook is sent: an address of the web that was taken apart once, by one parser."""

import re
from ipaddress import ip_address
from typing import Final, Literal, NamedTuple, cast
from urllib.parse import urlsplit

from knownas.errors import ValidationError
from knownas.webhooks.addresses import Address

MAX_URL_CHARACTERS: Final = 2_000

_SOURCE: Final = "url"
_DEFAULT_PORTS: Final = {"https": 443, "http": 80}
_VISIBLE: Final = re.compile(r"[!-~]+")
# The last label begins with a letter: then no resolver takes the name for an address (127.1).
_HOST_NAME: Final = re.compile(
    r"(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
)
_AUTHORITY: Final = re.compile(r"(?:\[([0-9a-f.]*:[0-9a-f:.]*)\]|([^][:]+))(?::([0-9]{0,5}))?")
_MAX_NAME_CHARACTERS: Final = 253
_MAX_PORT: Final = 65_535
_NO_HOST: Final = "Must have a host, a name or an address, and no port but 1 to 65535."


class Target(NamedTuple):
    """The parts of a URL that a request is made of."""

    scheme: Literal["http", "https"]
    host: str
    """A name, or an address without brackets."""
    port: int
    path: str
    """With the query, if there is one."""

    @property
    def authority(self) -> str:
        """Host and port as in a URL and in the header `Host`."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """The URL in its one form."""
        return f"{self.scheme}://{self.authority}{self.path}"


def parse(text: str) -> Target:
    """Return the parts of a URL.

    Raises ValidationError for anything but http and https, more than 2,000 characters, a user
    name or password, a fragment, a host that is neither a name nor an address, and characters
    that have to be escaped.
    """
    if len(text) > MAX_URL_CHARACTERS:
        raise ValidationError(f"Must be at most {MAX_URL_CHARACTERS} characters.", source=_SOURCE)
    if not _VISIBLE.fullmatch(text):
        raise ValidationError(
            "Must be ASCII without blanks: escape other characters by %, write names as xn--.",
            source=_SOURCE,
        )
    try:
        parts = urlsplit(text)
    except ValueError:  # brackets without an address
        raise ValidationError(_NO_HOST, source=_SOURCE) from None
    if parts.scheme not in _DEFAULT_PORTS:
        raise ValidationError("Must begin with https://.", source=_SOURCE)
    if "@" in parts.netloc:
        raise ValidationError("Must have no user name and no password.", source=_SOURCE)
    if "#" in text:
        raise ValidationError("Must have no fragment (#).", source=_SOURCE)
    scheme = cast("Literal['http', 'https']", parts.scheme)
    host, port = _host_and_port(parts.netloc.lower())
    return Target(
        scheme,
        host,
        _DEFAULT_PORTS[scheme] if port is None else port,
        (parts.path or "/") + (f"?{parts.query}" if parts.query else ""),
    )


def _host_and_port(authority: str) -> tuple[str, int | None]:
    """Return the host in its one form, and the port where there is one. Raises ValidationError."""
    match = _AUTHORITY.fullmatch(authority)
    if match is not None:
        address, name, digits = match.groups()
        port = int(digits) if digits else None
        host = str(address_of(address or name) or "")
        if name and _HOST_NAME.fullmatch(name) and len(name) <= _MAX_NAME_CHARACTERS:
            host = name
        if host and (port is None or 0 < port <= _MAX_PORT):
            return host, port
    raise ValidationError(_NO_HOST, source=_SOURCE)


def address_of(host: str) -> Address | None:
    """Return the address that a host is, None where it is a name."""
    try:
        return ip_address(host)
    except ValueError:
        return None
