"""What touches many profiles in one transaction: adding or replacing them, deleting an app."""

from collections.abc import Iterator
from typing import Final, NamedTuple

import asyncpg
import msgspec

from knownas.errors import Unauthorized
from knownas.history import Source
from knownas.model import AppId, Profile, ProfileId
from knownas.storage.postgres_changes import (
    CHANGE_COLUMNS,
    OWN_TX,
    ChangeRow,
    Entry,
    Tally,
    last_of,
    note,
)
from knownas.storage.postgres_errors import Outrun
from knownas.storage.postgres_link import Link
from knownas.storage.postgres_reads import ProfileKey, columns, locked_profiles
from knownas.storage.postgres_state import Customers, Profiles
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
    "DELETE FROM changes WHERE app_id = $1",
    "DELETE FROM shared_identifiers WHERE app_id = $1",
    "DELETE FROM coverage WHERE app_id = $1",
    "DELETE FROM webhooks WHERE app_id = $1",
    "DELETE FROM deliveries WHERE app_id = $1",
)


class Job(NamedTuple):
    """In which app something is done, when, and by whom."""

    app: AppId
    now: int
    by: Source


async def refuse_deleted(link: Link, app: AppId) -> None:
    """Raise Unauthorized when the app is gone; keep it from going in this transaction."""
    if not await link.fetch(LOCK_APPS, [app]):
        raise Unauthorized


async def add(link: Link, job: Job, profiles: list[Profile]) -> int:
    """Add the profiles whose id and customer are both new, and return how many they were."""
    async with link.transaction():
        await refuse_deleted(link, job.app)
        added, tally = 0, Tally()
        for first in range(0, len(profiles), CHUNK):
            added += await _add(link, job, profiles[first : first + CHUNK], tally)
        await tally.write(link)
    return added


async def _add(link: Link, job: Job, brought: list[Profile], tally: Tally) -> int:
    customers, ids = await _taken(link, job.app, brought)
    new = {(job.app, one.profile_id): one for one in _untaken(brought, customers, ids)}
    # What others have made since it was looked for is left out as well.
    claims = _customers(new)
    if claims:
        claimed = {tuple(row) for row in await link.fetch(CLAIM_CUSTOMERS, *customer_rows(claims))}
        for customer in claims.keys() - claimed:
            del new[claims.pop(customer)]
    if not new:
        return 0
    last = await last_of(link, new)
    changed_in = {key: one.tx for key, one in last.items()}
    new = _numbered(new, {key: one.revision for key, one in last.items()})
    made = await link.fetch(INSERT_PROFILES, *profile_rows(new, changed_in))
    if len(made) < len(new):
        keys = {(AppId(of), ProfileId(str(profile_id))) for of, profile_id in made}
        lost = [customer for customer, key in claims.items() if key not in keys]
        if lost:
            await link.fetch(DELETE_CUSTOMERS, *columns(sorted(lost)))
        new = {key: new[key] for key in keys}
    noted = await tally.rows(link, _entries(job, {}, new), changed_in)
    if indexed := identifier_keys(new):
        await link.fetch(INSERT_IDENTIFIERS, *columns(sorted(indexed)))
    await note(link, noted)
    return len(new)


def _numbered(new: Profiles, revisions: dict[ProfileKey, int]) -> Profiles:
    """Return profiles with the revisions that follow those that their ids had."""
    return {
        key: msgspec.structs.replace(one, revision=revisions.get(key, 0) + 1)
        for key, one in new.items()
    }


def _entries(job: Job, old: Profiles, new: Profiles) -> list[Entry]:
    """Return what becomes of profiles: those that end first."""
    return [
        *(Entry(job.app, one, None, job.now, job.by) for key, one in old.items() if key not in new),
        *(Entry(job.app, old.get(key), one, job.now, job.by) for key, one in new.items()),
    ]


async def _taken(
    link: Link, app: AppId, brought: list[Profile]
) -> tuple[set[str | None], set[ProfileId]]:
    """Return which of the customers and ids of these profiles the app has already."""
    named = [one.customer_user_id for one in brought if one.customer_user_id is not None]
    customers = {row[0] for row in await link.fetch(_TAKEN_CUSTOMERS, app, named)}
    asked = [one.profile_id for one in brought]
    return customers, {ProfileId(row[0]) for row in await link.fetch(_TAKEN_IDS, app, asked)}


async def replace(link: Link, job: Job, gone: list[ProfileId], brought: list[Profile]) -> int:
    """Delete profiles that are there, add others by COPY, and return how many were added.

    Raises Outrun when another transaction has taken an id or a customer meanwhile.
    """
    async with link.transaction():
        await refuse_deleted(link, job.app)
        old, changed_in = await locked_profiles(link, {(job.app, one) for one in gone})
        customers, ids = await _taken(link, job.app, brought)
        free = {one.customer_user_id for one in old.values()}
        left = _untaken(brought, customers - free, ids - {profile_id for _, profile_id in old})
        new = {(job.app, one.profile_id): one for one in left}
        last = await last_of(link, new.keys() - old.keys())
        revisions = {key: one.revision for key, one in old.items()}
        revisions |= {key: one.revision for key, one in last.items()}
        changed_in |= {key: one.tx for key, one in last.items()}
        new = _numbered(new, revisions)
        tally = Tally()
        noted = await tally.rows(link, _entries(job, old, new), changed_in)
        own = (await link.fetch(OWN_TX))[0][0]
        await _delete(link, old)
        try:
            await _copy(link, new, changed_in, own)
            await _copy_changes(link, noted, own)
        except asyncpg.UniqueViolationError:
            raise Outrun from None
        await tally.write(link)
    return len(new)


async def _delete(link: Link, profiles: Profiles) -> None:
    if profiles:
        await link.fetch(DELETE_PROFILES, *columns(sorted(profiles)))
    if customers := _customers(profiles):
        await link.fetch(DELETE_CUSTOMERS, *columns(sorted(customers)))
    if indexed := identifier_keys(profiles):
        await link.fetch(DELETE_IDENTIFIERS, *columns(sorted(indexed)))


async def _copy(
    link: Link, profiles: Profiles, changed_in: dict[ProfileKey, int], own: int
) -> None:
    """Stream profiles into the three tables, into each in the order of its key."""
    if profiles:
        records = zip(*profile_rows(profiles, changed_in, own), strict=True)
        await link.copy("profiles", PROFILE_COLUMNS, records)
    if customers := _customers(profiles):
        await link.copy("customers", CUSTOMER_COLUMNS, zip(*customer_rows(customers), strict=True))
    if indexed := identifier_keys(profiles):
        await link.copy("identifiers", IDENTIFIER_COLUMNS, sorted(indexed))


async def _copy_changes(link: Link, noted: list[ChangeRow], own: int) -> None:
    records = [(*row, max(own, tx)) for *row, tx in sorted(noted)]
    await link.copy("changes", CHANGE_COLUMNS, records)


def _customers(profiles: Profiles) -> Customers:
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
