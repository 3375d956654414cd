"""Shadow: what is answered from here is compared beside with what the upstream would have answered.

Nobody waits for it, and nothing of an identifier is kept of it: counts by kind, and the ids of the
profiles that differ.
"""

import asyncio
import contextlib
import random
from collections.abc import Callable, Mapping
from typing import Final

from knownas.errors import KnownasError, ProfileNotFound
from knownas.history import ALL_PROFILES
from knownas.model import KINDS, App, AppId, Identifiers, Profile, ProfileId, ProfileRef
from knownas.shadows import Differing, Result
from knownas.storage import Storage
from knownas.upstream.asking import ASK_SECONDS, Client, Trouble
from knownas.upstream.patience import Breaker
from knownas.upstreams import Upstream

AT_ONCE: Final = 16
"""Comparisons under way in one process, at most; what comes meanwhile is not compared."""
SETTLE_SECONDS: Final = 3.0
"""What differs is compared once more so much later: a write may have been on its way."""
WRITE_SECONDS: Final = 1.0
"""How long what came of comparisons waits for more, to be written with it."""
MOST_KEPT: Final = 1_000
"""Profiles that differ: of each app the newest are kept."""

OnCompared = Callable[[int, Result], None]
"""Told of each comparison: the number of the kind, or `ALL_PROFILES`, and what came of it."""


class _Noted:
    """What came of the comparisons of one app, and is not written yet."""

    def __init__(self) -> None:
        self.counts: dict[tuple[int, Result], int] = {}
        self.differing: dict[ProfileId, Differing] = {}
        self.alike: set[ProfileId] = set()

    def count(self, kind: int, result: Result) -> None:
        self.counts[kind, result] = self.counts.get((kind, result), 0) + 1


class Shadow:
    """Compares for all apps, in one process."""

    def __init__(
        self,
        storage: Storage,
        client: Client,
        breaker: Callable[[AppId, Upstream], Breaker],
        *,
        clock: Callable[[], int],
    ) -> None:
        """Read from `storage` and keep there what came of it; `breaker` spares an upstream."""
        self._storage = storage
        self._client = client
        self._breaker = breaker
        self._clock = clock
        self._random = random.Random()  # noqa: S311 - a sample hides nothing
        self.on_compared: OnCompared = lambda _kind, _result: None
        self._comparing: set[asyncio.Task[None]] = set()
        self._noted: dict[AppId, _Noted] = {}
        self._writing: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()

    def observe(self, app: App, ref: ProfileRef) -> None:
        """Note that a profile was answered, and compare it if it falls into the sample."""
        upstream = app.upstream
        if upstream is None or not upstream.is_shadowed or len(self._comparing) >= AT_ONCE:
            return
        if self._random.random() * 100 < upstream.shadow_percent:
            task = asyncio.create_task(self._compare(app, upstream, ref))
            self._comparing.add(task)
            task.add_done_callback(self._comparing.discard)

    async def _compare(self, app: App, upstream: Upstream, ref: ProfileRef) -> None:
        breaker = self._breaker(app.id, upstream)
        try:
            profile, results = await self._results(app, upstream, ref, breaker)
            if results is not None and set(results.values()) - {"same"}:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._closing.wait(), SETTLE_SECONDS)
                profile, results = await self._results(app, upstream, ref, breaker)
        except ProfileNotFound:
            return  # it has gone meanwhile
        except Trouble as error:
            if error.of == "upstream":
                breaker.failed(error.retry_after)
            else:
                breaker.succeeded()
            self._note(app.id, {ALL_PROFILES: "failed"})
            return
        except KnownasError:
            return  # the storage tells of it
        if results is not None:
            self._note(app.id, results, profile)

    async def _results(
        self, app: App, upstream: Upstream, ref: ProfileRef, breaker: Breaker
    ) -> tuple[Profile, dict[int, Result] | None]:
        """Return a profile as it is here, and how the upstream's fares beside it, by kind.

        None stands for no comparison: the upstream is left alone. Raises ProfileNotFound, Trouble.
        """
        profile = await self._storage.profile(app.id, ref)
        if not breaker.admit(ASK_SECONDS):
            return profile, None
        there = await self._client.identifiers(app, upstream, ref)
        breaker.succeeded()
        return profile, compared(profile.identifiers, there)

    def _note(
        self, app: AppId, results: Mapping[int, Result], profile: Profile | None = None
    ) -> None:
        noted = self._noted.setdefault(app, _Noted())
        for kind, result in results.items():
            noted.count(kind, result)
            self.on_compared(kind, result)
        if profile is not None and results[ALL_PROFILES] == "same":
            noted.differing.pop(profile.profile_id, None)
            noted.alike.add(profile.profile_id)
        elif profile is not None:
            kinds = {
                KINDS[kind].name: result
                for kind, result in results.items()
                if kind != ALL_PROFILES and result != "same"
            }
            noted.alike.discard(profile.profile_id)
            noted.differing[profile.profile_id] = Differing(
                profile.profile_id, self._clock(), kinds
            )
        if self._writing is None:
            self._writing = asyncio.create_task(self._write_soon())

    async def _write_soon(self) -> None:
        """Write what has come together after a while."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._closing.wait(), WRITE_SECONDS)
        self._writing = None
        await self._write()

    async def _write(self) -> None:
        noted, self._noted = self._noted, {}
        for app, one in noted.items():
            # What the storage refuses is not compared again: it is a sample.
            with contextlib.suppress(KnownasError):
                await self._storage.shadows.note(
                    app, one.counts, list(one.differing.values()), one.alike, most=MOST_KEPT
                )

    async def close(self) -> None:
        """Finish what was begun, without waiting for what would be compared once more."""
        self._closing.set()
        await asyncio.gather(*self._comparing, return_exceptions=True)
        if self._writing is not None:
            await self._writing


def compared(here: Identifiers, there: Mapping[str, str] | None) -> dict[int, Result]:
    """Return by kind how identifiers fare beside those of an upstream, None for no profile there.

    A kind that neither has is left out. `ALL_PROFILES` tells of the profile as a whole.
    """
    known = there or {}
    results: dict[int, Result] = {}
    for number, (kind, value) in enumerate(zip(KINDS, here, strict=True)):
        other = known.get(kind.name)
        if value is None and other is None:
            continue
        if value is None:
            results[number] = "missing_here"
        elif other is None:
            results[number] = "missing_there"
        else:
            results[number] = "same" if value == other else "different"
    if there is None:
        results[ALL_PROFILES] = "missing_there"
    else:
        is_same = set(results.values()) <= {"same"}
        results[ALL_PROFILES] = "same" if is_same else "different"
    return results
