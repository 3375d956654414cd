"""The secrets of a webhook: the one that signs, and those that still sign for a while beside it."""

from typing import Final, NamedTuple

import msgspec

from knownas.errors import FeatureNotConfigured
from knownas.vault import Vault, VaultError
from knownas.webhooks.signatures import new_secret

MOST: Final = 3
"""How many secrets sign at once: whoever changes it more often ends the oldest."""

_encode: Final = msgspec.json.Encoder().encode


class Secret(NamedTuple):
    """A secret, and when it ends: None as long as it is not replaced."""

    text: str
    ends_at: int | None = None


_decode: Final = msgspec.json.Decoder(list[Secret]).decode


def seal(vault: Vault, webhook_id: str, kept: list[Secret]) -> bytes:
    """Return secrets sealed for this webhook. Raises FeatureNotConfigured."""
    return vault.seal(_encode(kept), context=_context(webhook_id))


def unseal(vault: Vault, webhook_id: str, sealed: bytes) -> list[Secret]:
    """Return what was sealed for this webhook, the newest first.

    Raises FeatureNotConfigured, also where the operator's master key is not the one it was
    sealed under.
    """
    try:
        return _decode(vault.unseal(sealed, context=_context(webhook_id)))
    except VaultError:
        raise FeatureNotConfigured(
            "The secrets of this webhook do not open with the server's master key. Its operator "
            "has to put back the file that KNOWNAS_MASTER_KEY_FILE named when they were made; "
            "else delete the webhook and make it anew."
        ) from None


def resealed(vault: Vault, webhook_id: str, sealed: bytes) -> bytes:
    """Return the same secrets under the newest master key. Raises FeatureNotConfigured."""
    return seal(vault, webhook_id, unseal(vault, webhook_id, sealed))


def live(kept: list[Secret], now: int) -> list[str]:
    """Return the secrets that sign at a time."""
    return [one.text for one in kept if one.ends_at is None or one.ends_at > now]


def rotated(kept: list[Secret], now: int, overlap_ms: int) -> list[Secret]:
    """Return a new secret, and before it ends those that sign now, for the overlap at most."""
    until = now + overlap_ms
    still = [
        Secret(one.text, until if one.ends_at is None else min(one.ends_at, until))
        for one in kept
        if one.ends_at is None or one.ends_at > now
    ]
    return [Secret(new_secret()), *(still if overlap_ms else [])][:MOST]


def _context(webhook_id: str) -> str:
    return f"webhook/{webhook_id}"
