"""What a transaction notes of the changes that it makes: the history, and what is counted of apps.

A change is written with the number of its transaction, or with that of the profile's change before
where that is greater: then this transaction had its number before it waited for the other one. It
was under way all the while, so nobody was told anything from its number on (`postgres_feed.py`).

What all servers write, the counts, is written last, in one order by all, and so is locked only
while the transaction commits.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Final, NamedTuple

import asyncpg
import msgspec

from knownas.editing import TakenBack
from knownas.history import DAY_MS, Difference, Source, counts_of, difference
from knownas.model import AppId, Profile, ProfileId
from knownas.storage import rows
from knownas.storage.postgres_errors import Outrun
from knownas.storage.postgres_link import Link
from knownas.storage.postgres_reads import ProfileKey, columns, in_order

OWN: Final = "(SELECT base + pg_current_xact_id()::text::bigint AS tx FROM feed)"
"""The number of the transaction, for FROM."""

OWN_TX: Final = "SELECT base + pg_current_xact_id()::text::bigint FROM feed"

ENDS: Final = """(
  coalesce(json_typeof(difference::json -> 'n' -> 1) = 'null', false)
  OR difference::json -> 'e' IS NOT NULL)"""
"""Whether a change is the end of its profile, or of no profile."""

_LAST: Final = f"""
SELECT a.number, last.*
FROM unnest($1::integer[], $2::uuid[]) WITH ORDINALITY AS a (app_id, profile_id, number)
CROSS JOIN LATERAL (
  SELECT c.revision, c.tx, {ENDS} AS is_end FROM changes c
  WHERE c.app_id = a.app_id AND c.profile_id = a.profile_id
  ORDER BY c.revision DESC LIMIT 1) AS last
"""  # noqa: S608 - what ends is a constant
INSERT_CHANGES: Final = f"""
INSERT INTO changes (app_id, profile_id, revision, at, source, difference, about, tx)
SELECT a.app_id, a.profile_id, a.revision, a.at, a.source, a.difference, a.about,
  greatest(a.tx, own.tx)
FROM unnest(
  $1::integer[], $2::uuid[], $3::bigint[], $4::bigint[], $5::text[], $6::text[], $7::text[],
  $8::bigint[])
  AS a (app_id, profile_id, revision, at, source, difference, about, tx), {OWN} AS own
ON CONFLICT DO NOTHING RETURNING 1
"""  # noqa: S608 - the number is a constant
CHANGE_COLUMNS: Final = (
    "app_id",
    "profile_id",
    "revision",
    "at",
    "source",
    "difference",
    "about",
    "tx",
)
_HOLDERS_OF: Final = """
  WITH ORDINALITY AS a (app_id, kind, value, most, number)
CROSS JOIN LATERAL (
  SELECT count(*) FROM (
    SELECT 1 FROM identifiers i
    WHERE i.app_id = a.app_id AND i.kind = a.kind AND i.value = a.value LIMIT a.most) AS found
) AS holders
WHERE holders.count > 0
"""
_HOLDERS: Final = f"""
SELECT a.number, holders.count
FROM unnest($1::integer[], $2::smallint[], $3::text[], $4::integer[]){_HOLDERS_OF}
"""  # noqa: S608 - what follows is a constant
_HELD_AMONG: Final = """
SELECT a.value FROM unnest(string_to_array($3, E'\\x1f')) AS a (value)
CROSS JOIN LATERAL (
  SELECT 1 FROM identifiers i WHERE i.app_id = $1 AND i.kind = $2 AND i.value = a.value LIMIT 1)
AS held
"""
_SHARED_AMONG: Final = """
SELECT a.value FROM unnest(string_to_array($3, E'\\x1f')) AS a (value)
CROSS JOIN LATERAL (
  SELECT 1 FROM shared_identifiers s
  WHERE s.app_id = $1 AND s.kind = $2 AND s.value = a.value LIMIT 1) AS shared
