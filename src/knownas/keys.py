"""API keys: mint, recognise, digest.

A key of our own making reads

    secret_live_ka_<30 random characters><6 characters of checksum>

of the 62 ASCII letters and digits: 30 x log2(62) = 178.6 random bits. The checksum is the
CRC-32 of all that stands before it, in base 62, so that a mistyped key is refused without a
look-up and secret scanners can tell a key from a look-alike. A key that a team brings from
elsewhere ("adopted") is any text without blanks; the `ka_` keeps the two apart.

Only the SHA-256 digest of a key is ever stored. A digest without salt or stretching is enough
for 178 random bits, and lets a key be found by one point read.
"""

import hashlib
import re
import secrets
import string
import zlib
from typing import Final, Literal

KeyType = Literal["secret", "public"]

MAX_KEY_LENGTH: Final = 255
"""Characters of the longest key that can be adopted (wire contract, section 2)."""

OWN_KEY_PATTERN: Final = r"(?:secret|public)_live_ka_[0-9A-Za-z]{36}"
"""What a secret scanner looks for; `docs/keys.md` gives it to users."""

_ALPHABET: Final = string.digits + string.ascii_uppercase + string.ascii_lowercase
_RANDOM_CHARACTERS: Final = 30
_CHECKSUM_CHARACTERS: Final = 6
_OWN_FORM: Final = re.compile(r"(secret|public)_live_ka_")
_OWN_KEY: Final = re.compile(OWN_KEY_PATTERN)
_ADOPTABLE: Final = re.compile(rf"[!-~]{{1,{MAX_KEY_LENGTH}}}")


def mint(key_type: KeyType) -> str:
    """Make a new key from the system's secure random source."""
    random_part = "".join(secrets.choice(_ALPHABET) for _ in range(_RANDOM_CHARACTERS))
    body = f"{key_type}_live_ka_{random_part}"
    return body + _checksum(body)


def digest(key: str) -> bytes:
    """Return the 32 bytes under which a key is stored and found."""
    return hashlib.sha256(key.encode()).digest()


def is_mistyped(key: str) -> bool:
    """Tell whether `key` is of our own form with a wrong length, character or checksum.

    Such a key cannot have been issued here. False says nothing more than "worth a look-up".
    """
    if not _OWN_FORM.match(key):
        return False
    body = key[:-_CHECKSUM_CHARACTERS]
    return not _OWN_KEY.fullmatch(key) or _checksum(body) != key[-_CHECKSUM_CHARACTERS:]


def is_adoptable(key: str) -> bool:
    """Tell whether `key` may be brought from elsewhere.

    1 to 255 visible ASCII characters without blanks: what fits after `Api-Key ` in a header.
    """
    return _ADOPTABLE.fullmatch(key) is not None and not is_mistyped(key)


def from_authorization(header: bytes) -> str | None:
    """Return the key of an `Authorization: Api-Key <key>` header value, or None.

    The scheme is compared without regard to case; one or more spaces follow it
    (wire contract, section 2). A key is ASCII, so other bytes make it None.
    """
    scheme, _, key = header.partition(b" ")
    key = key.strip(b" \t")
    if scheme.lower() != b"api-key" or not key or not key.isascii() or len(key) > MAX_KEY_LENGTH:
        return None
    return key.decode("ascii")


def _checksum(body: str) -> str:
    number = zlib.crc32(body.encode())
    characters = []
    for _ in range(_CHECKSUM_CHARACTERS):
        number, remainder = divmod(number, len(_ALPHABET))
        characters.append(_ALPHABET[remainder])
    return "".join(reversed(characters))
