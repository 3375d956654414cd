"""How far an import came, kept among the answers to requests, in the transaction of each batch."""

from typing import Final

import msgspec

from knownas.editing import Answer, Edit
from knownas.transfer.reports import Tally

KEPT_MS: Final = 7 * 24 * 3_600_000
"""How long an import that was broken off can go on."""

_FINGERPRINT: Final = b"import"


class Kept(msgspec.Struct):
    """How far an import came, as it is kept."""

    done: Tally = msgspec.field(default_factory=Tally)
    run: str = ""
    """Which run of it wrote this."""


def kept(edit: Edit, key: str, now: int) -> Kept:
    """Return how far the import of a key came; nothing where it is over or too old."""
    found = edit.answer(key)
    if found is None or found.expires_at <= now:
        return Kept()
    return msgspec.json.decode(found.answer, type=Kept)


def keep(edit: Edit, key: str, so_far: Kept, now: int) -> None:
    """Keep how far an import came."""
    text = msgspec.json.encode(so_far).decode()
    edit.keep_answer(key, Answer(_FINGERPRINT, text, now + KEPT_MS))


def forget(edit: Edit, key: str) -> None:
    """Forget how far an import came."""
    if edit.answer(key) is not None:
        edit.keep_answer(key, Answer(_FINGERPRINT, "", 0))
