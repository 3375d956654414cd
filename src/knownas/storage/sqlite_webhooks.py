"""Webhooks and their deliveries in SQLite."""

from collections.abc import Callable, Collection, Iterable
from typing import Any, Final

import apsw

from knownas.deliveries import (
    UPSTREAM,
    Delivery,
    DeliveryKey,
    Leased,
    Report,
    State,
    Waiting,
    Webhook,
    WebhookState,
)
from knownas.errors import ValidationError, WebhookNotFound
from knownas.model import AppId, ProfileId
from knownas.storage import rows, sqlite_changes
from knownas.storage.rows import DELIVERY_COLUMNS, WEBHOOK_COLUMNS
from knownas.storage.sqlite_beside import ReaderBeside
from knownas.storage.sqlite_ids import to_blob, to_profile_id
from knownas.storage.sqlite_tombstones import require_app
from knownas.storage.sqlite_writer import GroupCommit

OF_A_PROFILE: Final = 32
"""How many deliveries of one profile are read at once, at most."""

_COUNT: Final = "SELECT count(*) FROM webhooks WHERE app_id = ? AND id <> ?"
_ADD: Final = f"""
INSERT INTO webhooks (app_id, position, {WEBHOOK_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""  # noqa: S608 - the columns are a constant
_ALL: Final = f"""
SELECT w.position, w.failed_at, w.failed_status, w.failure,
  (SELECT count(*) FROM deliveries d
   WHERE d.app_id = w.app_id AND d.webhook_id = w.id AND d.state = 'pending'),
  (SELECT count(*) FROM deliveries d
   WHERE d.app_id = w.app_id AND d.webhook_id = w.id AND d.state = 'dead'),
  {WEBHOOK_COLUMNS}
FROM webhooks w WHERE w.app_id = ? ORDER BY w.created_at, w.id
"""  # noqa: S608 - the columns are a constant
_ONE: Final = f"SELECT {WEBHOOK_COLUMNS} FROM webhooks WHERE app_id = ? AND id = ?"  # noqa: S608 - the columns are a constant
_CHANGE: Final = """
UPDATE webhooks
SET url = ?, secrets = ?, types = ?, disabled_at = ?, disabled_because = ?, lost_at = ?
WHERE app_id = ? AND id = ?
"""
_DELETE: Final = "DELETE FROM webhooks WHERE app_id = ? AND id = ?"
_DELETE_DELIVERIES: Final = "DELETE FROM deliveries WHERE app_id = ? AND webhook_id = ?"
_WITH_WORK: Final = """
SELECT w.app_id, w.id FROM webhooks w
WHERE w.disabled_at IS NULL AND w.lease_until <= ?1 AND (
  EXISTS (SELECT 1 FROM deliveries d
    WHERE d.app_id = w.app_id AND d.webhook_id = w.id AND d.next_at <= ?1)
  OR EXISTS (SELECT 1 FROM changes c INDEXED BY changes_by_app
    WHERE c.app_id = w.app_id AND c.position > w.position))
ORDER BY w.app_id, w.id
"""
_LEASE: Final = f"""
UPDATE webhooks SET lease = ?3, lease_until = ?5
WHERE app_id = ?1 AND id = ?2 AND disabled_at IS NULL AND (lease = ?3 OR lease_until <= ?4)
RETURNING position, {WEBHOOK_COLUMNS}
"""  # noqa: S608 - the columns are a constant
_PENDING: Final = """
SELECT count(*) FROM deliveries WHERE app_id = ? AND webhook_id = ? AND state = 'pending'
"""
_DUE: Final = """
SELECT profile_id FROM deliveries
WHERE app_id = ? AND webhook_id = ? AND next_at <= ? ORDER BY next_at LIMIT ?
"""
_OF_PROFILE: Final = f"""
SELECT {DELIVERY_COLUMNS} FROM deliveries
WHERE app_id = ? AND webhook_id = ? AND profile_id = ? AND state = 'pending'
ORDER BY revision LIMIT ?
"""  # noqa: S608 - the columns are a constant
_IS_PENDING: Final = """
SELECT 1 FROM deliveries
WHERE app_id = ? AND webhook_id = ? AND profile_id = ? AND state = 'pending' LIMIT 1
"""
_REPORT: Final = """
UPDATE webhooks SET lease_until = ?4, position = max(position, coalesce(?5, position)),
  disabled_at = iif(?6 IS NULL, disabled_at, coalesce(disabled_at, ?7)),
  disabled_because = coalesce(disabled_because, ?6),
  failed_at = coalesce(?8, failed_at),
  failed_status = iif(?8 IS NULL, failed_status, ?9), failure = coalesce(?10, failure)
