"""Writes of several profiles in one transaction: what changes them, and in which order.

A group is applied in memory, write by write, to what the database has, and what differs at the
end is written by one statement for each table and kind of difference.

Two servers are kept apart by locks, taken in one order by all: first the customers that are to
be new are claimed, then the profiles are locked, both sorted by their keys. Where what was read
before is no longer so, the transaction is taken back and made anew with what is so now.
"""

import contextlib
from collections.abc import Callable, Container, Iterable
from typing import Any, Final, NamedTuple

import msgspec

from knownas.errors import Unauthorized
from knownas.model import NO_IDENTIFIERS, AppId, Profile, ProfileId, ProfileRef
from knownas.storage import postgres_reads as reads
from knownas.storage import rows
from knownas.storage.postgres_errors import OUTRUN, Outrun
from knownas.storage.postgres_link import Link
from knownas.storage.postgres_reads import CustomerKey, ProfileKey, columns

MAX_TRIES: Final = 20
"""How often a transaction is made anew because others were in its way."""

LOCK_APPS: Final = "SELECT id FROM apps WHERE id = any($1::integer[]) ORDER BY id FOR KEY SHARE"
CLAIM_CUSTOMERS: Final = """
INSERT INTO customers (app_id, customer_user_id, profile_id)
SELECT * FROM unnest($1::integer[], $2::text[], $3::uuid[])
ON CONFLICT DO NOTHING RETURNING app_id, customer_user_id
"""
INSERT_PROFILES: Final = """
INSERT INTO profiles
  (app_id, profile_id, customer_user_id, identifiers, attributes, created_at, updated_at)
SELECT * FROM unnest(
  $1::integer[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::bigint[], $7::bigint[])
ON CONFLICT DO NOTHING RETURNING app_id, profile_id
"""
UPDATE_PROFILES: Final = """
UPDATE profiles p
SET customer_user_id = a.customer_user_id, identifiers = a.identifiers,
  attributes = a.attributes, created_at = a.created_at, updated_at = a.updated_at
FROM unnest(
  $1::integer[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::bigint[], $7::bigint[])
  AS a (app_id, profile_id, customer_user_id, identifiers, attributes, created_at, updated_at)
WHERE p.app_id = a.app_id AND p.profile_id = a.profile_id
"""
DELETE_PROFILES: Final = """
DELETE FROM profiles p USING unnest($1::integer[], $2::uuid[]) AS a (app_id, profile_id)
WHERE p.app_id = a.app_id AND p.profile_id = a.profile_id
"""
DELETE_CUSTOMERS: Final = """
DELETE FROM customers c USING unnest($1::integer[], $2::text[]) AS a (app_id, customer_user_id)
WHERE c.app_id = a.app_id AND c.customer_user_id = a.customer_user_id
"""
INSERT_IDENTIFIERS: Final = """
INSERT INTO identifiers (app_id, kind, value, profile_id)
SELECT * FROM unnest($1::integer[], $2::smallint[], $3::text[], $4::uuid[])
"""
DELETE_IDENTIFIERS: Final = """
DELETE FROM identifiers i
USING unnest($1::integer[], $2::smallint[], $3::text[], $4::uuid[])
  AS a (app_id, kind, value, profile_id)
WHERE i.app_id = a.app_id AND i.kind = a.kind AND i.value = a.value
  AND i.profile_id = a.profile_id
"""

PROFILE_COLUMNS: Final = (
    "app_id",
    "profile_id",
    "customer_user_id",
    "identifiers",
    "attributes",
    "created_at",
    "updated_at",
)
CUSTOMER_COLUMNS: Final = ("app_id", "customer_user_id", "profile_id")
IDENTIFIER_COLUMNS: Final = ("app_id", "kind", "value", "profile_id")

Customers = dict[CustomerKey, ProfileKey]
Profiles = dict[ProfileKey, Profile]
IdentifierKey = tuple[AppId, int, str, ProfileId]


class Write(NamedTuple):
    """What is to become of one profile."""

    app: AppId
    ref: ProfileRef
    change: Callable[[Profile], Profile] | None
    """None deletes it."""
    now: int = 0
    create_as: ProfileId | None = None
    check: Callable[[Profile], None] | None = None
    """What may stop a deletion."""


async def write(link: Link, group: list[Write]) -> list[Profile | BaseException]:
    """Make a group of writes in one transaction; one that cannot be made fails alone.

    Raises Outrun when others were in the way too often, and what asyncpg does.
    """
    for _ in range(MAX_TRIES):
        with contextlib.suppress(*OUTRUN):
            return await _try_to_write(link, group)
    raise Outrun


async def _try_to_write(link: Link, group: list[Write]) -> list[Profile | BaseException]:
    asked = [(one.app, one.ref) for one in group]
    customers = await reads.customers_of(link, reads.customer_keys(asked))
    claims = _claims(group, customers)
    async with link.transaction():
        if claims and len(await link.fetch(CLAIM_CUSTOMERS, *customer_rows(claims))) < len(claims):
            raise Outrun
        keys = {*customers.values(), *reads.profile_keys(asked)}
        profiles = await reads.profiles_of(link, keys, lock=True)
        for (_, customer), key in customers.items():
            if key not in profiles or profiles[key].customer_user_id != customer:
                raise Outrun
        customers |= {
            (key[0], profile.customer_user_id): key
            for key, profile in profiles.items()
            if profile.customer_user_id is not None
        }
        after = _State(customers, profiles)
        answers = [after.outcome(one) for one in group]
        if deleted := await _deleted_apps(link, after.profiles.keys() - profiles.keys()):
            after = _State(customers, profiles, deleted)
            answers = [after.outcome(one) for one in group]
        await _store_profiles(link, profiles, after.profiles)
        await _store_customers(link, {**customers, **claims}, after.customers)
        await _store_identifiers(link, profiles, after.profiles)
    return answers