"""
_SEPARATOR: Final = "\x1f"
"""A control character, so it is in no value."""
MANY: Final = 1_000
"""Rows that are brought as texts or by COPY: asyncpg takes much longer for each item of an array
than for a field of a row, and to find out that it is no array itself for the most of it."""
# A value that becomes shared has one holder, or had none; an update is by one less than is brought.
_SHARE: Final = """
INSERT INTO shared_identifiers AS s (app_id, kind, value, profiles)
SELECT * FROM unnest($1::integer[], $2::smallint[], $3::text[], $4::bigint[])
ON CONFLICT (app_id, kind, value) DO UPDATE SET profiles = s.profiles + excluded.profiles - 1
RETURNING s.app_id, s.kind, s.value, s.profiles
"""
_UNSHARE: Final = """
DELETE FROM shared_identifiers s
USING unnest($1::integer[], $2::smallint[], $3::text[]) AS a (app_id, kind, value)
WHERE s.app_id = a.app_id AND s.kind = a.kind AND s.value = a.value
"""
_COVER: Final = """
INSERT INTO coverage AS c (app_id, day, kind, slot, change)
SELECT a.app_id, a.day, a.kind, pg_backend_pid() % 32, a.change
FROM unnest($1::integer[], $2::integer[], $3::smallint[], $4::bigint[])
  AS a (app_id, day, kind, change)
