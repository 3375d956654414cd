"""Webhooks and their deliveries in PostgreSQL."""

from collections.abc import Awaitable, Callable, Collection, Iterable
from typing import Final, Protocol, TypeVar

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
from knownas.errors import Unauthorized, ValidationError, WebhookNotFound
from knownas.model import AppId, ProfileId
from knownas.storage import postgres_feed as feed
from knownas.storage import rows
from knownas.storage.postgres_link import Link
from knownas.storage.postgres_reads import columns
from knownas.storage.rows import DELIVERY_COLUMNS, WEBHOOK_COLUMNS

T = TypeVar("T")

OF_A_PROFILE: Final = 32
"""How many deliveries of one profile are read at once, at most."""

_FIRST_ID: Final = ProfileId("00000000-0000-0000-0000-000000000000")

LOCK_APP: Final = "SELECT id FROM apps WHERE id = $1 FOR NO KEY UPDATE"
_COUNT: Final = "SELECT count(*) FROM webhooks WHERE app_id = $1 AND id <> $2"
_ADD: Final = f"""
INSERT INTO webhooks (app_id, at_tx, at_profile, at_revision, {WEBHOOK_COLUMNS})
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
"""  # noqa: S608 - the columns are a constant
_ALL: Final = f"""
SELECT (SELECT name FROM feed), at_tx, at_profile, at_revision, failed_at, failed_status, failure,
  {WEBHOOK_COLUMNS}
FROM webhooks WHERE app_id = $1 ORDER BY created_at, id
"""  # noqa: S608 - the columns are a constant
_COUNTS: Final = """
SELECT webhook_id, state, count(*) FROM deliveries WHERE app_id = $1 GROUP BY webhook_id, state
"""
_LOCK: Final = f"""
SELECT {WEBHOOK_COLUMNS} FROM webhooks WHERE app_id = $1 AND id = $2 FOR UPDATE
"""  # noqa: S608 - the columns are a constant
_CHANGE: Final = """
UPDATE webhooks SET url = $3, secrets = $4, types = $5, disabled_at = $6, disabled_because = $7,
  lost_at = $8
WHERE app_id = $1 AND id = $2
"""
_DELETE: Final = "DELETE FROM webhooks WHERE app_id = $1 AND id = $2 RETURNING id"
_DELETE_DELIVERIES: Final = "DELETE FROM deliveries WHERE app_id = $1 AND webhook_id = $2"
_WITH_DUE: Final = """
SELECT w.app_id, w.id FROM webhooks w
WHERE w.disabled_at IS NULL AND w.lease_until <= $1 AND EXISTS (
  SELECT 1 FROM deliveries d
  WHERE d.app_id = w.app_id AND d.webhook_id = w.id AND d.next_at <= $1)
"""
_WITH_NEWS: Final = """
WITH told AS (
  SELECT base + pg_snapshot_xmin(pg_current_snapshot())::text::bigint AS until FROM feed
)
SELECT w.app_id, w.id FROM webhooks w CROSS JOIN told
WHERE w.disabled_at IS NULL AND w.lease_until <= $1 AND EXISTS (
  SELECT tx FROM changes c
  WHERE c.app_id = w.app_id AND c.tx < told.until
    AND (c.tx, c.profile_id, c.revision) > (w.at_tx, w.at_profile, w.at_revision))
"""
_LEASE: Final = f"""
UPDATE webhooks w SET lease = $3, lease_until = $5
WHERE app_id = $1 AND id = $2 AND disabled_at IS NULL AND (lease = $3 OR lease_until <= $4)
RETURNING (SELECT name FROM feed), at_tx, at_profile, at_revision, {WEBHOOK_COLUMNS}
"""  # noqa: S608 - the columns are a constant
_PENDING: Final = """
SELECT count(*) FROM deliveries WHERE app_id = $1 AND webhook_id = $2 AND state = 'pending'
"""
_DUE: Final = f"""
WITH due AS MATERIALIZED (
  SELECT profile_id, next_at FROM deliveries
  WHERE app_id = $1 AND webhook_id = $2 AND next_at <= $3 ORDER BY next_at LIMIT $4
)
SELECT due.profile_id, {DELIVERY_COLUMNS.replace("next_at", "d.next_at")}
FROM due CROSS JOIN LATERAL (
  SELECT * FROM deliveries
  WHERE app_id = $1 AND webhook_id = $2 AND profile_id = due.profile_id AND state = 'pending'
  ORDER BY revision LIMIT $5) AS d
ORDER BY due.next_at, due.profile_id, d.revision
"""  # noqa: S608 - the columns are a constant
_CHANGES: Final = """
SELECT (SELECT name FROM feed), c.tx, c.profile_id, c.revision, c.at, c.source, c.difference
FROM unnest($2::uuid[], $3::bigint[]) AS a (profile_id, revision)
JOIN changes c ON c.app_id = $1 AND c.profile_id = a.profile_id AND c.revision = a.revision
"""
_HELD_BACK: Final = """
SELECT DISTINCT profile_id FROM deliveries
WHERE app_id = $1 AND webhook_id = $2 AND profile_id = any($3::uuid[]) AND state = 'pending'
"""
_REPORT: Final = """
UPDATE webhooks SET lease_until = $4, at_tx = coalesce($5, at_tx),
  at_profile = coalesce($6::uuid, at_profile), at_revision = coalesce($7, at_revision),
  disabled_at = CASE WHEN $8::text IS NULL THEN disabled_at ELSE coalesce(disabled_at, $9) END,
  disabled_because = coalesce(disabled_because, $8),
  failed_at = coalesce($10, failed_at),
  failed_status = CASE WHEN $10 IS NULL THEN failed_status ELSE $11 END,
  failure = coalesce($12, failure)
WHERE app_id = $1 AND id = $2 AND lease = $3 RETURNING id
"""
_SETTLE: Final = """
DELETE FROM deliveries d USING unnest($3::uuid[], $4::bigint[]) AS a (profile_id, revision)
WHERE d.app_id = $1 AND d.webhook_id = $2
  AND d.profile_id = a.profile_id AND d.revision = a.revision
"""
# An erasure deletes changes, then deliveries: it waits for this lock, or this finds no change.
_LOCK_CHANGES: Final = """
SELECT c.profile_id, c.revision
FROM unnest($2::uuid[], $3::bigint[]) AS a (profile_id, revision)
JOIN changes c ON c.app_id = $1 AND c.profile_id = a.profile_id AND c.revision = a.revision
ORDER BY c.profile_id, c.revision FOR KEY SHARE OF c
"""
_KEEP: Final = f"""
INSERT INTO deliveries (app_id, webhook_id, profile_id, {DELIVERY_COLUMNS})
SELECT $1, $2, * FROM unnest($3::uuid[], $4::bigint[], $5::text[], $6::integer[], $7::bigint[],
  $8::bigint[], $9::integer[], $10::text[])
ON CONFLICT (app_id, webhook_id, profile_id, revision) DO UPDATE SET
  state = excluded.state, attempts = excluded.attempts, next_at = excluded.next_at,
  failed_at = excluded.failed_at, failed_status = excluded.failed_status,
  failure = excluded.failure
"""  # noqa: S608 - the columns are a constant
_LINE_UP: Final = """
UPDATE deliveries d
SET next_at = CASE WHEN d.revision = first.revision THEN coalesce(d.next_at, $4) END
FROM (
  SELECT profile_id, min(revision) AS revision FROM deliveries
  WHERE app_id = $1 AND webhook_id = $2 AND profile_id = any($3::uuid[]) AND state = 'pending'
  GROUP BY profile_id) AS first
WHERE d.app_id = $1 AND d.webhook_id = $2 AND d.profile_id = first.profile_id
  AND d.state = 'pending' AND (d.next_at IS NULL) = (d.revision = first.revision)
"""
_LIST: Final = f"""
SELECT profile_id, {DELIVERY_COLUMNS} FROM deliveries
WHERE app_id = $1 AND webhook_id = $2 AND ($3::text IS NULL OR state = $3)
  AND (profile_id, revision) > ($4, $5)
ORDER BY profile_id, revision LIMIT $6
"""  # noqa: S608 - the columns are a constant
_DEAD: Final = """
SELECT profile_id, revision FROM deliveries
WHERE app_id = $1 AND webhook_id = $2 AND state = 'dead' ORDER BY profile_id, revision LIMIT $3
"""
_REVIVE: Final = """
UPDATE deliveries d SET state = 'pending', attempts = 0
FROM unnest($3::uuid[], $4::bigint[]) AS a (profile_id, revision)
WHERE d.app_id = $1 AND d.webhook_id = $2
  AND d.profile_id = a.profile_id AND d.revision = a.revision AND d.state = 'dead'
RETURNING d.profile_id
"""
_HASTEN: Final = """
UPDATE deliveries SET next_at = $3 WHERE app_id = $1 AND webhook_id = $2 AND next_at > $3
"""
_PRUNE_DEAD: Final = "DELETE FROM deliveries WHERE state = 'dead' AND failed_at < $1"


