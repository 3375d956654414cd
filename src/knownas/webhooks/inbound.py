"""The use cases of webhooks that others send: let them in, take their events, keep what fails."""

import hashlib
import hmac
import re
import secrets
import uuid
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from knownas.editing import Edit
from knownas.errors import (
    BadRequest,
    DeadLetterNotFound,
    FieldError,
    ProfileNotFound,
    ServiceUnavailable,
    Unauthorized,
    ValidationError,
)
from knownas.history import Source
from knownas.model import App, AppId, ProfileId
from knownas.receiving import (
    BODY_KEPT,
    MOST_SECRETS,
    DeadLetter,
    InboundSecret,
    Outcome,
    Refusals,
)
from knownas.storage import Storage
from knownas.strict_json import parse_object
from knownas.webhooks.applying import Seen, apply, is_repeated, needs_to_apply, words_of
from knownas.webhooks.received import Event, Greeting
from knownas.webhooks.senders import SENDERS

MOST_LETTERS: Final = 1_000
"""How many dead letters an app has, at most."""

REPLAYED_AT_ONCE: Final = 100

SEEN_MS: Final = 7 * 86_400_000
"""How long an event is known as one that came before. Adapty repeats for a day, RevenueCat for
less than three hours."""

REFUSALS_NOTED_MS: Final = 10_000
"""How often refusals are written, at most, by each process."""

BY_WEBHOOK: Final = Source("webhook")

_REASON_KEPT: Final = 1_000
_is_adoptable: Final = re.compile(r"[!-~][ -~]{14,253}[!-~]").fullmatch


class Refused(ServiceUnavailable):
    """A sender came with a wrong secret. It is to come again: its operator may mend that."""

    message = (
        "Nothing was taken: the Authorization header is not a secret that this app has for this "
        "sender. `knownas webhook-in create` makes one, `knownas webhook-in list` shows refusals."
    )
    retry_after = 60

    def __init__(self, app: str | None) -> None:
        """Note the name of the app, where there is one."""
        super().__init__()
        self.app = app


class Taken(NamedTuple):
    """What became of a request."""

    outcome: Outcome
    answer: object
    """What the sender is answered, as JSON."""
    letter_id: str | None = None
    """The dead letter that was made of it."""
    ignored: int = 0
    """How many identifiers of unknown kinds were left out."""


class SenderState(NamedTuple):
    """How one sender fares with an app."""

    sender: str
    secrets: list[InboundSecret]
    refusals: Refusals


