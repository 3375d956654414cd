"""What becomes of several profiles, step by step, in memory."""

from collections.abc import Callable
from typing import Any, Final, NamedTuple, TypeVar

import msgspec

from knownas.editing import Ages, Alias, Answer
from knownas.erasing import LOCKED, new_names
from knownas.errors import FeatureNotConfigured, ProfileNotFound, Unauthorized
from knownas.history import Source
from knownas.model import NO_IDENTIFIERS, AppId, Profile, ProfileId, ProfileRef
from knownas.storage import postgres_reads as reads
from knownas.storage.postgres_changes import Entry, Holding
from knownas.storage.postgres_held import AnswerKey, Held
from knownas.storage.postgres_reads import AliasKey, ProfileKey, customer_name, id_name

K = TypeVar("K")
V = TypeVar("V")

_ABSENT: Final = object()

IdentifierKey = tuple[AppId, int, str, ProfileId]
Mark = tuple[int, int]


class Write(NamedTuple):
    """What is to become of one profile."""

    app: AppId
    ref: ProfileRef
    change: Callable[[Profile], Profile] | None
    """None deletes it."""
    now: int
    create_as: ProfileId | None
    by: Source
    check: Callable[[Profile], None] | None = None
    """What may stop a deletion."""
    anew: bool = False
    """Whether an erased name may be someone else's from now on."""