def _claims(group: list[Write], customers: Customers) -> Customers:
    """Return the customers that the group may make, each with the profile that it is to get."""
    claims: Customers = {}
    for one in group:
        customer = one.ref.customer_user_id
        if one.create_as is not None and customer is not None:
            key = (one.app, customer)
            if key not in customers:
                claims.setdefault(key, (one.app, one.ref.profile_id or one.create_as))
    return claims


async def _deleted_apps(link: Link, new: Iterable[ProfileKey]) -> set[AppId]:
    """Return which apps are gone that are to get a profile; keep the others from going."""
    apps = {app for app, _ in new}
    living = {row[0] for row in await link.fetch(LOCK_APPS, sorted(apps))} if apps else set()
    return apps - living


class _State:
    """What there is after each write of a group."""

    def __init__(
        self, customers: Customers, profiles: Profiles, deleted_apps: Container[AppId] = ()
    ) -> None:
        """Begin with what the database has."""
        self.customers = dict(customers)
        self.profiles = dict(profiles)
        self._deleted_apps = deleted_apps

    def outcome(self, write: Write) -> Profile | BaseException:
        """Apply one write and return what comes of it; an error changes nothing."""
        try:
            return (
                self._delete(write) if write.change is None else self._change(write, write.change)
            )
        except Exception as error:  # noqa: BLE001 - whatever a change raises is told to its caller
            return error

    def _delete(self, write: Write) -> Profile:
        profile = write.ref.settle(*self._look_up(write))
        if write.check is not None:
            write.check(profile)
        self._replace(write.app, profile, None)
        return profile

    def _change(self, write: Write, change: Callable[[Profile], Profile]) -> Profile:
        by_customer, by_id = self._look_up(write)
        before = by_customer or by_id
        if write.create_as is None:
            bound = write.ref.settle(by_customer, by_id)
        else:
            bound = write.ref.settle_or_new(by_customer, by_id, write.create_as, write.now)
            if before is None and write.app in self._deleted_apps:
                raise Unauthorized
        after = change(bound)
        if (after.profile_id, after.customer_user_id) != (bound.profile_id, bound.customer_user_id):
            raise ValueError("A change must leave a profile's ids as they are.")
        if after != before:
            updated_at = max(write.now, bound.updated_at)  # the clock may have been put back
            after = msgspec.structs.replace(after, updated_at=updated_at)
            self._replace(write.app, before, after)
        return after

    def _look_up(self, write: Write) -> tuple[Profile | None, Profile | None]:
        return reads.look_up(write.app, write.ref, self.customers, self.profiles)

    def _replace(self, app: AppId, before: Profile | None, after: Profile | None) -> None:
        if before is not None:
            del self.profiles[app, before.profile_id]
            if before.customer_user_id is not None:
                del self.customers[app, before.customer_user_id]
        if after is not None:
            key = (app, after.profile_id)
            self.profiles[key] = after
            if after.customer_user_id is not None:
                self.customers[app, after.customer_user_id] = key


async def _store_profiles(link: Link, before: Profiles, after: Profiles) -> None:
    if gone := before.keys() - after.keys():
        await link.fetch(DELETE_PROFILES, *columns(sorted(gone)))
    if new := {key: after[key] for key in after.keys() - before.keys()}:
        made = await link.fetch(INSERT_PROFILES, *profile_rows(new))
        if len(made) < len(new):
            raise Outrun
    changed = {key: after[key] for key in after.keys() & before.keys() if after[key] != before[key]}
    if changed:
        await link.fetch(UPDATE_PROFILES, *profile_rows(changed))


async def _store_customers(link: Link, before: Customers, after: Customers) -> None:
    if gone := [key for key in before if after.get(key) != before[key]]:
        await link.fetch(DELETE_CUSTOMERS, *columns(sorted(gone)))
    if new := {key: after[key] for key in after if before.get(key) != after[key]}:
        made = await link.fetch(CLAIM_CUSTOMERS, *customer_rows(new))
        if len(made) < len(new):
            raise Outrun


async def _store_identifiers(link: Link, before: Profiles, after: Profiles) -> None:
    old, new = identifier_keys(before), identifier_keys(after)
    if gone := old - new:
        await link.fetch(DELETE_IDENTIFIERS, *columns(sorted(gone)))
    if come := new - old:
        await link.fetch(INSERT_IDENTIFIERS, *columns(sorted(come)))


# --- values as they stand in rows ----------------------------------------------------------------


def customer_rows(customers: Customers) -> list[list[Any]]:
    """Return what `CLAIM_CUSTOMERS` takes."""
    return columns(
        (app, customer, profile_id)
        for (app, customer), (_, profile_id) in sorted(customers.items())
    )


def profile_rows(profiles: Profiles) -> list[list[Any]]:
    """Return what `INSERT_PROFILES` and `UPDATE_PROFILES` take."""
    return columns(
        (app, profile_id, *rows.from_profile(profile))
        for (app, profile_id), profile in sorted(profiles.items(), key=lambda item: item[0])
    )


def identifier_keys(profiles: Profiles) -> set[IdentifierKey]:
    """Return what stands of these profiles in the reverse index."""
    return set(_identifier_keys(profiles.items()))


def _identifier_keys(profiles: Iterable[tuple[ProfileKey, Profile]]) -> Iterable[IdentifierKey]:
    for (app, profile_id), profile in profiles:
        if profile.identifiers is not NO_IDENTIFIERS:
            for kind, value in enumerate(profile.identifiers):
                if value is not None:
                    yield app, kind, value, profile_id
