"""Read-through: a profile that is not here is asked for at the app's upstream, kept, and answered.

What is here is never overwritten. Who was deleted or erased here stays away, whatever the upstream
knows.
"""

import asyncio
import math
import time
from collections.abc import Callable
from typing import Final, NamedTuple

import msgspec

from knownas import writes
from knownas.editing import Edit
from knownas.errors import (
    FeatureNotConfigured,
    ProfileConflict,
    ProfileNotFound,
    ServiceUnavailable,
)
from knownas.history import UPSTREAM
from knownas.model import (
    KIND_NUMBER,
    NO_IDENTIFIERS,
    App,
    AppId,
    Policies,
    Profile,
    ProfileRef,
    merge_attributes,
    merge_identifiers,
)
from knownas.storage import Storage
from knownas.upstream.asking import ASK_SECONDS, Client, Known, Trouble
from knownas.upstream.patience import Absent, Breaker
from knownas.upstreams import Asked, Upstream
from knownas.writes import Setting

AT_ONCE: Final = 64
"""Questions to all upstreams that are under way in one process at once, at most."""

_AFTER_FAILURE_SECONDS: Final = 1


class _Question(NamedTuple):
    """Who is asked for; of another setting of the upstream it is another question."""

    app: AppId
    changed_at: int
    ref: ProfileRef


class _Spared(Trouble):
    """An upstream was not asked, because of others who are, or whom it did not answer."""


