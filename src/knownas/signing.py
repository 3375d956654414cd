"""Ed25519 signatures (RFC 8032): whoever has the public key can check what this server said."""

from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

PUBLIC_KEY_BYTES: Final = 32


def new_signing_key() -> bytes:
    """Make a new private key, 32 bytes, from the system's secure random source."""
    return Ed25519PrivateKey.generate().private_bytes_raw()


def public_key(key: bytes) -> bytes:
    """Return the public key, 32 bytes, of a private one. Raises ValueError for what is no key."""
    return Ed25519PrivateKey.from_private_bytes(key).public_key().public_bytes_raw()


def sign(key: bytes, message: bytes) -> bytes:
    """Return the signature, 64 bytes, of a message. Raises ValueError for what is no key."""
    return Ed25519PrivateKey.from_private_bytes(key).sign(message)


def verify(public: bytes, message: bytes, signature: bytes) -> bool:
    """Tell whether `signature` was made of `message` by the private key of `public`."""
    if len(public) != PUBLIC_KEY_BYTES:
        return False
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except InvalidSignature:
        return False
    return True
