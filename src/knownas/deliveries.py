"""Webhooks as they are kept: where they go, how far each has come, and what still waits.

A webhook follows the feed: all up to its cursor is delivered, or stands as a delivery of its own
that waits or was given up. So nothing is written for what is taken at the first attempt. A delivery
names a change and holds nothing of it; it is rendered anew for each attempt.

Of the deliveries of one profile that wait, only the earliest has a time: the others wait for it.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Final, Literal, NamedTuple, Protocol, get_args

from knownas.history import Change
from knownas.model import AppId, ProfileId

State = Literal["pending", "dead"]

UPSTREAM: Final = "upstream"
"""The id of the webhook that brings an app's changes to its upstream, and is in no list of them."""

Target = Literal["webhook", "upstream"]
TARGETS: Final[tuple[Target, ...]] = get_args(Target)

Result = Literal["delivered", "failed", "dead"]
"""How an attempt ended: `failed` is tried again, `dead` is given up."""
RESULTS: Final[tuple[Result, ...]] = get_args(Result)


class Attempt(NamedTuple):
    """One attempt to deliver, as it is counted."""

    target: Target
    is_first: bool
    result: Result
    elapsed_ns: int


DeliveryKey = tuple[ProfileId, int]
"""The profile and its revision: which change of a webhook's app a delivery is of."""


class Failure(NamedTuple):
    """How an attempt to deliver ended that was in vain."""

    at: int
    status: int | None
    """What the receiver answered, if it did."""
    reason: str
    """One sentence for people."""


class Webhook(NamedTuple):
    """Where an app's changes are sent."""

    id: str
    url: str
    secrets: bytes
    """What deliveries are signed with, sealed by the vault."""
    types: tuple[str, ...] | None
    """Which events are sent; None for all."""
    created_at: int
    disabled_at: int | None = None
    disabled_because: str | None = None
    lost_at: int | None = None
    """When history was pruned, the last time, that this webhook had not come to yet."""


class WebhookState(NamedTuple):
    """A webhook, and how far it has come."""

    webhook: Webhook
    cursor: str
    """The place in the feed up to which all is delivered, or a delivery of its own."""
    pending: int
    dead: int
    last_failure: Failure | None


class Leased(NamedTuple):
    """What whoever serves a webhook has to know."""

    webhook: Webhook
    cursor: str
    pending: int


class Delivery(NamedTuple):
    """One change for one webhook that was not taken at once."""

    profile_id: ProfileId
    revision: int
    state: State = "pending"
    attempts: int = 0
    next_at: int | None = None
    """When it is tried again; None where it is not, or has to wait for an earlier one."""
    failure: Failure | None = None
    """How the last attempt ended; None where there was none."""

    @property
    def key(self) -> DeliveryKey:
        """What names it."""
        return self.profile_id, self.revision


class Waiting(NamedTuple):
    """A delivery that waits, with its change; None where that is not kept any more."""

    delivery: Delivery
    change: Change | None


class Report(NamedTuple):
    """What came of deliveries."""

    settled: Collection[DeliveryKey] = ()
    """Taken, or not to be delivered any more."""
    kept: Sequence[Delivery] = ()
    """Still to do, or given up: they are written as they are here."""
    cursor: str | None = None
    """How far the webhook has come, where that has changed."""
    disabled_because: str | None = None
    failure: Failure | None = None
    """The last one of them."""


class Webhooks(Protocol):
    """The webhooks of all apps, kept as `knownas.storage.Storage` keeps everything."""

    async def add(self, app: AppId, webhook: Webhook, cursor: str, *, most: int) -> None:
        """Keep a new webhook, which follows the feed from a cursor.

        Raises ValidationError where the app has as many as `most`, that to its upstream not
        counted, Unauthorized where it was deleted.
        """
        ...

    async def all(self, app: AppId) -> list[WebhookState]:
        """Return the webhooks of an app, oldest first."""
        ...

    async def change(
        self, app: AppId, webhook_id: str, change: Callable[[Webhook], Webhook]
    ) -> Webhook:
        """Replace a webhook by `change(webhook)` in one transaction and return what is kept.

        `change` is quick, and may run in another thread, and more than once. It leaves the id
        and the time of creation as they are. What it raises is raised here, and nothing is
        written. Raises WebhookNotFound.
        """
        ...

    async def delete(self, app: AppId, webhook_id: str) -> bool:
        """Delete a webhook with its deliveries. False: the app has no such webhook."""
        ...

    async def with_work(self, *, now: int) -> list[tuple[AppId, str]]:
        """Return, over all apps, the webhooks that there is something to do for.

        They are enabled, nobody holds a lease on them, and something of the feed comes after
        their cursor, or the time of a delivery has come. What follows the cursor may be nothing
        that they want.
        """
        ...

    async def lease(
        self, app: AppId, webhook_id: str, lease: str, *, now: int, until: int
    ) -> Leased | None:
        """Hold a webhook, or go on holding it, until a time, under a name of one's own.

        None: another one holds it, it is disabled, or is not there. Of several who ask at once
        one gets it.
        """
        ...

    async def due(self, app: AppId, webhook_id: str, *, now: int, limit: int) -> list[Waiting]:
        """Return the deliveries whose time has come, the longest due first, at most `limit`.

        Behind each come the next ones of its profile, which wait for it, in order.
        """
        ...

    async def held_back(
        self, app: AppId, webhook_id: str, profiles: Collection[ProfileId]
    ) -> set[ProfileId]:
        """Return those of the profiles of which a delivery waits."""
        ...

    async def report(  # noqa: PLR0913 - for whom, what, and how long the lease goes on
        self,
        app: AppId,
        webhook_id: str,
        lease: str,
        report: Report,
        *,
        now: int,
        until: int,
    ) -> bool:
        """Write what came of deliveries in one transaction, and hold the lease until a time.

        False: the lease is another's by now, and nothing is written. Deliveries whose change is
        not kept any more are left out. Of each profile the earliest delivery that waits gets a
        time, `now` where it has none, and the others have none.
        """
        ...

    async def deliveries(
        self,
        app: AppId,
        webhook_id: str,
        state: State | None,
        after: DeliveryKey | None,
        limit: int,
    ) -> list[Delivery]:
        """Return deliveries of a webhook after one, or the first, in the order of their keys."""
        ...

    async def replay(
        self, app: AppId, webhook_id: str, only: DeliveryKey | None, *, now: int, limit: int
    ) -> int:
        """Have dead deliveries tried again from the first attempt on; return how many they are.

        They are one, or the first ones, at most `limit`. Each is tried before what waits of
        its profile.
        """
        ...

    async def hasten(self, app: AppId, webhook_id: str, *, now: int) -> None:
        """Have all deliveries tried now that wait for their time."""
        ...