class Runs(Protocol):
    """Runs a job over a link."""

    def __call__(self, job: Callable[[Link], Awaitable[T]], /) -> Awaitable[T]:
        """Return what the job returns."""
        ...


class PostgresWebhooks:
    """`knownas.deliveries.Webhooks` over a PostgreSQL database."""

    def __init__(self, read: Runs, write: Runs) -> None:
        """Take what runs reads, and what runs transactions."""
        self._read = read
        self._write = write

    async def add(self, app: AppId, webhook: Webhook, cursor: str, *, most: int) -> None:
        """See `Webhooks.add`."""

        async def job(link: Link) -> None:
            async with link.transaction():
                if not await link.fetch(LOCK_APP, app):
                    raise Unauthorized
                if (await link.fetch(_COUNT, app, UPSTREAM))[0][0] >= most:
                    raise ValidationError(f"An app has at most {most} webhooks; delete one first.")
                await link.fetch(_ADD, app, *feed.place_of(cursor), *rows.from_webhook(webhook))

        await self._write(job)

    async def all(self, app: AppId) -> list[WebhookState]:
        """See `Webhooks.all`."""

        async def job(link: Link) -> list[WebhookState]:
            found = await link.fetch(_ALL, app)
            counts = {(of, state): count for of, state, count in await link.fetch(_COUNTS, app)}
            states = []
            for name, tx, profile_id, revision, at, status, reason, *row in found:
                webhook = rows.to_webhook(row)
                states.append(
                    WebhookState(
                        webhook,
                        feed.cursor_of(name, tx, profile_id, revision),
                        counts.get((webhook.id, "pending"), 0),
                        counts.get((webhook.id, "dead"), 0),
                        rows.to_failure(at, status, reason),
                    )
                )
            return states

        return await self._read(job)

    async def change(
        self, app: AppId, webhook_id: str, change: Callable[[Webhook], Webhook]
    ) -> Webhook:
        """See `Webhooks.change`."""

        async def job(link: Link) -> Webhook:
            async with link.transaction():
                found = await link.fetch(_LOCK, app, webhook_id)
                if not found:
                    raise WebhookNotFound
                before = rows.to_webhook(found[0])
                after = change(before)
                if after != before:
                    _, url, secrets, types, _, *others = rows.from_webhook(after)
                    await link.fetch(_CHANGE, app, webhook_id, url, secrets, types, *others)
            return after

        return await self._write(job)

    async def delete(self, app: AppId, webhook_id: str) -> bool:
        """See `Webhooks.delete`."""

        async def job(link: Link) -> bool:
            async with link.transaction():
                was_there = await link.fetch(_DELETE, app, webhook_id)
                await link.fetch(_DELETE_DELIVERIES, app, webhook_id)
            return bool(was_there)

        return await self._write(job)

    async def with_work(self, *, now: int) -> list[tuple[AppId, str]]:
        """See `Webhooks.with_work`."""

        async def job(link: Link) -> list[tuple[AppId, str]]:
            found = [*await link.fetch(_WITH_DUE, now), *await link.fetch(_WITH_NEWS, now)]
            return sorted({(AppId(app), webhook_id) for app, webhook_id in found})

        return await self._read(job)

    async def lease(
        self, app: AppId, webhook_id: str, lease: str, *, now: int, until: int
    ) -> Leased | None:
        """See `Webhooks.lease`."""

        async def job(link: Link) -> Leased | None:
            async with link.transaction():
                held = await link.fetch(_LEASE, app, webhook_id, lease, now, until)
                if not held:
                    return None
                pending = (await link.fetch(_PENDING, app, webhook_id))[0][0]
            name, tx, profile_id, revision, *webhook = held[0]
            cursor = feed.cursor_of(name, tx, profile_id, revision)
            return Leased(rows.to_webhook(webhook), cursor, pending)

        return await self._write(job)

    async def due(self, app: AppId, webhook_id: str, *, now: int, limit: int) -> list[Waiting]:
        """See `Webhooks.due`."""

        async def job(link: Link) -> list[Waiting]:
            found = await link.fetch(_DUE, app, webhook_id, now, limit, OF_A_PROFILE)
            if not found:
                return []
            waiting = [rows.to_delivery(_id(one), row) for one, *row in found]
            told = await link.fetch(_CHANGES, app, *columns(one.key for one in waiting))
            changes = [feed.to_change(name, row) for name, *row in told]
            by_key = {(change.profile_id, change.revision): change for change in changes}
            return [Waiting(one, by_key.get(one.key)) for one in waiting]

        return await self._read(job)

    async def held_back(
        self, app: AppId, webhook_id: str, profiles: Collection[ProfileId]
    ) -> set[ProfileId]:
        """See `Webhooks.held_back`."""

        async def job(link: Link) -> set[ProfileId]:
            found = await link.fetch(_HELD_BACK, app, webhook_id, list(profiles))
            return {_id(one) for (one,) in found}

        return await self._read(job)

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
        place = (None, None, None) if report.cursor is None else feed.place_of(report.cursor)

        async def job(link: Link) -> bool:
            async with link.transaction():
                values = (lease, until, *place, report.disabled_because, now)
                failure = rows.from_failure(report.failure)
                if not await link.fetch(_REPORT, app, webhook_id, *values, *failure):
                    return False
                await _write(link, app, webhook_id, report, now)
            return True

        return await self._write(job)

    async def deliveries(
        self,
        app: AppId,
        webhook_id: str,
        state: State | None,
        after: DeliveryKey | None,
        limit: int,
    ) -> list[Delivery]:
        """See `Webhooks.deliveries`."""

        async def job(link: Link) -> list[Delivery]:
            place = after or (_FIRST_ID, 0)
            found = await link.fetch(_LIST, app, webhook_id, state, *place, limit)
            return [rows.to_delivery(_id(one), row) for one, *row in found]

        return await self._read(job)

    async def replay(
        self, app: AppId, webhook_id: str, only: DeliveryKey | None, *, now: int, limit: int
    ) -> int:
        """See `Webhooks.replay`."""

        async def job(link: Link) -> int:
            async with link.transaction():
                keys = await link.fetch(_DEAD, app, webhook_id, limit) if only is None else [only]
                if not keys:
                    return 0
                revived = await link.fetch(_REVIVE, app, webhook_id, *columns(map(tuple, keys)))
                await _line_up(link, app, webhook_id, {_id(one) for (one,) in revived}, now)
            return len(revived)

        return await self._write(job)

    async def hasten(self, app: AppId, webhook_id: str, *, now: int) -> None:
        """See `Webhooks.hasten`."""

        async def job(link: Link) -> None:
            async with link.transaction():
                await link.fetch(_HASTEN, app, webhook_id, now)

        await self._write(job)


