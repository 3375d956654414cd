"""The use cases of webhooks: make, list, change, rotate, try and delete them, and replay."""

import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from msgspec import UNSET, UnsetType

from knownas.deliveries import UPSTREAM, Delivery, DeliveryKey, State, Webhook, WebhookState
from knownas.errors import ValidationError, WebhookNotFound
from knownas.events import TYPES
from knownas.model import AppId
from knownas.storage import Storage
from knownas.vault import Vault
from knownas.webhooks import messages, sealed
from knownas.webhooks.sealed import Secret
from knownas.webhooks.signatures import new_secret

if TYPE_CHECKING:
    from knownas.webhooks.outbound import Outcome, Sender
    from knownas.webhooks.posting import Courier

MOST_WEBHOOKS: Final = 20
"""How many an app may have."""
REPLAYED_AT_ONCE: Final = 1_000
OVERLAP_SECONDS: Final = 86_400
MAX_OVERLAP_SECONDS: Final = 30 * 86_400


class Endpoints:
    """The webhooks of all apps. Whatever needs a master key raises FeatureNotConfigured without."""

    def __init__(
        self,
        storage: Storage,
        vault: Vault,
        open_sender: "Callable[[], Sender]",
        *,
        clock: Callable[[], int],
        new_uuid: Callable[[], uuid.UUID],
    ) -> None:
        """Keep them in `storage`; the sender is made when it is needed."""
        self._storage = storage
        self._webhooks = storage.webhooks
        self._vault = vault
        self._open_sender = open_sender
        self._sender: Sender | None = None
        self._clock = clock
        self._new_uuid = new_uuid

    def courier(self, app: AppId, webhook: Webhook) -> "Courier":
        """Return who posts an app's changes to a webhook."""
        from knownas.webhooks.posting import Posting  # noqa: PLC0415 - loads the HTTP client

        return Posting(self._storage, self._vault, self.sender(), self._clock, app, webhook)

    def sender(self) -> "Sender":
        """Return what sends, the same each time."""
        if self._sender is None:
            self._sender = self._open_sender()
        return self._sender

    async def add(
        self, app: AppId, url: str, types: tuple[str, ...] | None
    ) -> tuple[WebhookState, str]:
        """Make a webhook that follows from now on; return it, and its secret this once.

        Raises ValidationError for a URL that nothing may be sent to, and past 20 webhooks.
        """
        self._vault.require()
        secret = new_secret()
        webhook_id = f"whk_{self._new_uuid().hex[:16]}"
        webhook = Webhook(
            webhook_id,
            self.sender().clean_url(url),
            sealed.seal(self._vault, webhook_id, [Secret(secret)]),
            types,
            self._clock(),
        )
        cursor = await self._storage.end_of_changes()
        await self._webhooks.add(app, webhook, cursor, most=MOST_WEBHOOKS)
        return WebhookState(webhook, cursor, 0, 0, None), secret

    async def all(self, app: AppId) -> list[WebhookState]:
        """Return the webhooks of an app with how far each has come, oldest first."""
        self._vault.require()
        return [one for one in await self._webhooks.all(app) if one.webhook.id != UPSTREAM]

    async def one(self, app: AppId, webhook_id: str) -> WebhookState:
        """Return a webhook with how far it has come. Raises WebhookNotFound."""
        for state in await self.all(app):
            if state.webhook.id == webhook_id:
                return state
        raise WebhookNotFound

    async def change(
        self,
        app: AppId,
        webhook_id: str,
        *,
        url: str | UnsetType = UNSET,
        types: tuple[str, ...] | UnsetType | None = UNSET,
        enabled: bool | UnsetType = UNSET,
    ) -> WebhookState:
        """Change what is given of a webhook. One that is enabled goes on from where it was.

        Raises WebhookNotFound, and ValidationError for a URL that nothing may be sent to.
        """
        self._vault.require()
        clean_url = url if url is UNSET else self.sender().clean_url(url)
        now = self._clock()

        def change(webhook: Webhook) -> Webhook:
            if clean_url is not UNSET:
                webhook = webhook._replace(url=clean_url)
            if types is not UNSET:
                webhook = webhook._replace(types=types)
            if enabled is True:
                webhook = webhook._replace(disabled_at=None, disabled_because=None)
            if enabled is False and webhook.disabled_at is None:
                webhook = webhook._replace(disabled_at=now)
            return webhook

        await self._webhooks.change(app, webhook_id, change)
        return await self.one(app, webhook_id)

    async def rotate(
        self, app: AppId, webhook_id: str, *, overlap_seconds: int
    ) -> tuple[WebhookState, str]:
        """Give a webhook another secret, and return that this once.

        Those before it go on signing beside it for so many seconds. Raises WebhookNotFound.
        """
        self._vault.require()
        now = self._clock()
        made: list[Secret] = []

        def change(webhook: Webhook) -> Webhook:
            kept = sealed.unseal(self._vault, webhook_id, webhook.secrets)
            made[:] = sealed.rotated(kept, now, overlap_seconds * 1_000)
            return webhook._replace(secrets=sealed.seal(self._vault, webhook_id, made))

        await self._webhooks.change(app, webhook_id, change)
        return await self.one(app, webhook_id), made[0].text

    async def delete(self, app: AppId, webhook_id: str) -> None:
        """Delete a webhook with what was still to do for it. Raises WebhookNotFound."""
        self._vault.require()
        if not await self._webhooks.delete(app, webhook_id):
            raise WebhookNotFound

    async def test(self, app: AppId, webhook_id: str) -> "Outcome":
        """Send a message of the type `webhook.test` now, and return how that ended.

        Raises WebhookNotFound.
        """
        webhook = (await self.one(app, webhook_id)).webhook
        now = self._clock()
        message = messages.of_test(webhook_id, now)
        kept = sealed.unseal(self._vault, webhook_id, webhook.secrets)
        return await self.sender().send(
            webhook.url,
            message.body,
            message_id=message.id,
            secrets=sealed.live(kept, now),
            now_ms=now,
        )

    async def deliveries(
        self,
        app: AppId,
        webhook_id: str,
        state: State | None,
        after: DeliveryKey | None,
        limit: int,
    ) -> list[Delivery]:
        """Return what waits or was given up, by profile and revision. Raises WebhookNotFound."""
        await self.one(app, webhook_id)
        return await self._webhooks.deliveries(app, webhook_id, state, after, limit)

    async def replay(
        self, app: AppId, webhook_id: str, only: DeliveryKey | None = None
    ) -> tuple[int, int]:
        """Try dead deliveries again, one or up to 1,000; return how many, and how many are left.

        What waits for its time is tried now, too: whoever replays has mended the receiver. Raises
        WebhookNotFound.
        """
        await self.one(app, webhook_id)
        now = self._clock()
        replayed = await self._webhooks.replay(
            app, webhook_id, only, now=now, limit=REPLAYED_AT_ONCE
        )
        if only is None:
            await self._webhooks.hasten(app, webhook_id, now=now)
        return replayed, (await self.one(app, webhook_id)).dead

    async def close(self) -> None:
        """Close the connections that are kept to receivers."""
        if self._sender is not None:
            await self._sender.close()


def clean_types(raw: object) -> tuple[str, ...] | None:
    """Return the types of events in a list; None, for all of them, where nothing is given.

    Raises ValidationError.
    """
    if raw is None:
        return None
    if not isinstance(raw, list) or not raw or not all(one in TYPES for one in raw):
        allowed = ", ".join(TYPES)
        raise ValidationError(
            f"Must be a list of {allowed}; leave it out for all of them.", source="types"
        )
    return tuple(one for one in TYPES if one in raw)