class Reading:
    """Asks the upstreams of all apps for profiles that are not here, in one process."""

    def __init__(
        self,
        storage: Storage,
        client: Client,
        *,
        clock: Callable[[], int],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Keep in `storage` what `client` brings."""
        self._storage = storage
        self._client = client
        self._clock = clock
        self._monotonic = monotonic
        self._absent = Absent(monotonic)
        self._breakers: dict[AppId, tuple[Upstream, Breaker]] = {}
        self._asking: dict[_Question, asyncio.Task[Profile | None]] = {}
        self._slots = asyncio.Semaphore(AT_ONCE)
        self.on_asked: Callable[[Asked], None] = lambda _outcome: None
        """Told what came of each question."""

    async def fetch(self, app: App, ref: ProfileRef) -> Profile:
        """Return a profile that was not here a moment ago, once the upstream has brought it.

        Who is asked for several times meanwhile is asked for once there. Raises ProfileNotFound
        where it is not known there either, or may not be here; where the upstream does not
        answer, that or ServiceUnavailable, as the upstream is set. Raises ProfileConflict.
        """
        upstream = app.upstream
        if upstream is None or not upstream.is_read:
            raise ProfileNotFound
        question = _Question(app.id, upstream.changed_at, ref)
        if question in self._absent:
            raise ProfileNotFound
        asking = self._asking.get(question)
        if asking is None:
            asking = asyncio.create_task(self._counted(app, upstream, question))
            self._asking[question] = asking
            asking.add_done_callback(lambda done: self._asked(question, done))
        try:
            # Whoever goes away does not take the answer away from the others.
            found = await asyncio.shield(asking)
        except Trouble as error:
            raise _failure(upstream, error) from None
        if found is None:
            raise ProfileNotFound
        return found

    def _asked(self, question: _Question, done: "asyncio.Task[Profile | None]") -> None:
        del self._asking[question]
        if not done.cancelled():
            done.exception()  # whoever asked may be gone

    async def _counted(self, app: App, upstream: Upstream, question: _Question) -> Profile | None:
        """Do as `_ask`, and tell what came of it."""
        outcome: Asked = "failed"
        try:
            found = await self._ask(app, upstream, question)
            outcome = "unknown" if found is None else "found"
        except _Spared:
            outcome = "spared"
            raise
        finally:
            self.on_asked(outcome)
        return found

    async def _ask(self, app: App, upstream: Upstream, question: _Question) -> Profile | None:
        """Return what the upstream brought, None where it is to stay away. Raises Trouble."""
        breaker = self.breaker(app.id, upstream)
        if not breaker.admit(ASK_SECONDS):
            left = math.ceil(breaker.seconds_left)
            raise _Spared("The upstream is left alone for a while.", retry_after=left)
        is_asked = False
        try:
            async with asyncio.timeout(ASK_SECONDS), self._slots:
                is_asked = True
                known = await self._client.profile(app, upstream, question.ref)
        except Trouble as error:
            if error.of == "upstream":
                breaker.failed(error.retry_after)
            else:
                breaker.succeeded()
            raise
        except TimeoutError:
            if not is_asked:  # which says nothing about the upstream
                raise _Spared("Too many profiles are asked for at once.") from None
            breaker.failed()
            raise Trouble("The upstream took too long.") from None
        breaker.succeeded()
        if known is None or await self._was_deleted(app.id, known):
            self._absent.add(question)
            return None
        try:
            return await self._keep(app, question, known)
        except ProfileNotFound:
            self._absent.add(question, for_good=True)  # it was erased, and is not asked for again
            return None
        except FeatureNotConfigured as error:
            raise Trouble(error.fields[0].message) from None

    def breaker(self, app: AppId, upstream: Upstream) -> Breaker:
        """Return what stops questions to an upstream; of another setting it is another one."""
        kept = self._breakers.get(app)
        if kept is None or kept[0].changed_at != upstream.changed_at:
            kept = self._breakers[app] = (upstream, Breaker(self._monotonic))
        return kept[1]

    async def _was_deleted(self, app: AppId, known: Known) -> bool:
        """Tell whether a profile was here and is not any more: then it does not come back."""
        last = await self._storage.history(app, known.profile_id, before=None, limit=1)
        return bool(last) and last[0].action == "deleted"

    async def _keep(self, app: App, question: _Question, known: Known) -> Profile | None:
        """Write a profile, and return the one that the question is about then, if there is one.

        Raises ProfileNotFound where it was erased.
        """
        now = self._clock()
        both = ProfileRef(known.customer_user_id, known.profile_id)
        needs = writes.needs_of([Setting(both, known.identifiers)], app.policies)
        profile = await self._storage.edit(
            app.id,
            lambda edit: _merged(edit, question.ref, known, app.policies, now),
            now=now,
            by=UPSTREAM,
            needs=needs._replace(refs=[both, question.ref]),
        )
        if profile is None:
            self._absent.add(question)
        return profile

    async def close(self) -> None:
        """Finish what was begun."""
        await asyncio.gather(*self._asking.values(), return_exceptions=True)


def _merged(
    edit: Edit, ref: ProfileRef, known: Known, policies: Policies, now: int
) -> Profile | None:
    """Write what an upstream knows where nothing is, and return the profile that `ref` finds then.

    Raises ProfileNotFound where it was erased.
    """
    by_customer, by_profile = edit.find(ProfileRef(known.customer_user_id, known.profile_id))
    is_free = by_profile is None or by_profile.customer_user_id is None
    if by_customer is None and is_free:
        after = _with(edit, by_profile, known, policies, now)
        edit.put(by_profile, after, exclusive=writes.exclusive_kinds(policies))
    try:
        return ref.settle(*edit.find(ref))
    except (ProfileNotFound, ProfileConflict):
        return None


def _with(edit: Edit, here: Profile | None, known: Known, policies: Policies, now: int) -> Profile:
    """Return what is here with what the upstream knows beside it.

    Of the kinds that only one profile may have, nothing that another one has already.
    """
    if here is None:
        here = Profile(known.profile_id, None, NO_IDENTIFIERS, (), now, now)
    unset = {
        name: value
        for name, value in known.identifiers.items()
        if here.identifiers[KIND_NUMBER[name]] is None
        and (policies.get(name, "allow") == "allow" or not edit.holders(KIND_NUMBER[name], value))
    }
    return msgspec.structs.replace(
        here,
        customer_user_id=known.customer_user_id,
        identifiers=merge_identifiers(here.identifiers, unset),
        attributes=here.attributes or merge_attributes((), known.attributes),
    )


def _failure(upstream: Upstream, error: Trouble) -> ProfileNotFound | ServiceUnavailable:
    """Return what a request gets while the upstream does not answer."""
    if upstream.on_failure == "not_found":
        return ProfileNotFound()
    return ServiceUnavailable(
        "The profile is not here, and the upstream that may know it does not answer; send the "
        "same request again.",
        retry_after=max(error.retry_after or 0, _AFTER_FAILURE_SECONDS),
    )
