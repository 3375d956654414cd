"""Who brings changes to a webhook: a courier, and the one that posts them, signed."""

from collections.abc import Callable
from typing import Final, Protocol

from knownas.deliveries import Webhook
from knownas.events import type_of
from knownas.history import Change
from knownas.model import AppId
from knownas.storage import Storage
from knownas.vault import Vault
from knownas.webhooks import messages, sealed
from knownas.webhooks.outbound import Outcome, Sender


class Courier(Protocol):
    """Brings changes to where a webhook goes, whatever it is that is sent there."""

    async def get_ready(self) -> None:
        """Read what a round needs. Raises FeatureNotConfigured where it cannot be read."""
        ...

    def is_wanted(self, change: Change) -> bool:
        """Tell whether a change is to be brought."""
        ...

    async def bring(self, change: Change) -> Outcome:
        """Bring a change, and return how that ended."""
        ...


OpenCourier = Callable[[AppId, Webhook], Courier]
"""Returns who brings an app's changes to a webhook."""


class Posting:
    """Posts changes to a webhook's URL, signed with its secrets."""

    def __init__(  # noqa: PLR0913, PLR0917 - what it works with, and where to
        self,
        storage: Storage,
        vault: Vault,
        sender: Sender,
        clock: Callable[[], int],
        app: AppId,
        webhook: Webhook,
    ) -> None:
        """Post by `sender` what the webhook wants."""
        self._storage = storage
        self._vault = vault
        self._sender = sender
        self._clock = clock
        self._app: Final = app
        self._webhook: Final = webhook
        self._secrets: list[sealed.Secret] = []

    async def get_ready(self) -> None:
        """Read what signs; seal it anew where that was under an older master key."""
        webhook, vault = self._webhook, self._vault
        self._secrets = sealed.unseal(vault, webhook.id, webhook.secrets)
        if vault.needs_resealing(webhook.secrets):
            await self._storage.webhooks.change(
                self._app,
                webhook.id,
                lambda one: one._replace(secrets=sealed.resealed(vault, one.id, one.secrets)),
            )

    def is_wanted(self, change: Change) -> bool:
        """Tell whether a change is of the types that are sent."""
        types = self._webhook.types
        return types is None or type_of(change) in types

    async def bring(self, change: Change) -> Outcome:
        """Post the message of a change once."""
        message = messages.of_change(change)
        now = self._clock()
        return await self._sender.send(
            self._webhook.url,
            message.body,
            message_id=message.id,
            secrets=sealed.live(self._secrets, now),
            now_ms=now,
        )
