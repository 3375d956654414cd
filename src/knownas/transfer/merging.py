"""What a row of a file makes of a profile: a pure function of an edit.

A row whose identifiers have times of their own is treated as an event is: what is older than what
is there changes nothing, and a customer is never taken from a profile. So it is of no account
whether such rows or webhooks come first. Any other row says how things are now.
"""

from collections.abc import Mapping
from typing import NamedTuple

from knownas import writes
from knownas.editing import Edit
from knownas.errors import FieldError, IdentifierTaken
from knownas.model import KIND_NUMBER, NO_IDENTIFIERS, Policies, Profile, ProfileId, ProfileRef
from knownas.transfer.rows import Row
from knownas.webhooks.applying import free, newer
from knownas.webhooks.received import Told


class Terms(NamedTuple):
    """On what terms rows are merged."""

    policies: Policies
    exclusive: frozenset[int]
    """The kinds of which a value may stand on one profile only."""
    now: int


class Merged(NamedTuple):
    """What became of a profile."""

    before: Profile | None
    after: Profile
    conflicts: list[FieldError]
    """What of the row stood against what is there, and is not stored."""


def merge(edit: Edit, row: Row, new_id: ProfileId, terms: Terms) -> Merged:
    """Merge a row into its profile, which is made as `new_id` where there is none.

    Raises ProfileConflict, IdentifierTaken and ValidationError, and ProfileNotFound for a person
    who was erased; then nothing of the row is stored.
    """
    if row.times is not None:
        return _merge_dated(edit, row, row.times, new_id, terms)
    of_customer, of_id = edit.find(row.ref)
    before = of_customer or of_id
    bound = row.ref.settle_or_new(of_customer, of_id, new_id, terms.now)
    after = row.applied(bound, is_new=before is None)
    if after != before:
        if terms.policies:
            writes.make_way(edit, before, bound, row.values(), terms.policies)
        after = edit.put(before, after, exclusive=terms.exclusive)
    return Merged(before, after, [])


def _merge_dated(
    edit: Edit, row: Row, times: tuple[int, ...], new_id: ProfileId, terms: Terms
) -> Merged:
    """Merge what of a row is newer than what is there."""
    ref, conflicts = free(edit, row.ref)
    of_customer, of_id = edit.find(ref)
    before = of_customer or of_id
    ages = {} if before is None else edit.ages(before)
    there = NO_IDENTIFIERS if before is None else before.identifiers
    told = [
        (kind, Told(value, at))
        for kind, (value, at) in enumerate(zip(row.identifiers, times, strict=True))
        if value is not None
    ]
    news = newer(told, there, ages, terms.now)
    try:
        merged = merge(edit, _of_now(row, ref, news), new_id, terms)
    except IdentifierTaken as taken:
        conflicts += taken.fields
        for source, _ in taken.fields:
            if source is not None:
                del news[KIND_NUMBER[source]]
        merged = merge(edit, _of_now(row, ref, news), new_id, terms)
    if news:
        now_of = {kind: one.at for kind, one in news.items()}
        edit.keep_ages(merged.after, {**ages, **now_of})
    return merged._replace(conflicts=conflicts)


def _of_now(row: Row, ref: ProfileRef, news: Mapping[int, Told]) -> Row:
    """Return a row that says what is news, of whoever is named."""
    identifiers = list(NO_IDENTIFIERS)
    for kind, one in news.items():
        identifiers[kind] = one.value
    return row._replace(ref=ref, identifiers=tuple(identifiers), times=None)
