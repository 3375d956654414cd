"""How a profile was: found by walking back from how it is, change by change."""

from typing import Final, NamedTuple

from knownas.errors import HistoryExpired, ProfileNotFound
from knownas.history import Change
from knownas.model import AppId, Profile, ProfileId, ProfileRef
from knownas.storage import Storage

PAGE: Final = 200

_NOT_YET: Final = "The profile did not exist then."


class Moment(NamedTuple):
    """Which state of a profile is meant: one of the two."""

    at: int | None = None
    """Milliseconds since 1970, UTC."""
    revision: int | None = None

    def is_reached(self, revision: int, at: int) -> bool:
        """Tell whether a state that began so is the one that is meant, if no newer one is."""
        if self.revision is not None:
            return revision <= self.revision
        return self.at is None or at <= self.at


async def profile_as_of(storage: Storage, app: AppId, ref: ProfileRef, moment: Moment) -> Profile:
    """Return a profile as it was.

    One that was deleted is found by its id alone. Raises ProfileNotFound where there was none
    then, HistoryExpired where the history that is kept does not tell.
    """
    profile_id, state = await _now(storage, app, ref)
    if state is not None and moment.revision is not None and moment.revision > state.revision:
        raise ProfileNotFound("The profile has no such revision yet.")
    before = None if state is None else state.revision + 1
    while True:
        page = await storage.history(app, profile_id, before=before, limit=PAGE)
        for change in page:
            if moment.is_reached(change.revision, change.at):
                return _existing(state)
            state = change.before(state)
            before = change.revision
        if len(page) < PAGE:
            break
    if state is not None and moment.is_reached(state.revision, state.updated_at):
        return state
    if state is not None:
        raise HistoryExpired
    raise ProfileNotFound(_NOT_YET)


async def history_of(
    storage: Storage, app: AppId, ref: ProfileRef, before: int | None, limit: int
) -> list[Change]:
    """Return the changes of a profile before a revision, newest first.

    Raises ProfileNotFound where there is neither a profile nor a change.
    """
    profile_id, state = await _now(storage, app, ref)
    found = await storage.history(app, profile_id, before=before, limit=limit)
    if state is None and not found and before is None:
        raise ProfileNotFound
    return found


async def _now(storage: Storage, app: AppId, ref: ProfileRef) -> tuple[ProfileId, Profile | None]:
    """Return the id that a reference names, and the profile if there is one."""
    if ref.customer_user_id is None and ref.profile_id is not None:
        # A merged profile has a history of its own, up to its end.
        newest = await storage.history(app, ref.profile_id, before=None, limit=1)
        if newest and newest[0].action == "deleted":
            return ref.profile_id, None
    profile = await storage.profile(app, ref)
    return profile.profile_id, profile


def _existing(state: Profile | None) -> Profile:
    if state is None:
        raise ProfileNotFound(_NOT_YET)
    return state
