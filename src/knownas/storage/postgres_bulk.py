"""What touches many profiles in one transaction: adding or replacing them, deleting an app."""

from collections.abc import Iterator
from typing import Final, NamedTuple

import msgspec

from knownas.editing import Alias
from knownas.erasing import Subjects
from knownas.history import Source
from knownas.model import AppId, Profile, ProfileId
from knownas.storage.postgres_changes import (
    CHANGE_COLUMNS,
    ChangeRow,
    Entry,
    Tally,
    last_of,
    note,
    own_tx,
    stream,
)
from knownas.storage.postgres_link import Link
from knownas.storage.postgres_reads import (
    AliasKey,
    Customers,
    ProfileKey,
    Profiles,
    aliases_of,
    columns,
    customer_name,
    has_merged,
    id_name,
    locked_profiles,
)
from knownas.storage.postgres_tombstones import kept_out
from knownas.storage.postgres_writes import (
    CLAIM_CUSTOMERS,
    CUSTOMER_COLUMNS,
    DELETE_ALIASES,
    DELETE_CUSTOMERS,
    DELETE_IDENTIFIERS,
    DELETE_PROFILES,
    IDENTIFIER_COLUMNS,
    INSERT_IDENTIFIERS,
    INSERT_PROFILES,
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
    "DELETE FROM aliases WHERE app_id = $1",
    "DELETE FROM answers WHERE app_id = $1",
    "DELETE FROM tombstones WHERE app_id = $1",
    "DELETE FROM erasures WHERE app_id = $1",
    "DELETE FROM erasure_keys WHERE app_id = $1",
    "DELETE FROM webhooks WHERE app_id = $1",
    "DELETE FROM deliveries WHERE app_id = $1",
    "DELETE FROM inbound_secrets WHERE app_id = $1",
    "DELETE FROM inbound_refusals WHERE app_id = $1",
    "DELETE FROM dead_letters WHERE app_id = $1",
    "DELETE FROM shadow_counts WHERE app_id = $1",
    "DELETE FROM shadow_differences WHERE app_id = $1",
    "DELETE FROM audit WHERE app_id = $1",
    "DELETE FROM imports WHERE app_id = $1",
    "DELETE FROM import_pieces WHERE app_id = $1",
)


class Job(NamedTuple):
    """In which app something is done, when, and by whom."""

    app: AppId
    now: int
    by: Source
    subjects: Subjects


async def add(link: Link, job: Job, profiles: list[Profile]) -> int:
    """Add the profiles whose id and customer are both new, and return how many they were."""
    async with link.transaction():
        erased = await kept_out(link, job.app, job.subjects, profiles)
        profiles = [one for one in profiles if one.profile_id not in erased]
        added, tally = 0, Tally()
        for first in range(0, len(profiles), CHUNK):
            added += await _add(link, job, profiles[first : first + CHUNK], tally)
        await tally.write(link)
    return added


async def _add(link: Link, job: Job, brought: list[Profile], tally: Tally) -> int:
    taken = await _taken(link, job.app, brought)
    new = {(job.app, one.profile_id): one for one in _untaken(brought, taken)}
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
    await _end_aliases(link, taken, new)
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


class _Taken(NamedTuple):
    """Which customers and ids an app has already, and where those of merged profiles lead."""

    app: AppId
    customers: set[str]
    ids: set[ProfileId]
    aliases: dict[AliasKey, Alias]

    def leads(self, name: AliasKey) -> bool:
        """Tell whether a name leads to a profile that there is."""
        while alias := self.aliases.get(name):
            if alias.profile_id in self.ids:
                return True
            name = id_name((self.app, alias.profile_id))
        return False


async def _taken(link: Link, app: AppId, brought: list[Profile]) -> _Taken:
    """Return what of these profiles is taken."""
    named = [one.customer_user_id for one in brought if one.customer_user_id is not None]
    customers = {row[0] for row in await link.fetch(_TAKEN_CUSTOMERS, app, named)}
    ids = await _taken_ids(link, app, [one.profile_id for one in brought])
    aliases: dict[AliasKey, Alias] = {}
    if await has_merged(link, app):
        names = {name for one in brought for name in _names(app, one)}
        while names:
            found = await aliases_of(link, names)
            aliases |= found
            names = {id_name((app, it.profile_id)) for it in found.values()} - aliases.keys()
        ids |= await _taken_ids(link, app, [it.profile_id for it in aliases.values()])
    return _Taken(app, customers, ids, aliases)


