"""What is kept of webhooks that others send: their secrets, who was refused, and dead letters.

A dead letter is an event, as it came, of which something could not be stored.
"""

from collections.abc import Collection, Iterator, Sequence
from typing import Final, Literal, NamedTuple, Protocol

import msgspec

from knownas.model import App, AppId

Outcome = Literal["verified", "applied", "partly", "repeated", "erased", "malformed", "refused"]
"""What became of one request of a sender.

`verified`: the sender asked whether it is listened to. `applied`: all of an event is stored.
`partly`: it is, but for what stands in a dead letter. `repeated`: it was stored before. `erased`:
it tells of a person who was erased, so nothing is. `malformed`: it is a dead letter. `refused`: its
secret was wrong.
"""

OUTCOMES: Final[tuple[Outcome, ...]] = (
    "verified", "applied", "partly", "repeated", "erased", "malformed", "refused",
)  # fmt: skip

MOST_SECRETS: Final = 2
"""How many secrets a sender may have at once: one more than it needs, to change it."""

BODY_KEPT: Final = 64 * 1024
"""Bytes of an event that a dead letter holds, at most."""

LETTERS_KEPT_MS: Final = 30 * 86_400_000
"""How long a dead letter is kept, at most."""


class InboundSecret(NamedTuple):
    """What a sender has to send as its `Authorization`; the text itself is not kept."""

    id: str
    sender: str
    digest: bytes
    """SHA-256 of the header's value."""
    created_at: int


class Door(NamedTuple):
    """Who may come in, for one app and sender."""

    app: App
    digests: Sequence[bytes]


class Refusals(NamedTuple):
    """How often one sender of an app came with a wrong secret."""

    sender: str
    times: int
    last_at: int


class DeadLetter(NamedTuple):
    """An event of which something could not be stored."""

    id: str
    sender: str
    at: int
    reason: str
    """For people; it holds nothing of the event's values."""
    body: bytes
    """As it came, its first 64 KiB."""
    size: int
    """Bytes of the whole event."""

    @property
    def is_whole(self) -> bool:
        """Whether all of it is here, so that it can be tried again."""
        return len(self.body) == self.size

    @property
    def place(self) -> tuple[int, str]:
        """Where it stands in the list."""
        return self.at, self.id


class Inbound(Protocol):
    """The part of `knownas.storage.Storage` that is about webhooks that others send."""

    async def door(self, name: str, sender: str) -> Door | None:
        """Return the app of a name, with the digests of a sender's secrets there.

        It takes no app because it is what finds the app. None: there is no such app.
        """
        ...

    async def add_secret(self, app: AppId, secret: InboundSecret, *, most: int) -> None:
        """Keep a secret.

        Raises ValidationError where the sender has as many as `most` there, or that one already,
        and Unauthorized where the app was deleted.
        """
        ...

    async def secrets(self, app: AppId) -> list[InboundSecret]:
        """Return the secrets of an app, oldest first."""
        ...

    async def delete_secret(self, app: AppId, secret_id: str) -> bool:
        """Delete a secret. False: the app has no such secret."""
        ...

    async def note_refusals(self, app: AppId, refusals: Refusals) -> None:
        """Add to how often a sender was refused. Nothing is done where the app was deleted."""
        ...

    async def refusals(self, app: AppId) -> list[Refusals]:
        """Return by sender how often it was refused; none that never was."""
        ...

    async def add_letter(self, app: AppId, letter: DeadLetter, *, most: int) -> None:
        """Keep a dead letter, in the place of one with its id, and of all the newest `most`.

        Raises Unauthorized where the app was deleted.
        """
        ...

    async def letters(
        self, app: AppId, before: tuple[int, str] | None, limit: int
    ) -> list[DeadLetter]:
        """Return an app's dead letters before a time and id, newest first."""
        ...

    async def letter(self, app: AppId, letter_id: str) -> DeadLetter | None:
        """Return a dead letter."""
        ...

    async def delete_letters(self, app: AppId, letter_id: str | None) -> int:
        """Delete a dead letter, or with None all of an app, and return how many they were."""
        ...


def tells_of(body: bytes, words: Collection[str]) -> bool:
    """Tell whether any of these texts stands in an event, or may stand there for all one can see.

    Of JSON each text is compared as a whole, and in anything else all that is there is searched.
    """
    try:
        parsed = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError, ValueError):
        # Behind an escape, or in another encoding, a word looks like anything.
        return b"\\" in body or not _is_text(body) or any(word.encode() in body for word in words)
    lowered = {word.lower() for word in words}  # as the ids of profiles are
    return any(text.strip().lower() in lowered for text in _texts(parsed))


def _is_text(body: bytes) -> bool:
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return b"\x00" not in body


def _texts(parsed: object) -> Iterator[str]:
    waiting = [parsed]
    while waiting:
        one = waiting.pop()
        if isinstance(one, str):
            yield one
        elif isinstance(one, dict):
            waiting += one
            waiting += one.values()
        elif isinstance(one, list):
            waiting += one