WHERE app_id = ?1 AND id = ?2 AND lease = ?3
"""
_SETTLE: Final = """
DELETE FROM deliveries
WHERE app_id = ? AND webhook_id = ? AND profile_id = ? AND revision = ?
"""
_KEEP: Final = f"""
INSERT INTO deliveries (app_id, webhook_id, profile_id, {DELIVERY_COLUMNS})
SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10
WHERE EXISTS (SELECT 1 FROM changes WHERE app_id = ?1 AND profile_id = ?3 AND revision = ?4)
ON CONFLICT (app_id, webhook_id, profile_id, revision) DO UPDATE SET
  state = excluded.state, attempts = excluded.attempts, next_at = excluded.next_at,
  failed_at = excluded.failed_at, failed_status = excluded.failed_status,
  failure = excluded.failure
"""  # noqa: S608 - the columns are a constant
_FIRST: Final = """
SELECT min(revision) FROM deliveries
WHERE app_id = ? AND webhook_id = ? AND profile_id = ? AND state = 'pending'
"""
_LINE_UP: Final = """
UPDATE deliveries SET next_at = iif(revision = ?4, coalesce(next_at, ?5), NULL)
WHERE app_id = ?1 AND webhook_id = ?2 AND profile_id = ?3 AND state = 'pending'
  AND (next_at IS NULL) = (revision = ?4)
"""
_LIST: Final = f"""
SELECT profile_id, {DELIVERY_COLUMNS} FROM deliveries
WHERE app_id = ?1 AND webhook_id = ?2 AND (?3 IS NULL OR state = ?3)
  AND (profile_id, revision) > (?4, ?5)
