"""How a PostgreSQL database is: its size, what it holds, and how far who follows it is behind."""

from typing import Final

from knownas.condition import Condition, Follower, queues
from knownas.storage.postgres_link import Link

_SIZE: Final = """
SELECT current_setting('server_version'), pg_database_size(current_database())
"""
_APPS: Final = "SELECT id, name FROM apps ORDER BY created_at, id"
_PROFILES: Final = """
SELECT app_id, sum(change)::bigint FROM coverage WHERE kind = -1 GROUP BY app_id
"""
_UNTIL: Final = """
WITH told AS (
  SELECT base + pg_snapshot_xmin(pg_current_snapshot())::text::bigint AS until FROM feed
)
"""
_KEPT_BACK: Final = f"""{_UNTIL}
SELECT (SELECT at FROM changes WHERE tx >= told.until ORDER BY tx LIMIT 1) FROM told
"""  # noqa: S608 - what is told is a constant
_FOLLOWERS: Final = f"""{_UNTIL}
SELECT w.id, w.disabled_at IS NOT NULL, (
  SELECT at FROM changes c
  WHERE c.app_id = w.app_id AND c.tx < told.until
    AND (c.tx, c.profile_id, c.revision) > (w.at_tx, w.at_profile, w.at_revision)
  ORDER BY c.tx, c.profile_id, c.revision LIMIT 1)
FROM webhooks w CROSS JOIN told
"""  # noqa: S608 - what is told is a constant
_DELIVERIES: Final = """
SELECT webhook_id, state, count(*) FROM deliveries GROUP BY webhook_id, state
"""
_ERASURES_SINCE: Final = "SELECT min(erased_at) FROM erasures WHERE completed_at IS NULL"


async def condition(link: Link, now: int) -> Condition:
    """Return how the database of a link is, at a time."""
    [(version, size)] = await link.fetch(_SIZE)
    profiles = dict(await link.fetch(_PROFILES))
    [(kept_back,)] = await link.fetch(_KEPT_BACK)
    followers = [Follower(*row) for row in await link.fetch(_FOLLOWERS)]
    deliveries = [tuple(row) for row in await link.fetch(_DELIVERIES)]
    [(erasures_since,)] = await link.fetch(_ERASURES_SINCE)
    return Condition(
        "postgresql",
        version.partition(" ")[0],
        size=size,
        log=None,
        free=None,
        profiles=tuple((name, profiles.get(app, 0)) for app, name in await link.fetch(_APPS)),
        feed_lag=0 if kept_back is None else max(0, now - kept_back),
        queues=queues(followers, deliveries, now),
        erasures_since=erasures_since,
    )
