"""Writes of several profiles in one transaction: what changes them, and in which order.

A group is applied in memory, write by write, to what the database has, and what differs at the
end is written by one statement for each table and kind of difference.

Two servers are kept apart by locks, taken in one order by all: first the customers that are to
be new are claimed, then the profiles are locked, both sorted by their keys. Where what was read
before is no longer so, the transaction is taken back and made anew with what is so now.
"""

import contextlib
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final

from knownas.editing import Ages, Alias, Answer
from knownas.erasing import Subjects, new_names
from knownas.errors import FeatureNotConfigured
from knownas.history import differing
from knownas.model import NO_IDENTIFIERS, AppId, Identifiers, Profile
from knownas.storage import postgres_reads as reads
from knownas.storage import postgres_tombstones as tombstones
from knownas.storage import rows
from knownas.storage.postgres_apps import LOCK_APPS
from knownas.storage.postgres_changes import MANY, OWN, Tally, note, own_tx, stream
from knownas.storage.postgres_errors import OUTRUN, Outrun
from knownas.storage.postgres_held import AnswerKey, Held
from knownas.storage.postgres_link import Link
from knownas.storage.postgres_reads import AliasKey, Customers, ProfileKey, Profiles, columns
from knownas.storage.postgres_state import IdentifierKey, State, Write

MAX_TRIES: Final = 20
"""How often a transaction is made anew because others were in its way."""

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
_CLAIM_IDENTIFIERS: Final = """
INSERT INTO identifiers (app_id, kind, value, profile_id, exclusive)
SELECT *, true FROM unnest($1::integer[], $2::smallint[], $3::text[], $4::uuid[])
ON CONFLICT DO NOTHING RETURNING 1
"""
DELETE_IDENTIFIERS: Final = """
DELETE FROM identifiers i
USING unnest($1::integer[], $2::smallint[], $3::text[], $4::uuid[])
  AS a (app_id, kind, value, profile_id)
WHERE i.app_id = a.app_id AND i.kind = a.kind AND i.value = a.value
  AND i.profile_id = a.profile_id
"""
_PUT_ALIASES: Final = """
INSERT INTO aliases (app_id, name, profile_id, revision, survivor_revision, merged_at)
SELECT * FROM unnest(
  $1::integer[], $2::text[], $3::uuid[], $4::bigint[], $5::bigint[], $6::bigint[])
ON CONFLICT (app_id, name) DO UPDATE SET
  profile_id = excluded.profile_id, revision = excluded.revision,
  survivor_revision = excluded.survivor_revision, merged_at = excluded.merged_at
"""
DELETE_ALIASES: Final = """
DELETE FROM aliases s USING unnest($1::integer[], $2::text[]) AS a (app_id, name)
WHERE s.app_id = a.app_id AND s.name = a.name
"""
_KEEP_ANSWERS: Final = """
INSERT INTO answers (app_id, key, fingerprint, answer, expires_at)
SELECT * FROM unnest($1::integer[], $2::text[], $3::bytea[], $4::text[], $5::bigint[])
ON CONFLICT DO NOTHING RETURNING 1
"""
_DELETE_ANSWERS: Final = """
DELETE FROM answers s
USING unnest($1::integer[], $2::text[], $3::bigint[]) AS a (app_id, key, expires_at)
WHERE s.app_id = a.app_id AND s.key = a.key AND s.expires_at = a.expires_at
"""

