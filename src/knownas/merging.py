"""Two profiles become one, and two again: pure functions of an `Edit`.

The survivor takes over what the source has; a rule decides where both have something. The
source's id and customer then lead to the survivor. Nothing is lost: the history of both has how
they were, and so, as long as that is kept, a merge can be undone.
"""

from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple

import msgspec

from knownas.editing import Alias, Edit, TakenBack, alias_names
from knownas.errors import (
    HistoryExpired,
    ProfileConflict,
    ProfileNotFound,
    ValidationError,
)
from knownas.history import Change
from knownas.model import (
    KINDS,
    Attributes,
    Policies,
    Profile,
    ProfileId,
    ProfileRef,
    merge_attributes,
)
from knownas.writes import exclusive_kinds

Side = Literal["survivor", "source"]
"""Whose value is kept where both have one."""

CUSTOMER: Final = "customer_user_id"
ATTRIBUTES: Final = "custom_attributes"

RULES: Final = frozenset({*(kind.name for kind in KINDS), CUSTOMER, ATTRIBUTES})
"""What a rule can be made for."""


class Clash(NamedTuple):
    """Something that both profiles have, each its own."""

    field: str
    survivor: Any
    source: Any
    kept: Side


class Merge(NamedTuple):
    """What a merge makes, or would make."""

    before: Profile
    """The survivor as it was."""
    survivor: Profile
    source: Profile
    """As it was."""
    clashes: list[Clash]


class Undone(NamedTuple):
    """The two profiles after a merge was undone."""

    survivor: Profile
    source: Profile


def plan(survivor: Profile, source: Profile, rules: Mapping[str, Side], default: Side) -> Merge:
    """Return what a merge would make of two profiles.

    Raises ValidationError when the survivor would have more than 30 attributes.
    """
    clashes: list[Clash] = []

    def chosen(field: str, ours: Any, theirs: Any, label: str = "") -> Any:  # noqa: ANN401 - of any field
        if ours is None or theirs is None or ours == theirs:
            return theirs if ours is None else ours
        side = rules.get(field, default)
        clashes.append(Clash(label or field, ours, theirs, side))
        return ours if side == "survivor" else theirs

    identifiers = tuple(
        chosen(kind.name, ours, theirs)
        for kind, ours, theirs in zip(KINDS, survivor.identifiers, source.identifiers, strict=True)
    )
    ours = dict(survivor.attributes)
    attributes = {
        key: chosen(ATTRIBUTES, ours.get(key), theirs, f"{ATTRIBUTES}.{key}")
        for key, theirs in source.attributes
    }
    customer = chosen(CUSTOMER, survivor.customer_user_id, source.customer_user_id)
    after = msgspec.structs.replace(
        survivor,
        customer_user_id=customer,
        identifiers=identifiers,
        attributes=merge_attributes(survivor.attributes, attributes),
    )
    return Merge(survivor, after, source, clashes)


def merge(  # noqa: PLR0913 - two profiles and how they are to become one
    edit: Edit,
    survivor_ref: ProfileRef,
    source_ref: ProfileRef,
    *,
    rules: Mapping[str, Side],
    default: Side,
    policies: Policies,
    now: int,
    dry_run: bool,
) -> Merge:
    """Merge the source into the survivor, or with `dry_run` only say what would come of it.

    Raises ProfileNotFound, ProfileConflict when both are one profile, and ValidationError as
    `plan`.
    """
    survivor = survivor_ref.settle(*edit.find(survivor_ref))
    source = source_ref.settle(*edit.find(source_ref))
    if survivor.profile_id == source.profile_id:
        raise ProfileConflict("Both are the same profile already.")
    planned = plan(survivor, source, rules, default)
    if dry_run:
        return planned
    end = edit.remove(source)
    kept = edit.put(survivor, planned.survivor, exclusive=exclusive_kinds(policies))
    changed = kept.revision if kept.revision != survivor.revision else 0
    alias = Alias(survivor.profile_id, end, changed, now)
    _, of_id = alias_names(ProfileRef(profile_id=source.profile_id))
    if of_id is not None:
        edit.lead(of_id, alias)
    for customer in {survivor.customer_user_id, source.customer_user_id} - {
        None,
        kept.customer_user_id,
    }:
        of_customer, _ = alias_names(ProfileRef(customer))
        if of_customer is not None:
            edit.lead(of_customer, alias)
    return planned._replace(survivor=kept)


def undo(edit: Edit, source_id: ProfileId) -> Undone:
    """Make the profile that was merged again, and take back from the survivor what it brought.

    What was written since the merge stays with the survivor. Raises ProfileNotFound when no
    such profile was merged, HistoryExpired when the history does not have the merge any more,
    ValidationError when the survivor was merged itself, or deleted, since.
    """
    _, name = alias_names(ProfileRef(profile_id=source_id))
    alias = None if name is None else edit.alias(name)
    if name is None or alias is None:
        raise ProfileNotFound("No merge of this profile is known.")
    _, survivor = edit.find(ProfileRef(profile_id=alias.profile_id))
    if survivor is None or survivor.profile_id != alias.profile_id:
        raise ValidationError(
            "The survivor was merged itself, or deleted, since; undo the later merge first.",
            source="source",
        )
    end = edit.change(source_id, alias.revision)
    before = None if end is None else end.before(None)
    gain = edit.change(survivor.profile_id, alias.survivor_revision)
    if before is None or (alias.survivor_revision and gain is None):
        raise HistoryExpired("The history does not have this merge any more.")
    edit.lead(name, None)
    kept = survivor
    if gain is not None:
        undoes = TakenBack(source_id, gain.revision)
        kept = edit.put(survivor, _without_gain(survivor, gain), undoes=undoes)
    customer = _freed(edit, before.customer_user_id, kept)
    if kept.customer_user_id is not None:
        _freed(edit, kept.customer_user_id, kept)
    # Who is known of was not erased, or is about to be again (`knownas.replaying`).
    source = edit.put(None, msgspec.structs.replace(before, customer_user_id=customer), anew=True)
    return Undone(kept, source)


def _freed(edit: Edit, customer: str | None, survivor: Profile) -> str | None:
    """Return the customer if it leads to the survivor only because of merges, and end that."""
    if customer is None:
        return None
    name, _ = alias_names(ProfileRef(customer))
    alias = None if name is None else edit.alias(name)
    if alias is not None and alias.profile_id == survivor.profile_id and name is not None:
        edit.lead(name, None)
    owner, _ = edit.find(ProfileRef(customer))
    return customer if owner is None else None


def _without_gain(survivor: Profile, gain: Change) -> Profile:
    """Return the survivor with what a merge changed as it was, but for what has changed since."""
    identifiers = list(survivor.identifiers)
    for kind, old, new in gain.difference.identifiers:
        if identifiers[kind] == new:
            identifiers[kind] = old
    customer = survivor.customer_user_id
    if gain.difference.customer is not None and customer == gain.difference.customer[1]:
        customer = gain.difference.customer[0]
    attributes = survivor.attributes
    if gain.difference.attributes is not None:
        attributes = _attributes_without(attributes, *gain.difference.attributes)
    return msgspec.structs.replace(
        survivor,
        identifiers=tuple(identifiers),
        customer_user_id=customer,
        attributes=attributes,
    )


def _attributes_without(now: Attributes, before: Attributes, after: Attributes) -> Attributes:
    if now == after:
        return before
    old, new = dict(before), dict(after)
    kept = dict(now)
    for key, value in new.items():
        if kept.get(key) == value and old.get(key) != value:
            if key in old:
                kept[key] = old[key]
            else:
                kept.pop(key, None)
    return tuple(kept.items())