ON CONFLICT (app_id, day, kind, slot) DO UPDATE SET change = c.change + excluded.change
"""

Holding = tuple[AppId, int, str]
"""A kind and a value in an app."""

Move = tuple[Holding | None, Holding | None]
"""What a profile has no longer, and what it has instead."""

ChangeRow = tuple[AppId, ProfileId, int, int, str, str, str | None, int]


class Entry(NamedTuple):
    """One change of one profile, before it is noted."""

    app: AppId
    before: Profile | None
    after: Profile | None
    at: int
    by: Source
    undoes: TakenBack | None = None

    @property
    def profile_id(self) -> ProfileId:
        """Whose change it is."""
        return self._known().profile_id

    @property
    def revision(self) -> int:
        """The revision that comes with it: that of its end, too, is counted."""
        return self.after.revision if self.after else self._known().revision + 1

    @property
    def difference(self) -> Difference:
        """What it changes, but for which identifiers others have already."""
        takes_back = self.undoes.revision if self.undoes else 0
        return difference(self.before, self.after, takes_back=takes_back)

    def _known(self) -> Profile:
        known = self.after or self.before
        if known is None:
            raise ValueError("A change has a profile before it, after it, or both.")
        return known


class Last(NamedTuple):
    """Where the history of an id has come to."""

    revision: int
    tx: int
    is_end: bool


async def last_of(link: Link, keys: Iterable[ProfileKey]) -> dict[ProfileKey, Last]:
    """Return the last change of each id that ever had one."""
    listed = sorted(keys)
    if not listed:
        return {}
    found = await link.fetch(_LAST, *columns(listed))
    return {listed[number - 1]: Last(*last) for number, *last in found}


class Tally:
    """What the changes of one transaction do to what is counted."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._coverage: Counter[tuple[AppId, int, int]] = Counter()
        self._shared: dict[Holding, tuple[int, int]] = {}
        """How many have it, as far as it matters, and by how many these become more."""

    async def rows(
        self, link: Link, entries: list[Entry], changed_in: Mapping[ProfileKey, int]
    ) -> list[ChangeRow]:
        """Return the rows that the entries will be in `changes`, and count the entries.

        It is to be called before any of it is written, with the `tx` of the last change of each
        profile that had one.
        """
        differences = [one.difference for one in entries]
        shared = await self._count_holders(link, await _moves(link, entries, differences))
        counts: dict[tuple[AppId, int], list[tuple[int, int]]] = {}
        for one, differs in zip(entries, differences, strict=True):
            counts.setdefault((one.app, one.at // DAY_MS), []).extend(counts_of(differs))
        for (app, day), of_day in counts.items():
            for (kind, change), times in Counter(of_day).items():
                self._coverage[app, day, kind] += change * times
        noted = []
        for one, differs, kinds in zip(entries, differences, shared, strict=True):
            profile_id = one.profile_id
            told = msgspec.structs.replace(differs, shared=kinds) if kinds else differs
            noted.append(
                (
                    one.app,
                    profile_id,
                    one.revision,
                    one.at,
                    one.by.text(),
                    rows.from_difference(told),
                    rows.about(one.before, one.after, one.undoes),
                    changed_in.get((one.app, profile_id), 0),
                )
            )
        return noted

    async def _count_holders(self, link: Link, moves: list[list[Move]]) -> list[tuple[int, ...]]:
        """Return for each entry the kinds of which another profile has the new value already."""
        lost = Counter(old for of_entry in moves for old, _ in of_entry if old)
        keys = {key for of_entry in moves for pair in of_entry for key in pair if key}
        before = await _holders(link, {key: lost[key] + 2 for key in keys})
        now = dict(before)
        shared = [_move(of_entry, now) for of_entry in moves]
        for key, count in now.items():
            if count != before[key] and max(count, before[key]) > 1:
                first, more = self._shared.get(key, (before[key], 0))
                self._shared[key] = (first, more + count - before[key])
        return shared

    async def write(self, link: Link) -> None:
        """Write the counts: the last that the transaction does."""
        if self._shared:
            brought = columns(
                (*key, more + (1 if first else 0))
                for key, (first, more) in sorted(self._shared.items())
            )
            listed = await link.fetch(_SHARE, *brought)
            if over := sorted(tuple(key) for *key, profiles in listed if profiles <= 1):
                await link.fetch(_UNSHARE, *columns(over))
        if covered := sorted((*key, change) for key, change in self._coverage.items() if change):
            await link.fetch(_COVER, *columns(covered))


async def _moves(
    link: Link, entries: list[Entry], differences: list[Difference]
) -> list[list[Move]]:
    """Return for each entry what its profile has no longer, each with what it has instead.

    Of many it is left out what is of no account to any other profile, now and before.
    """
    apps = [one.app for one in entries]
    if sum(len(differs.identifiers) for differs in differences) <= MANY:
        return [
            [
                (
                    None if old is None else (app, kind, old),
                    None if new is None else (app, kind, new),
                )
                for kind, old, new in differs.identifiers
            ]
            for app, differs in zip(apps, differences, strict=True)
        ]
    others = await _of_others(link, apps, differences)
    if not others:
        return [[] for _ in entries]
    return [
        [
            (_if_among(others, app, kind, old), _if_among(others, app, kind, new))
            for kind, old, new in differs.identifiers
        ]
        for app, differs in zip(apps, differences, strict=True)
    ]


def _if_among(others: set[Holding], app: AppId, kind: int, value: str | None) -> Holding | None:
    if value is None:
        return None
    holding = (app, kind, value)
    return holding if holding in others else None


async def _of_others(link: Link, apps: list[AppId], differences: list[Difference]) -> set[Holding]:
    """Return which identifiers that are lost or got several profiles have, get or lose."""
    got = defaultdict[tuple[AppId, int], list[str]](list)
    lost = defaultdict[tuple[AppId, int], list[str]](list)
    for app, differs in zip(apps, differences, strict=True):
        for kind, old, new in differs.identifiers:
            if new is not None:
                got[app, kind].append(new)
            if old is not None:
                lost[app, kind].append(old)
    found: set[Holding] = set()
    for statement, of in ((_HELD_AMONG, got), (_SHARED_AMONG, lost)):
        for key, values in of.items():
            text = _SEPARATOR.join(sorted(values))
            found.update((*key, value) for (value,) in await link.fetch(statement, *key, text))
    for key in got.keys() | lost.keys():
        values = got[key] + lost[key]
        if len(set(values)) < len(values):
            counts = Counter(values)
            found.update((*key, value) for value, times in counts.items() if times > 1)
    return found


def _move(moves: list[Move], holders: dict[Holding, int]) -> tuple[int, ...]:
    """Count holders anew, and return the kinds of which others have the new value already."""
    shared: tuple[int, ...] = ()
    for old, new in moves:
        if old is not None:
            holders[old] -= 1
        if new is not None:
            if holders[new] > 0:
                shared += (new[1],)
            holders[new] += 1
    return shared


async def _holders(link: Link, most: dict[Holding, int]) -> dict[Holding, int]:
    """Return how many profiles have what, or that they are at least so many."""
    if not most:
        return {}
    listed = in_order(most)
    found = await link.fetch(_HOLDERS, *columns((*key, most[key]) for key in listed))
    # Most of what is new nobody has, and what is not there needs no way back.
    return dict.fromkeys(listed, 0) | {listed[number - 1]: count for number, count in found}


async def note(link: Link, noted: list[ChangeRow]) -> None:
    """Write changes into the history.

    Raises Outrun where an id has such a revision already: others made and ended it meanwhile.
    """
    if len(noted) > MANY:
        own = await own_tx(link)
        records = [(*row, max(own, tx)) for *row, tx in sorted(noted, key=itemgetter(0, 1, 2))]
        await stream(link, "changes", CHANGE_COLUMNS, records)
    elif noted and len(await link.fetch(INSERT_CHANGES, *columns(noted))) < len(noted):
        raise Outrun


async def own_tx(link: Link) -> int:
    """Return the number of the transaction."""
    return int((await link.fetch(OWN_TX))[0][0])


async def stream(
    link: Link, table: str, names: Sequence[str], records: Iterable[Sequence[object]]
) -> None:
    """Stream new rows into a table. Raises Outrun where one of them is there already."""
    try:
        await link.copy(table, names, records)
    except asyncpg.UniqueViolationError:
        raise Outrun from None