_KEEP_AGES: Final = """
UPDATE profiles p SET ages = a.ages
FROM unnest($1::integer[], $2::uuid[], $3::text[]) AS a (app_id, profile_id, ages)
WHERE p.app_id = a.app_id AND p.profile_id = a.profile_id
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


async def write(
    link: Link, group: list[Write], subjects: Subjects
) -> list[Profile | BaseException]:
    """Make a group of writes in one transaction; one that cannot be made fails alone.

    Raises Outrun when others were in the way too often, and what asyncpg does.
    """
    busy: set[ProfileKey] = set()
    for attempt in range(MAX_TRIES):
        with contextlib.suppress(*OUTRUN):
            return await _try_to_write(link, group, Held(busy, subjects), all_new=attempt > 0)
    raise Outrun


async def _try_to_write(
    link: Link, group: list[Write], held: Held, *, all_new: bool
) -> list[Profile | BaseException]:
    """Make the writes; ids of our own are taken for `all_new` only where that was in vain."""
    asked = [(one.app, one.ref) for one in group]
    await held.find_customers(link, reads.customer_keys(asked))
    claims = _claims(group, held.customers)
    async with link.transaction():
        if claims and len(await link.fetch(CLAIM_CUSTOMERS, *customer_rows(claims))) < len(claims):
            raise Outrun
        await held.lock(link, {*held.customers.values(), *reads.profile_keys(asked)})
        await held.follow_missed(link, asked)
        await held.find_revisions(link, _made_anew(group, all_new=all_new) - held.profiles.keys())
        state = State(held)
        answers = [state.outcome(one) for one in group]
        while await refuse_growth(link, held, state):
            state = State(held)
            answers = [state.outcome(one) for one in group]
        await store(link, held, state, claims)
    return answers


async def refuse_growth(link: Link, held: Held, state: State) -> bool:
    """Tell whether an app is gone that is to get somebody new, or somebody new was erased.

    What is not known of this is read; the apps that are there are kept from going.
    """
    new: dict[AppId, set[str]] = {}
    for one in state.entries:
        if one.after is not None and (names := new_names(one.before, one.after)):
            new.setdefault(one.app, set()).update(names)
    if not new:
        return False
    living = {row[0]: row[1:] for row in await link.fetch(LOCK_APPS, sorted(new))}
    held.deleted_apps |= new.keys() - living.keys()
    found = new.keys() != living.keys()
    for app, (uuid, has_erased) in living.items():
        asked = {(app, name) for name in new[app]} - held.asked_erased
        if has_erased and asked:
            found |= await _find_erased(link, held, app, uuid, asked)
    return found


async def _find_erased(link: Link, held: Held, app: AppId, uuid: str, asked: set[AliasKey]) -> bool:
    """Find out which names of an app were erased, and tell whether that is news."""
    held.asked_erased |= asked
    names = sorted(name for _, name in asked)
    try:
        erased = await tombstones.erased_among(link, app, uuid, held.subjects, names)
    except FeatureNotConfigured:
        held.locked_erased.add(app)
        return True
    held.erased |= {(app, name): stones for name, stones in erased.items()}
    return bool(erased)


async def store(link: Link, held: Held, state: State, claims: Customers) -> None:
    """Write all that has become of what a transaction holds; of the customers it has the claims.

    In each table what goes does so first: what a profile loses another one may get. Raises Outrun
    where another transaction has taken what this one was to take.
    """
    made = {(one.app, one.profile_id) for one in state.entries if one.before is None}
    if made & held.going_on:
        raise Outrun  # others have made it since the profiles were locked
    tally = Tally()
    noted = await tally.rows(link, state.entries, held.changed_in)
    await _store_profiles(link, held.profiles, state.profiles, held.changed_in)
    await _store_customers(link, {**held.customers, **claims}, state.customers)
    await _store_identifiers(link, held.profiles, state.profiles, state.claimed)
    await _store_aliases(link, held.aliases, state.aliases)
    await _store_answers(link, held.answers, state.answers)
    await _store_ages(link, held.ages, state.ages, state.profiles)
    await tombstones.revive(
        link,
        [
            (name[0], stone.subject, at)
            for name, at in state.revived.items()
            for stone in held.erased[name]
        ],
    )
    await note(link, noted)
    await tally.write(link)


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


async def _store_profiles(
    link: Link, before: Profiles, after: Profiles, changed_in: Mapping[ProfileKey, int]
) -> None:
    if gone := before.keys() - after.keys():
        await link.fetch(DELETE_PROFILES, *columns(sorted(gone)))
    if new := {key: after[key] for key in after.keys() - before.keys()}:
        if len(new) > MANY:
            records = zip(*profile_rows(new, changed_in, await own_tx(link)), strict=True)
            await stream(link, "profiles", PROFILE_COLUMNS, records)
        elif len(await link.fetch(INSERT_PROFILES, *profile_rows(new, changed_in))) < len(new):
            raise Outrun
    changed = {key: after[key] for key in after.keys() & before.keys() if after[key] != before[key]}
    if changed:
        await link.fetch(UPDATE_PROFILES, *profile_rows(changed, changed_in))


async def _store_customers(link: Link, before: Customers, after: Customers) -> None:
    if gone := [key for key in before if after.get(key) != before[key]]:
        await link.fetch(DELETE_CUSTOMERS, *columns(sorted(gone)))
    if new := {key: after[key] for key in after if before.get(key) != after[key]}:
        if len(new) > MANY:
            records = zip(*customer_rows(new), strict=True)
            await stream(link, "customers", CUSTOMER_COLUMNS, records)
        elif len(await link.fetch(CLAIM_CUSTOMERS, *customer_rows(new))) < len(new):
            raise Outrun


async def _store_identifiers(
    link: Link, before: Profiles, after: Profiles, claimed: Collection[IdentifierKey]
) -> None:
    gone, come = _moved(before, after)
    if gone:
        await link.fetch(DELETE_IDENTIFIERS, *columns(reads.in_order(gone)))
    if exclusive := set(claimed).intersection(come) if claimed else set():
        made = await link.fetch(_CLAIM_IDENTIFIERS, *columns(sorted(exclusive)))
        if len(made) < len(exclusive):
            raise Outrun
        come = [key for key in come if key not in exclusive]
    others = reads.in_order(come)
    if len(others) > MANY:
        await stream(link, "identifiers", IDENTIFIER_COLUMNS, others)
    elif others:
        await link.fetch(INSERT_IDENTIFIERS, *columns(others))


def _moved(before: Profiles, after: Profiles) -> tuple[list[IdentifierKey], list[IdentifierKey]]:
    """Return which identifiers profiles have no longer, and which they have instead."""
    gone: list[IdentifierKey] = []
    come: list[IdentifierKey] = []
    for key in before.keys() | after.keys():
        old, new = before.get(key), after.get(key)
        if old is new:
            continue
        app, profile_id = key
        for kind, lost, got in differing(_identifiers(old), _identifiers(new)):
            if lost is not None:
                gone.append((app, kind, lost, profile_id))
            if got is not None:
                come.append((app, kind, got, profile_id))
    return gone, come


def _identifiers(profile: Profile | None) -> Identifiers:
    return NO_IDENTIFIERS if profile is None else profile.identifiers


async def _store_aliases(
    link: Link, before: Mapping[AliasKey, Alias], after: Mapping[AliasKey, Alias | None]
) -> None:
    if gone := [name for name in before if after[name] is None]:
        await link.fetch(DELETE_ALIASES, *columns(sorted(gone)))
    come = sorted(
        (*name, *alias) for name, alias in after.items() if alias and alias != before.get(name)
    )
    if come:
        await link.fetch(_PUT_ALIASES, *columns(come))


async def _store_answers(
    link: Link, before: Mapping[AnswerKey, Answer | None], after: Mapping[AnswerKey, Answer | None]
) -> None:
    kept = sorted(
        (*key, *answer) for key, answer in after.items() if answer and answer != before[key]
    )
    if not kept:
        return
    old = [(*row[:2], it.expires_at) for row in kept if (it := before[row[0], row[1]])]
    if old:
        await link.fetch(_DELETE_ANSWERS, *columns(old))
    if len(await link.fetch(_KEEP_ANSWERS, *columns(kept))) < len(kept):
        raise Outrun


async def _store_ages(
    link: Link,
    before: Mapping[ProfileKey, Ages],
    after: Mapping[ProfileKey, Ages],
    profiles: Profiles,
) -> None:
    kept = sorted(
        (*key, rows.from_ages(ages))
        for key, ages in after.items()
        if key in profiles and ages != before.get(key)
    )
    if kept:
        await link.fetch(_KEEP_AGES, *columns(kept))


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
