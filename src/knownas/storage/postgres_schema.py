"""The schema of a PostgreSQL database: how it is brought up to date, once, whoever comes first."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

import asyncpg

from knownas.storage import StorageError, migrate, postgres_feed
from knownas.storage.migrate import Migration
from knownas.storage.postgres_errors import reason
from knownas.storage.postgres_link import Link, Target

T = TypeVar("T")

_LOCK: Final = "SELECT pg_advisory_xact_lock(7812730953163661683)"
"""Held by whoever migrates, until the end of the transaction; the number is "knownas"."""

_TABLE_EXISTS: Final = "SELECT to_regclass('schema_version') IS NOT NULL"
_CREATE_TABLE: Final = """
CREATE TABLE IF NOT EXISTS schema_version (
    version    integer PRIMARY KEY,
    name       text NOT NULL,
    checksum   text NOT NULL,
    applied_at bigint NOT NULL
)
"""
_APPLIED: Final = "SELECT version, checksum FROM schema_version"
_REMEMBER: Final = "INSERT INTO schema_version VALUES ($1, $2, $3, $4)"


def migrate_to_newest(target: Target, *, seconds: float) -> list[str]:
    """Bring the schema up to date and return the names of the steps that were applied.

    The feed of a database that was restored from a dump becomes one of its own.
    Connects within `seconds`. Raises StorageError as `pending`.
    """
    return [step.full_name for step in apart(target, seconds, _migrate)]


def pending(target: Target, *, seconds: float) -> list[str]:
    """Return the names of the steps that are still to do, and change nothing.

    Raises StorageError when the database cannot be used, or does not go together with this
    program.
    """
    return [step.full_name for step in apart(target, seconds, _pending)]


def apart(target: Target, seconds: float, use: Callable[[Link], Awaitable[T]]) -> T:
    """Use a connection of its own, in an event loop and a thread of its own.

    Whoever opens a storage waits for it, as for a file that is opened, and may already be in
    an event loop. Connects within `seconds`. Raises StorageError when the database cannot be used.
    """

    async def main() -> T:
        link = Link(target)
        link.deadline = asyncio.get_running_loop().time() + seconds
        try:
            await link.open()
            return await use(link)
        finally:
            await link.close()

    try:
        with ThreadPoolExecutor(max_workers=1) as thread:
            return thread.submit(asyncio.run, main()).result()
    except (
        OSError,
        ValueError,
        asyncpg.PostgresError,
        asyncpg.InterfaceError,
        asyncpg.TargetServerAttributeNotMatched,
    ) as error:
        raise StorageError(f"{target.name}: {reason(error)}.") from error


async def _pending(link: Link) -> list[Migration]:
    exists = (await link.fetch(_TABLE_EXISTS))[0][0]
    applied = {row[0]: row[1] for row in await link.fetch(_APPLIED)} if exists else {}
    return migrate.pending(migrate.available("postgres"), applied)


async def _migrate(link: Link) -> list[Migration]:
    # Most openings find nothing to do; they wait for nobody, and need no right to make a table.
    if not await _pending(link) and await postgres_feed.is_at_home(link):
        return []
    async with link.transaction():
        await link.fetch(_LOCK)
        await link.execute(_CREATE_TABLE)
        todo = await _pending(link)
        for step in todo:
            await link.execute(step.sql)
            now = time.time_ns() // 1_000_000
            await link.fetch(_REMEMBER, step.version, step.name, step.checksum, now)
        if not await postgres_feed.is_at_home(link):
            await postgres_feed.settle(link)
    return todo
