"""Storage in PostgreSQL: for several servers, with standbys, on an engine that teams know.

Nothing is kept between requests, neither here nor in a session of the database. The reads of
one turn of the event loop share a query, and writes that come while a transaction is under way
share the next one (`postgres_gather.py`).
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeVar

from knownas.condition import Condition, Operation, Work
from knownas.editing import Edit, Needs
from knownas.erasing import Subjects
from knownas.errors import KnownasError, ServiceUnavailable
from knownas.history import SERVER, Change, ChangesPage, CoverageDay, Shared, Source
from knownas.lookups import Holders, Sought
from knownas.model import (
    ApiKey,
    App,
    AppId,
    Identifiers,
    LogPosition,
    Policies,
    Profile,
    ProfileId,
    ProfileRef,
)
from knownas.storage import postgres_apps as apps
from knownas.storage import (
    postgres_bulk,
    postgres_check,
    postgres_condition,
    postgres_edit,
    postgres_inbound,
    postgres_lookups,
    postgres_operators,
    postgres_schema,
    postgres_webhooks,
)
from knownas.storage import postgres_feed as feed
from knownas.storage import postgres_reads as reads
from knownas.storage.postgres_edit import Job
from knownas.storage.postgres_erasures import PostgresErasures
from knownas.storage.postgres_errors import OUTRUN, Outrun, translated
from knownas.storage.postgres_gather import Gathering, Links
from knownas.storage.postgres_imports import PostgresImports
from knownas.storage.postgres_link import Link, Target
from knownas.storage.postgres_shadows import PostgresShadows
from knownas.storage.postgres_state import Write
from knownas.storage.postgres_writes import MAX_TRIES, write
from knownas.upstreams import Upstream
from knownas.vault import Vault

T = TypeVar("T")

READERS: Final = 2
"""Connections for reads: while one waits for its answer, the next reads can be sent."""
LOOKERS: Final = 1
"""Connections for batches and reverse look-ups, which are not to hold up the hot reads."""
LOOKUPS_AT_ONCE: Final = 32
"""A reverse look-up may find many profiles, a hot read finds one."""
EDITS_AT_ONCE: Final = 100
"""Edits to a transaction: one may be as much as several writes."""
FEW_REFS: Final = 10
"""An edit that asks for more profiles has a transaction of its own."""
MANY_REFS: Final = 1_000
"""An edit that asks for more, as an import does, has a connection of its own and no deadline."""
WRITERS: Final = 1
"""With one alone, what comes during a commit goes into the next, and nothing meets itself."""
WEBHOOK_WRITERS: Final = 1
"""For what webhooks and the console have written: made where there is any."""
FOLLOWERS: Final = 1
"""For the history, the feed and what is counted: a long page keeps no other read waiting."""
ASIDE: Final = 2
"""Connections for all else, each made when it is needed."""

_PING: Final = "SELECT 1 FROM schema_version"

_COUNT_PROFILES: Final = "SELECT count(*) FROM profiles WHERE app_id = $1"


class PostgresStorage:
    """`knownas.storage.Storage` over a PostgreSQL database.

    An object belongs to the first event loop that uses it.
    """

    has_standby = False
    log_position: LogPosition | None = None

    def __init__(
        self,
        url: str,
        *,
        subjects: Subjects | None = None,
        prepared: bool = True,
        seconds: float = 5.0,
    ) -> None:
        """Bring the schema of the database at `url` up to date.

        `subjects` are those of erased persons; without them nobody new can come to an app that has
        some: it raises FeatureNotConfigured.

        What is asked is answered, or fails with ServiceUnavailable, within `seconds`; only
        what may have to read or write a whole app has no such limit. `prepared` False is for a
        PgBouncer older than 1.21. Raises StorageError when the database cannot be used.
        """
        self._target = Target(url, prepared=prepared)
        self._seconds = seconds
        self._subjects = subjects or Subjects(Vault("", {}))
        self.erasures = PostgresErasures(self._do)
        self.migrated = postgres_schema.migrate_to_newest(self._target, seconds=seconds)
        """The names of the schema steps that this opening applied."""
        self.work = Work()
        self._readers = Links(self._target, READERS, "read", self.work)
        self._lookers = Links(self._target, LOOKERS, "lookup", self.work)
        self._writers = Links(self._target, WRITERS, "write", self.work)
        self._followers = Links(self._target, FOLLOWERS, "page", self.work)
        self._webhook_writers = Links(self._target, WEBHOOK_WRITERS, "webhook", self.work)
        self._links = [
            self._readers,
            self._lookers,
            self._writers,
            self._followers,
            self._webhook_writers,
        ]
        self._identifiers: Gathering[reads.Question, Identifiers] = Gathering(
            self._readers, reads.identifiers, seconds
        )
        self._profiles: Gathering[reads.Question, Profile] = Gathering(
            self._readers, reads.profiles, seconds
        )
        self._holders: Gathering[postgres_lookups.Question, Holders] = Gathering(
            self._lookers, postgres_lookups.holders, seconds, at_once=LOOKUPS_AT_ONCE
        )
        self._batches: Gathering[postgres_lookups.ManyRefs, list[Profile | KnownasError]] = (
            Gathering(self._lookers, postgres_lookups.profiles, seconds, at_once=1)
        )
        self._batches_of_holders: Gathering[postgres_lookups.ManySought, list[Holders]] = Gathering(
            self._lookers, postgres_lookups.holders_of_each, seconds, at_once=1
        )
        self._keys: Gathering[bytes, ApiKey | None] = Gathering(self._readers, apps.keys, seconds)
        self._pings: Gathering[None, None] = Gathering(self._readers, _ping, seconds)
        self._writes: Gathering[Write, Profile] = Gathering(self._writers, self._write, seconds)
        self._edits: Gathering[Job, Any] = Gathering(
            self._writers, self._edit, seconds, at_once=EDITS_AT_ONCE
        )
        self._long_edits: Gathering[Job, Any] = Gathering(
            self._writers, self._edit, seconds, at_once=1
        )
        self._pages: Gathering[Callable[[Link], Awaitable[Any]], Any] = Gathering(
            self._followers, _in_turn, seconds
        )
        self._webhook_jobs: Gathering[Callable[[Link], Awaitable[Any]], Any] = Gathering(
            self._webhook_writers, _in_turn, seconds, at_once=1
        )
        self.webhooks = postgres_webhooks.PostgresWebhooks(self._read, self._write_for_webhooks)
        self.inbound = postgres_inbound.PostgresInbound(self._read, self._write_for_webhooks)
        self.imports = PostgresImports(self._read, self._write_for_webhooks)
        self.shadows = PostgresShadows(self._read, self._write_for_webhooks)
        self.operators = postgres_operators.PostgresOperators(self._read, self._write_for_webhooks)
        self._jobs: set[asyncio.Task[Any]] = set()
        self._aside = asyncio.Semaphore(ASIDE)
        self._closed = False

    async def _write(self, link: Link, group: list[Write]) -> list[Profile | BaseException]:
        return await write(link, group, self._subjects)

    async def _edit(self, link: Link, group: list[Job]) -> list[Any]:
        return await postgres_edit.edit(link, group, self._subjects)

    # --- profiles ---------------------------------------------------------------------------

    def identifiers(self, app: AppId, ref: ProfileRef) -> Awaitable[Identifiers]:
        """See `Storage.identifiers`."""
        if ref.customer_user_id is None or ref.profile_id is None:
            return self._identifiers.put((app, ref))
        return self._identifiers_by_both(app, ref)

    identifiers_in_turn = identifiers

    async def identifiers_after(
        self, app: AppId, ref: ProfileRef, position: LogPosition
    ) -> Identifiers:
        """See `Storage.identifiers_after`; the primary is always newer."""
        del position
        return await self.identifiers(app, ref)

    async def _identifiers_by_both(self, app: AppId, ref: ProfileRef) -> Identifiers:
        return (await self.profile(app, ref)).identifiers

    async def profile(self, app: AppId, ref: ProfileRef) -> Profile:
        """See `Storage.profile`."""
        return await self._profiles.put((app, ref))

    async def profiles(
        self, app: AppId, refs: Sequence[ProfileRef]
    ) -> list[Profile | KnownasError]:
        """See `Storage.profiles`."""
        return await self._batches.put((app, refs))

    def holders(self, app: AppId, sought: Sought) -> Awaitable[Holders]:
        """See `Storage.holders`."""
        return self._holders.put((app, sought))

    holders_in_turn = holders

    async def holders_of_each(self, app: AppId, wanted: Sequence[Sought]) -> list[Holders]:
        """See `Storage.holders_of_each`."""
        return await self._batches_of_holders.put((app, wanted))

    def change_profile(  # noqa: PLR0913 - whom, how, when, and by whom
        self,
        app: AppId,
        ref: ProfileRef,
        change: Callable[[Profile], Profile],
        *,
        now: int,
        create_as: ProfileId | None = None,
        anew: bool = False,
        by: Source = SERVER,
    ) -> asyncio.Future[Profile]:
        """See `Storage.change_profile`."""
        return self._writes.put(Write(app, ref, change, now, create_as, by, anew=anew))

    async def delete_profile(
        self,
        app: AppId,
        ref: ProfileRef,
        *,
        now: int,
        by: Source = SERVER,
        check: Callable[[Profile], None] | None = None,
    ) -> Profile:
        """See `Storage.delete_profile`."""
        return await self._writes.put(Write(app, ref, None, now, None, by, check))

    async def add_profiles(
        self, app: AppId, profiles: Iterable[Profile], *, now: int, by: Source = SERVER
    ) -> int:
        """See `Storage.add_profiles`."""
        job, brought = postgres_bulk.Job(app, now, by, self._subjects), list(profiles)
        return await self._do(lambda link: postgres_bulk.add(link, job, brought), long=True)

    async def profiles_after(
        self, app: AppId, after: ProfileId | None, limit: int
    ) -> list[Profile]:
        """See `Storage.profiles_after`."""
        return await self._do(lambda link: reads.profiles_after(link, app, after, limit), long=True)

    async def replace_profiles(
        self,
        app: AppId,
        gone: Iterable[ProfileId],
        new: Iterable[Profile],
        *,
        now: int,
        by: Source = SERVER,
    ) -> int:
        """See `Storage.replace_profiles`."""
        job, old, brought = postgres_bulk.Job(app, now, by, self._subjects), list(gone), list(new)
        return await self._do(
            lambda link: postgres_bulk.replace(link, job, old, brought), long=True
        )

    async def count_profiles(self, app: AppId) -> int:
        """See `Storage.count_profiles`."""
        rows = await self._do(lambda link: link.fetch(_COUNT_PROFILES, app), long=True)
        return int(rows[0][0])

    async def edit(
        self,
        app: AppId,
        work: Callable[[Edit], T],
        *,
        now: int,
        by: Source = SERVER,
        needs: Needs | None = None,
    ) -> T:
        """See `Storage.edit`."""
        job = Job(app, work, needs or Needs(), now, by)
        if len(job.needs.refs) > MANY_REFS:
            many: T = await self._edit_many(job)
            return many
        edits = self._edits if len(job.needs.refs) <= FEW_REFS else self._long_edits
        made: T = await edits.put(job)
        return made

    async def _edit_many(self, job: Job) -> Any:  # noqa: ANN401 - what the edit returns
        """Make an edit that takes longer than others would wait for."""
        [made] = await self._do(
            lambda link: postgres_edit.edit(link, [job], self._subjects), long=True
        )
        if isinstance(made, BaseException):
            raise made
        return made

    # --- history, feed and counts ---------------------------------------------------------------

    async def history(
        self, app: AppId, profile_id: ProfileId, *, before: int | None, limit: int
    ) -> list[Change]:
        """See `Storage.history`."""
        return await self._read(lambda link: feed.history(link, app, profile_id, before, limit))

    async def changes(self, app: AppId, cursor: str | None, limit: int) -> ChangesPage:
        """See `Storage.changes`."""
        return await self._read(lambda link: feed.changes(link, app, cursor, limit))

    async def end_of_changes(self) -> str:
        """See `Storage.end_of_changes`."""
        return await self._read(feed.end)

    async def prune(self, *, now: int, before: int, limit: int) -> int:
        """See `Storage.prune`."""

        async def job(link: Link) -> int:
            await postgres_edit.prune_answers(link, now)
            await postgres_webhooks.prune(link, before)
            await postgres_inbound.prune(link, now)
            await postgres_operators.prune(link, before, now)
            return await feed.prune(link, before, limit, now)

        return await self._do(job, long=True)

    async def coverage(self, app: AppId) -> list[CoverageDay]:
        """See `Storage.coverage`."""
        return await self._read(lambda link: feed.coverage(link, app))

    async def shared(self, app: AppId, after: tuple[int, str] | None, limit: int) -> list[Shared]:
        """See `Storage.shared`."""
        return await self._read(lambda link: feed.shared(link, app, after, limit))

    async def count_shared(self, app: AppId) -> dict[int, int]:
        """See `Storage.count_shared`."""
        return await self._read(lambda link: feed.count_shared(link, app))

    async def _read(self, read: Callable[[Link], Awaitable[T]]) -> T:
        answer: T = await self._pages.put(read)
        return answer

    async def _write_for_webhooks(self, job: Callable[[Link], Awaitable[T]]) -> T:
        answer: T = await self._webhook_jobs.put(lambda link: _insist(link, job))
        return answer

    # --- apps and keys ------------------------------------------------------------------------

    async def create_app(self, app_uuid: str, name: str, *, now: int) -> App:
        """See `Storage.create_app`."""
        return await self._do(lambda link: apps.create(link, app_uuid, name, now))

    async def apps(self) -> list[App]:
        """See `Storage.apps`."""
        return await self._do(apps.apps)

    async def set_policies(self, app: AppId, policies: Policies) -> None:
        """See `Storage.set_policies`."""
        await self._do(lambda link: apps.set_policies(link, app, policies))

    async def change_upstream(
        self, app: AppId, change: Callable[[Upstream | None], Upstream | None]
    ) -> Upstream | None:
        """See `Storage.change_upstream`."""
        return await self._do(lambda link: apps.change_upstream(link, app, change))

    async def delete_app(self, app: AppId) -> None:
        """See `Storage.delete_app`."""
        await self._do(lambda link: postgres_bulk.delete_app(link, app), long=True)

    async def add_key(
        self,
        app: AppId,
        key: ApiKey,
        digest: bytes,
        *,
        replacing: str | None = None,
        overlap_until: int = 0,
    ) -> None:
        """See `Storage.add_key`."""
        await self._do(lambda link: apps.add_key(link, app, key, digest, replacing, overlap_until))

    async def keys(self, app: AppId) -> list[ApiKey]:
        """See `Storage.keys`."""
        return [key for key, _ in await self.keys_with_digests(app)]

    async def keys_with_digests(self, app: AppId) -> list[tuple[ApiKey, bytes]]:
        """See `Storage.keys_with_digests`."""
        return await self._do(lambda link: apps.keys_of(link, app))

    async def put_keys(self, app: AppId, keys: Sequence[tuple[ApiKey, bytes]]) -> None:
        """See `Storage.put_keys`."""
        await self._do(lambda link: apps.put_keys(link, app, keys), long=True)

    async def end_key(self, app: AppId, key_id: str, *, at: int) -> bool:
        """See `Storage.end_key`."""
        return await self._do(lambda link: apps.end_key(link, app, key_id, at))

    async def set_key_rate(self, app: AppId, key_id: str, rate: str | None) -> bool:
        """See `Storage.set_key_rate`."""
        return await self._do(lambda link: apps.set_key_rate(link, app, key_id, rate))

    async def note_key_uses(self, uses: Mapping[tuple[AppId, str], int]) -> None:
        """See `Storage.note_key_uses`."""
        await self._do(lambda link: apps.note_key_uses(link, uses))

    async def key_by_digest(self, digest: bytes) -> ApiKey | None:
        """See `Storage.key_by_digest`."""
        return await self._keys.put(digest)

    # --- the database itself --------------------------------------------------------------------

    async def ping(self) -> None:
        """See `Storage.ping`."""
        await self._pings.put(None)

    def waiting(self) -> Mapping[Operation, int]:
        """See `Storage.waiting`."""
        held = {links.operation: links.waiting for links in self._links}
        return {**held, "aside": len(self._jobs)}

    async def condition(self, *, now: int) -> Condition:
        """See `Storage.condition`."""
        return await self._read(lambda link: postgres_condition.condition(link, now))

    async def check(self) -> list[str]:
        """See `Storage.check`."""
        return await self._do(postgres_check.problems, long=True)

    async def close(self) -> None:
        """See `Storage.close`."""
        self._closed = True
        for links in self._links:
            await links.close()
        if self._jobs:
            await asyncio.wait(self._jobs)

    async def _do(self, job: Callable[[Link], Awaitable[T]], *, long: bool = False) -> T:
        """Do what is rarely done, over a connection of its own.

        Cancelling the caller does not cancel it. It is made anew when others were in its way.
        """
        if self._closed:
            raise ServiceUnavailable("The server is stopping; send the same request again.")
        task = asyncio.get_running_loop().create_task(self._do_aside(job, long=long))
        self._jobs.add(task)
        task.add_done_callback(self._done)
        return await asyncio.shield(task)

    def _done(self, task: "asyncio.Task[Any]") -> None:
        self._jobs.discard(task)
        if not task.cancelled():
            task.exception()  # its caller may be gone

    async def _do_aside(self, job: Callable[[Link], Awaitable[T]], *, long: bool) -> T:
        loop = asyncio.get_running_loop()
        link = Link(self._target)
        link.deadline = loop.time() + self._seconds
        end = loop.call_at(link.deadline, link.cut)
        began = time.perf_counter_ns()
        try:
            async with asyncio.timeout_at(link.deadline):
                await self._aside.acquire()
            try:
                await link.open()
                if long:
                    end.cancel()
                return await _insist(link, job)
            finally:
                self._aside.release()
        except asyncio.CancelledError:
            link.cut()  # before asyncpg gets to cancel what the server is doing
            raise
        except Exception as error:
            told = translated(error)
            if told is error:
                raise
            raise told from error
        finally:
            self.work.tell("aside", 1, time.perf_counter_ns() - began)
            end.cancel()
            await link.close()


async def _insist(link: Link, job: Callable[[Link], Awaitable[T]]) -> T:
    for _ in range(MAX_TRIES):
        try:
            return await job(link)
        except OUTRUN:
            continue
    raise Outrun


async def _in_turn(link: Link, reads: list[Callable[[Link], Awaitable[Any]]]) -> list[Any]:
    """Read one after the other; what one is refused, the others are not."""
    answers = []
    for read in reads:
        try:
            answers.append(await read(link))
        except KnownasError as error:
            answers.append(error)
    return answers


async def _ping(link: Link, questions: list[None]) -> list[None]:
    await link.fetch(_PING)
    return questions
