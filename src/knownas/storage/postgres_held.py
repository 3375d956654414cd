"""What a transaction has read, and keeps from changing until it ends.

Profiles are locked; all else that a change is based on follows from them, or is found changed when
the change is written. A name leads where it does as long as the profile there is locked, since
whoever makes or ends an alias locks that profile too.

The first lock is waited for, and taken in one order by all. What turns out to be needed later is
locked only where nobody else has it: else the transaction is made anew, and has it among the first.
"""

from collections.abc import Iterable
from typing import Final

import msgspec

from knownas.editing import MAX_CHANGES, MAX_HOLDERS, Ages, Alias, Answer, Needs
from knownas.erasing import Subjects, Tombstone
from knownas.history import Change, Difference
from knownas.model import AppId, ProfileId
from knownas.storage import postgres_lookups, rows
from knownas.storage import postgres_reads as reads
from knownas.storage.postgres_changes import MANY, Holding, last_of
from knownas.storage.postgres_errors import Outrun
from knownas.storage.postgres_link import Link
from knownas.storage.postgres_reads import (
    AliasKey,
    CustomerKey,
    Customers,
    ProfileKey,
    Profiles,
    Question,
    columns,
    customer_name,
    id_name,
)

_ANSWERS: Final = """
SELECT a.number, s.fingerprint, s.answer, s.expires_at
FROM unnest($1::integer[], $2::text[]) WITH ORDINALITY AS a (app_id, key, number)
JOIN answers s ON s.app_id = a.app_id AND s.key = a.key
"""
_CHANGES: Final = """
SELECT a.number, c.at, c.source, c.difference
FROM unnest($1::integer[], $2::uuid[], $3::bigint[])
  WITH ORDINALITY AS a (app_id, profile_id, revision, number)
JOIN changes c ON c.app_id = a.app_id AND c.profile_id = a.profile_id AND c.revision = a.revision
"""

_AGES: Final = """
SELECT a.number, p.ages
FROM unnest($1::integer[], $2::uuid[]) WITH ORDINALITY AS a (app_id, profile_id, number)
JOIN profiles p ON p.app_id = a.app_id AND p.profile_id = a.profile_id
"""
_LATER: Final = """
SELECT a.number, c.revision, c.at, c.difference
FROM unnest($1::integer[], $2::uuid[], $3::bigint[])
  WITH ORDINALITY AS a (app_id, profile_id, revision, number)
CROSS JOIN LATERAL (
  SELECT revision, at, difference FROM changes
  WHERE app_id = a.app_id AND profile_id = a.profile_id AND revision > a.revision
  ORDER BY revision DESC LIMIT $4) AS c
ORDER BY a.number, c.revision
"""

AnswerKey = tuple[AppId, str]
ChangeKey = tuple[AppId, ProfileId, int]
Changes = dict[ChangeKey, Change | None]


class Wanted(msgspec.Struct):
    """What is to be read, and locked where it can be."""

    customers: set[CustomerKey] = msgspec.field(default_factory=set)
    profiles: set[ProfileKey] = msgspec.field(default_factory=set)
    holdings: set[Holding] = msgspec.field(default_factory=set)
    """Identifiers of which all holders are wanted."""
    names: set[AliasKey] = msgspec.field(default_factory=set)
    answers: set[AnswerKey] = msgspec.field(default_factory=set)
    changes: set[ChangeKey] = msgspec.field(default_factory=set)
    ages: set[ProfileKey] = msgspec.field(default_factory=set)
    all_ages: set[AppId] = msgspec.field(default_factory=set)
    """Apps of whose profiles the ages are wanted, too."""

    def add(self, app: AppId, needs: Needs) -> None:
        """Want what an edit needs."""
        asked = [(app, ref) for ref in needs.refs]
        self.customers |= reads.customer_keys(asked)
        self.profiles |= reads.profile_keys(asked)
        self.holdings |= {(app, *value) for value in needs.values}
        if needs.answer is not None:
            self.answers.add((app, needs.answer))
        if needs.ages:
            self.all_ages.add(app)

    def add_all(self, other: "Wanted") -> None:
        """Want what the other wants, too."""
        for field in self.__struct_fields__:
            getattr(self, field).update(getattr(other, field))

    def is_empty(self) -> bool:
        """Tell whether nothing is wanted."""
        return not any(getattr(self, field) for field in self.__struct_fields__)


