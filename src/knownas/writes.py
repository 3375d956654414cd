"""Writes that need more than one profile to be seen at once: pure functions of an `Edit`.

Policies, batches, customers that change hands, and requests that are sent again.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

import msgspec

from knownas.editing import Answer, Check, Edit, Needs
from knownas.errors import (
    BatchFailed,
    FieldError,
    IdempotencyConflict,
    IdentifierTaken,
    KnownasError,
    ProfileConflict,
    ProfileNotFound,
)
from knownas.model import (
    KIND_NUMBER,
    Identifiers,
    Policies,
    Profile,
    ProfileId,
    ProfileRef,
    clear_identifiers,
    merge_identifiers,
)

ANSWER_KEPT_MS: Final = 24 * 3_600_000
"""How long the answer to an Idempotency-Key is kept, at least."""


class Once(NamedTuple):
    """A request that is to be done once, however often it is sent."""

    key: str
    """What the client sent as its Idempotency-Key."""
    fingerprint: bytes
    """Of all that the request says: another one under the same key is refused."""


class Done(msgspec.Struct, frozen=True, array_like=True):
    """What a write came to, as it is kept for who sends it again: nothing of a person but an id."""

    profile_id: ProfileId
    revision: int
    error: tuple[str, tuple[FieldError, ...]] | None = None
    """Of an item of a batch that failed: its code, and what was said."""


class Setting(NamedTuple):
    """What is to be set and cleared on one profile."""

    ref: ProfileRef
    values: Mapping[str, str] = {}
    """By kind name."""
    cleared: Sequence[str] = ()
    """Names of kinds; they are cleared first, so that all can be replaced by what is set."""
    create_as: ProfileId | None = None
    """The id of the profile that is made where there is none; None makes none."""

    def applied(self, identifiers: Identifiers) -> Identifiers:
        """Return identifiers with this cleared and set."""
        kinds = {KIND_NUMBER[name] for name in self.cleared}
        return merge_identifiers(clear_identifiers(identifiers, kinds), self.values)


def needs_of(settings: Sequence[Setting], policies: Policies, once: Once | None = None) -> Needs:
    """Return what `set_identifiers` of each setting will ask for."""
    return Needs(
        refs=[setting.ref for setting in settings],
        values=[
            (KIND_NUMBER[name], value)
            for setting in settings
            for name, value in setting.values.items()
            if policies.get(name, "allow") != "allow"
        ],
        answer=once and once.key,
    )


def set_identifiers(
    edit: Edit,
    setting: Setting,
    policies: Policies,
    now: int,
    check: Check | None = None,
) -> Profile:
    """Set and clear identifiers of one profile, as the app's policies and `check` allow.

    Raises ProfileNotFound, ProfileConflict, and IdentifierTaken with an entry per kind; then
    nothing was written.
    """
    before, bound = _bound(edit, setting.ref, setting.create_as, now)
    if check is not None and before is not None:
        check.refuse(before)
    after = msgspec.structs.replace(bound, identifiers=setting.applied(bound.identifiers))
    make_way(edit, before, bound, setting.values, policies)
    return edit.put(before, after, exclusive=exclusive_kinds(policies))


def make_way(
    edit: Edit,
    before: Profile | None,
    bound: Profile,
    values: Mapping[str, str],
    policies: Policies,
) -> None:
    """Take identifiers from other profiles that are to be set on one, as the policies have it.

    Raises IdentifierTaken with an entry per kind, and ProfileNotFound for a person who was erased;
    then nothing was written.
    """
    robbed: dict[ProfileId, Profile] = {}
    taken: list[FieldError] = []
    for name, value in values.items():
        policy = policies.get(name, "allow")
        kind = KIND_NUMBER[name]
        if policy == "allow" or bound.identifiers[kind] == value:
            continue
        for holder in edit.holders(kind, value):
            if holder.profile_id == bound.profile_id:
                continue
            if policy == "reject":
                taken.append(FieldError(name, IdentifierTaken.message))
                break
            known = robbed.get(holder.profile_id, holder)
            robbed[holder.profile_id] = _without(known, kind)
    if taken:
        raise IdentifierTaken(fields=taken)
    if robbed:
        edit.admit(before, bound)
    for profile in robbed.values():
        edit.put(edit.find(ProfileRef(profile_id=profile.profile_id))[1], profile)


def change_one(  # noqa: PLR0913 - as `Storage.change_profile`
    edit: Edit,
    ref: ProfileRef,
    change: Callable[[Profile], Profile],
    create_as: ProfileId | None,
    now: int,
    *,
    anew: bool = False,
    check: Check | None = None,
) -> Profile:
    """Replace one profile, as `Storage.change_profile` does, if `check` allows it."""
    found, bound = _bound(edit, ref, create_as, now)
    if check is not None and found is not None:
        check.refuse(found)
    return edit.put(found, change(bound), anew=anew)


def _bound(
    edit: Edit, ref: ProfileRef, create_as: ProfileId | None, now: int
) -> tuple[Profile | None, Profile]:
    """Return the profile that there is, and the one to go on with: bound, or new."""
    found = edit.find(ref)
    if create_as is None:
        return found[0] or found[1], ref.settle(*found)
    return found[0] or found[1], ref.settle_or_new(*found, create_as, now)


def remove_one(edit: Edit, ref: ProfileRef, check: Check | None) -> Profile:
    """Delete one profile as `Storage.delete_profile` does, and return what it was."""
    profile = ref.settle(*edit.find(ref))
    if check is not None:
        check.refuse(profile)
    edit.remove(profile)
    return profile


def exclusive_kinds(policies: Policies) -> frozenset[int]:
    """Return the kinds of which a value may stand on one profile only."""
    return frozenset(KIND_NUMBER[name] for name, policy in policies.items() if policy != "allow")


def _without(profile: Profile, kind: int) -> Profile:
    identifiers = list(profile.identifiers)
    identifiers[kind] = None
    return msgspec.structs.replace(profile, identifiers=tuple(identifiers))


def write_batch(
    edit: Edit, settings: Sequence[Setting], policies: Policies, now: int, *, atomic: bool
) -> list[Done]:
    """Set identifiers of many profiles; one that cannot be done fails alone.

    Where they are `atomic` nothing is done then: raises BatchFailed, which says which and why.
    """
    done: list[Done] = []
    failed: list[FieldError] = []
    for position, setting in enumerate(settings):
        try:
            profile = set_identifiers(edit, setting, policies, now)
            done.append(Done(profile.profile_id, profile.revision))
        except KnownasError as error:
            done.append(Done(ProfileId(""), 0, (error.code, error.fields)))
            failed += error.within(f"items[{position}]")
    if failed and atomic:
        raise BatchFailed(fields=failed)
    return done


def bind_customer(
    edit: Edit, profile_id: ProfileId, customer: str | None, *, rebind: bool
) -> Profile:
    """Have a customer be that of a profile; None leaves the profile without one.

    With `rebind` a customer is taken from the profile that it had, and a profile gets another
    customer than its own. Raises ProfileNotFound, and ProfileConflict without `rebind`.
    """
    _, profile = edit.find(ProfileRef(profile_id=profile_id))
    if profile is None:
        raise ProfileNotFound
    if customer == profile.customer_user_id:
        return profile
    if customer is not None:
        owner, _ = edit.find(ProfileRef(customer))
        of_other = owner is not None and owner.profile_id != profile.profile_id
        if not rebind and (of_other or profile.customer_user_id is not None):
            raise ProfileConflict(
                "The customer has another profile, or the profile another customer; "
                'send "rebind": true to change that.'
            )
        if owner is not None and owner.customer_user_id == customer:
            edit.put(owner, msgspec.structs.replace(owner, customer_user_id=None))
    after = msgspec.structs.replace(profile, customer_user_id=customer)
    return edit.put(profile, after, anew=True)


def once(
    edit: Edit, request: Once | None, now: int, work: Callable[[], list[Done]]
) -> tuple[list[Done], bool]:
    """Do `work`, or return what it came to when the same request was sent before.

    The second value tells whether it was done now. Raises IdempotencyConflict when the key was
    sent with another request; what `work` raises is not kept: the request may be sent again.
    """
    if request is None:
        return work(), True
    kept = edit.answer(request.key)
    if kept is not None and kept.expires_at > now:
        if kept.fingerprint != request.fingerprint:
            raise IdempotencyConflict(source="idempotency-key")
        return msgspec.json.decode(kept.answer, type=list[Done]), False
    done = work()
    text = msgspec.json.encode(done).decode()
    edit.keep_answer(request.key, Answer(request.fingerprint, text, now + ANSWER_KEPT_MS))
    return done, True
