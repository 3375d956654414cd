"""A person in all tables: found, and taken out. Functions on a link, in one transaction."""

from collections.abc import Generator, Sequence
from typing import Any, Final, TypeVar

from knownas import persons
from knownas.erasing import Person, Whom, profile_name
from knownas.errors import IdentifierShared
from knownas.history import SERVER, Change
from knownas.model import AppId, Profile, ProfileId, ProfileRef
from knownas.persons import End, Ends, Histories, LeadingTo, Mention, Mentions, Question
from knownas.storage import postgres_inbound, postgres_lookups, postgres_operators, rows
from knownas.storage import postgres_reads as reads
from knownas.storage.postgres_bulk import delete
from knownas.storage.postgres_changes import Entry, Tally
from knownas.storage.postgres_link import Link
from knownas.storage.postgres_reads import columns
from knownas.storage.postgres_writes import DELETE_ALIASES

T = TypeVar("T")

_LEADING_TO: Final = """
SELECT name FROM aliases s WHERE s.app_id = $1 AND s.profile_id = any($2::uuid[]) ORDER BY s.name
"""
_HISTORIES: Final = """
SELECT profile_id::text, revision, at, source, difference FROM changes
WHERE app_id = $1 AND profile_id = any($2::uuid[]) ORDER BY profile_id, revision
"""
_MENTIONS: Final = """
SELECT about, profile_id::text, revision, difference FROM changes c
WHERE c.app_id = $1 AND c.about = any($2::text[]) ORDER BY c.tx, c.profile_id, c.revision
"""
_UNMARK: Final = "UPDATE changes SET about = NULL WHERE app_id = $1 AND about = any($2::text[])"
_REWRITE: Final = """
UPDATE changes c SET difference = a.difference
FROM unnest($1::integer[], $2::uuid[], $3::bigint[], $4::text[])
  AS a (app_id, profile_id, revision, difference)
WHERE c.app_id = a.app_id AND c.profile_id = a.profile_id AND c.revision = a.revision
"""
_FORGET_CHANGES: Final = "DELETE FROM changes WHERE app_id = $1 AND profile_id = any($2::uuid[])"
_FORGET_DELIVERIES: Final = """
DELETE FROM deliveries WHERE app_id = $1 AND profile_id = any($2::uuid[])
"""
_FORGET_DIFFERENCES: Final = """
DELETE FROM shadow_differences WHERE app_id = $1 AND profile_id = any($2::uuid[])
"""
_FORGET_ANSWERS: Final = """
DELETE FROM answers s WHERE s.app_id = $1
  AND EXISTS (SELECT 1 FROM unnest($2::text[]) AS a (id) WHERE strpos(s.answer, a.id) > 0)
"""


async def find(link: Link, app: AppId, whom: Whom) -> Person:
    """Return all that there is of a person.

    Raises ProfileNotFound, and IdentifierShared where a value leads to several profiles.
    """
    finding = persons.find(await _living(link, app, whom), whom.ref)
    return await _answered(link, app, finding)


async def take_out(link: Link, app: AppId, person: Person, now: int) -> Tally:
    """Delete a person from all tables; what is counted is to be written at the end."""
    rewritten = await _answered(link, app, persons.rewrites(person))
    if rewritten:
        changed = [
            (app, one.profile_id, one.revision, rows.from_difference(one.difference))
            for one in rewritten
        ]
        await link.fetch(_REWRITE, *columns(sorted(changed)))
    tally = Tally()
    if person.profile is not None:
        await tally.rows(link, [Entry(app, person.profile, None, now, SERVER)], {})
        await delete(link, {(app, person.profile.profile_id): person.profile})
    ids = list(person.profile_ids)
    await link.fetch(_FORGET_CHANGES, app, ids)
    await link.fetch(_FORGET_DELIVERIES, app, ids)
    await link.fetch(_FORGET_DIFFERENCES, app, ids)
    await link.fetch(_FORGET_ANSWERS, app, ids)
    await postgres_inbound.forget(link, app, person.words)
    await postgres_operators.forget(link, app, ids)
    await link.fetch(DELETE_ALIASES, *columns(sorted((app, name) for name in person.names)))
    await link.fetch(_UNMARK, app, person.names)
    return tally


async def _living(link: Link, app: AppId, whom: Whom) -> Profile | None:
    if whom.ref is None:
        found = await postgres_lookups.holders_of(
            link, {(app, kind, whom.value) for kind in whom.kinds}, 2
        )
        keys = {key for of in found.values() for key in of}
        if len(keys) > 1:
            raise IdentifierShared
        return next(iter((await reads.profiles_of(link, keys)).values()), None)
    halves = [ProfileRef(whom.ref.customer_user_id), ProfileRef(profile_id=whom.ref.profile_id)]
    asked = [(app, half) for half in halves if half != ProfileRef()]
    answers = dict(zip(asked, await reads.profiles(link, asked), strict=True))
    by_customer, by_id = (answers.get((app, half)) for half in halves)
    found_ones = [one if isinstance(one, Profile) else None for one in (by_customer, by_id)]
    return whom.ref.settle(*found_ones) if any(found_ones) else None


# --- what is looked up ----------------------------------------------------------------------------


async def _answered(link: Link, app: AppId, asking: Generator[Question, Any, T]) -> T:
    """Look up what is asked, until that comes to an end."""
    found: Any = None
    while True:
        try:
            question = asking.send(found)
        except StopIteration as end:
            result: T = end.value
            return result
        found = await _found(link, app, question)


async def _found(link: Link, app: AppId, question: Question) -> Any:  # noqa: ANN401 - as the question says
    match question:
        case LeadingTo(ids):
            return [name for (name,) in await link.fetch(_LEADING_TO, app, list(ids))]
        case Histories(ids):
            return [_to_change(*row) for row in await link.fetch(_HISTORIES, app, list(ids))]
        case Mentions(names):
            return [
                Mention(name, ProfileId(profile_id), revision, rows.to_difference(text))
                for name, profile_id, revision, text in await link.fetch(
                    _MENTIONS, app, list(names)
                )
            ]
        case Ends(names):
            return await _ends(link, app, names)


async def _ends(link: Link, app: AppId, names: Sequence[str]) -> dict[str, End]:
    refs = [
        ProfileRef(name[2:])
        if name.startswith("c:")
        else ProfileRef(profile_id=ProfileId(name[2:]))
        for name in names
    ]
    found: dict[str, End] = {}
    dead = []
    for name, profile in zip(
        names, await reads.profiles(link, [(app, ref) for ref in refs]), strict=True
    ):
        if isinstance(profile, Profile):
            found[name] = End(profile.profile_id, lives=True)
        else:
            dead.append(name)
    steps = {name: name for name in dead}
    while steps:
        aliases = await reads.aliases_of(link, {(app, step) for step in steps.values()})
        led = {
            name: aliases[app, step].profile_id
            for name, step in steps.items()
            if (app, step) in aliases
        }
        found |= {name: End(profile_id, lives=False) for name, profile_id in led.items()}
        steps = {name: profile_name(profile_id) for name, profile_id in led.items()}
    return found


def _to_change(profile_id: str, *row: Any) -> Change:  # noqa: ANN401 - the columns of a row
    return rows.to_change("", ProfileId(profile_id), *row)
