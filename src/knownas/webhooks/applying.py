"""How an event changes profiles: a pure function of an `Edit`.

What an event tells has the event's time. It takes effect where it is newer than what is there: than
the newest event that told the same kind, and than the last write by any other way. Of two events of
one time the greater value counts, so that their order never matters.
"""

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from knownas.editing import Answer, Edit, Needs
from knownas.errors import FieldError, IdentifierTaken, ProfileNotFound
from knownas.model import (
    KIND_NUMBER,
    KINDS,
    NO_IDENTIFIERS,
    Identifiers,
    Policies,
    ProfileId,
    ProfileRef,
)
from knownas.webhooks.received import Event, Party, Told
from knownas.writes import Setting, needs_of, set_identifiers


class Seen(NamedTuple):
    """How it is known that an event came before."""

    key: str
    """No client can send it as an Idempotency-Key, since it has a blank."""
    until: int
    """How long that is known."""


def needs_to_apply(event: Event, policies: Policies, seen: Seen) -> Needs:
    """Return what `apply` will ask for."""
    told = {name: one.value for name, one in event.identifiers.items()}
    parties = [*([event.party] if event.party else []), *event.others]
    settings = [Setting(_ref(one), told if one is event.party else {}) for one in parties]
    return needs_of(settings, policies)._replace(answer=seen.key, ages=True)


def is_repeated(edit: Edit, seen: Seen, now: int) -> bool:
    """Tell whether an event came before; from now on it did."""
    before = edit.answer(seen.key)
    if before is not None and before.expires_at > now:
        return True
    edit.keep_answer(seen.key, Answer(b"", "[]", seen.until))
    return False


def apply(
    edit: Edit, event: Event, *, policies: Policies, now: int, create_as: ProfileId
) -> list[FieldError]:
    """Make of profiles what an event tells, and return what of it stood against what is there.

    A profile that is not there is made, with the id of the event or else `create_as`. Raises
    ProfileNotFound where the event is about a person who was erased; others who were are left out.
    """
    if event.party is None:
        return []
    conflicts = _tell(edit, event.party, event.identifiers, policies, now, create_as)
    for position, other in enumerate(event.others):
        with contextlib.suppress(ProfileNotFound):
            for _, message in _tell(edit, other, {}, policies, now, create_as):
                conflicts.append(FieldError(f"others[{position}].customer_user_id", message))
    return conflicts


def _tell(  # noqa: PLR0913, PLR0917 - whom, what, and on what terms
    edit: Edit,
    party: Party,
    told: Mapping[str, Told],
    policies: Policies,
    now: int,
    create_as: ProfileId,
) -> list[FieldError]:
    ref, conflicts = free(edit, _ref(party))
    by_customer, by_id = edit.find(ref)
    before = by_customer or by_id
    ages = {} if before is None else edit.ages(before)
    there = NO_IDENTIFIERS if before is None else before.identifiers
    news = newer(((KIND_NUMBER[name], one) for name, one in told.items()), there, ages, now)
    values = {KINDS[kind].name: one.value for kind, one in news.items()}
    setting = Setting(ref, values, create_as=party.profile_id or create_as)
    try:
        after = set_identifiers(edit, setting, policies, now)
    except IdentifierTaken as taken:
        conflicts += taken.fields
        for source, _ in taken.fields:
            if source is not None:
                del news[KIND_NUMBER[source]], values[source]
        after = set_identifiers(edit, setting, policies, now)
    if news:
        edit.keep_ages(after, {**ages, **{kind: one.at for kind, one in news.items()}})
    return conflicts


def newer(
    told: Iterable[tuple[int, Told]], there: Identifiers, ages: Mapping[int, int], now: int
) -> dict[int, Told]:
    """Return by number of the kind what is newer than what is there.

    `ages` says by number of the kind of which time that is.
    """
    found: dict[int, Told] = {}
    for kind, (value, said_at) in told:
        at = min(said_at, now)  # a clock that is ahead must not shut out all that comes after
        if (at, value) > (ages.get(kind, 0), there[kind] or ""):
            found[kind] = Told(value, at)
    return found


def free(edit: Edit, ref: ProfileRef) -> tuple[ProfileRef, list[FieldError]]:
    """Return whom an event names, without a customer that it would have to take from somebody."""
    if ref.profile_id is None or ref.customer_user_id is None:
        return ref, []
    by_customer, by_id = edit.find(ref)
    if by_customer is None:
        its_own = by_id is None or by_id.customer_user_id is None
        said = "The profile has another customer here, and keeps it."
    else:
        its_own = by_id is not None and by_id.profile_id == by_customer.profile_id
        said = "The customer has another profile here, and keeps it; the two may be merged."
    if its_own:
        return ref, []
    return ProfileRef(profile_id=ref.profile_id), [FieldError("customer_user_id", said)]


def _ref(party: Party) -> ProfileRef:
    return ProfileRef(party.customer, party.profile_id)


def words_of(problems: Sequence[FieldError]) -> str:
    """Return problems as one line for people."""
    return "; ".join(
        message if source is None else f"{source}: {message}" for source, message in problems
    )
