"""Reads of several profiles at once, each by its key: functions on a link."""

from collections.abc import Callable, Iterable
from operator import itemgetter
from typing import Any, Final

from knownas.editing import Alias, alias_names
from knownas.errors import KnownasError, ProfileNotFound
from knownas.model import AppId, Identifiers, Profile, ProfileId, ProfileRef
from knownas.storage import rows
from knownas.storage.postgres_link import Link

_FIND_CUSTOMERS: Final = """
SELECT a.number, c.profile_id
FROM unnest($1::integer[], $2::text[]) WITH ORDINALITY AS a (app_id, customer_user_id, number)
JOIN customers c ON c.app_id = a.app_id AND c.customer_user_id = a.customer_user_id
"""
_READ_IDENTIFIERS: Final = """
SELECT a.number, p.customer_user_id, p.identifiers
FROM unnest($1::integer[], $2::uuid[]) WITH ORDINALITY AS a (app_id, profile_id, number)
JOIN profiles p ON p.app_id = a.app_id AND p.profile_id = a.profile_id
"""
_READ_PROFILES: Final = """
SELECT a.number, p.changed_in, p.customer_user_id, p.identifiers, p.attributes,
  p.created_at, p.updated_at, p.revision
FROM unnest($1::integer[], $2::uuid[]) WITH ORDINALITY AS a (app_id, profile_id, number)
JOIN profiles p ON p.app_id = a.app_id AND p.profile_id = a.profile_id
"""
_PROFILE_COLUMNS: Final = (
    "p.profile_id::text, p.customer_user_id, p.identifiers, p.attributes,"
    " p.created_at, p.updated_at, p.revision"
)
_FIRST_PROFILES: Final = f"""
SELECT {_PROFILE_COLUMNS} FROM profiles p WHERE p.app_id = $1
ORDER BY p.profile_id LIMIT $2
"""  # noqa: S608 - the columns are a constant
_NEXT_PROFILES: Final = f"""
SELECT {_PROFILE_COLUMNS} FROM profiles p WHERE p.app_id = $1 AND p.profile_id > $3
ORDER BY p.profile_id LIMIT $2
"""  # noqa: S608 - the columns are a constant
_LOCK_PROFILES: Final = f"""{_READ_PROFILES}
ORDER BY p.app_id, p.profile_id FOR UPDATE OF p
"""
_LOCK_FREE_PROFILES: Final = f"{_LOCK_PROFILES} SKIP LOCKED"
_HAS_MERGED: Final = "SELECT 1 FROM aliases WHERE app_id = $1 LIMIT 1"
_FIND_ALIASES: Final = """
SELECT a.number, s.profile_id, s.revision, s.survivor_revision, s.merged_at
FROM unnest($1::integer[], $2::text[]) WITH ORDINALITY AS a (app_id, name, number)
JOIN aliases s ON s.app_id = a.app_id AND s.name = a.name
"""

Question = tuple[AppId, ProfileRef]
CustomerKey = tuple[AppId, str]
ProfileKey = tuple[AppId, ProfileId]
AliasKey = tuple[AppId, str]
Customers = dict[CustomerKey, ProfileKey]
Profiles = dict[ProfileKey, Profile]


async def identifiers(link: Link, questions: list[Question]) -> list[Identifiers | KnownasError]:
    """Read the identifiers of profiles that are named by customer or by id, not by both.

    By id it takes one statement, by customer a second one before it; what is not found is looked
    for among those that were merged by one more.
    """
    answers: list[Identifiers | None] = [None] * len(questions)
    ids: list[Any] = [ref.profile_id for _, ref in questions]
    by_customer = [at for at, profile_id in enumerate(ids) if profile_id is None]
    if by_customer:
        apps = [questions[at][0] for at in by_customer]
        customers = [questions[at][1].customer_user_id for at in by_customer]
        for number, profile_id in await link.fetch(_FIND_CUSTOMERS, apps, customers):
            ids[by_customer[number - 1]] = profile_id
    asked = [at for at, profile_id in enumerate(ids) if profile_id is not None]
    if asked:
        apps = [questions[at][0] for at in asked]
        found = await link.fetch(_READ_IDENTIFIERS, apps, [ids[at] for at in asked])
        for number, customer, text in found:
            at = asked[number - 1]
            # Between the two statements the profile may have become another customer's.
            if questions[at][1].customer_user_id in {None, customer}:
                answers[at] = rows.to_identifiers(text)
    missed = {at: _name(*questions[at]) for at, answer in enumerate(answers) if answer is None}
    if missed:
        survivors = await merged(link, set(missed.values()))
        for at, name in missed.items():
            if name in survivors:
                answers[at] = survivors[name].identifiers
    return [ProfileNotFound() if answer is None else answer for answer in answers]


def _name(app: AppId, ref: ProfileRef) -> AliasKey:
    """Return the alias of a reference that has one half."""
    of_customer, of_id = alias_names(ref)
    return app, of_customer or of_id or ""


async def profiles(link: Link, questions: list[Question]) -> list[Profile | KnownasError]:
    """Read profiles, whole."""
    by_customer = await customers_of(link, customer_keys(questions))
    read = await profiles_of(link, {*by_customer.values(), *profile_keys(questions)})
    missed: set[AliasKey] = set()
    for app, ref in questions:
        look_up(app, ref, by_customer, read, missed.add)
    survivors = await merged(link, missed)
    answers: list[Profile | KnownasError] = []
    for app, ref in questions:
        try:
            answers.append(ref.settle(*look_up(app, ref, by_customer, read, survivors.get)))
        except KnownasError as error:
            answers.append(error)
    return answers


