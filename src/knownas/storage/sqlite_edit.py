"""An edit on SQLite: each step is a statement on the writer's connection, in its transaction."""

from collections.abc import Collection, Mapping
from typing import Final

import apsw
import msgspec

from knownas.editing import MAX_CHANGES, MAX_HOLDERS, Ages, Alias, Answer, TakenBack
from knownas.erasing import Subjects
from knownas.history import Change, Source
from knownas.lookups import Sought
from knownas.model import AppId, Profile, ProfileId, ProfileRef
from knownas.storage import (
    rows,
    sqlite_aliases,
    sqlite_changes,
    sqlite_profiles,
    sqlite_tombstones,
)
from knownas.storage.sqlite_ids import to_blob

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


class SqliteEdit:
    """`knownas.editing.Edit` on a connection."""

    def __init__(
        self, connection: apsw.Connection, app: AppId, subjects: Subjects, now: int, by: Source
    ) -> None:
        """Write into the transaction that the connection is in, at `now`, as `by`."""
        self._connection = connection
        self._subjects = subjects
        self._app = app
        self._now = now
        self._by = by

    def find(self, ref: ProfileRef) -> tuple[Profile | None, Profile | None]:
        """See `Edit.find`."""
        by_customer, by_id = sqlite_profiles.look_up(self._connection, self._app, ref)
        return by_customer and by_customer[1], by_id and by_id[1]

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
        after = sqlite_tombstones.admit(
            self._connection,
            self._app,
            self._subjects,
            before,
            after,
            anew_at=self._now if anew else None,
        )
        if before is None:
            number = None
            revision = sqlite_changes.next_revision(self._connection, self._app, after.profile_id)
        else:
            number = sqlite_profiles.number_of(self._connection, self._app, before.profile_id)
            revision = before.revision + 1
        kept = msgspec.structs.replace(
            after,
            updated_at=max(self._now, before.updated_at if before else after.created_at),
            revision=revision,
        )
        sqlite_profiles.store(self._connection, self._app, number, before, kept, self._by, undoes)
        return kept

    def remove(self, profile: Profile) -> int:
        """See `Edit.remove`."""
        ref = ProfileRef(profile_id=profile.profile_id)
        sqlite_profiles.delete(self._connection, self._app, ref, self._now, self._by)
        return profile.revision + 1

    def holders(self, kind: int, value: str) -> list[Profile]:
        """See `Edit.holders`."""
        sought = Sought((kind,), value, MAX_HOLDERS)
        found = sqlite_profiles.holders(self._connection, self._app, sought)
        return [one.profile for one in found.found]

    def change(self, profile_id: ProfileId, revision: int) -> Change | None:
        """See `Edit.change`."""
        return sqlite_changes.change(self._connection, self._app, profile_id, revision)

    def alias(self, name: str) -> Alias | None:
        """See `Edit.alias`."""
        return sqlite_aliases.find(self._connection, self._app, name)

    def lead(self, name: str, alias: Alias | None) -> None:
        """See `Edit.lead`."""
        sqlite_aliases.put(self._connection, self._app, name, alias)

    def ages(self, profile: Profile) -> Mapping[int, int]:
        """See `Edit.ages`."""
        key = (self._app, to_blob(profile.profile_id))
        kept = rows.to_ages(self._connection.execute(_AGES, key).get)
        if kept.revision == profile.revision:
            return kept.times
        changes = sqlite_changes.history(
            self._connection, self._app, profile.profile_id, None, MAX_CHANGES
        )
        later = [(one.at, one.difference) for one in changes if one.revision > kept.revision]
        return kept.followed_by(reversed(later))

    def keep_ages(self, profile: Profile, times: Mapping[int, int]) -> None:
        """See `Edit.keep_ages`."""
        text = rows.from_ages(Ages(profile.revision, times))
        key = (self._app, to_blob(profile.profile_id))
        self._connection.execute(_KEEP_AGES, (text, *key))

    def answer(self, key: str) -> Answer | None:
        """See `Edit.answer`."""
        found = self._connection.execute(_ANSWER, (self._app, key)).fetchone()
        return None if found is None else Answer(*found)

    def keep_answer(self, key: str, answer: Answer) -> None:
        """See `Edit.keep_answer`."""
        self._connection.execute(_KEEP_ANSWER, (self._app, key, *answer))


def prune_answers(connection: apsw.Connection, now: int) -> None:
    """Delete the answers that nobody gets any more."""
    connection.execute(_PRUNE_ANSWERS, (now,))
