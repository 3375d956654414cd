"""An edit on SQLite: each step is a statement on the writer's connection, in its transaction."""

from collections.abc import Collection, Mapping
from typing import Final

import apsw
import msgspec

from knownas.editing import (
    MAX_CHANGES,
    MAX_HOLDERS,
    Ages,
    Alias,
    Answer,
    Needs,
    TakenBack,
    alias_names,
)
from knownas.erasing import Subjects
from knownas.errors import ProfileNotFound
from knownas.history import Change, Source
from knownas.lookups import Sought
from knownas.model import AppId, Profile, ProfileId, ProfileRef
from knownas.storage import rows, sqlite_aliases, sqlite_changes, sqlite_many, sqlite_profiles
from knownas.storage.sqlite_changes import Entry, entry
from knownas.storage.sqlite_ids import to_blob
from knownas.storage.sqlite_index import Moves, add_moves, index
from knownas.storage.sqlite_many import Pending
from knownas.storage.sqlite_tombstones import Gate

_ANSWER: Final = """
SELECT fingerprint, answer, expires_at FROM answers WHERE app_id = ? AND key = ?
"""
_KEEP_ANSWER: Final = """
INSERT INTO answers (app_id, key, fingerprint, answer, expires_at) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (app_id, key) DO UPDATE SET
  fingerprint = excluded.fingerprint, answer = excluded.answer, expires_at = excluded.expires_at
"""
_AGES: Final = "SELECT ages FROM profiles WHERE app_id = ? AND profile_id = ?"
_KEEP_AGES: Final = "UPDATE profiles SET ages = ? WHERE app_id = ? AND profile_id = ?"
_PRUNE_ANSWERS: Final = "DELETE FROM answers WHERE expires_at <= ?"


_Found = tuple[int, Profile] | None
"""The row's number and what is in it; None where there is no such profile."""


