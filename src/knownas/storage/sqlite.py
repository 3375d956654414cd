"""Storage in one SQLite file: the embedded default.

Reads run inline, on a connection of the event loop's own thread: a point read takes a few
microseconds, a hop to another thread ten times that. Writes go through `GroupCommit`. WAL lets
the two work side by side, in any number of processes. `synchronous=FULL` flushes the log at
every commit: without it a power cut takes acknowledged writes with it.
"""

import asyncio
import shutil
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Final, TypeVar

import apsw
import msgspec

from knownas.condition import Condition, Operation, Work
from knownas.editing import Edit, Needs
from knownas.erasing import Subjects
from knownas.errors import KnownasError
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
from knownas.storage import (
    StorageError,
    sqlite_apps,
    sqlite_changes,
    sqlite_check,
    sqlite_condition,
    sqlite_file,
    sqlite_inbound,
    sqlite_operators,
    sqlite_profiles,
    sqlite_webhooks,
)
from knownas.storage.sqlite_beside import ReaderBeside
from knownas.storage.sqlite_checkpoint import Checkpoints
from knownas.storage.sqlite_edit import SqliteEdit, prune_answers
from knownas.storage.sqlite_erasures import SqliteErasures
from knownas.storage.sqlite_errors import translated, translating
from knownas.storage.sqlite_imports import SqliteImports
from knownas.storage.sqlite_reserve import Reserve
from knownas.storage.sqlite_shadows import SqliteShadows
from knownas.storage.sqlite_tombstones import Gate, admit, require_app
from knownas.storage.sqlite_writer import GroupCommit
from knownas.upstreams import Upstream
from knownas.vault import Vault

T = TypeVar("T")

READS_A_TURN: Final = 256
"""How many reads of one turn of the loop share a snapshot, at most."""

HOLDERS_AT_ONCE: Final = 20
"""How many holders of a value are read in the event loop's own thread, at most: reading them takes
about as long as to have another thread do it."""

FEW_REFS: Final = 1_000
"""An edit that asks for more profiles is given more memory: as many as a batch has need none."""

_COUNT_PROFILES: Final = "SELECT count(*) FROM profiles WHERE app_id = ?"