async def merged(link: Link, names: set[AliasKey]) -> dict[AliasKey, Profile]:
    """Return the profiles into which those of these names were merged, however many times."""
    found: dict[AliasKey, Profile] = {}
    steps = {name: name for name in names}
    while steps:
        aliases = await aliases_of(link, set(steps.values()))
        ends = {
            name: (step[0], aliases[step].profile_id)
            for name, step in steps.items()
            if step in aliases
        }
        read = await profiles_of(link, set(ends.values()))
        found |= {name: read[key] for name, key in ends.items() if key in read}
        steps = {name: id_name(key) for name, key in ends.items() if key not in read}
    return found


def id_name(key: ProfileKey) -> AliasKey:
    """Return the alias of a profile's id."""
    return key[0], f"p:{key[1]}"


def customer_name(key: CustomerKey) -> AliasKey:
    """Return the alias of a customer."""
    return key[0], f"c:{key[1]}"


async def has_merged(link: Link, app: AppId) -> bool:
    """Tell whether any name of an app leads to another profile."""
    return bool(await link.fetch(_HAS_MERGED, app))


async def aliases_of(link: Link, names: set[AliasKey]) -> dict[AliasKey, Alias]:
    """Return where names lead; one that leads nowhere is left out."""
    if not names:
        return {}
    listed = sorted(names)
    found = await link.fetch(_FIND_ALIASES, *columns(listed))
    return {
        listed[number - 1]: Alias(ProfileId(str(profile_id)), *others)
        for number, profile_id, *others in found
    }


async def profiles_after(
    link: Link, app: AppId, profile_id: ProfileId | None, limit: int
) -> list[Profile]:
    """Return the next profiles in the order of their ids."""
    if profile_id is None:
        found = await link.fetch(_FIRST_PROFILES, app, limit)
    else:
        found = await link.fetch(_NEXT_PROFILES, app, limit, profile_id)
    return [rows.to_profile(ProfileId(found_id), row) for found_id, *row in found]


def look_up(
    app: AppId,
    ref: ProfileRef,
    customers: Customers,
    profiles: Profiles,
    follow: Callable[[AliasKey], Profile | None],
) -> tuple[Profile | None, Profile | None]:
    """Return what the customer and what the profile id of `ref` find in what was read.

    What is not there is asked of `follow`, by its alias.
    """
    by_customer = by_id = None
    if ref.customer_user_id is not None:
        customer = (app, ref.customer_user_id)
        key = customers.get(customer)
        by_customer = None if key is None else profiles.get(key)
        if by_customer is not None and by_customer.customer_user_id != ref.customer_user_id:
            by_customer = None  # it became another customer's between the two statements
        if by_customer is None:
            by_customer = follow(customer_name(customer))
    if ref.profile_id is not None:
        key = (app, ref.profile_id)
        by_id = profiles.get(key) or follow(id_name(key))
    return by_customer, by_id


def customer_keys(questions: Iterable[Question]) -> set[CustomerKey]:
    """Return the customers that are named."""
    return {
        (app, ref.customer_user_id) for app, ref in questions if ref.customer_user_id is not None
    }


def profile_keys(questions: Iterable[Question]) -> set[ProfileKey]:
    """Return the profiles that are named by their id."""
    return {(app, ref.profile_id) for app, ref in questions if ref.profile_id is not None}


async def customers_of(link: Link, keys: set[CustomerKey]) -> Customers:
    """Return where customers lead; one that is not there is left out."""
    if not keys:
        return {}
    listed = sorted(keys)
    found = await link.fetch(_FIND_CUSTOMERS, *columns(listed))
    return {
        listed[number - 1]: (listed[number - 1][0], ProfileId(str(profile_id)))
        for number, profile_id in found
    }


async def profiles_of(link: Link, keys: set[ProfileKey]) -> Profiles:
    """Return profiles by their keys; one that is not there is left out."""
    return (await _profiles_of(link, keys, _READ_PROFILES))[0]


async def locked_profiles(
    link: Link, keys: set[ProfileKey], *, wait: bool = True
) -> tuple[Profiles, dict[ProfileKey, int]]:
    """Return profiles, locked in the order of their keys, and the `tx` of the last change of each.

    One that is not there is left out; without `wait`, also one that another transaction holds.
    """
    return await _profiles_of(link, keys, _LOCK_PROFILES if wait else _LOCK_FREE_PROFILES)


async def _profiles_of(
    link: Link, keys: set[ProfileKey], statement: str
) -> tuple[Profiles, dict[ProfileKey, int]]:
    listed = sorted(keys)
    found = await link.fetch(statement, *columns(listed)) if listed else []
    profiles, changed_in = {}, {}
    for number, tx, *row in found:
        key = listed[number - 1]
        profiles[key], changed_in[key] = rows.to_profile(key[1], row), tx
    return profiles, changed_in


def in_order(keys: Iterable[tuple[Any, ...]]) -> list[Any]:
    """Return identifiers in the order of the reverse index: app, kind, value.

    The kinds are apart: whole keys take several times as long to compare.
    """
    by_kind: dict[tuple[Any, ...], list[tuple[Any, ...]]] = {}
    for key in keys:
        by_kind.setdefault(key[:2], []).append(key)
    for of_kind in by_kind.values():
        of_kind.sort(key=itemgetter(2))
    return [key for kind in sorted(by_kind) for key in by_kind[kind]]


def columns(listed: Iterable[tuple[Any, ...]]) -> list[list[Any]]:
    """Return rows as `unnest` takes them: a list for each column. There must be a row."""
    return [list(column) for column in zip(*listed, strict=True)]