class Held:
    """What a transaction has so far."""

    def __init__(self, busy: set[ProfileKey], subjects: Subjects) -> None:
        """Begin with nothing.

        The first lock takes the `busy` profiles, too; what others are found to have is added. By
        the `subjects` it is known who was erased.
        """
        self.subjects = subjects
        self._busy = busy
        self._has_locked = False
        self.customers: Customers = {}
        self.asked_customers: set[CustomerKey] = set()
        self.profiles: Profiles = {}
        self.missing: set[ProfileKey] = set()
        self.changed_in: dict[ProfileKey, int] = {}
        """The `tx` of the last change of each profile, and of ids of which the last is known."""
        self.revisions: dict[ProfileKey, int] = {}
        """The last one of ids that have no profile and once had one."""
        self.going_on: set[ProfileKey] = set()
        """Ids without a profile here, of which the history says that they have one."""
        self.asked_revisions: set[ProfileKey] = set()
        self.aliases: dict[AliasKey, Alias] = {}
        self.asked_names: set[AliasKey] = set()
        self.holders: dict[Holding, list[ProfileKey]] = {}
        self.answers: dict[AnswerKey, Answer | None] = {}
        self.changes: Changes = {}
        self.ages: dict[ProfileKey, Ages] = {}
        """Of which times the identifiers are of profiles that are locked, all changes included."""
        self.deleted_apps: set[AppId] = set()
        self.erased: dict[AliasKey, list[Tombstone]] = {}
        """Names under which nobody has begun anew."""
        self.asked_erased: set[AliasKey] = set()
        self.locked_erased: set[AppId] = set()
        """Apps of which it cannot be told who was erased, since their key does not open."""

    async def learn(self, link: Link, wanted: Wanted) -> None:
        """Read and lock what is wanted, and where what is not there leads instead."""
        customers = wanted.customers - self.asked_customers
        await self.find_customers(link, customers)
        holders = await postgres_lookups.holders_of(
            link, wanted.holdings - self.holders.keys(), MAX_HOLDERS
        )
        keys = {key for of in holders.values() for key in of} | wanted.profiles
        await self.lock(
            link, keys | {self.customers[it] for it in customers & self.customers.keys()}
        )
        for (_, kind, value), of in holders.items():
            for key in of:
                if key not in self.profiles or self.profiles[key].identifiers[kind] != value:
                    raise Outrun
        self.holders |= holders
        await self.follow(link, wanted.names | self._missed(wanted.customers, wanted.profiles))
        await self._find_answers(link, wanted.answers - self.answers.keys())
        await self._find_changes(link, wanted.changes - self.changes.keys())
        ages = wanted.ages | {key for key in self.profiles if key[0] in wanted.all_ages}
        await self._find_ages(link, ages - self.ages.keys())

    async def find_customers(self, link: Link, keys: set[CustomerKey]) -> None:
        """Find the profiles of customers, which are to be locked before anything else is done."""
        self.asked_customers |= keys
        self.customers |= await reads.customers_of(link, keys)

    async def lock(self, link: Link, keys: set[ProfileKey]) -> None:
        """Read and lock profiles.

        Raises Outrun where a customer has another profile by now, and where, at a second time,
        another transaction has one of them.
        """
        keys = keys - self.profiles.keys() - self.missing
        if keys:
            await self._lock(link, keys)
        for (_, customer), key in self.customers.items():
            if key not in self.profiles or self.profiles[key].customer_user_id != customer:
                raise Outrun

    async def _lock(self, link: Link, keys: set[ProfileKey]) -> None:
        if self._has_locked:
            found, changed_in = await reads.locked_profiles(link, keys, wait=False)
            busy = await reads.profiles_of(link, keys - found.keys())
            if busy:
                self._busy.update(busy)  # the caller's own: the next attempt has it, too
                raise Outrun
        else:
            self._has_locked = True
            keys |= self._busy
            found, changed_in = await reads.locked_profiles(link, keys)
        self.profiles |= found
        self.changed_in |= changed_in
        self.missing |= keys - found.keys()
        for key, profile in found.items():
            if profile.customer_user_id is not None:
                self.customers.setdefault((key[0], profile.customer_user_id), key)
                self.asked_customers.add((key[0], profile.customer_user_id))

    async def follow_missed(self, link: Link, questions: Iterable[Question]) -> None:
        """Find and lock what is meant by references of which a half was not found."""
        listed = list(questions)
        await self.follow(
            link, self._missed(reads.customer_keys(listed), reads.profile_keys(listed))
        )

    def _missed(
        self, customers: Iterable[CustomerKey], profiles: Iterable[ProfileKey]
    ) -> set[AliasKey]:
        return {
            *(customer_name(key) for key in customers if key not in self.customers),
            *(id_name(key) for key in profiles if key not in self.profiles),
        }

    async def follow(self, link: Link, names: set[AliasKey]) -> None:
        """Find where names lead, and on to a profile, which is locked."""
        led: dict[AliasKey, Alias] = {}
        names = names - self.asked_names
        if len(names) > MANY:
            merged = {
                app for app in {name[0] for name in names} if await reads.has_merged(link, app)
            }
            self.asked_names |= {name for name in names if name[0] not in merged}
            names = {name for name in names if name[0] in merged}
        while names:
            self.asked_names |= names
            found = await reads.aliases_of(link, names)
            led |= found
            keys = {(app, alias.profile_id) for (app, _), alias in found.items()}
            await self.lock(link, keys)
            names = {id_name(key) for key in keys & self.missing} - self.asked_names
        # An alias may have ended before the profile was locked.
        if led and await reads.aliases_of(link, set(led)) != led:
            raise Outrun
        self.aliases |= led

    async def find_revisions(self, link: Link, keys: set[ProfileKey]) -> bool:
        """Find with which revisions ids have ended that have no profile; tell if any has."""
        self.asked_revisions |= keys
        found = await last_of(link, keys)
        self.going_on |= {key for key, last in found.items() if not last.is_end}
        self.revisions |= {key: last.revision for key, last in found.items()}
        self.changed_in |= {key: last.tx for key, last in found.items()}
        return bool(found)

    async def _find_answers(self, link: Link, keys: set[AnswerKey]) -> None:
        if keys:
            listed = sorted(keys)
            self.answers |= dict.fromkeys(listed)
            for number, *row in await link.fetch(_ANSWERS, *columns(listed)):
                self.answers[listed[number - 1]] = Answer(*row)

    async def _find_changes(self, link: Link, keys: set[ChangeKey]) -> None:
        if keys:
            listed = sorted(keys)
            self.changes |= dict.fromkeys(listed)
            for number, *row in await link.fetch(_CHANGES, *columns(listed)):
                key = listed[number - 1]
                # Where it stands in the feed is of no account to a change.
                self.changes[key] = rows.to_change("", *key[1:], *row)

    async def _find_ages(self, link: Link, keys: set[ProfileKey]) -> None:
        if not keys:
            return
        listed = sorted(keys)
        kept = [Ages()] * len(listed)
        for number, text in await link.fetch(_AGES, *columns(listed)):
            kept[number - 1] = rows.to_ages(text)
        asked = [(*key, one.revision) for key, one in zip(listed, kept, strict=True)]
        later: dict[int, list[tuple[int, Difference]]] = {}
        for number, _, at, text in await link.fetch(_LATER, *columns(asked), MAX_CHANGES):
            later.setdefault(number, []).append((at, rows.to_difference(text)))
        for number, key in enumerate(listed, 1):
            times = kept[number - 1].followed_by(later.get(number, []))
            self.ages[key] = Ages(self.profiles[key].revision, times)
