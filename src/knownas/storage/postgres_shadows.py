"""Comparisons with upstreams in PostgreSQL."""

from collections.abc import Collection, Sequence
from typing import Final

from knownas.model import AppId, ProfileId
from knownas.shadows import Counts, Differing
from knownas.storage import rows
from knownas.storage.postgres_apps import refuse_deleted
from knownas.storage.postgres_link import Link
from knownas.storage.postgres_reads import columns
from knownas.storage.postgres_webhooks import Runs

_COUNT: Final = """
INSERT INTO shadow_counts AS c (app_id, kind, result, count)
SELECT $1, * FROM unnest($2::smallint[], $3::text[], $4::bigint[])
ON CONFLICT (app_id, kind, result) DO UPDATE SET count = c.count + excluded.count
"""
# An erasure deletes the profile, then what is here: it waits for this lock, or this finds none.
_LOCK_PROFILES: Final = """
SELECT p.profile_id::text FROM profiles p
WHERE p.app_id = $1 AND p.profile_id = any($2::uuid[]) ORDER BY p.profile_id FOR KEY SHARE
"""
_KEEP: Final = """
INSERT INTO shadow_differences (app_id, profile_id, at, kinds)
SELECT $1, * FROM unnest($2::uuid[], $3::bigint[], $4::text[])
ON CONFLICT (app_id, profile_id) DO UPDATE SET at = excluded.at, kinds = excluded.kinds
"""
_SETTLE: Final = """
DELETE FROM shadow_differences WHERE app_id = $1 AND profile_id = any($2::uuid[])
"""
_TRIM: Final = """
DELETE FROM shadow_differences WHERE app_id = $1 AND at < (
  SELECT at FROM shadow_differences WHERE app_id = $1 ORDER BY at DESC LIMIT 1 OFFSET $2)
"""
_COUNTS: Final = "SELECT kind, result, count FROM shadow_counts WHERE app_id = $1"
_DIFFERING: Final = """
SELECT profile_id::text, at, kinds FROM shadow_differences
WHERE app_id = $1 ORDER BY at DESC, profile_id LIMIT $2
"""
_FORGET: Final = (
    "DELETE FROM shadow_counts WHERE app_id = $1",
    "DELETE FROM shadow_differences WHERE app_id = $1",
)


class PostgresShadows:
    """`knownas.shadows.Shadows` over a PostgreSQL database."""

    def __init__(self, read: Runs, write: Runs) -> None:
        """Take what runs reads, and what runs transactions."""
        self._read = read
        self._write = write

    async def note(
        self,
        app: AppId,
        counts: Counts,
        differing: Sequence[Differing],
        alike: Collection[ProfileId],
        *,
        most: int,
    ) -> None:
        """See `Shadows.note`."""
        kept = {one.profile_id: one for one in differing}

        async def job(link: Link) -> None:
            async with link.transaction():
                await refuse_deleted(link, app)
                if counts:
                    counted = sorted((*key, count) for key, count in counts.items())
                    await link.fetch(_COUNT, app, *columns(counted))
                if alike:
                    await link.fetch(_SETTLE, app, sorted(alike))
                there = await link.fetch(_LOCK_PROFILES, app, sorted(kept)) if kept else []
                if there:
                    given = [(one, kept[one].at, rows.as_json(kept[one].kinds)) for (one,) in there]
                    await link.fetch(_KEEP, app, *columns(given))
                    await link.fetch(_TRIM, app, most - 1)

        await self._write(job)

    async def counts(self, app: AppId) -> Counts:
        """See `Shadows.counts`."""

        async def job(link: Link) -> Counts:
            found = await link.fetch(_COUNTS, app)
            return {(kind, result): count for kind, result, count in found}

        return await self._read(job)

    async def differing(self, app: AppId, limit: int) -> list[Differing]:
        """See `Shadows.differing`."""

        async def job(link: Link) -> list[Differing]:
            found = await link.fetch(_DIFFERING, app, limit)
            return [
                Differing(ProfileId(one), at, rows.to_results(kinds)) for one, at, kinds in found
            ]

        return await self._read(job)

    async def forget(self, app: AppId) -> None:
        """See `Shadows.forget`."""

        async def job(link: Link) -> None:
            async with link.transaction():
                for statement in _FORGET:
                    await link.fetch(statement, app)

        await self._write(job)
