"""A change as followers see it: in the history, the feed and the webhooks alike."""

from typing import Any, Final

from knownas.history import Change
from knownas.model import KINDS, Attributes

LOOK_SECONDS: Final = 0.25
"""How often who follows the changes looks for new ones, since any process may write them."""
TYPES: Final = ("profile.created", "profile.changed", "profile.deleted", "profile.erased")


def type_of(change: Change) -> str:
    """Return which of the `TYPES` the event of a change has."""
    return f"profile.{change.action}"


def event(change: Change) -> dict[str, Any]:
    """Return a change as the JSON object that this server's API has of it."""
    differs = change.difference
    source = {"via": change.by.via, "key_id": change.by.key_id}
    if differs.erased:
        return {
            "cursor": change.cursor,
            "type": "profile.erased",
            "at": change.at,
            "erasure_id": change.profile_id,
            "source": source,
        }
    changes: dict[str, Any] = {}
    if differs.customer is not None:
        changes["customer_user_id"] = _both(*differs.customer)
    if differs.identifiers:
        changes["identifiers"] = {
            KINDS[kind].name: _both(old, new) for kind, old, new in differs.identifiers
        }
    if differs.attributes is not None:
        changes["custom_attributes"] = _both(*map(_attributes, differs.attributes))
    return {
        "cursor": change.cursor,
        "type": type_of(change),
        "at": change.at,
        "profile_id": change.profile_id,
        "revision": change.revision,
        "source": source,
        "changes": changes,
        "shared": [KINDS[kind].name for kind in differs.shared],
    }


def _both(old: object, new: object) -> dict[str, object]:
    return {"old": old, "new": new}


def _attributes(attributes: Attributes) -> list[dict[str, str | float]]:
    return [{"key": key, "value": value} for key, value in attributes]
