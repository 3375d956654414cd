"""What erasing a person means: who it is, what is kept in the place of its names, what goes.

A person is a profile with all that was merged into it, and with the deleted profiles that had one
of its customers at their end. What is left of it are tombstones: HMACs of its names under a key of
the app, which keep imports, copies, mobile SDKs and restored backups from bringing it back.
"""

import hmac
import secrets
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal, NamedTuple

from knownas.errors import FeatureNotConfigured
from knownas.model import Profile, ProfileId, ProfileRef
from knownas.vault import Vault, VaultError

SUBJECT_BYTES: Final = 16
"""Of an HMAC-SHA256: two names of which there are 2**40 have one in common once in 2**48 apps."""

LOCKED: Final = (
    "Persons were erased here, and the server cannot open the key to know them again: its operator "
    "puts the master key of that time back into KNOWNAS_MASTER_KEY_FILE."
)

UNWRITTEN: Final = "The ledger of erasures cannot be written, so nobody was erased."

_KEY_BYTES: Final = 32


class Whom(NamedTuple):
    """Who is to be erased: by a reference, or by an identifier that one profile alone has."""

    ref: ProfileRef | None
    kinds: Sequence[int] = ()
    """The numbers of the kinds in which `value` is looked for."""
    value: str = ""


class Person(NamedTuple):
    """All that an app has of one person."""

    profile: Profile | None
    """The one that there is; None where only the history of deleted ones is left."""
    profile_ids: tuple[ProfileId, ...]
    """That of `profile` first, then those that were merged into it, or deleted."""
    customers: tuple[str, ...]
    """Those that lead here, and those that did and lead nowhere else."""
    identifiers: Mapping[int, frozenset[str]]
    """By kind, those of now and of the history."""
    attributes: frozenset[tuple[str, str | float]]
    """Those of now and of the history."""
    changes: int
    """How many entries of the history are about it."""

    @property
    def names(self) -> list[str]:
        """The names by which it was found, as aliases have them."""
        return [*map(profile_name, self.profile_ids), *map(customer_name, self.customers)]

    @property
    def words(self) -> set[str]:
        """All texts by which something that somebody else wrote may be about it."""
        values = (value for of_kind in self.identifiers.values() for value in of_kind)
        return {*self.profile_ids, *self.customers, *values}


class Tombstone(NamedTuple):
    """What is kept of an erased name."""

    subject: bytes
    """The HMAC of the name under a key of the app."""
    erasure_id: str
    erased_at: int
    revived_at: int | None = None
    """When someone began anew under this name, and was asked for by a secret key."""


class Erasure(NamedTuple):
    """One person's erasure, as it is kept: nothing in it tells who."""

    id: str
    """A UUID."""
    erased_at: int
    receipt: str
    """JSON: see `knownas.receipts`."""
    completed_at: int | None = None
    """When this server had done all that was its own to do."""


class Record(NamedTuple):
    """What is written in the place of a person."""

    id: str
    """That of the erasure, which the feed tells."""
    tombstones: Sequence[Tombstone]
    erasure: Erasure | None
    """None where the database has it already."""


class Wait(NamedTuple):
    """What goes on having a person's data, for a while, after the person was deleted."""

    what: str
    who: Literal["server", "operator"]
    """Who makes an end of it. The server does so within the time that a setting names."""


def profile_name(profile_id: ProfileId) -> str:
    """Return the name of a profile's id."""
    return f"p:{profile_id}"


def customer_name(customer: str) -> str:
    """Return the name of a customer."""
    return f"c:{customer}"


def names_of(profile: Profile) -> list[str]:
    """Return the names of a profile by itself."""
    names = [profile_name(profile.profile_id)]
    if profile.customer_user_id is not None:
        names.append(customer_name(profile.customer_user_id))
    return names


def new_names(before: Profile | None, after: Profile) -> list[str]:
    """Return the names of a profile that it did not have before."""
    names = names_of(after)
    if before is None:
        return names
    return names[1:] if before.customer_user_id != after.customer_user_id else []


class Subjects:
    """Makes the subjects of names, by keys that a vault seals."""

    def __init__(self, vault: Vault) -> None:
        """Open keys by `vault`; without a master key only apps without erasures can be served."""
        self._vault = vault
        self._open: dict[bytes, bytes] = {}

    def new_key(self, app_uuid: str) -> bytes:
        """Return a new key of an app, sealed. Raises FeatureNotConfigured."""
        return self._vault.seal(secrets.token_bytes(_KEY_BYTES), context=_context(app_uuid))

    def of(self, app_uuid: str, sealed: Iterable[bytes], names: Sequence[str]) -> list[bytes]:
        """Return the subject of each name under each key: those of the first key first.

        Raises FeatureNotConfigured where a key cannot be opened.
        """
        return [
            hmac.digest(key, name.encode(), "sha256")[:SUBJECT_BYTES]
            for key in [self._key(app_uuid, one) for one in sealed]
            for name in names
        ]

    def key_id(self, app_uuid: str, sealed: bytes) -> bytes:
        """Return what tells a key from others, however it is sealed, and tells nothing of it."""
        return hmac.digest(self._key(app_uuid, sealed), b"id", "sha256")[:SUBJECT_BYTES]

    def _key(self, app_uuid: str, sealed: bytes) -> bytes:
        key = self._open.get(sealed)
        if key is None:
            try:
                key = self._vault.unseal(sealed, context=_context(app_uuid))
            except (VaultError, FeatureNotConfigured):
                raise FeatureNotConfigured(LOCKED) from None
            self._open[sealed] = key
        return key


def _context(app_uuid: str) -> str:
    return f"erasure/{app_uuid}"
