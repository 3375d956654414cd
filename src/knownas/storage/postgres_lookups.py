"""Reverse look-ups, and reads of many profiles: functions on a link, by point reads only."""

import uuid
from collections.abc import Sequence
from typing import Final, NamedTuple

from knownas.errors import KnownasError
from knownas.lookups import Holder, Holders, Place, Sought
from knownas.model import AppId, Profile, ProfileId, ProfileRef
from knownas.storage import postgres_reads as reads
from knownas.storage.postgres_changes import Holding
from knownas.storage.postgres_link import Link
from knownas.storage.postgres_reads import ProfileKey

# Each kind stops by itself: a value that very many have costs no more than a page of them.
_FIND_HOLDERS: Final = """
SELECT a.number, f.profile_id
FROM unnest($1::integer[], $2::smallint[], $3::text[], $4::uuid[], $5::integer[])
  WITH ORDINALITY AS a (app_id, kind, value, first, most, number)
CROSS JOIN LATERAL (
  SELECT i.profile_id FROM identifiers i
  WHERE i.app_id = a.app_id AND i.kind = a.kind AND i.value = a.value
    AND i.profile_id >= a.first
  ORDER BY i.profile_id LIMIT a.most
) AS f
ORDER BY a.number, f.profile_id
"""
_PAST_THE_LAST: Final = 2**128

Question = tuple[AppId, Sought]
ManyRefs = tuple[AppId, Sequence[ProfileRef]]
ManySought = tuple[AppId, Sequence[Sought]]


class _Entry(NamedTuple):
    """A row of the reverse index."""

    kind: int
    profile_id: uuid.UUID


async def profiles(link: Link, batches: list[ManyRefs]) -> list[list[Profile | KnownasError]]:
    """Read profiles, whole: each batch by two statements at most."""
    return [await reads.profiles(link, [(app, ref) for ref in refs]) for app, refs in batches]


async def holders_of_each(link: Link, batches: list[ManySought]) -> list[list[Holders]]:
    """Return who has the values: each batch by two statements at most."""
    return [await holders(link, [(app, sought) for sought in wanted]) for app, wanted in batches]


async def holders(link: Link, questions: list[Question]) -> list[Holders]:
    """Return who has the values, by kind and profile id, by two statements at most."""
    entries = await _entries(link, questions)
    shown = [of[: sought.limit] for (_, sought), of in zip(questions, entries, strict=True)]
    keys = {
        (app, ProfileId(str(entry.profile_id)))
        for (app, _), of in zip(questions, shown, strict=True)
        for entry in of
    }
    read = await reads.profiles_of(link, keys)
    answers = []
    for (app, sought), every, of in zip(questions, entries, shown, strict=True):
        found = []
        for kind, profile_id in of:
            profile = read.get((app, ProfileId(str(profile_id))))
            # Between the two statements it may have been deleted, or got another value.
            if profile is not None and profile.identifiers[kind] == sought.value:
                found.append(Holder(kind, profile))
        more = len(every) > len(of)
        answers.append(Holders(found, Place(of[-1].kind, of[-1].profile_id.int) if more else None))
    return answers


async def holders_of(
    link: Link, holdings: set[Holding], limit: int
) -> dict[Holding, list[ProfileKey]]:
    """Return the keys of profiles that have each of these values, at most so many."""
    if not holdings:
        return {}
    listed = sorted(holdings)
    asked = reads.columns((*holding, uuid.UUID(int=0), limit) for holding in listed)
    found: dict[Holding, list[ProfileKey]] = {holding: [] for holding in listed}
    for number, profile_id in await link.fetch(_FIND_HOLDERS, *asked):
        holding = listed[number - 1]
        found[holding].append((holding[0], ProfileId(str(profile_id))))
    return found


async def _entries(link: Link, questions: list[Question]) -> list[list[_Entry]]:
    """Return the rows of the index that each question finds; one more than its limit, or all."""
    asked: list[tuple[int, int]] = []
    rows: list[tuple[AppId, int, str, uuid.UUID, int]] = []
    for at, (app, sought) in enumerate(questions):
        after = sought.after or Place(-1, 0)
        for kind in sought.kinds:
            first = after.at + 1 if kind == after.kind else 0
            if kind >= after.kind and first < _PAST_THE_LAST:
                asked.append((at, kind))
                rows.append((app, kind, sought.value, uuid.UUID(int=first), sought.limit + 1))
    entries: list[list[_Entry]] = [[] for _ in questions]
    if rows:
        for number, profile_id in await link.fetch(_FIND_HOLDERS, *reads.columns(rows)):
            at, kind = asked[number - 1]
            if len(entries[at]) <= questions[at][1].limit:
                entries[at].append(_Entry(kind, profile_id))
    return entries
