"""Comparisons with upstreams in SQLite."""

from collections.abc import Collection, Sequence
from typing import Any, Final

import apsw

from knownas.model import AppId, ProfileId
from knownas.shadows import Counts, Differing
from knownas.storage import rows
from knownas.storage.sqlite_beside import ReaderBeside
from knownas.storage.sqlite_ids import to_blob, to_profile_id
from knownas.storage.sqlite_tombstones import require_app
from knownas.storage.sqlite_writer import GroupCommit

_COUNT: Final = """
INSERT INTO shadow_counts (app_id, kind, result, count) VALUES (?, ?, ?, ?)
ON CONFLICT (app_id, kind, result) DO UPDATE SET count = count + excluded.count
"""
_KEEP: Final = """
INSERT INTO shadow_differences (app_id, profile_id, at, kinds)
SELECT ?1, ?2, ?3, ?4
WHERE EXISTS (SELECT 1 FROM profiles WHERE app_id = ?1 AND profile_id = ?2)
ON CONFLICT (app_id, profile_id) DO UPDATE SET at = excluded.at, kinds = excluded.kinds
"""
_SETTLE: Final = "DELETE FROM shadow_differences WHERE app_id = ? AND profile_id = ?"
_TRIM: Final = """
DELETE FROM shadow_differences WHERE app_id = ?1 AND at < (
  SELECT at FROM shadow_differences WHERE app_id = ?1 ORDER BY at DESC LIMIT 1 OFFSET ?2)
"""
_COUNTS: Final = "SELECT kind, result, count FROM shadow_counts WHERE app_id = ?"
_DIFFERING: Final = """
SELECT profile_id, at, kinds FROM shadow_differences
WHERE app_id = ? ORDER BY at DESC, profile_id LIMIT ?
"""
_FORGET: Final = (
    "DELETE FROM shadow_counts WHERE app_id = ?",
    "DELETE FROM shadow_differences WHERE app_id = ?",
)


class SqliteShadows:
    """`knownas.shadows.Shadows` over one SQLite file."""

    def __init__(self, writer: GroupCommit, beside: ReaderBeside) -> None:
        """Write by `writer` and read beside the loop."""
        self._writer = writer
        self._beside = beside

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

        def work(connection: apsw.Connection) -> None:
            require_app(connection, app)
            for (kind, result), count in counts.items():
                connection.execute(_COUNT, (app, kind, result, count))
            for profile_id in alike:
                connection.execute(_SETTLE, (app, to_blob(profile_id)))
            for profile_id, at, kinds in differing:
                connection.execute(_KEEP, (app, to_blob(profile_id), at, rows.as_json(kinds)))
            if differing:
                connection.execute(_TRIM, (app, most - 1))

        await self._writer.run(work)

    async def counts(self, app: AppId) -> Counts:
        """See `Shadows.counts`."""

        def read(connection: apsw.Connection) -> Counts:
            found: list[Any] = connection.execute(_COUNTS, (app,)).fetchall()
            return {(kind, result): count for kind, result, count in found}

        return await self._beside.read(read)

    async def differing(self, app: AppId, limit: int) -> list[Differing]:
        """See `Shadows.differing`."""

        def read(connection: apsw.Connection) -> list[Differing]:
            found: list[Any] = connection.execute(_DIFFERING, (app, limit)).fetchall()
            return [
                Differing(to_profile_id(blob), at, rows.to_results(kinds))
                for blob, at, kinds in found
            ]

        return await self._beside.read(read)

    async def forget(self, app: AppId) -> None:
        """See `Shadows.forget`."""

        def work(connection: apsw.Connection) -> None:
            for statement in _FORGET:
                connection.execute(statement, (app,))

        await self._writer.run(work, erases=True)
