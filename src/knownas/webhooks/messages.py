"""What a webhook says: the body of each message, and the id that stays the same at each attempt."""

import secrets
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

import msgspec

from knownas.events import event, type_of
from knownas.history import Change

TEST: Final = "webhook.test"
"""The type of the message that is sent on demand, about no profile."""

_encode: Final = msgspec.json.Encoder().encode


class Message(NamedTuple):
    """What is sent."""

    id: str
    body: bytes


def of_change(change: Change) -> Message:
    """Return the message of a change: for the same change always the same."""
    return Message(f"msg_{change.cursor}", _body(type_of(change), change.at, event(change)))


def of_test(webhook_id: str, now: int) -> Message:
    """Return a message by which a receiver can be tried."""
    return Message(
        f"msg_test_{secrets.token_hex(12)}", _body(TEST, now, {"webhook_id": webhook_id})
    )


def _body(event_type: str, at: int, data: dict[str, Any]) -> bytes:
    when = datetime.fromtimestamp(at / 1_000, UTC)
    timestamp = when.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return _encode({"type": event_type, "timestamp": timestamp, "data": data})