class SqliteEdit:
    """`knownas.editing.Edit` on a connection.

    What was found is kept, as it becomes: nobody else writes meanwhile. So all is written at the
    end, or before something is asked that only the tables tell: each table once, in its own order.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - where, when, by whom, and what for
        self,
        connection: apsw.Connection,
        app: AppId,
        subjects: Subjects,
        now: int,
        by: Source,
        needs: Needs,
    ) -> None:
        """Write into the transaction that the connection is in, at `now`, as `by`.

        Profiles that it `needs` are read at once. `finish` has to be called at the end.
        """
        self._connection = connection
        self._subjects = subjects
        self._app = app
        self._now = now
        self._by = by
        self._gate: Gate | None = None
        self._has_merged: bool | None = None
        self._entries: list[Entry] = []
        self._moves: Moves = {}
        self._pending: dict[ProfileId, Pending] = {}
        self._ages: dict[ProfileId, Ages] = {}
        self._next_number: int | None = None
        refs = needs.refs
        customers = {ref.customer_user_id for ref in refs if ref.customer_user_id is not None}
        ids = {ref.profile_id for ref in refs if ref.profile_id is not None}
        self._customers: dict[str, _Found] = dict.fromkeys(customers)
        self._ids: dict[ProfileId, _Found] = dict.fromkeys(ids)
        self._ids |= sqlite_profiles.all_by_id(connection, app, ids)
        # Most customers are those of the profiles that are named with them.
        for found in self._ids.values():
            if found is not None and found[1].customer_user_id in customers:
                self._customers[found[1].customer_user_id] = found
                customers.remove(found[1].customer_user_id)
        self._customers |= sqlite_profiles.all_by_customer(connection, app, customers)
        absent = [one for one in ids if self._ids[one] is None]
        self._revisions = sqlite_changes.last_revisions(connection, app, absent)
        """Of ids that had no profile at the beginning, that of the last one."""

    def finish(self) -> None:
        """Write what was put."""
        sqlite_many.write(self._connection, self._app, list(self._pending.values()))
        self._pending.clear()
        for profile_id, ages in self._ages.items():
            key = (self._app, to_blob(profile_id))
            self._connection.execute(_KEEP_AGES, (rows.from_ages(ages), *key))
        self._ages.clear()
        for at, kinds in index(self._connection, self._app, self._moves).items():
            self._entries[at] = self._entries[at].with_shared(kinds)
        sqlite_changes.note(self._connection, self._app, self._entries, self._by)
        self._moves.clear()
        self._entries.clear()

    def find(self, ref: ProfileRef) -> tuple[Profile | None, Profile | None]:
        """See `Edit.find`."""
        of_customer = of_id = None
        if ref.customer_user_id is not None:
            of_customer = self._by_customer(ref.customer_user_id)
        if ref.profile_id is not None:
            of_id = self._by_id(ref.profile_id)
        if (of_customer is None or of_id is None) and self._any_merged():
            for_customer, for_id = alias_names(ref)
            if of_customer is None and for_customer is not None:
                of_customer = self._follow(for_customer)
            if of_id is None and for_id is not None:
                of_id = self._follow(for_id)
        return of_customer and of_customer[1], of_id and of_id[1]

    def _by_customer(self, customer: str) -> _Found:
        if customer not in self._customers:
            found = sqlite_profiles.by_customer(self._connection, self._app, customer)
            self._customers[customer] = found
        return self._customers[customer]

    def _by_id(self, profile_id: ProfileId) -> _Found:
        if profile_id not in self._ids:
            self._ids[profile_id] = sqlite_profiles.by_id(self._connection, self._app, profile_id)
        return self._ids[profile_id]

    def _follow(self, name: str) -> _Found:
        """Return the profile into which the one of this name was merged, however many times."""
        while (alias := self.alias(name)) is not None:
            if found := self._by_id(alias.profile_id):
                return found
            name = f"p:{alias.profile_id}"
        return None

    def _any_merged(self) -> bool:
        """Tell whether any name leads to another profile."""
        if self._has_merged is None:
            self._has_merged = sqlite_aliases.any_of(self._connection, self._app)
        return self._has_merged

    def admit(self, before: Profile | None, after: Profile) -> None:
        """See `Edit.admit`."""
        if _is_named_anew(before, after):
            self._gatekeeper().admit(before, after, anew_at=None)

    def _gatekeeper(self) -> Gate:
        self._gate = self._gate or Gate(self._connection, self._app, self._subjects)
        return self._gate

    def put(
        self,
        before: Profile | None,
        after: Profile,
        *,
        exclusive: Collection[int] = (),
        anew: bool = False,
        undoes: TakenBack | None = None,
    ) -> Profile:
        """See `Edit.put`; writers take turns, so there is nothing to claim."""
        del exclusive
        if after == before and undoes is None:
            return after
        is_named_anew = _is_named_anew(before, after)
        if is_named_anew:
            anew_at = self._now if anew else None
            after = self._gatekeeper().admit(before, after, anew_at=anew_at)
        if before is None:
            number = self._new_number()
            revision = self._next_revision(after.profile_id)
        else:
            number = self._number_of(before)
            revision = before.revision + 1
        kept = msgspec.structs.replace(
            after,
            updated_at=max(self._now, before.updated_at if before else after.created_at),
            revision=revision,
        )
        known = self._pending.get(kept.profile_id)
        there = known.before if known else before
        self._pending[kept.profile_id] = Pending(number, there, kept)
        if is_named_anew and self._any_merged():
            names = alias_names(ProfileRef(kept.customer_user_id, kept.profile_id))
            sqlite_aliases.end(self._connection, self._app, names)
        noted = entry(before, kept, kept.updated_at, undoes)
        add_moves(self._moves, len(self._entries), number, noted.differs.identifiers)
        self._entries.append(noted)
        if before is not None:
            self._forget(before)
        self._ids[kept.profile_id] = number, kept
        if kept.customer_user_id is not None:
            self._customers[kept.customer_user_id] = number, kept
        return kept

    def _next_revision(self, profile_id: ProfileId) -> int:
        last = self._revisions.pop(profile_id, None)  # it may end again in this very edit
        if last is not None:
            return last + 1
        return sqlite_changes.next_revision(self._connection, self._app, profile_id)

    def _new_number(self) -> int:
        if self._next_number is None:
            self._next_number = sqlite_many.next_number(self._connection)
        self._next_number += 1
        return self._next_number - 1

    def _number_of(self, profile: Profile) -> int:
        found = self._by_id(profile.profile_id)
        if found is None:
            raise ProfileNotFound
        return found[0]

    def _forget(self, profile: Profile) -> None:
        """Note that a profile is not any more what it was."""
        self._ids[profile.profile_id] = None
        if profile.customer_user_id is not None:
            self._customers[profile.customer_user_id] = None

    def remove(self, profile: Profile) -> int:
        """See `Edit.remove`."""
        self.finish()
        self._forget(profile)
        ref = ProfileRef(profile_id=profile.profile_id)
        sqlite_profiles.delete(self._connection, self._app, ref, self._now, self._by)
        return profile.revision + 1

    def holders(self, kind: int, value: str) -> list[Profile]:
        """See `Edit.holders`."""
        self.finish()
        sought = Sought((kind,), value, MAX_HOLDERS)
        found = sqlite_profiles.holders(self._connection, self._app, sought)
        return [one.profile for one in found.found]

    def change(self, profile_id: ProfileId, revision: int) -> Change | None:
        """See `Edit.change`."""
        self.finish()
        return sqlite_changes.change(self._connection, self._app, profile_id, revision)

    def alias(self, name: str) -> Alias | None:
        """See `Edit.alias`."""
        return sqlite_aliases.find(self._connection, self._app, name)

    def lead(self, name: str, alias: Alias | None) -> None:
        """See `Edit.lead`."""
        self._has_merged = None
        sqlite_aliases.put(self._connection, self._app, name, alias)

    def ages(self, profile: Profile) -> Mapping[int, int]:
        """See `Edit.ages`."""
        kept = self._ages.get(profile.profile_id)
        if kept is None:
            key = (self._app, to_blob(profile.profile_id))
            kept = rows.to_ages(self._connection.execute(_AGES, key).get)
        if kept.revision == profile.revision:
            return kept.times
        if profile.profile_id in self._pending:
            self.finish()
        changes = sqlite_changes.history(
            self._connection, self._app, profile.profile_id, None, MAX_CHANGES
        )
        later = [(one.at, one.difference) for one in changes if one.revision > kept.revision]
        return kept.followed_by(reversed(later))

    def keep_ages(self, profile: Profile, times: Mapping[int, int]) -> None:
        """See `Edit.keep_ages`."""
        self._ages[profile.profile_id] = Ages(profile.revision, times)

    def answer(self, key: str) -> Answer | None:
        """See `Edit.answer`."""
        found = self._connection.execute(_ANSWER, (self._app, key)).fetchone()
        return None if found is None else Answer(*found)

    def keep_answer(self, key: str, answer: Answer) -> None:
        """See `Edit.keep_answer`."""
        self._connection.execute(_KEEP_ANSWER, (self._app, key, *answer))


def _is_named_anew(before: Profile | None, after: Profile) -> bool:
    return before is None or before.customer_user_id != after.customer_user_id


def prune_answers(connection: apsw.Connection, now: int) -> None:
    """Delete the answers that nobody gets any more."""
    connection.execute(_PRUNE_ANSWERS, (now,))