class Reception:
    """Webhooks that others send to the apps of one storage."""

    def __init__(
        self, storage: Storage, *, clock: Callable[[], int], new_uuid: Callable[[], uuid.UUID]
    ) -> None:
        """Store what is told in `storage`; `clock` gives ms since 1970."""
        self._storage = storage
        self._inbound = storage.inbound
        self._clock = clock
        self._new_uuid = new_uuid
        self._refused: dict[tuple[AppId, str], Refusals] = {}
        """What is not written yet, and when something last was."""

    # --- secrets ----------------------------------------------------------------------------------

    async def create_secret(self, app: App, sender: str) -> tuple[str, InboundSecret]:
        """Make a secret and return it, with what is kept of it. It is never shown again.

        Raises ValidationError for an unknown sender, and where it has two already.
        """
        text = f"knownas_in_{secrets.token_urlsafe(32)}"
        return text, await self.adopt_secret(app, sender, text)

    async def adopt_secret(self, app: App, sender: str, text: str) -> InboundSecret:
        """Accept a text that a sender sends as its Authorization already.

        It has 16 to 255 characters of ASCII, without a blank at either end. Raises as
        `create_secret`.
        """
        if sender not in SENDERS:
            raise ValidationError(f"Must be one of {', '.join(SENDERS)}.", source="sender")
        if not _is_adoptable(text):
            raise ValidationError(
                "Must be 16 to 255 visible ASCII characters; blanks may stand between them.",
                source="secret",
            )
        digest = hashlib.sha256(text.encode()).digest()
        secret = InboundSecret(f"whs_{self._new_uuid().hex[:16]}", sender, digest, self._clock())
        await self._inbound.add_secret(app.id, secret, most=MOST_SECRETS)
        return secret

    async def revoke_secret(self, app: AppId, secret_id: str) -> None:
        """End a secret. Raises ValidationError when the app has no such secret."""
        if not await self._inbound.delete_secret(app, secret_id):
            raise ValidationError(
                f"The app has no secret {secret_id!r}; `knownas webhook-in list` shows those that "
                "it has.",
                source="secret",
            )

    async def state(self, app: AppId) -> list[SenderState]:
        """Return how each sender fares that has a secret, or was refused."""
        kept = await self._inbound.secrets(app)
        refused = {one.sender: one for one in await self._inbound.refusals(app)}
        states = []
        for sender in SENDERS:
            its_own = [one for one in kept if one.sender == sender]
            if its_own or sender in refused:
                refusals = refused.get(sender, Refusals(sender, 0, 0))
                states.append(SenderState(sender, its_own, refusals))
        return states

    # --- what comes -------------------------------------------------------------------------------

    async def admit(self, name: str, sender: str, authorization: bytes | None) -> App:
        """Return the app of a name if this is one of its secrets for the sender.

        Raises Refused, the same for an unknown app.
        """
        door = await self._inbound.door(name, sender)
        given = hashlib.sha256(authorization or b"").digest()
        fitting = [hmac.compare_digest(given, one) for one in (door.digests if door else ())]
        if door is not None and authorization and any(fitting):
            return door.app
        if door is not None:
            await self._note_refusal(door.app.id, sender)
        raise Refused(door.app.name if door is not None else None)

    async def _note_refusal(self, app: AppId, sender: str) -> None:
        """Count it, and now and then write how many they were: anybody can be refused."""
        now = self._clock()
        known = self._refused.get((app, sender), Refusals(sender, 0, 0))
        times = known.times + 1
        if 0 <= now - known.last_at < REFUSALS_NOTED_MS:
            self._refused[app, sender] = known._replace(times=times)
            return
        self._refused[app, sender] = Refusals(sender, 0, now)
        await self._inbound.note_refusals(app, Refusals(sender, times, now))

    async def receive(self, app: App, sender: str, body: bytes) -> Taken:
        """Store what a request of a sender tells, once, or make a dead letter of it.

        Raises ServiceUnavailable where it is to be sent again, and FeatureNotConfigured where it
        cannot be known who was erased.
        """
        try:
            told = SENDERS[sender](parse_object(body))
        except BadRequest as error:
            letter_id = await self._note_letter(app, sender, body, error.fields)
            return _taken("malformed", letter_id)
        if isinstance(told, Greeting):
            return Taken("verified", told.answer)
        stored = await self._store(app, sender, body, told)
        if not isinstance(stored, list):
            return _taken(stored, None, told.ignored)
        if not stored:
            return _taken("applied", None, told.ignored)
        letter_id = await self._note_letter(app, sender, body, stored)
        return _taken("partly", letter_id, told.ignored)

    async def _store(
        self, app: App, sender: str, body: bytes, event: Event, *, again: bool = False
    ) -> list[FieldError] | Outcome:
        """Store an event, unless it was and is not to be `again`; return what was in its way."""
        now = self._clock()
        # Without an id an event that is the same to the byte is the same event.
        name = body if event.id is None else event.id.encode()
        key = f"{sender} {hashlib.blake2b(name, digest_size=16).hexdigest()}"
        seen = Seen(key, now + SEEN_MS)
        create_as = ProfileId(str(self._new_uuid()))

        def work(edit: Edit) -> list[FieldError] | None:
            if is_repeated(edit, seen, now) and not again:
                return None
            return apply(edit, event, policies=app.policies, now=now, create_as=create_as)

        needs = needs_to_apply(event, app.policies, seen)
        try:
            conflicts = await self._storage.edit(app.id, work, now=now, by=BY_WEBHOOK, needs=needs)
        except ProfileNotFound:
            return "erased"
        except Unauthorized:  # the app was deleted a moment ago
            raise Refused(None) from None
        return "repeated" if conflicts is None else [*event.problems, *conflicts]

    # --- dead letters -----------------------------------------------------------------------------

    async def _note_letter(
        self, app: App, sender: str, body: bytes, problems: Sequence[FieldError]
    ) -> str:
        """Keep what came as a dead letter, the same one each time that the same comes."""
        letter = DeadLetter(
            f"ltr_{hashlib.blake2b(body, digest_size=8, person=sender.encode()).hexdigest()}",
            sender,
            self._clock(),
            words_of(problems)[:_REASON_KEPT],
            body[:BODY_KEPT],
            len(body),
        )
        try:
            await self._inbound.add_letter(app.id, letter, most=MOST_LETTERS)
        except Unauthorized:  # as above
            raise Refused(None) from None
        return letter.id

    async def letters(
        self, app: AppId, before: tuple[int, str] | None, limit: int
    ) -> list[DeadLetter]:
        """Return an app's dead letters before a time and id, newest first."""
        return await self._inbound.letters(app, before, limit)

    async def discard(self, app: AppId, letter_id: str | None) -> int:
        """Delete a dead letter, or with None all of them, and return how many they were.

        Raises DeadLetterNotFound.
        """
        deleted = await self._inbound.delete_letters(app, letter_id)
        if letter_id is not None and not deleted:
            raise DeadLetterNotFound
        return deleted

    async def replay(self, app: App, letter_id: str | None) -> tuple[int, int]:
        """Take dead letters as if they came now, one, or up to 100 of the newest.

        Those that are stored in whole are deleted. Return how many these are, and how many were
        tried in vain. Raises DeadLetterNotFound.
        """
        if letter_id is None:
            letters = await self._inbound.letters(app.id, None, REPLAYED_AT_ONCE)
        else:
            letter = await self._inbound.letter(app.id, letter_id)
            if letter is None:
                raise DeadLetterNotFound
            letters = [letter]
        stored = 0
        for letter in letters:
            if await self._is_stored(app, letter):
                stored += await self._inbound.delete_letters(app.id, letter.id)
        return stored, len(letters) - stored

    async def _is_stored(self, app: App, letter: DeadLetter) -> bool:
        read = SENDERS.get(letter.sender)
        if read is None or not letter.is_whole:
            return False
        try:
            told = read(parse_object(letter.body))
        except BadRequest:
            return False
        if isinstance(told, Greeting):
            return True
        left = await self._store(app, letter.sender, letter.body, told, again=True)
        return not left or left == "erased"


def _taken(outcome: Outcome, letter_id: str | None, ignored: int = 0) -> Taken:
    return Taken(
        outcome, {"data": {"result": outcome, "dead_letter": letter_id}}, letter_id, ignored
    )