async def _taken_ids(link: Link, app: AppId, asked: list[ProfileId]) -> set[ProfileId]:
    return {ProfileId(row[0]) for row in await link.fetch(_TAKEN_IDS, app, asked)}


def _names(app: AppId, profile: Profile) -> list[AliasKey]:
    """Return the aliases that would stand in the way of a profile."""
    names = [id_name((app, profile.profile_id))]
    if profile.customer_user_id is not None:
        names.append(customer_name((app, profile.customer_user_id)))
    return names


async def _end_aliases(link: Link, taken: _Taken, new: Profiles) -> None:
    """Have names lead nowhere that are those of new profiles; they led to none that there is."""
    names = {name for one in new.values() for name in _names(taken.app, one)}
    if ended := names & taken.aliases.keys():
        await link.fetch(DELETE_ALIASES, *columns(sorted(ended)))


async def replace(link: Link, job: Job, gone: list[ProfileId], brought: list[Profile]) -> int:
    """Delete profiles that are there, add others by COPY, and return how many were added.

    Raises Outrun when another transaction has taken an id or a customer meanwhile.
    """
    async with link.transaction():
        erased = await kept_out(link, job.app, job.subjects, brought)
        brought = [one for one in brought if one.profile_id not in erased]
        old, changed_in = await locked_profiles(link, {(job.app, one) for one in gone})
        taken = await _taken(link, job.app, brought)
        taken.customers.difference_update(one.customer_user_id or "" for one in old.values())
        taken.ids.difference_update(profile_id for _, profile_id in old)
        left = _untaken(brought, taken)
        new = {(job.app, one.profile_id): one for one in left}
        last = await last_of(link, new.keys() - old.keys())
        revisions = {key: one.revision for key, one in old.items()}
        revisions |= {key: one.revision for key, one in last.items()}
        changed_in |= {key: one.tx for key, one in last.items()}
        new = _numbered(new, revisions)
        tally = Tally()
        noted = await tally.rows(link, _entries(job, old, new), changed_in)
        own = await own_tx(link)
        await delete(link, old)
        await _copy(link, new, changed_in, own)
        await _copy_changes(link, noted, own)
        await _end_aliases(link, taken, new)
        await tally.write(link)
    return len(new)


async def delete(link: Link, profiles: Profiles) -> None:
    """Delete profiles with their customers and identifiers, and note nothing."""
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
        await stream(link, "profiles", PROFILE_COLUMNS, records)
    if customers := _customers(profiles):
        await stream(
            link, "customers", CUSTOMER_COLUMNS, zip(*customer_rows(customers), strict=True)
        )
    if indexed := identifier_keys(profiles):
        await stream(link, "identifiers", IDENTIFIER_COLUMNS, sorted(indexed))


async def _copy_changes(link: Link, noted: list[ChangeRow], own: int) -> None:
    records = [(*row, max(own, tx)) for *row, tx in sorted(noted)]
    await stream(link, "changes", CHANGE_COLUMNS, records)


def _customers(profiles: Profiles) -> Customers:
    return {
        (key[0], one.customer_user_id): key
        for key, one in profiles.items()
        if one.customer_user_id is not None
    }


def _untaken(brought: list[Profile], taken: _Taken) -> Iterator[Profile]:
    """Yield the profiles of which neither customer nor id is taken, the earlier ones first."""
    for one in brought:
        if (
            one.profile_id not in taken.ids
            and one.customer_user_id not in taken.customers
            and not any(map(taken.leads, _names(taken.app, one)))
        ):
            taken.ids.add(one.profile_id)
            if one.customer_user_id is not None:
                taken.customers.add(one.customer_user_id)
            yield one


async def delete_app(link: Link, app: AppId) -> None:
    """Delete an app with all that it has."""
    async with link.transaction():
        for statement in _DELETE_APP:
            await link.fetch(statement, app)
