"""Signatures of webhooks as the Standard Webhooks specification, version 1.0.0, has them.

A secret reads `whsec_<24 bytes in base64>`. What is signed is `<id>.<timestamp>.<body>`; the
header `webhook-signature` has a `v1,<HMAC-SHA256 in base64>` for each secret, with blanks between,
so that a receiver can change its secret while deliveries go on.
"""

import base64
import binascii
import hashlib
import hmac
import re
import secrets as random
from collections.abc import Iterable, Mapping
from typing import Final

ID_HEADER: Final = "webhook-id"
TIMESTAMP_HEADER: Final = "webhook-timestamp"
SIGNATURE_HEADER: Final = "webhook-signature"

TOLERANCE_SECONDS: Final = 300
"""How far a receiver's clock and a delivery's time stamp may differ: what is older is a replay."""

_SECRET_PREFIX: Final = "whsec_"  # noqa: S105 - the form of one
_SECRET_BYTES: Final = 24
_MAX_SECRET_BYTES: Final = 64
_MESSAGE_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,255}")
_TIMESTAMP: Final = re.compile(r"[0-9]{1,12}")


def new_secret() -> str:
    """Make a new secret from the system's secure random source."""
    return _SECRET_PREFIX + base64.b64encode(random.token_bytes(_SECRET_BYTES)).decode()


def signed_headers(
    secrets: Iterable[str], *, message_id: str, timestamp: int, body: bytes
) -> dict[str, str]:
    """Return the three headers that a delivery of `body` has, signed with each of the secrets.

    `timestamp` is when this attempt is made, in seconds; the id stays the same for all attempts.
    Raises ValueError for a secret of another form, and for an id that is not 1 to 255 letters,
    digits, `_` and `-`: with a full stop in it, one message could be read as another.
    """
    if not _MESSAGE_ID.fullmatch(message_id):
        raise ValueError("The id of a message is 1 to 255 letters, digits, `_` and `-`.")
    content = _content(message_id, str(timestamp), body)
    return {
        ID_HEADER: message_id,
        TIMESTAMP_HEADER: str(timestamp),
        SIGNATURE_HEADER: " ".join(_signature(secret, content) for secret in secrets),
    }


def verify(
    secrets: Iterable[str],
    headers: Mapping[str, str],
    body: bytes,
    *,
    now: float,
    tolerance: int = TOLERANCE_SECONDS,
) -> bool:
    """Tell whether a request was signed with one of the secrets, and lately: what a receiver asks.

    `headers` are by their names in lower case; `now` is in seconds. Raises ValueError for a
    secret of another form.
    """
    message_id, timestamp, given = (
        headers.get(name, "") for name in (ID_HEADER, TIMESTAMP_HEADER, SIGNATURE_HEADER)
    )
    content = _content(message_id, timestamp, body)
    expected = [_signature(secret, content) for secret in secrets]
    if not _MESSAGE_ID.fullmatch(message_id) or not _TIMESTAMP.fullmatch(timestamp):
        return False
    if abs(now - int(timestamp)) > tolerance:
        return False
    return any(
        hmac.compare_digest(one.encode(), ours.encode())
        for one in given.split()
        for ours in expected
    )


def _content(message_id: str, timestamp: str, body: bytes) -> bytes:
    return f"{message_id}.{timestamp}.".encode() + body


def _signature(secret: str, content: bytes) -> str:
    signature = hmac.new(_key(secret), content, hashlib.sha256).digest()
    return "v1," + base64.b64encode(signature).decode()


def _key(secret: str) -> bytes:
    """Return the bytes of a secret; the specification allows 24 to 64 of them."""
    try:
        key = base64.b64decode(secret.removeprefix(_SECRET_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not secret.startswith(_SECRET_PREFIX) or not _SECRET_BYTES <= len(key) <= _MAX_SECRET_BYTES:
        raise ValueError("A webhook's secret is whsec_ and 24 to 64 bytes in base64.")
    return key
