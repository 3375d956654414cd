"""Receipts of erasures: what was erased, what still waits, whom to ask next; signed.

A receipt tells nothing of who it was: it counts. What it says is signed by the server's own key, so
that whoever has the public one can check it anywhere, later, and without the server.
"""

import base64
import binascii
from collections.abc import Sequence
from typing import Final

import msgspec

from knownas import signing
from knownas.erasing import Erasure, Person, Wait
from knownas.errors import ValidationError
from knownas.model import KINDS

KEY_NAME: Final = "receipts"
"""The name of the database's secret that signs them."""


class Vendor(msgspec.Struct, frozen=True):
    """Another system that knows the person, and is to be asked next."""

    vendor: str
    kinds: list[str]


class Waiting(msgspec.Struct, frozen=True):
    """What goes on having the person's data for a while."""

    what: str
    who: str
    """Who makes an end of it: this `server`, or its `operator`."""
    until: int | None
    """Milliseconds since 1970, at most; None where this server does not know."""


class Counted(msgspec.Struct, frozen=True):
    """The part of a receipt that is known at the erasure, and kept."""

    profiles: int
    customers: int
    identifiers: dict[str, int]
    """By kind."""
    history: int
    vendors: list[Vendor]


class Receipt(msgspec.Struct, frozen=True):
    """A receipt."""

    id: str
    app_id: str
    erased_at: int
    complete: bool
    """Whether all is done that is for the server to do; what waits for the operator remains."""
    completed_at: int | None
    erased: Counted
    waits: list[Waiting]


def counted(person: Person) -> str:
    """Return what a receipt says of a person, as JSON."""
    vendors: dict[str, list[str]] = {}
    for kind in person.identifiers:
        vendors.setdefault(KINDS[kind].vendor, []).append(KINDS[kind].name)
    content = Counted(
        profiles=len(person.profile_ids),
        customers=len(person.customers),
        identifiers={KINDS[kind].name: len(found) for kind, found in person.identifiers.items()},
        history=person.changes,
        vendors=[Vendor(vendor, kinds) for vendor, kinds in vendors.items()],
    )
    return msgspec.json.encode(content).decode()


def receipt(app_uuid: str, erasure: Erasure, waits: Sequence[Wait], within_ms: int) -> Receipt:
    """Return the receipt of an erasure as it is now; the server's part is done within a time."""
    is_complete = erasure.completed_at is not None
    return Receipt(
        id=erasure.id,
        app_id=app_uuid,
        erased_at=erasure.erased_at,
        complete=is_complete,
        completed_at=erasure.completed_at,
        erased=msgspec.json.decode(erasure.receipt, type=Counted),
        waits=[
            Waiting(
                wait.what, wait.who, erasure.erased_at + within_ms if wait.who == "server" else None
            )
            for wait in waits
            if wait.who == "operator" or not is_complete
        ],
    )


def signed(content: Receipt, key: bytes) -> str:
    """Return a receipt and its signature as one text: both base64url, a point between."""
    payload = msgspec.json.encode(content)
    return f"{_text(payload)}.{_text(signing.sign(key, payload))}"


def verified(text: str, public_key: str) -> Receipt:
    """Return the receipt in a signed text, as the owner of a public key signed it.

    Raises ValidationError for any other text.
    """
    payload, _, signature = text.strip().partition(".")
    try:
        content = _bytes(payload)
        if not signing.verify(_bytes(public_key), content, _bytes(signature)):
            raise ValidationError(
                "This is no receipt that the owner of the key has signed.", source="signed"
            )
        found = msgspec.json.decode(content, type=Receipt)
    except (binascii.Error, msgspec.DecodeError, ValueError):
        raise ValidationError("This is no signed receipt.", source="signed") from None
    return found


def public_text(key: bytes) -> str:
    """Return the public key of a private one, as `verified` takes it: base64url."""
    return _text(signing.public_key(key))


def _text(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def _bytes(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
