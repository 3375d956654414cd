"""Write-through: what clients write here is written at the app's upstream, too, a little later.

The upstream is told as a webhook is: it follows the feed, in the order of each profile, again and
again for days. A change says what it touched; what is sent is how that stands here now. So a change
that comes late, or twice, never sets back what is there.
"""

from typing import Final

from knownas.errors import ProfileNotFound
from knownas.history import Change, Via
from knownas.model import KINDS, App, AppId, Attributes, Profile, ProfileRef
from knownas.storage import Storage
from knownas.upstream.asking import IDENTIFIERS, PROFILE, Client, Trouble
from knownas.upstreams import Upstream
from knownas.webhooks.answers import Answered
from knownas.webhooks.outbound import Outcome

FORWARDED: Final[frozenset[Via]] = frozenset({"api", "sdk", "cli"})
"""What clients write. What came from the upstream, from files or other databases does not go back,
and a merge is of no use to a server that knows both profiles."""

_DELIVERED: Final = Outcome("delivered", None, "")
_NOT_FOUND: Final = 404


class Forwarding:
    """Brings an app's changes to its upstream."""

    def __init__(self, storage: Storage, client: Client, app: AppId) -> None:
        """Read from `storage` what is to be told to whom."""
        self._storage = storage
        self._client = client
        self._app_id = app
        self._app: App | None = None
        """None where it was deleted."""

    async def get_ready(self) -> None:
        """Read the app anew, and its upstream with it."""
        apps = await self._storage.apps()
        self._app = next((app for app in apps if app.id == self._app_id), None)

    def is_wanted(self, change: Change) -> bool:
        """Tell whether a client has made a change, and the upstream is to have it."""
        upstream = None if self._app is None else self._app.upstream
        return (
            upstream is not None
            and upstream.write_through
            and change.by.via in FORWARDED
            and change.action != "erased"
        )

    async def bring(self, change: Change) -> Outcome:
        """Have the upstream have what a change touched, as it is here now."""
        app = self._app
        if app is None or app.upstream is None or not app.upstream.write_through:
            return _DELIVERED  # nobody wants it any more
        try:
            await self._bring(app, app.upstream, change)
        except Trouble as error:
            if error.of == "question":
                return Outcome("rejected", error.status, error.reason)
            return Outcome("failed", error.status, error.reason, error.retry_after)
        return _DELIVERED

    async def _bring(self, app: App, upstream: Upstream, change: Change) -> None:
        """Send what a change touched. Raises Trouble."""
        try:
            profile = await self._storage.profile(app.id, ProfileRef(profile_id=change.profile_id))
        except ProfileNotFound:
            if change.action == "deleted":
                await self._client.ask(app, upstream, "DELETE", PROFILE, _before(change))
            return  # else the change that deleted it follows
        if change.action == "deleted":
            return  # it was made anew
        differs = change.difference
        attributes = _touched(differs.attributes, profile.attributes)
        if attributes or differs.customer is not None or change.action == "created":
            await self._put(app, upstream, profile, attributes)
        values = {
            KINDS[kind].name: profile.identifiers[kind]
            for kind, *_ in differs.identifiers
            if profile.identifiers[kind] is not None
        }
        if values:
            answer = await self._set(app, upstream, profile, values)
            if answer.status == _NOT_FOUND:
                await self._put(app, upstream, profile, [])
                answer = await self._set(app, upstream, profile, values)
            if answer.status == _NOT_FOUND:
                raise Trouble("The upstream does not know the profile that it was told to make.")

    async def _set(
        self, app: App, upstream: Upstream, profile: Profile, values: dict[str, str | None]
    ) -> Answered:
        ref = _names(profile)[-1]
        return await self._client.ask(app, upstream, "POST", IDENTIFIERS, ref, values)

    async def _put(
        self,
        app: App,
        upstream: Upstream,
        profile: Profile,
        attributes: list[dict[str, str | float | None]],
    ) -> None:
        """Make the profile there, or change it: under both its names, if the upstream lets it.

        A customer who has another profile there keeps that. Raises Trouble.
        """
        body = {"custom_attributes": attributes} if attributes else {}
        *both, known = _names(profile)
        for ref in both:
            try:
                await self._client.ask(app, upstream, "POST", PROFILE, ref, body)
            except Trouble as error:
                if error.of == "upstream":
                    raise
            else:
                return
        await self._client.ask(app, upstream, "POST", PROFILE, known, body)


def _names(profile: Profile) -> list[ProfileRef]:
    """Return how a profile can be named there: the last one is what clients call it."""
    customer = profile.customer_user_id
    if customer is None:
        return [ProfileRef(profile_id=profile.profile_id)]
    return [ProfileRef(customer, profile.profile_id), ProfileRef(customer)]


def _before(change: Change) -> ProfileRef:
    """Return what a deleted profile was called."""
    customers = change.difference.customer
    if customers is not None and customers[0] is not None:
        return ProfileRef(customers[0])
    return ProfileRef(profile_id=change.profile_id)


def _touched(
    differs: tuple[Attributes, Attributes] | None, now: Attributes
) -> list[dict[str, str | float | None]]:
    """Return the custom attributes that a change touched, as they are now; null removes one."""
    if differs is None:
        return []
    before, after = map(dict, differs)
    changed = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    known = dict(now)
    return [{"key": key, "value": known.get(key)} for key in changed]
