"""Erasing on PostgreSQL: the person at once, the dead rows by VACUUM.

What is left after that is not for a client of the database to remove: bytes in the free space of
pages, until they are used again; the write-ahead log; standbys; backups. A receipt names them.
"""

import asyncio
import re
import uuid
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Final, Protocol, TypeVar

from knownas.erasing import (
    UNWRITTEN,
    Erasure,
    Person,
    Record,
    Tombstone,
    Wait,
    Whom,
    customer_name,
    profile_name,
)
from knownas.errors import ServiceUnavailable, Unauthorized
from knownas.history import SERVER, Difference, Source
from knownas.model import AppId, ProfileId
from knownas.storage import postgres_person, rows
from knownas.storage import postgres_tombstones as tombstones
from knownas.storage.postgres_changes import last_of, note
from knownas.storage.postgres_errors import Outrun
from knownas.storage.postgres_link import Link
from knownas.storage.postgres_reads import columns, locked_profiles

T = TypeVar("T")

PAGE: Final = 10_000

TABLES: Final = (
    "profiles",
    "customers",
    "identifiers",
    "changes",
    "shared_identifiers",
    "aliases",
    "answers",
    "deliveries",
    "dead_letters",
    "shadow_differences",
)
"""All that may have something of a person."""

_LOCK_APP: Final = "SELECT 1 FROM apps WHERE id = $1 FOR UPDATE"
_COLUMNS: Final = "id::text, erased_at, receipt, completed_at"
_KEEP: Final = """
INSERT INTO erasures (app_id, id, erased_at, receipt, completed_at, tx)
SELECT *, pg_current_xact_id()::text::bigint
FROM unnest($1::integer[], $2::uuid[], $3::bigint[], $4::text[], $5::bigint[])
ON CONFLICT DO NOTHING
"""
_GET: Final = f"SELECT {_COLUMNS} FROM erasures WHERE app_id = $1 AND id = $2"  # noqa: S608 - the columns are a constant
_PAGE: Final = f"""
SELECT {_COLUMNS} FROM erasures WHERE app_id = $1 AND (erased_at, id) < ($2, $3)
ORDER BY erased_at DESC, id DESC LIMIT $4
"""  # noqa: S608 - the columns are a constant
_LATEST: Final = (2**62, str(uuid.UUID(int=2**128 - 1)))
_WAITING_SINCE: Final = "SELECT min(erased_at) FROM erasures WHERE completed_at IS NULL"
_WAITING: Final = "SELECT app_id, id::text, tx FROM erasures WHERE completed_at IS NULL"
_COMPLETE: Final = """
UPDATE erasures e SET completed_at = $3
FROM unnest($1::integer[], $2::uuid[]) AS a (app_id, id)
WHERE e.app_id = a.app_id AND e.id = a.id
"""
_SEALED: Final = "SELECT sealed FROM server_secrets WHERE name = $1"
_PUT_SEALED: Final = """
INSERT INTO server_secrets (name, sealed) VALUES ($1, $2) ON CONFLICT DO NOTHING
"""
_PROFILES: Final = """
SELECT profile_id::text, customer_user_id FROM profiles WHERE app_id = $1 AND profile_id > $2
ORDER BY profile_id LIMIT $3
"""
_WITH_HISTORY: Final = """
SELECT DISTINCT profile_id::text FROM changes WHERE app_id = $1 AND profile_id > $2
ORDER BY profile_id LIMIT $3
"""
_ALIASES: Final = """
SELECT name FROM aliases WHERE app_id = $1 AND name > $2 ORDER BY name LIMIT $3
"""
_ABOUT: Final = """
SELECT DISTINCT about FROM changes WHERE app_id = $1 AND about > $2 ORDER BY about LIMIT $3
"""
_FIRST_ID: Final = str(uuid.UUID(int=0))

# Which dead rows could be removed: those of transactions before this one.
_CUTOFF: Final = re.compile(r"(?:removable cutoff|oldest xmin): (\d+)")
_XIDS: Final = 2**32


class Do(Protocol):
    """Does a job over a connection of its own."""

    def __call__(self, job: Callable[[Link], Awaitable[T]], *, long: bool = False) -> Awaitable[T]:
        """Return what the job returns."""
        ...


