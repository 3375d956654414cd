"""How a person is found, in the profiles and in the histories of others, whichever database it is.

The functions here are generators: they yield what is to be looked up and are sent what was found.
Each database looks it up in its own way, and the finding is the same.
"""

from collections.abc import Container, Generator, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from knownas.erasing import Person, customer_name, profile_name
from knownas.errors import ProfileNotFound
from knownas.history import Change, Difference
from knownas.model import Attributes, Profile, ProfileId, ProfileRef


class LeadingTo(NamedTuple):
    """Asks for the aliases that lead to some ids: a list of names."""

    profile_ids: Sequence[ProfileId]


class Histories(NamedTuple):
    """Asks for all changes of some ids: a list of changes, of each id the oldest first."""

    profile_ids: Sequence[ProfileId]


class Mentions(NamedTuple):
    """Asks where histories tell of some names beside their own: a list of `Mention`, in order."""

    names: Sequence[str]


class Ends(NamedTuple):
    """Asks where some names lead in the end: a dict of `End`, without those that never did."""

    names: Sequence[str]


Question = LeadingTo | Histories | Mentions | Ends


class Mention(NamedTuple):
    """A change of one profile that tells of another name."""

    name: str
    profile_id: ProfileId
    revision: int
    difference: Difference

    @property
    def is_end(self) -> bool:
        """Whether the profile ended by it."""
        created_at = self.difference.created_at
        return created_at is not None and created_at[1] is None


class End(NamedTuple):
    """Where a name leads: to whoever has it, or through aliases."""

    profile_id: ProfileId
    lives: bool
    """Whether there is such a profile still."""


Finding = Generator[Question, Any, Person]


def find(profile: Profile | None, ref: ProfileRef | None) -> Finding:
    """Return a person: whoever has a profile, or without one, whom a reference led to once.

    Raises ProfileNotFound where that is nobody.
    """
    found = Gathering(profile)
    todo = found.ids
    if profile is None and ref is not None:
        todo = yield from _dead(found, ref)
    if not todo:
        raise ProfileNotFound
    named: set[str] = set()
    while todo:
        todo = sorted(todo)
        names: list[str] = yield LeadingTo(todo)
        changes: list[Change] = yield Histories(todo)
        for change in changes:
            named.update(found.add_change(change))
        todo = [one for name in names if (one := found.add_name(name)) is not None]
        if not todo:
            todo = yield from _led_here(found, {*found.customers, *named})
    return found.person()


def _dead(found: "Gathering", ref: ProfileRef) -> Generator[Question, Any, list[ProfileId]]:
    """Note the deleted profiles that a reference led to, as histories have them."""
    names = []
    if ref.profile_id is not None:
        changes: list[Change] = yield Histories([ref.profile_id])
        if not changes or changes[-1].action == "erased":
            return []
        names.append(profile_name(ref.profile_id))
    if ref.customer_user_id is not None:
        names.append(customer_name(ref.customer_user_id))
    ends: dict[str, End] = yield Ends(names)
    mentions: list[Mention] = yield Mentions(names)
    ended = yield from _ended(mentions)
    own = [] if ref.profile_id is None or names[0] in ends else [ref.profile_id]
    led = [end.profile_id for end in ends.values()]
    return [one for one in [*own, *led, *ended] if found.add_id(one)]


def _led_here(
    found: "Gathering", customers: Iterable[str]
) -> Generator[Question, Any, list[ProfileId]]:
    """Note the customers that lead to nobody else, and return what of them was deleted."""
    of_name = {customer_name(customer): customer for customer in sorted(customers)}
    if not of_name:
        return []
    ends: dict[str, End] = yield Ends(list(of_name))
    mentions: list[Mention] = yield Mentions(list(of_name))
    last = {one.name: one.profile_id for one in mentions}
    last |= {name: end.profile_id for name, end in ends.items()}
    ours = {name for name, profile_id in last.items() if profile_id in found.profile_ids}
    for name in ours:
        found.add_customer(of_name[name])
    ended = yield from _ended([one for one in mentions if one.name in ours])
    return [one for one in ended if found.add_id(one)]


def _ended(mentions: Iterable[Mention]) -> Generator[Question, Any, list[ProfileId]]:
    """Return the profiles that ended, and live on in no other, while they had a customer."""
    deleted = {
        profile_name(one.profile_id): one.profile_id
        for one in mentions
        if one.is_end and one.name.startswith("c:")
    }
    if not deleted:
        return []
    ends: dict[str, End] = yield Ends(list(deleted))
    return [
        ends[name].profile_id if name in ends else profile_id
        for name, profile_id in deleted.items()
        if name not in ends or not ends[name].lives
    ]


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

    @property
    def ids(self) -> list[ProfileId]:
        """The ids that were noted so far."""
        return list(self._ids)

    def add_name(self, name: str) -> ProfileId | None:
        """Note an alias that leads here; return the id that it is of, if that is new."""
        if name.startswith("c:"):
            self.add_customer(name[2:])
            return None
        profile_id = ProfileId(name[2:])
        return profile_id if self.add_id(profile_id) else None

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


class Rewrite(NamedTuple):
    """What a change of somebody else is to be from now on."""

    profile_id: ProfileId
    revision: int
    difference: Difference


def rewrites(person: Person) -> Generator[Question, Any, list[Rewrite]]:
    """Return how the histories of others have to change, for nothing of a person to be in them."""
    traces = yield from _traces(person)
    ids = sorted({trace.profile_id for trace in traces})
    changes: list[Change] = (yield Histories(ids)) if ids else []
    told = {(one.profile_id, one.revision): one for one in changes}
    before = dict(told)
    for trace in traces:
        stand = stand_in(person, trace, before.get((trace.profile_id, trace.first)))
        for key, change in told.items():
            if key[0] == trace.profile_id and trace.first <= key[1] <= trace.last:
                cleaned = without_person(change.difference, stand)
                told[key] = change._replace(difference=cleaned)
    return [Rewrite(*key, one.difference) for key, one in told.items() if one != before[key]]


def _traces(person: Person) -> Generator[Question, Any, list[Trace]]:
    """Return the parts of others' histories that tell of a person.

    Who had a merged profile in it may have been merged itself meanwhile, and taken back out.
    """
    found: list[Trace] = []
    asked: set[str] = set()
    names = set(person.names)
    while names:
        mentions: list[Mention] = yield Mentions(sorted(names))
        asked |= names
        mentions = [one for one in mentions if one.profile_id not in person.profile_ids]
        found += [
            Trace(one.name, one.profile_id, one.difference.takes_back or 1, one.revision)
            for one in mentions
        ]
        merged = {profile_name(one.profile_id) for one in mentions if one.name.startswith("p:")}
        names = merged - asked
    # Merges first: what they brought was there in the place of something else.
    return sorted(found, key=lambda trace: trace.name.startswith("c:"))


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