class SqliteStorage:
    """`knownas.storage.Storage` over one SQLite file.

    An object belongs to the event loop's thread that made it.
    """

    has_standby = False
    log_position: LogPosition | None = None

    def __init__(
        self,
        path: str | None,
        *,
        subjects: Subjects | None = None,
        create: bool = True,
        vfs: str | None = None,
    ) -> None:
        """Open the file at `path` and bring its schema up to date.

        `subjects` are those of erased persons; without them nobody new can come to an app that has
        some: it raises FeatureNotConfigured.

        `path` None is a private temporary database, gone at `close`. A file that is not there
        is made if `create` says so. `vfs` names the SQLite VFS through which all connections
        go, None the usual one; the tests have one whose power can be cut. Raises StorageError
        when there is no file, it cannot be used, is no database, or does not go together with
        this program.
        """
        self._vfs = vfs
        self._subjects = subjects or Subjects(Vault("", {}))
        self._folder = tempfile.mkdtemp(prefix="knownas-") if path is None else None
        self._path = path if path is not None else f"{self._folder}/knownas.db"
        self.migrated: list[str] = []
        """The names of the schema steps that this opening applied."""
        self.work = Work()
        self._aside = 0
        try:
            sqlite_file.make_private(self._path, create=create)
            writer, reserve = self._open()
            self._reader = self._connect()
            checkpoints = Checkpoints(self._connect(), self.work)
        except (apsw.Error, OSError) as error:
            self._remove_folder()
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise StorageError(f"{self._path}: {reason}.") from error
        self._beside = ReaderBeside(self._connect, self.work)
        self._hot = self._reader.cursor()
        self._reads_left = 0
        self._turn_ends: asyncio.Handle | None = None
        self._writer = GroupCommit(writer, self._end_turn, checkpoints, reserve, self.work)
        self.webhooks = sqlite_webhooks.SqliteWebhooks(self._writer, self._beside)
        self.inbound = sqlite_inbound.SqliteInbound(self._writer, self._beside)
        self.imports = SqliteImports(self._path, self._writer, self._beside)
        self.shadows = SqliteShadows(self._writer, self._beside)
        self.operators = sqlite_operators.SqliteOperators(self._writer, self._beside)
        self._closed = False
        self.erasures = SqliteErasures(self._path, self._writer, self._beside, self._read_aside)

    # --- profiles ---------------------------------------------------------------------------

    def identifiers(self, app: AppId, ref: ProfileRef) -> Identifiers:
        """See `Storage.identifiers`; it answers at once."""
        with translating():
            return sqlite_profiles.identifiers(self._reader, app, ref)

    def identifiers_in_turn(self, app: AppId, ref: ProfileRef) -> Identifiers:
        """See `Storage.identifiers_in_turn`: one read transaction a turn of the loop."""
        try:
            if self._reads_left == 0:
                self._begin_turn()
            self._reads_left -= 1
            return sqlite_profiles.identifiers(self._hot, app, ref)
        except apsw.Error as error:  # not `with`: that alone would take a tenth of the time
            raise translated(error) from error

    def _begin_turn(self) -> None:
        """Open a read transaction that ends before the loop waits for sockets again.

        It also ends after so many reads, since libuv takes up to 1,024 events at once and then,
        without a pause, the next 1,024.
        """
        if self._turn_ends is None:
            self._turn_ends = asyncio.get_running_loop().call_soon(self._end_turn)
        else:
            self._hot.execute("COMMIT")
        self._hot.execute("BEGIN")
        self._reads_left = READS_A_TURN

    def _end_turn(self) -> None:
        """Let go of the snapshot. The writer calls it too, before it acknowledges a write."""
        if self._turn_ends is not None:
            self._turn_ends.cancel()
            self._turn_ends = None
            self._reads_left = 0
            self._hot.execute("COMMIT")

    async def identifiers_after(
        self, app: AppId, ref: ProfileRef, position: LogPosition
    ) -> Identifiers:
        """See `Storage.identifiers_after`; it is always newer."""
        del position
        return self.identifiers(app, ref)

    async def profile(self, app: AppId, ref: ProfileRef) -> Profile:
        """See `Storage.profile`."""
        with translating(), self._reader:  # one snapshot for both halves of the reference
            _, found = sqlite_profiles.settle(self._reader, app, ref)
        return found

    async def profiles(
        self, app: AppId, refs: Sequence[ProfileRef]
    ) -> list[Profile | KnownasError]:
        """See `Storage.profiles`."""
        return await self._beside.read(lambda read: sqlite_profiles.several(read, app, refs))

    def holders(self, app: AppId, sought: Sought) -> Holders | Awaitable[Holders]:
        """See `Storage.holders`; a value that many have is looked for beside the loop."""
        with translating():
            return self._few_holders(self._reader, app, sought)

    def holders_in_turn(self, app: AppId, sought: Sought) -> Holders | Awaitable[Holders]:
        """See `Storage.holders_in_turn`."""
        try:
            if self._reads_left == 0:
                self._begin_turn()
            self._reads_left -= 1
            return self._few_holders(self._hot, app, sought)
        except apsw.Error as error:  # as in identifiers_in_turn
            raise translated(error) from error

    def _few_holders(
        self, read: apsw.Connection | apsw.Cursor, app: AppId, sought: Sought
    ) -> Holders | Awaitable[Holders]:
        few = sought
        if sought.limit > HOLDERS_AT_ONCE:
            few = sought._replace(limit=HOLDERS_AT_ONCE)
        found = sqlite_profiles.holders(read, app, few)
        if found.next is None or few is sought:
            return found
        return self._beside.read(lambda aside: sqlite_profiles.holders(aside, app, sought))

    async def holders_of_each(self, app: AppId, wanted: Sequence[Sought]) -> list[Holders]:
        """See `Storage.holders_of_each`."""
        return await self._beside.read(
            lambda read: [sqlite_profiles.holders(read, app, sought) for sought in wanted]
        )

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
        anew_at = now if anew else None

        def work(connection: apsw.Connection) -> Profile:
            number: int | None
            before: Profile | None
            if create_as is None:
                number, before = sqlite_profiles.settle(connection, app, ref)
                bound = before
            else:
                number, before, bound = sqlite_profiles.settle_or_new(
                    connection, app, ref, create_as, now
                )
                if number is None:
                    require_app(connection, app)
            after = change(bound)
            if after != before:
                after = admit(connection, app, self._subjects, before, after, anew_at=anew_at)
                if before is not None:
                    revision = before.revision + 1
                elif ref.profile_id is not None:
                    revision = sqlite_changes.next_revision(connection, app, ref.profile_id)
                else:
                    revision = 1
                updated_at = max(now, bound.updated_at)  # the clock may have been put back
                after = msgspec.structs.replace(after, updated_at=updated_at, revision=revision)
                sqlite_profiles.store(connection, app, number, before, after, by)
            return after

        return self._writer.run(work)

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
        return await self._writer.run(
            lambda write: sqlite_profiles.delete(write, app, ref, now, by, check), erases=True
        )

    async def add_profiles(
        self, app: AppId, profiles: Iterable[Profile], *, now: int, by: Source = SERVER
    ) -> int:
        """See `Storage.add_profiles`."""
        profiles = list(profiles)

        def work(connection: apsw.Connection) -> int:
            gate = Gate(connection, app, self._subjects)
            return sqlite_profiles.add(connection, app, gate, profiles, now, by)

        return await self._writer.run(work)

    async def count_profiles(self, app: AppId) -> int:
        """See `Storage.count_profiles`."""
        return int(await self._read_aside(lambda read: read.execute(_COUNT_PROFILES, (app,)).get))

    async def profiles_after(
        self, app: AppId, after: ProfileId | None, limit: int
    ) -> list[Profile]:
        """See `Storage.profiles_after`."""
        return await self._read_aside(lambda read: sqlite_profiles.after(read, app, after, limit))

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

        def work(connection: apsw.Connection) -> int:
            gate = Gate(connection, app, self._subjects)
            return sqlite_profiles.replace(connection, app, gate, gone, new, now, by)

        return await self._writer.run(work)

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
        known = needs or Needs()

        def in_transaction(write: apsw.Connection) -> T:
            edit = SqliteEdit(write, app, self._subjects, now, by, known)
            made = work(edit)
            edit.finish()
            return made

        def with_memory(write: apsw.Connection) -> T:
            with sqlite_profiles.large_cache(write):
                return in_transaction(write)

        return await self._writer.run(with_memory if len(known.refs) > FEW_REFS else in_transaction)

    # --- history, feed and counts ---------------------------------------------------------------

    async def history(
        self, app: AppId, profile_id: ProfileId, *, before: int | None, limit: int
    ) -> list[Change]:
        """See `Storage.history`."""
        return await self._beside.read(
            lambda read: sqlite_changes.history(read, app, profile_id, before, limit)
        )

    async def changes(self, app: AppId, cursor: str | None, limit: int) -> ChangesPage:
        """See `Storage.changes`."""
        return await self._beside.read(
            lambda read: sqlite_changes.changes(read, app, cursor, limit)
        )

    async def end_of_changes(self) -> str:
        """See `Storage.end_of_changes`."""
        return await self._beside.read(sqlite_changes.end)

    async def prune(self, *, now: int, before: int, limit: int) -> int:
        """See `Storage.prune`."""

        def work(connection: apsw.Connection) -> int:
            prune_answers(connection, now)
            sqlite_webhooks.prune(connection, before)
            sqlite_inbound.prune(connection, now)
            sqlite_operators.prune(connection, before, now)
            return sqlite_changes.prune(connection, before, limit, now)

        return await self._writer.run(work, erases=True)

    async def coverage(self, app: AppId) -> list[CoverageDay]:
        """See `Storage.coverage`."""
        return await self._beside.read(lambda read: sqlite_changes.coverage(read, app))

    async def shared(self, app: AppId, after: tuple[int, str] | None, limit: int) -> list[Shared]:
        """See `Storage.shared`."""
        return await self._beside.read(lambda read: sqlite_changes.shared(read, app, after, limit))

    async def count_shared(self, app: AppId) -> dict[int, int]:
        """See `Storage.count_shared`."""
        return await self._beside.read(lambda read: sqlite_changes.count_shared(read, app))

    # --- apps and keys ------------------------------------------------------------------------

    async def create_app(self, app_uuid: str, name: str, *, now: int) -> App:
        """See `Storage.create_app`."""
        return await self._writer.run(lambda write: sqlite_apps.create(write, app_uuid, name, now))

    async def apps(self) -> list[App]:
        """See `Storage.apps`."""
        return await self._read_aside(sqlite_apps.apps)

    async def set_policies(self, app: AppId, policies: Policies) -> None:
        """See `Storage.set_policies`."""
        await self._writer.run(lambda write: sqlite_apps.set_policies(write, app, policies))

    async def change_upstream(
        self, app: AppId, change: Callable[[Upstream | None], Upstream | None]
    ) -> Upstream | None:
        """See `Storage.change_upstream`."""
        # The key that was there is not to be left in the file.
        return await self._writer.run(
            lambda write: sqlite_apps.change_upstream(write, app, change), erases=True
        )

    async def delete_app(self, app: AppId) -> None:
        """See `Storage.delete_app`."""
        await self._writer.run(lambda write: sqlite_apps.delete(write, app), erases=True)
        await self.imports.sweep()

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
        await self._writer.run(
            lambda write: sqlite_apps.add_key(write, app, key, digest, replacing, overlap_until)
        )

    async def keys(self, app: AppId) -> list[ApiKey]:
        """See `Storage.keys`."""
        return [key for key, _ in await self.keys_with_digests(app)]

    async def keys_with_digests(self, app: AppId) -> list[tuple[ApiKey, bytes]]:
        """See `Storage.keys_with_digests`."""
        return await self._read_aside(lambda read: sqlite_apps.keys_of(read, app))

    async def put_keys(self, app: AppId, keys: Sequence[tuple[ApiKey, bytes]]) -> None:
        """See `Storage.put_keys`."""
        await self._writer.run(lambda write: sqlite_apps.put_keys(write, app, keys))

    async def end_key(self, app: AppId, key_id: str, *, at: int) -> bool:
        """See `Storage.end_key`."""
        return await self._writer.run(
            lambda write: sqlite_apps.end_key(write, app, key_id, at), erases=True
        )

    async def set_key_rate(self, app: AppId, key_id: str, rate: str | None) -> bool:
        """See `Storage.set_key_rate`."""
        return await self._writer.run(
            lambda write: sqlite_apps.set_key_rate(write, app, key_id, rate)
        )

    async def note_key_uses(self, uses: Mapping[tuple[AppId, str], int]) -> None:
        """See `Storage.note_key_uses`."""
        await self._writer.run(lambda write: sqlite_apps.note_key_uses(write, uses))

    async def key_by_digest(self, digest: bytes) -> ApiKey | None:
        """See `Storage.key_by_digest`."""
        with translating():
            return sqlite_apps.key(self._reader, digest)

    # --- the database itself --------------------------------------------------------------------

    async def ping(self) -> None:
        """See `Storage.ping`."""
        with translating():
            self._reader.execute("SELECT 1 FROM schema_version").fetchall()

    def waiting(self) -> Mapping[Operation, int]:
        """See `Storage.waiting`."""
        return {
            "write": self._writer.waiting,
            "lookup": self._beside.waiting,
            "aside": self._aside,
        }

    async def condition(self, *, now: int) -> Condition:
        """See `Storage.condition`."""
        return await self._beside.read(lambda read: sqlite_condition.condition(read, now))

    async def check(self) -> list[str]:
        """See `Storage.check`."""
        return await self._read_aside(sqlite_check.problems)

    async def close(self) -> None:
        """See `Storage.close`."""
        if not self._closed:
            self._closed = True
            self._writer.hand_over()
            await asyncio.to_thread(self._writer.close)
            await asyncio.to_thread(self._beside.close)
            self._end_turn()
            self._reader.close()
            self._remove_folder()

    def _open(self) -> tuple[apsw.Connection, Reserve]:
        """Open the writer's connection, migrate, and return it with the reserve."""
        path = f"{self._path}-reserve"
        try:
            writer = self._connect()
            self.migrated = sqlite_file.migrate_to_newest(writer)
            return writer, Reserve(path)
        except (apsw.FullError, apsw.IOError):
            # On a full disk not even the shared memory that reading needs can be made.
            reserve = Reserve(path)
            with reserve.lent():
                writer = self._connect()
                self.migrated = sqlite_file.migrate_to_newest(writer)
            return writer, reserve

    def _connect(self) -> apsw.Connection:
        return sqlite_file.connect(self._path, self._vfs)

    async def _read_aside(self, read: Callable[[apsw.Connection], T]) -> T:
        """Run a read that may take long in another thread, on a connection of its own."""

        def run() -> T:
            connection = self._connect()
            try:
                return read(connection)
            finally:
                connection.close()

        began = time.perf_counter_ns()
        self._aside += 1
        try:
            with translating():
                return await asyncio.to_thread(run)
        finally:
            self._aside -= 1
            self.work.tell("aside", 1, time.perf_counter_ns() - began)

    def _remove_folder(self) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