class PostgresErasures:
    """`knownas.erasures.Erasures` on a PostgreSQL database."""

    ledger_beside: str | None = None
    waits: Sequence[Wait] = (
        Wait("dead rows in the tables, until VACUUM has run", "server"),
        Wait("free space in the tables' pages, until it is used again", "operator"),
        Wait("the write-ahead log and its archive, until they are recycled", "operator"),
        Wait("standbys, until they have followed", "operator"),
        Wait("backups of the database that were made before", "operator"),
    )

    def __init__(self, do: Do) -> None:
        """Erase over connections that `do` makes."""
        self._do = do

    async def person(self, app: AppId, whom: Whom) -> Person:
        """See `Erasures.person`."""
        return await self._do(lambda link: postgres_person.find(link, app, whom), long=True)

    async def erase(
        self,
        app: AppId,
        whom: Whom,
        record: Callable[[Person], Record],
        *,
        now: int,
        by: Source = SERVER,
    ) -> Person:
        """See `Erasures.erase`."""
        return await self._do(lambda link: _erase(link, app, whom, record, now, by), long=True)

    async def keys(self, app: AppId) -> list[bytes]:
        """See `Erasures.keys`."""
        return await self._do(lambda link: tombstones.keys(link, app))

    async def put_key(self, app: AppId, key_id: bytes, sealed: bytes) -> None:
        """See `Erasures.put_key`."""
        await self._do(lambda link: tombstones.put_key(link, app, key_id, sealed))

    async def get(self, app: AppId, erasure_id: str) -> Erasure | None:
        """See `Erasures.get`."""
        found = await self._do(lambda link: link.fetch(_GET, app, erasure_id))
        return Erasure(*found[0]) if found else None

    async def page(self, app: AppId, before: tuple[int, str] | None, limit: int) -> list[Erasure]:
        """See `Erasures.page`."""
        place = before or _LATEST
        found = await self._do(lambda link: link.fetch(_PAGE, app, *place, limit))
        return [Erasure(*row) for row in found]

    async def put(self, app: AppId, erasures: Sequence[Erasure]) -> None:
        """See `Erasures.put`."""

        async def job(link: Link) -> None:
            async with link.transaction():
                await _require_app(link, app)
                await _keep(link, app, erasures)

        await self._do(job, long=True)

    async def tombstones(self, app: AppId, subjects: Sequence[bytes]) -> list[Tombstone]:
        """See `Erasures.tombstones`."""
        return await self._do(lambda link: tombstones.find(link, app, subjects))

    async def tombstones_after(self, app: AppId, subject: bytes, limit: int) -> list[Tombstone]:
        """See `Erasures.tombstones_after`."""
        return await self._do(lambda link: tombstones.after(link, app, subject, limit))

    async def put_tombstones(self, app: AppId, stones: Sequence[Tombstone]) -> None:
        """See `Erasures.put_tombstones`."""

        async def job(link: Link) -> None:
            async with link.transaction():
                await _require_app(link, app)
                await tombstones.put(link, app, stones)

        await self._do(job, long=True)

    async def names_among(
        self, app: AppId, pick: Callable[[Sequence[str]], list[str]]
    ) -> list[str]:
        """See `Erasures.names_among`."""
        return await self._do(lambda link: _names_among(link, app, pick), long=True)

    async def waiting_since(self) -> int | None:
        """See `Erasures.waiting_since`."""
        found = await self._do(lambda link: link.fetch(_WAITING_SINCE))
        since: int | None = found[0][0]
        return since

    def holds_up_writes(self) -> bool:
        """See `Erasures.holds_up_writes`: VACUUM works beside them."""
        return False

    async def finish(self, clock: Callable[[], int]) -> None:
        """See `Erasures.finish`."""
        await self._do(lambda link: _vacuum(link, clock), long=True)

    async def secret(self, name: str) -> bytes | None:
        """See `Erasures.secret`."""
        found = await self._do(lambda link: link.fetch(_SEALED, name))
        return found[0][0] if found else None

    async def put_secret(self, name: str, sealed: bytes) -> bytes:
        """See `Erasures.put_secret`."""

        async def job(link: Link) -> bytes:
            async with link.transaction():
                await link.fetch(_PUT_SEALED, name, sealed)
            kept: bytes = (await link.fetch(_SEALED, name))[0][0]
            return kept

        return await self._do(job)