class State:
    """What there is after each step of a group."""

    def __init__(self, held: Held) -> None:
        """Begin with what the transaction has of the database."""
        self.customers = dict(held.customers)
        self.profiles = dict(held.profiles)
        self.aliases: dict[AliasKey, Alias | None] = dict(held.aliases)
        self.answers: dict[AnswerKey, Answer | None] = dict(held.answers)
        self.ages: dict[ProfileKey, Ages] = dict(held.ages)
        self.revived: dict[AliasKey, int] = {}
        """Erased names under which others begin anew, and when."""
        self.claimed: dict[IdentifierKey, None] = {}
        """Identifiers that no other profile may have."""
        self.entries: list[Entry] = []
        """What has changed so far."""
        self._changed: dict[ProfileKey, None] = {}
        """Of whom that tells."""
        self._revisions = dict(held.revisions)
        self._holders = {holding: dict.fromkeys(of) for holding, of in held.holders.items()}
        self._deleted_apps = held.deleted_apps
        self._erased, self._locked_erased = held.erased, held.locked_erased
        self._undo: list[tuple[dict[Any, Any], Any, Any]] = []

    # --- one profile --------------------------------------------------------------------------

    def outcome(self, write: Write) -> Profile | BaseException:
        """Apply one write and return what comes of it; an error changes nothing."""
        try:
            return (
                self._delete(write) if write.change is None else self._change(write, write.change)
            )
        except Exception as error:  # noqa: BLE001 - whatever a change raises is told to its caller
            return error

    def _delete(self, write: Write) -> Profile:
        profile = write.ref.settle(*self.look_up(write.app, write.ref))
        if write.check is not None:
            write.check(profile)
        at = max(write.now, profile.updated_at)
        self.replace(Entry(write.app, profile, None, at, write.by))
        return profile

    def _change(self, write: Write, change: Callable[[Profile], Profile]) -> Profile:
        by_customer, by_id = self.look_up(write.app, write.ref)
        before = by_customer or by_id
        if write.create_as is None:
            bound = write.ref.settle(by_customer, by_id)
        else:
            bound = write.ref.settle_or_new(by_customer, by_id, write.create_as, write.now)
            if before is None:
                self.refuse_deleted(write.app)
        after = change(bound)
        if (after.profile_id, after.customer_user_id) != (bound.profile_id, bound.customer_user_id):
            raise ValueError("A change must leave a profile's ids as they are.")
        if after != before:
            after = self.admit(write.app, before, after, write.now if write.anew else None)
            after = msgspec.structs.replace(
                after,
                updated_at=max(write.now, bound.updated_at),  # the clock may have been put back
                revision=self.next_revision(write.app, before, after.profile_id),
            )
            self.replace(Entry(write.app, before, after, after.updated_at, write.by))
        return after

    # --- what every change is made of ---------------------------------------------------------

    def look_up(self, app: AppId, ref: ProfileRef) -> tuple[Profile | None, Profile | None]:
        """Return what the customer and what the profile id of `ref` find, aliases included."""
        return reads.look_up(app, ref, self.customers, self.profiles, self._follow)

    def _follow(self, name: AliasKey) -> Profile | None:
        while alias := self.aliases.get(name):
            key = (name[0], alias.profile_id)
            if key in self.profiles:
                return self.profiles[key]
            name = id_name(key)
        return None

    def holders(self, holding: Holding) -> list[Profile]:
        """Return the profiles that have an identifier, in the order of their ids."""
        return [self.profiles[key] for key in sorted(self._holders[holding])]

    def refuse_deleted(self, app: AppId) -> None:
        """Raise Unauthorized where an app is known to be gone."""
        if app in self._deleted_apps:
            raise Unauthorized

    def admit(
        self, app: AppId, before: Profile | None, after: Profile, anew_at: int | None
    ) -> Profile:
        """Return the profile to write, where none of the names that are new to it was erased.

        With `anew_at` it is someone else's from that time on, who begins no earlier than the
        erasure. Raises ProfileNotFound; FeatureNotConfigured where that cannot be known.
        """
        names = [(app, name) for name in new_names(before, after)]
        if names and app in self._locked_erased:
            raise FeatureNotConfigured(LOCKED)
        erased = [name for name in names if name in self._erased and name not in self.revived]
        if not erased:
            return after
        if anew_at is None:
            raise ProfileNotFound
        for name in erased:
            self._set(self.revived, name, anew_at)
        if before is not None or after.created_at < anew_at:
            return after  # it has begun before
        erased_at = max(stone.erased_at for name in erased for stone in self._erased[name])
        return msgspec.structs.replace(after, created_at=max(after.created_at, erased_at))

    def next_revision(self, app: AppId, before: Profile | None, profile_id: ProfileId) -> int:
        """Return the revision that follows: for a new profile that of its id's last end."""
        last = before.revision if before else self._revisions.get((app, profile_id), 0)
        return last + 1

    def replace(self, entry: Entry) -> None:
        """Have one state of a profile follow another; a name that is its own leads nowhere else."""
        app, before, after = entry.app, entry.before, entry.after
        key = (app, entry.profile_id)
        if before is not None and before.customer_user_id is not None:
            self._drop(self.customers, (app, before.customer_user_id))
        if after is None:
            self._drop(self.profiles, key)
            self._set(self._revisions, key, entry.revision)
        else:
            self._set(self.profiles, key, after)
            if after.customer_user_id is not None:
                self._set(self.customers, (app, after.customer_user_id), key)
            if self.aliases:
                self._own_names(key, after.customer_user_id)
        if self._holders:
            self._move(key, before, after)
        if key not in self._changed:
            self._set(self._changed, key, None)
        self.entries.append(entry)

    def _own_names(self, key: ProfileKey, customer: str | None) -> None:
        self.lead(id_name(key), None)
        if customer is not None:
            self.lead(customer_name((key[0], customer)), None)

    def _move(self, key: ProfileKey, before: Profile | None, after: Profile | None) -> None:
        old = before.identifiers if before else NO_IDENTIFIERS
        new = after.identifiers if after else NO_IDENTIFIERS
        for kind, (lost, gained) in enumerate(zip(old, new, strict=True)):
            if lost != gained:
                losers = self._holders.get((key[0], kind, lost)) if lost else None
                if losers is not None and key in losers:
                    self._drop(losers, key)
                gainers = self._holders.get((key[0], kind, gained)) if gained else None
                if gainers is not None:
                    self._set(gainers, key, None)

    def lead(self, name: AliasKey, alias: Alias | None) -> None:
        """Have a name lead somewhere, or with None nowhere."""
        if alias is not None or self.aliases.get(name) is not None:
            self._set(self.aliases, name, alias)

    def owns(self, name: AliasKey) -> bool:
        """Tell whether a name is that of a profile that there is."""
        app, text = name
        half, _, of = text.partition(":")
        if half == "c":
            return (app, of) in self.customers
        return (app, ProfileId(of)) in self.profiles

    def claim(self, key: IdentifierKey) -> None:
        """Have an identifier be that of one profile alone."""
        self._set(self.claimed, key, None)

    def keep_answer(self, key: AnswerKey, answer: Answer) -> None:
        """Keep an answer, in the place of one that is there."""
        self._set(self.answers, key, answer)

    def ages_of(self, key: ProfileKey) -> dict[int, int]:
        """Return of which times a profile's identifiers are, after all steps."""
        kept = self.ages.get(key, Ages())
        if key not in self._changed:
            return dict(kept.times)
        return kept.followed_by(
            (entry.at, entry.difference)
            for entry in self.entries
            if (entry.app, entry.profile_id) == key and entry.revision > kept.revision
        )

    def keep_ages(self, key: ProfileKey, ages: Ages) -> None:
        """Keep of which times a profile's identifiers are."""
        self._set(self.ages, key, ages)

    def made(self) -> set[ProfileKey]:
        """Return whose profiles have been made, whatever became of them."""
        return {(one.app, one.profile_id) for one in self.entries if one.before is None}

    # --- back -----------------------------------------------------------------------------------

    def mark(self) -> Mark:
        """Return what `back_to` takes to make all undone that comes from now on."""
        return len(self._undo), len(self.entries)

    def back_to(self, mark: Mark) -> None:
        """Have all as it was."""
        steps, entries = mark
        while len(self._undo) > steps:
            mapping, key, value = self._undo.pop()
            if value is _ABSENT:
                del mapping[key]
            else:
                mapping[key] = value
        del self.entries[entries:]

    def _set(self, mapping: dict[K, V], key: K, value: V) -> None:
        self._undo.append((mapping, key, mapping.get(key, _ABSENT)))
        mapping[key] = value

    def _drop(self, mapping: dict[K, V], key: K) -> None:
        self._undo.append((mapping, key, mapping.pop(key)))
