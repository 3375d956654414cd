"""The use cases of upstreams: set, show, pause and remove one, and ask it."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec import UNSET, UnsetType

from knownas.deliveries import (
    UPSTREAM,
    Delivery,
    DeliveryKey,
    State,
    Webhook,
    WebhookState,
)
from knownas.errors import UpstreamNotFound, ValidationError
from knownas.model import App, AppId, Profile, ProfileRef
from knownas.shadows import Counts, Differing
from knownas.storage import Storage
from knownas.upstream import credentials
from knownas.upstream.asking import Client
from knownas.upstream.reading import Reading
from knownas.upstream.shadow import Shadow
from knownas.upstreams import OnFailure, Upstream
from knownas.vault import Vault
from knownas.webhooks.endpoints import REPLAYED_AT_ONCE

if TYPE_CHECKING:
    from knownas.webhooks.outbound import Sender
    from knownas.webhooks.posting import Courier

_NO_LIMIT: Final = 2**31
_SAY_THE_KEY: Final = "Must be given for a new URL: a key is not sent to where it was not meant to."


_CHANGEABLE: Final = ("read_through", "on_failure", "shadow_percent", "write_through", "paused")


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """How an upstream is to be; what is UNSET stays, or has its default where there was none."""

    url: str
    key: str | UnsetType = UNSET
    key_from: str | UnsetType = UNSET
    """As `Upstream.key_from`; only for who may choose what a server reads."""
    read_through: bool | UnsetType = UNSET
    on_failure: OnFailure | UnsetType = UNSET
    shadow_percent: int | UnsetType = UNSET
    write_through: bool | UnsetType = UNSET
    paused: bool | UnsetType = UNSET


class Upstreams:
    """The upstreams of all apps."""

    def __init__(
        self,
        storage: Storage,
        vault: Vault,
        sender: "Callable[[], Sender]",
        *,
        clock: Callable[[], int],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Keep them in `storage`; `sender` returns what sends, the same each time."""
        self._storage = storage
        self._vault = vault
        self._sender = sender
        self._clock = clock
        self._client = client = Client(storage, sender, vault, clock)
        self.reading = Reading(storage, client, clock=clock, monotonic=monotonic)
        self.shadow = Shadow(storage, client, self.reading.breaker, clock=clock)

    async def one(self, app: AppId) -> Upstream:
        """Return an app's upstream as it stands now. Raises UpstreamNotFound."""
        for one in await self._storage.apps():
            if one.id == app and one.upstream is not None:
                return one.upstream
        raise UpstreamNotFound

    async def set(self, app: App, terms: Terms) -> Upstream:
        """Give an app an upstream, or change the one that it has; return what is kept.

        Every process goes by it within a second. Raises FeatureNotConfigured for a key that is
        to be stored where there is no master key, and ValidationError for a URL that nothing may
        be sent to, a bad key, and none for a new URL.
        """
        url = self._clean_url(terms.url)
        sealed: bytes | UnsetType = UNSET
        if terms.key is not UNSET:
            sealed = credentials.seal(self._vault, app, credentials.clean_key(terms.key))
        now = self._clock()

        def change(before: Upstream | None) -> Upstream:
            kept = before or Upstream(url, now)
            if sealed is not UNSET:
                kept = msgspec.structs.replace(kept, key=sealed, key_from=None)
            elif terms.key_from is not UNSET:
                kept = msgspec.structs.replace(kept, key=None, key_from=terms.key_from)
            elif before is None or before.url != url:
                raise ValidationError(_SAY_THE_KEY, source="key")
            changed = {
                name: value for name in _CHANGEABLE if (value := getattr(terms, name)) is not UNSET
            }
            # Never the same: what was learned of another one is not believed of this.
            changed_at = now if before is None else max(now, before.changed_at + 1)
            return msgspec.structs.replace(kept, url=url, changed_at=changed_at, **changed)

        if terms.write_through is True:
            self._vault.require()  # the webhooks' means bring what is written, and need it
        return await self._change(app.id, change)

    async def pause(self, app: AppId, *, paused: bool) -> Upstream:
        """Have nothing asked or told for the time being, or go on. Raises UpstreamNotFound."""
        now = self._clock()

        def change(upstream: Upstream | None) -> Upstream:
            if upstream is None:
                raise UpstreamNotFound
            changed_at = max(now, upstream.changed_at + 1)
            return msgspec.structs.replace(upstream, paused=paused, changed_at=changed_at)

        return await self._change(app, change)

    async def remove(self, app: AppId) -> None:
        """Have an app have no upstream. Raises UpstreamNotFound."""

        def change(upstream: Upstream | None) -> None:
            if upstream is None:
                raise UpstreamNotFound

        await self._storage.change_upstream(app, change)
        await self._follow(app, None)

    async def _change(self, app: AppId, change: Callable[[Upstream | None], Upstream]) -> Upstream:
        kept: list[Upstream] = []

        def keep(upstream: Upstream | None) -> Upstream:
            kept[:] = [change(upstream)]
            return kept[0]

        await self._storage.change_upstream(app, keep)
        await self._follow(app, kept[0])
        return kept[0]

    async def _follow(self, app: AppId, upstream: Upstream | None) -> None:
        """Have what is written from now on be brought to an upstream, or not any more."""
        follower = await self._follower(app)
        if upstream is None or not upstream.write_through:
            if follower is not None:
                await self._storage.webhooks.delete(app, UPSTREAM)
            return
        disabled_at = upstream.changed_at if upstream.paused else None
        if follower is None:
            made = Webhook(UPSTREAM, upstream.url, b"", None, self._clock(), disabled_at)
            cursor = await self._storage.end_of_changes()
            await self._storage.webhooks.add(app, made, cursor, most=_NO_LIMIT)
        elif (follower.webhook.disabled_at is None) == upstream.paused:
            await self._storage.webhooks.change(
                app, UPSTREAM, lambda one: one._replace(disabled_at=disabled_at)
            )

    async def _follower(self, app: AppId) -> WebhookState | None:
        """Return what brings the changes of an app to its upstream, and how far that has come."""
        states = await self._storage.webhooks.all(app)
        return next((one for one in states if one.webhook.id == UPSTREAM), None)

    def courier(self, app: AppId) -> "Courier":
        """Return who brings the changes of an app to its upstream."""
        from knownas.upstream.forwarding import Forwarding  # noqa: PLC0415 - loads the HTTP client

        return Forwarding(self._storage, self._client, app)

    async def forwarding(self, app: AppId) -> WebhookState | None:
        """Return how far the upstream has been told what was written; None where it is not."""
        return await self._follower(app)

    async def deliveries(
        self, app: AppId, state: State | None, after: DeliveryKey | None, limit: int
    ) -> list[Delivery]:
        """Return what the upstream was not told at once, by profile and revision."""
        return await self._storage.webhooks.deliveries(app, UPSTREAM, state, after, limit)

    async def replay(self, app: AppId, only: DeliveryKey | None = None) -> tuple[int, int]:
        """Tell again what was given up, and what waits; return how many were, and are, given up.

        They are one, or up to 1,000.
        """
        now = self._clock()
        webhooks = self._storage.webhooks
        replayed = await webhooks.replay(app, UPSTREAM, only, now=now, limit=REPLAYED_AT_ONCE)
        if only is None:
            await webhooks.hasten(app, UPSTREAM, now=now)
        follower = await self._follower(app)
        return replayed, 0 if follower is None else follower.dead

    async def fetch(self, app: App, ref: ProfileRef) -> Profile:
        """Return a profile that is not here, if the app's upstream knows it: see `Reading`."""
        return await self.reading.fetch(app, ref)

    async def differing(self, app: AppId, limit: int) -> tuple[Counts, list[Differing]]:
        """Return how often this server and the upstream were the same, and who differs.

        They are the profiles that were not the same at their last comparison, the newest first.
        """
        counts = await self._storage.shadows.counts(app)
        return counts, await self._storage.shadows.differing(app, limit)

    async def compare_anew(self, app: AppId) -> None:
        """Forget what came of comparisons so far."""
        await self._storage.shadows.forget(app)

    async def close(self) -> None:
        """Finish what was begun."""
        await self.reading.close()
        await self.shadow.close()

    def _clean_url(self, text: str) -> str:
        """Return the base of an API, in its one form. Raises ValidationError."""
        url = self._sender().clean_url(text).rstrip("/")
        if "?" in url:
            raise ValidationError("Must have no query (?).", source="url")
        return url