async def _erase(  # noqa: PLR0913, PLR0917 - whom, what stays, when, and by whom
    link: Link,
    app: AppId,
    whom: Whom,
    record: Callable[[Person], Record],
    now: int,
    by: Source,
) -> Person:
    """Erase a person. Raises Outrun where it was somebody else when it was locked.

    Whoever changes a profile holds it, and whoever makes one its app: first the one, then the
    other.
    """
    async with link.transaction():
        person = await postgres_person.find(link, app, whom)
        await locked_profiles(link, {(app, profile_id) for profile_id in person.profile_ids})
        await _require_app(link, app)
        if await postgres_person.find(link, app, whom) != person:
            raise Outrun
        try:
            kept = await asyncio.to_thread(record, person)
        except OSError as error:
            raise ServiceUnavailable(UNWRITTEN) from error
        tally = await postgres_person.take_out(link, app, person, now)
        await tombstones.erect(link, app, kept.tombstones)
        if kept.erasure is not None:
            await _keep(link, app, [kept.erasure])
        await _tell(link, app, ProfileId(kept.id), now, by)
        await tally.write(link)
    return person


async def _require_app(link: Link, app: AppId) -> None:
    """Keep an app from getting anybody new meanwhile. Raises Unauthorized when it is gone."""
    if not await link.fetch(_LOCK_APP, app):
        raise Unauthorized


async def _tell(link: Link, app: AppId, erasure_id: ProfileId, now: int, by: Source) -> None:
    """Tell followers that a person was erased, and not who."""
    last = await last_of(link, [(app, erasure_id)])
    revision, tx = (last[app, erasure_id].revision, last[app, erasure_id].tx) if last else (0, 0)
    text = rows.from_difference(Difference(erased=True))
    await note(link, [(app, erasure_id, revision + 1, now, by.text(), text, None, tx)])


async def _keep(link: Link, app: AppId, erasures: Iterable[Erasure]) -> None:
    if kept := sorted((app, *erasure) for erasure in erasures):
        await link.fetch(_KEEP, *columns(kept))


async def _names_among(
    link: Link, app: AppId, pick: Callable[[Sequence[str]], list[str]]
) -> list[str]:
    picked: dict[str, None] = {}
    for statement, first, names in (
        (_PROFILES, _FIRST_ID, _names_of_profile),
        (_WITH_HISTORY, _FIRST_ID, lambda row: [profile_name(ProfileId(row[0]))]),
        (_ALIASES, "", lambda row: [row[0]]),
        (_ABOUT, "", lambda row: [row[0]]),
    ):
        after: str | None = first
        while after is not None:
            page = await link.fetch(statement, app, after, PAGE)
            found = [name for row in page for name in names(row)]
            picked.update(dict.fromkeys(await asyncio.to_thread(pick, found)))
            after = page[-1][0] if len(page) == PAGE else None
    return list(picked)


def _names_of_profile(row: Any) -> list[str]:  # noqa: ANN401 - a record of the driver
    profile_id, customer = row
    names = [profile_name(ProfileId(profile_id))]
    return names if customer is None else [*names, customer_name(customer)]


async def _vacuum(link: Link, clock: Callable[[], int]) -> None:
    """Remove the dead rows of what was erased before; complete is what no transaction still sees.

    Raises ServiceUnavailable where there is such a transaction, or VACUUM is not allowed.
    """
    waiting: list[Any] = await link.fetch(_WAITING)
    if not waiting:
        return
    cutoffs = [await link.told_by(f"VACUUM (VERBOSE) {table}", _CUTOFF) for table in TABLES]
    done = [
        (app, erasure_id)
        for app, erasure_id, tx in waiting
        if all(cutoff and _is_before(tx, int(cutoff)) for cutoff in cutoffs)
    ]
    if done:
        async with link.transaction():
            await link.fetch(_COMPLETE, *columns(sorted(done)), clock())
    if len(done) < len(waiting):
        raise ServiceUnavailable("Dead rows of erased persons could not be removed yet.")


def _is_before(tx: int, cutoff: int) -> bool:
    """Tell whether a transaction is before one of which only the lower 32 bits are known."""
    return 0 < (cutoff - tx) % _XIDS < _XIDS // 2
