"""All that an app keeps of a person, for that person to see (GDPR, article 15)."""

from typing import Any

import msgspec

from knownas.as_of import PAGE
from knownas.erasing import Whom
from knownas.events import event
from knownas.history import Change
from knownas.model import KINDS, App, Profile, ProfileId, ProfileRef
from knownas.storage import Storage


class Export(msgspec.Struct, frozen=True):
    """What there is of one person, as the native API shows it."""

    app_id: str
    exported_at: int
    profile_ids: list[str]
    """Of the profile first, then of those that were merged into it, or deleted."""
    customer_user_ids: list[str]
    """All that lead to the profile, or did."""
    profiles: list[dict[str, Any]]
    """The profile, and each other one as it was at its end, where the history has that."""
    history: list[dict[str, Any]]
    """Every change that is kept of any of them, profile by profile, newest first."""


async def export(storage: Storage, app: App, ref: ProfileRef, now: int) -> Export:
    """Return all that is kept of whoever a reference names. Raises ProfileNotFound."""
    person = await storage.erasures.person(app.id, Whom(ref))
    profiles = [] if person.profile is None else [_shown(person.profile, "live")]
    history: list[dict[str, Any]] = []
    for profile_id in person.profile_ids:
        changes = await _history(storage, app, profile_id)
        history += [event(change) for change in changes]
        if changes and changes[0].action == "deleted":
            last = changes[0].before(None)
            if last is not None:
                profiles.append(_shown(last, "ended"))
    return Export(
        app.uuid, now, list(person.profile_ids), list(person.customers), profiles, history
    )


async def _history(storage: Storage, app: App, profile_id: ProfileId) -> list[Change]:
    found: list[Change] = []
    before = None
    while True:
        page = await storage.history(app.id, profile_id, before=before, limit=PAGE)
        found += page
        if len(page) < PAGE:
            return found
        before = page[-1].revision


def _shown(profile: Profile, state: str) -> dict[str, Any]:
    return {
        "profile_id": profile.profile_id,
        "state": state,
        "customer_user_id": profile.customer_user_id,
        "identifiers": [
            {"kind": kind.name, "vendor": kind.vendor, "value": value}
            for kind, value in zip(KINDS, profile.identifiers, strict=True)
            if value is not None
        ],
        "custom_attributes": [{"key": key, "value": value} for key, value in profile.attributes],
        "created_at": profile.created_at,
        "updated_at": profile.updated_at,
        "revision": profile.revision,
    }
