"""Writes of several profiles in one transaction: what changes them, and in which order.

A group is applied in memory, write by write, to what the database has, and what differs at the
end is written by one statement for each table and kind of difference.

Two servers are kept apart by locks, taken in one order by all: first the customers that are to
be new are claimed, then the profiles are locked, both sorted by their keys. Where what was read
before is no longer so, the transaction is taken back and made anew with what is so now.
"""

import contextlib
from collections.abc import Iterable, Mapping
from typing import Any, Final

from knownas.model import NO_IDENTIFIERS, AppId, Profile, ProfileId
from knownas.storage import postgres_reads as reads
from knownas.storage import rows
from knownas.storage.postgres_changes import OWN, Tally, last_of, note
from knownas.storage.postgres_errors import OUTRUN, Outrun
from knownas.storage.postgres_link import Link
from knownas.storage.postgres_reads import ProfileKey, columns
from knownas.storage.postgres_state import Customers, Profiles, State, Write

MAX_TRIES: Final = 20
"""How often a transaction is made anew because others were in its way."""

LOCK_APPS: Final = "SELECT id FROM apps WHERE id = any($1::integer[]) ORDER BY id FOR KEY SHARE"
CLAIM_CUSTOMERS: Final = """
INSERT INTO customers (app_id, customer_user_id, profile_id)
SELECT * FROM unnest($1::integer[], $2::text[], $3::uuid[])
ON CONFLICT DO NOTHING RETURNING app_id, customer_user_id
"""
_GIVEN_PROFILES: Final = f"""
unnest(
  $1::integer[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::bigint[], $7::bigint[],
  $8::bigint[], $9::bigint[])
  AS a (app_id, profile_id, customer_user_id, identifiers, attributes, created_at, updated_at,
    revision, changed_in), {OWN} AS own
"""
INSERT_PROFILES: Final = f"""
INSERT INTO profiles
  (app_id, profile_id, customer_user_id, identifiers, attributes, created_at, updated_at,
    revision, changed_in)
SELECT a.app_id, a.profile_id, a.customer_user_id, a.identifiers, a.attributes, a.created_at,
  a.updated_at, a.revision, greatest(a.changed_in, own.tx)
FROM {_GIVEN_PROFILES}
ON CONFLICT DO NOTHING RETURNING app_id, profile_id
"""  # noqa: S608 - what is given is a constant
UPDATE_PROFILES: Final = f"""
UPDATE profiles p
SET customer_user_id = a.customer_user_id, identifiers = a.identifiers,
  attributes = a.attributes, created_at = a.created_at, updated_at = a.updated_at,
  revision = a.revision, changed_in = greatest(a.changed_in, own.tx)
FROM {_GIVEN_PROFILES}
WHERE p.app_id = a.app_id AND p.profile_id = a.profile_id
"""  # noqa: S608 - what is given is a constant
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
    "revision",
    "changed_in",
)
CUSTOMER_COLUMNS: Final = ("app_id", "customer_user_id", "profile_id")
IDENTIFIER_COLUMNS: Final = ("app_id", "kind", "value", "profile_id")

IdentifierKey = tuple[AppId, int, str, ProfileId]


async def write(link: Link, group: list[Write]) -> list[Profile | BaseException]:
    """Make a group of writes in one transaction; one that cannot be made fails alone.

    Raises Outrun when others were in the way too often, and what asyncpg does.
    """
    for attempt in range(MAX_TRIES):
        with contextlib.suppress(*OUTRUN):
            return await _try_to_write(link, group, all_new=attempt > 0)
    raise Outrun


async def _try_to_write(
    link: Link, group: list[Write], *, all_new: bool
) -> list[Profile | BaseException]:
    """Make the writes; ids of our own are taken for `all_new` only where that was in vain."""
    asked = [(one.app, one.ref) for one in group]
    customers = await reads.customers_of(link, reads.customer_keys(asked))
    claims = _claims(group, customers)
    async with link.transaction():
        if claims and len(await link.fetch(CLAIM_CUSTOMERS, *customer_rows(claims))) < len(claims):
            raise Outrun
        keys = {*customers.values(), *reads.profile_keys(asked)}
        profiles, changed_in = await reads.locked_profiles(link, keys)
        for (_, customer), key in customers.items():
            if key not in profiles or profiles[key].customer_user_id != customer:
                raise Outrun
        customers |= {
            (key[0], profile.customer_user_id): key
            for key, profile in profiles.items()
            if profile.customer_user_id is not None
        }
        last = await last_of(link, _made_anew(group, all_new=all_new) - profiles.keys())
        if not all(one.is_end for one in last.values()):
            raise Outrun  # made since the profiles were locked
        revisions = {key: one.revision for key, one in last.items()}
        changed_in |= {key: one.tx for key, one in last.items()}
        after = State(customers, profiles, revisions)
        answers = [after.outcome(one) for one in group]
        growing = {one.app for one in after.entries if one.before is None}
        if deleted := await _deleted_apps(link, growing):
            after = State(customers, profiles, revisions, deleted)
            answers = [after.outcome(one) for one in group]
        tally = Tally()
        noted = await tally.rows(link, after.entries, changed_in)
        await _store_profiles(link, profiles, after.profiles, changed_in)
        await _store_customers(link, {**customers, **claims}, after.customers)
        await _store_identifiers(link, profiles, after.profiles)
        await note(link, noted)
        await tally.write(link)
    return answers


def _made_anew(group: list[Write], *, all_new: bool) -> set[ProfileKey]:
    """Return the ids that may come back: those that a request names, or all that may be made."""
    return {
        (one.app, one.ref.profile_id or one.create_as)
        for one in group
        if one.create_as is not None and (all_new or one.ref.profile_id is not None)
    }


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


async def _deleted_apps(link: Link, apps: set[AppId]) -> set[AppId]:
    """Return which apps are gone that were to get a profile; keep the others from going."""
    living = {row[0] for row in await link.fetch(LOCK_APPS, sorted(apps))} if apps else set()
    return apps - living


async def _store_profiles(
    link: Link, before: Profiles, after: Profiles, changed_in: Mapping[ProfileKey, int]
) -> None:
    if gone := before.keys() - after.keys():
        await link.fetch(DELETE_PROFILES, *columns(sorted(gone)))
    if new := {key: after[key] for key in after.keys() - before.keys()}:
        made = await link.fetch(INSERT_PROFILES, *profile_rows(new, changed_in))
        if len(made) < len(new):
            raise Outrun
    changed = {key: after[key] for key in after.keys() & before.keys() if after[key] != before[key]}
    if changed:
        await link.fetch(UPDATE_PROFILES, *profile_rows(changed, changed_in))


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


def profile_rows(
    profiles: Profiles, changed_in: Mapping[ProfileKey, int], own: int = 0
) -> list[list[Any]]:
    """Return what `INSERT_PROFILES` and `UPDATE_PROFILES` take.

    Each has the `tx` of its last change, if there was one, or the transaction's own if greater.
    """
    return columns(
        (*key, *rows.from_profile(profile), max(own, changed_in.get(key, 0)))
        for key, profile in sorted(profiles.items(), key=lambda item: item[0])
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