async def _write(link: Link, app: AppId, webhook_id: str, report: Report, now: int) -> None:
    """Write what is done and what is still to do, of which the changes are still there."""
    if report.settled:
        await link.fetch(_SETTLE, app, webhook_id, *columns(sorted(report.settled)))
    kept = {one.key: one for one in report.kept}
    if kept:
        locked = await link.fetch(_LOCK_CHANGES, app, *columns(sorted(kept)))
        given = [(one, *rows.from_delivery(kept[_id(one), revision])) for one, revision in locked]
        if given:
            await link.fetch(_KEEP, app, webhook_id, *columns(given))
    touched = {profile_id for profile_id, _ in [*report.settled, *kept]}
    await _line_up(link, app, webhook_id, touched, now)


async def _line_up(
    link: Link, app: AppId, webhook_id: str, profiles: Iterable[ProfileId], now: int
) -> None:
    """Have the first delivery of each profile wait for its time, and the others for it."""
    if listed := sorted(profiles):
        await link.fetch(_LINE_UP, app, webhook_id, listed, now)


def _id(one: object) -> ProfileId:
    return ProfileId(str(one))


async def prune(link: Link, before: int) -> None:
    """Delete the dead deliveries that were given up before a time."""
    await link.fetch(_PRUNE_DEAD, before)
