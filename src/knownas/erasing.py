"""What erasing a person means: who it is, what is kept in the place of its names, what goes.

A person is a profile with all that was merged into it, and with the deleted profiles that had one
of its customers at their end. What is left of it are tombstones: HMACs of its names under a key of
the app, which keep imports, copies, mobile SDKs and restored backups from bringing it back.
"""

import hmac
import secrets
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Final, Literal, NamedTuple

import msgspec

from knownas.errors import FeatureNotConfigured
from knownas.history import Change, Difference
from knownas.model import Attributes, Profile, ProfileId, ProfileRef
from knownas.vault import Vault, VaultError

SUBJECT_BYTES: Final = 16
"""Of an HMAC-SHA256: two names of which there are 2**40 have one in common once in 2**48 apps."""

LOCKED: Final = (
    "Persons were erased here, and the server cannot open the key to know them again: its operator "
    "puts the master key of that time back into KNOWNAS_MASTER_KEY_FILE."
)

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


class Gathering:
    """What is found of a person, bit by bit."""

    def __init__(self, profile: Profile | None) -> None:
        """Begin with the profile that there is."""
        self._profile = profile
        self._ids: dict[ProfileId, None] = {}
        self._customers: dict[str, None] = {}
        self._identifiers: dict[int, set[str]] = {}
        self._attributes: set[tuple[str, str | float]] = set()
        self._changes = 0
        if profile is not None:
            self._ids[profile.profile_id] = None
            self.add_customer(profile.customer_user_id)
            for kind, value in enumerate(profile.identifiers):
                self._add_identifier(kind, value)
            self._attributes.update(profile.attributes)

    def add_id(self, profile_id: ProfileId) -> bool:
        """Note an id, and return whether it is new."""
        is_new = profile_id not in self._ids
        self._ids[profile_id] = None
        return is_new

    def add_customer(self, customer: str | None) -> None:
        """Note a customer that leads here."""
        if customer is not None:
            self._customers[customer] = None

    def add_change(self, change: Change) -> list[str]:
        """Note what an entry of the history tells, and return the customers that it names."""
        self._changes += 1
        differs = change.difference
        for kind, *values in differs.identifiers:
            for value in values:
                self._add_identifier(kind, value)
        for attributes in differs.attributes or ():
            self._attributes.update(attributes)
        return [customer for customer in differs.customer or () if customer is not None]

    def _add_identifier(self, kind: int, value: str | None) -> None:
        if value is not None:
            self._identifiers.setdefault(kind, set()).add(value)

    @property
    def customers(self) -> list[str]:
        """The customers that were noted so far."""
        return list(self._customers)

    @property
    def profile_ids(self) -> Container[ProfileId]:
        """The ids that were noted so far."""
        return self._ids

    def person(self) -> Person:
        """Return all that was noted."""
        return Person(
            self._profile,
            tuple(self._ids),
            tuple(self._customers),
            {kind: frozenset(values) for kind, values in sorted(self._identifiers.items())},
            frozenset(self._attributes),
            self._changes,
        )


# --- what another profile's history has of a person ----------------------------------------------


class Trace(NamedTuple):
    """A part of the history of a profile that lives on, and has something of a person in it."""

    name: str
    """The person's, that it was found by."""
    profile_id: ProfileId
    first: int
    """The revision with which it begins: that of a merge, or 1."""
    last: int
    """The revision of the change that took back what it had."""


class Stand(NamedTuple):
    """What is to stand in a history in the place of a person's values; None for nothing."""

    identifiers: Mapping[int, Mapping[str, str | None]]
    customers: Mapping[str, str | None]
    attributes: Mapping[tuple[str, str | float], str | float | None]


def stand_in(person: Person, trace: Trace, merge: Change | None) -> Stand:
    """Return what stands for a person in a trace.

    It is what was there before the merge that brought its values, if the history has that still.
    """
    if trace.name.startswith("c:"):
        return Stand({}, {trace.name[2:]: None}, {})
    if merge is None:
        return Stand(
            {kind: dict.fromkeys(values) for kind, values in person.identifiers.items()},
            dict.fromkeys(person.customers),
            dict.fromkeys(person.attributes),
        )
    differs = merge.difference
    was, customer = differs.customer or (None, None)
    old, new = differs.attributes or ((), ())
    return Stand(
        {
            kind: {value: before}
            for kind, before, value in differs.identifiers
            if value is not None and value in person.identifiers.get(kind, ())
        },
        {customer: was} if customer in person.customers and customer is not None else {},
        {
            (key, value): dict(old).get(key)
            for key, value in new
            if (key, value) in person.attributes and (key, value) not in old
        },
    )


def without_person(differs: Difference, stand: Stand) -> Difference:
    """Return a difference with others in the place of a person's values, on both sides alike.

    What is then the same on both sides stays: a follower who has the person's value, from when it
    was read, gets the other one by it.
    """
    customer, attributes = differs.customer, differs.attributes
    if customer is not None:
        customer = (_other(customer[0], stand.customers), _other(customer[1], stand.customers))
    if attributes is not None:
        attributes = (_attributes(attributes[0], stand), _attributes(attributes[1], stand))
    identifiers = tuple(
        (kind, _other(old, others), _other(new, others))
        for kind, old, new in differs.identifiers
        for others in [stand.identifiers.get(kind, {})]
    )
    return msgspec.structs.replace(
        differs, identifiers=identifiers, customer=customer, attributes=attributes
    )


def _other(value: str | None, others: Mapping[str, str | None]) -> str | None:
    return others.get(value, value) if value is not None else None


def _attributes(attributes: Attributes, stand: Stand) -> Attributes:
    replaced = ((key, stand.attributes.get((key, value), value)) for key, value in attributes)
    return tuple((key, value) for key, value in replaced if value is not None)
