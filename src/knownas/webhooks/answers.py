"""What comes back of a request that this server sends, or does not."""

from typing import Final, NamedTuple

MAX_ANSWER_BYTES: Final = 65_536
"""Of an answer's body; that to a webhook is read only so that the receiver sees an orderly end."""


class Answered(NamedTuple):
    """What came back of a request."""

    status: int
    retry_after: int | None
    """Seconds that the server asks to be left alone."""
    body: bytes | None
    """None where it broke off, or was longer than `MAX_ANSWER_BYTES`."""


class Unanswered(NamedTuple):
    """Why nothing came back of a request."""

    reason: str
    """One sentence for people; of the network here it tells nothing."""
    is_refused: bool = False
    """Whether it may not go there, and nothing was sent."""