ORDER BY profile_id, revision LIMIT ?6
"""  # noqa: S608 - the columns are a constant
_DEAD: Final = """
SELECT profile_id, revision FROM deliveries
WHERE app_id = ? AND webhook_id = ? AND state = 'dead' ORDER BY profile_id, revision LIMIT ?
"""
_REVIVE: Final = """
UPDATE deliveries SET state = 'pending', attempts = 0
WHERE app_id = ? AND webhook_id = ? AND profile_id = ? AND revision = ? AND state = 'dead'
"""
_HASTEN: Final = """
UPDATE deliveries SET next_at = ?3 WHERE app_id = ?1 AND webhook_id = ?2 AND next_at > ?3
"""
_PRUNE_DEAD: Final = "DELETE FROM deliveries WHERE state = 'dead' AND failed_at < ?"


class SqliteWebhooks:
    """`knownas.deliveries.Webhooks` over one SQLite file."""

    def __init__(self, writer: GroupCommit, beside: ReaderBeside) -> None:
        """Write by `writer` and read beside the loop."""
        self._writer = writer
        self._beside = beside

    async def add(self, app: AppId, webhook: Webhook, cursor: str, *, most: int) -> None:
        """See `Webhooks.add`."""

        def work(connection: apsw.Connection) -> None:
            require_app(connection, app)
            if connection.execute(_COUNT, (app, UPSTREAM)).get >= most:
                raise ValidationError(f"An app has at most {most} webhooks; delete one first.")
            position = sqlite_changes.position_of(connection, cursor)
            connection.execute(_ADD, (app, position, *rows.from_webhook(webhook)))

        await self._writer.run(work)

    async def all(self, app: AppId) -> list[WebhookState]:
        """See `Webhooks.all`."""

        def read(connection: apsw.Connection) -> list[WebhookState]:
            cursor_of = sqlite_changes.cursors(connection)
            return [
                WebhookState(
                    rows.to_webhook(webhook),
                    cursor_of(position),
                    pending,
                    dead,
                    rows.to_failure(at, status, reason),
                )
                for position, at, status, reason, pending, dead, *webhook in connection.execute(
                    _ALL, (app,)
                )
            ]

        return await self._beside.read(read)

    async def change(
        self, app: AppId, webhook_id: str, change: Callable[[Webhook], Webhook]
    ) -> Webhook:
        """See `Webhooks.change`."""

        def work(connection: apsw.Connection) -> Webhook:
            row = connection.execute(_ONE, (app, webhook_id)).fetchone()
            if row is None:
                raise WebhookNotFound
            before = rows.to_webhook(row)
            after = change(before)
            if after != before:
                _, url, secrets, types, _, *others = rows.from_webhook(after)
                connection.execute(_CHANGE, (url, secrets, types, *others, app, webhook_id))
            return after

        return await self._writer.run(work)

    async def delete(self, app: AppId, webhook_id: str) -> bool:
        """See `Webhooks.delete`."""

        def work(connection: apsw.Connection) -> bool:
            connection.execute(_DELETE, (app, webhook_id))
            was_there = connection.changes() > 0
            connection.execute(_DELETE_DELIVERIES, (app, webhook_id))
            return was_there

        return await self._writer.run(work, erases=True)

    async def with_work(self, *, now: int) -> list[tuple[AppId, str]]:
        """See `Webhooks.with_work`."""

        def read(connection: apsw.Connection) -> list[tuple[AppId, str]]:
            found: list[Any] = connection.execute(_WITH_WORK, (now,)).fetchall()
            return [(app, webhook_id) for app, webhook_id in found]

        return await self._beside.read(read)

    async def lease(
        self, app: AppId, webhook_id: str, lease: str, *, now: int, until: int
    ) -> Leased | None:
        """See `Webhooks.lease`."""

        def work(connection: apsw.Connection) -> Leased | None:
            asked = (app, webhook_id, lease, now, until)
            held: list[Any] = connection.execute(_LEASE, asked).fetchall()
            if not held:
                return None
            position, *webhook = held[0]
            cursor = sqlite_changes.cursors(connection)(position)
            pending = connection.execute(_PENDING, (app, webhook_id)).get
            return Leased(rows.to_webhook(webhook), cursor, pending)

        return await self._writer.run(work)

    async def due(self, app: AppId, webhook_id: str, *, now: int, limit: int) -> list[Waiting]:
        """See `Webhooks.due`."""

        def read(connection: apsw.Connection) -> list[Waiting]:
            found = []
            profiles: list[Any] = connection.execute(_DUE, (app, webhook_id, now, limit)).fetchall()
            for (blob,) in profiles:
                asked = (app, webhook_id, blob, OF_A_PROFILE)
                for row in connection.execute(_OF_PROFILE, asked).fetchall():
                    delivery = rows.to_delivery(to_profile_id(blob), row)
                    change = sqlite_changes.change(connection, app, *delivery.key)
                    found.append(Waiting(delivery, change))
            return found

        return await self._beside.read(read)

    async def held_back(
        self, app: AppId, webhook_id: str, profiles: Collection[ProfileId]
    ) -> set[ProfileId]:
        """See `Webhooks.held_back`."""

        def read(connection: apsw.Connection) -> set[ProfileId]:
            return {
                one
                for one in profiles
                if connection.execute(_IS_PENDING, (app, webhook_id, to_blob(one))).get
            }

        return await self._beside.read(read)

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
        """See `Webhooks.report`."""

        def work(connection: apsw.Connection) -> bool:
            cursor = report.cursor
            position = None if cursor is None else sqlite_changes.position_of(connection, cursor)
            values = (app, webhook_id, lease, until, position, report.disabled_because, now)
            connection.execute(_REPORT, (*values, *rows.from_failure(report.failure)))
            if not connection.changes():
                return False
            of = (app, webhook_id)
            for profile_id, revision in report.settled:
                connection.execute(_SETTLE, (*of, to_blob(profile_id), revision))
            for one in report.kept:
                connection.execute(_KEEP, (*of, to_blob(one.profile_id), *rows.from_delivery(one)))
            touched = [*report.settled, *(one.key for one in report.kept)]
            _line_up(connection, of, {to_blob(profile_id) for profile_id, _ in touched}, now)
            return True

        return await self._writer.run(work)

    async def deliveries(
        self,
        app: AppId,
        webhook_id: str,
        state: State | None,
        after: DeliveryKey | None,
        limit: int,
    ) -> list[Delivery]:
        """See `Webhooks.deliveries`."""
        place = (b"", 0) if after is None else (to_blob(after[0]), after[1])
        asked = (app, webhook_id, state, *place, limit)

        def read(connection: apsw.Connection) -> list[Delivery]:
            found: list[Any] = connection.execute(_LIST, asked).fetchall()
            return [rows.to_delivery(to_profile_id(blob), row) for blob, *row in found]

        return await self._beside.read(read)

    async def replay(
        self, app: AppId, webhook_id: str, only: DeliveryKey | None, *, now: int, limit: int
    ) -> int:
        """See `Webhooks.replay`."""

        def work(connection: apsw.Connection) -> int:
            of = (app, webhook_id)
            keys: list[Any] = connection.execute(_DEAD, (*of, limit)).fetchall()
            if only is not None:
                keys = [(to_blob(only[0]), only[1])]
            revived = set()
            for blob, revision in keys:
                connection.execute(_REVIVE, (*of, blob, revision))
                if connection.changes():
                    revived.add((blob, revision))
            _line_up(connection, of, {blob for blob, _ in revived}, now)
            return len(revived)

        return await self._writer.run(work)

    async def hasten(self, app: AppId, webhook_id: str, *, now: int) -> None:
        """See `Webhooks.hasten`."""
        await self._writer.run(lambda write: write.execute(_HASTEN, (app, webhook_id, now)).get)


def _line_up(
    connection: apsw.Connection, of: tuple[AppId, str], profiles: Iterable[bytes], now: int
) -> None:
    """Have the first delivery of each profile wait for its time, and the others for it."""
    for blob in profiles:
        first = connection.execute(_FIRST, (*of, blob)).get
        connection.execute(_LINE_UP, (*of, blob, first, now))


def prune(connection: apsw.Connection, before: int) -> None:
    """Delete the dead deliveries that were given up before a time."""
    connection.execute(_PRUNE_DEAD, (before,))
