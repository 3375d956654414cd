"""What touches many profiles in one transaction: adding or replacing them, deleting an app."""

from collections.abc import Iterator
from typing import Final

import asyncpg

from knownas.errors import Unauthorized
from knownas.model import AppId, Profile, ProfileId
from knownas.storage.postgres_errors import Outrun
from knownas.storage.postgres_link import Link
from knownas.storage.postgres_reads import CustomerKey, ProfileKey, columns, profiles_of
from knownas.storage.postgres_writes import (
    CLAIM_CUSTOMERS,
    CUSTOMER_COLUMNS,
    DELETE_CUSTOMERS,
    DELETE_IDENTIFIERS,
    DELETE_PROFILES,
    IDENTIFIER_COLUMNS,
    INSERT_IDENTIFIERS,
    INSERT_PROFILES,
    LOCK_APPS,
    PROFILE_COLUMNS,
    customer_rows,
    identifier_keys,
    profile_rows,
)

CHUNK: Final = 5_000
"""Profiles to a statement."""

_TAKEN_CUSTOMERS: Final = """
SELECT customer_user_id FROM customers WHERE app_id = $1 AND customer_user_id = any($2::text[])
"""
_TAKEN_IDS: Final = """
SELECT profile_id::text FROM profiles WHERE app_id = $1 AND profile_id = any($2::uuid[])
"""

# In this order: whoever makes a profile holds its app, and whoever changes one holds the profile.
_DELETE_APP: Final = (
    "DELETE FROM apps WHERE id = $1",
    "DELETE FROM api_keys WHERE app_id = $1",
    "DELETE FROM profiles WHERE app_id = $1",
    "DELETE FROM customers WHERE app_id = $1",
    "DELETE FROM identifiers WHERE app_id = $1",
)


async def refuse_deleted(link: Link, app: AppId) -> None:
    """Raise Unauthorized when the app is gone; keep it from going in this transaction."""
    if not await link.fetch(LOCK_APPS, [app]):
        raise Unauthorized


async def add(link: Link, app: AppId, profiles: list[Profile]) -> int:
    """Add the profiles whose id and customer are both new, and return how many they were."""
    async with link.transaction():
        await refuse_deleted(link, app)
        added = 0
        for first in range(0, len(profiles), CHUNK):
            added += await _add(link, app, profiles[first : first + CHUNK])
    return added


async def _add(link: Link, app: AppId, brought: list[Profile]) -> int:
    customers, ids = await _taken(link, app, brought)
    new = {(app, one.profile_id): one for one in _untaken(brought, customers, ids)}
    # What others have made since it was looked for is left out as well.
    claims = _customers(new)
    if claims:
        claimed = {tuple(row) for row in await link.fetch(CLAIM_CUSTOMERS, *customer_rows(claims))}
        for customer in claims.keys() - claimed:
            del new[claims.pop(customer)]
    if not new:
        return 0
    made = await link.fetch(INSERT_PROFILES, *profile_rows(new))
    if len(made) < len(new):
        keys = {(AppId(of), ProfileId(str(profile_id))) for of, profile_id in made}
        lost = [customer for customer, key in claims.items() if key not in keys]
        if lost:
            await link.fetch(DELETE_CUSTOMERS, *columns(sorted(lost)))
        new = {key: new[key] for key in keys}
    if indexed := identifier_keys(new):
        await link.fetch(INSERT_IDENTIFIERS, *columns(sorted(indexed)))
    return len(new)


async def _taken(
    link: Link, app: AppId, brought: list[Profile]
) -> tuple[set[str | None], set[ProfileId]]:
    """Return which of the customers and ids of these profiles the app has already."""
    named = [one.customer_user_id for one in brought if one.customer_user_id is not None]
    customers = {row[0] for row in await link.fetch(_TAKEN_CUSTOMERS, app, named)}
    asked = [one.profile_id for one in brought]
    return customers, {ProfileId(row[0]) for row in await link.fetch(_TAKEN_IDS, app, asked)}


async def replace(link: Link, app: AppId, gone: list[ProfileId], brought: list[Profile]) -> int:
    """Delete profiles that are there, add others by COPY, and return how many were added.

    Raises Outrun when another transaction has taken an id or a customer meanwhile.
    """
    async with link.transaction():
        await refuse_deleted(link, app)
        await _delete(link, await profiles_of(link, {(app, one) for one in gone}, lock=True))
        customers, ids = await _taken(link, app, brought)
        new = {(app, one.profile_id): one for one in _untaken(brought, customers, ids)}
        try:
            await _copy(link, new)
        except asyncpg.UniqueViolationError:
            raise Outrun from None
    return len(new)


async def _delete(link: Link, profiles: dict[ProfileKey, Profile]) -> None:
    if profiles:
        await link.fetch(DELETE_PROFILES, *columns(sorted(profiles)))
    if customers := _customers(profiles):
        await link.fetch(DELETE_CUSTOMERS, *columns(sorted(customers)))
    if indexed := identifier_keys(profiles):
        await link.fetch(DELETE_IDENTIFIERS, *columns(sorted(indexed)))


async def _copy(link: Link, profiles: dict[ProfileKey, Profile]) -> None:
    """Stream profiles into the three tables, into each in the order of its key."""
    if profiles:
        await link.copy("profiles", PROFILE_COLUMNS, zip(*profile_rows(profiles), strict=True))
    if customers := _customers(profiles):
        await link.copy("customers", CUSTOMER_COLUMNS, zip(*customer_rows(customers), strict=True))
    if indexed := identifier_keys(profiles):
        await link.copy("identifiers", IDENTIFIER_COLUMNS, sorted(indexed))


def _customers(profiles: dict[ProfileKey, Profile]) -> dict[CustomerKey, ProfileKey]:
    return {
        (key[0], one.customer_user_id): key
        for key, one in profiles.items()
        if one.customer_user_id is not None
    }


def _untaken(
    brought: list[Profile], customers: set[str | None], ids: set[ProfileId]
) -> Iterator[Profile]:
    """Yield the profiles of which neither customer nor id is taken, the earlier ones first."""
    for one in brought:
        if one.profile_id not in ids and one.customer_user_id not in customers:
            ids.add(one.profile_id)
            if one.customer_user_id is not None:
                customers.add(one.customer_user_id)
            yield one


async def delete_app(link: Link, app: AppId) -> None:
    """Delete an app with all that it has."""
    async with link.transaction():
        for statement in _DELETE_APP:
            await link.fetch(statement, app)
