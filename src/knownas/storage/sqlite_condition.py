"""How a SQLite database is: its size, what it holds, and how far whoever follows it is behind."""

import os
from pathlib import Path
from typing import Any, Final

import apsw

from knownas.condition import Condition, Follower, queues

_SIZE: Final = "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size"
_PROFILES: Final = """
SELECT a.name, coalesce((
  SELECT sum(change) FROM coverage c WHERE c.app_id = a.id AND c.kind = -1), 0)
FROM apps a ORDER BY a.created_at, a.id
"""
_FOLLOWERS: Final = """
SELECT w.id, w.disabled_at IS NOT NULL, (
  SELECT at FROM changes c INDEXED BY changes_by_app
  WHERE c.app_id = w.app_id AND c.position > w.position ORDER BY c.position LIMIT 1)
FROM webhooks w
"""
_DELIVERIES: Final = "SELECT webhook_id, state, count(*) FROM deliveries GROUP BY webhook_id, state"
_ERASURES_SINCE: Final = "SELECT min(erased_at) FROM erasures WHERE completed_at IS NULL"


def condition(connection: apsw.Connection, now: int) -> Condition:
    """Return how the database of a connection is, at a time."""
    path = connection.filename
    followers = [Follower(*row) for row in connection.execute(_FOLLOWERS)]
    deliveries: list[Any] = connection.execute(_DELIVERIES).fetchall()
    return Condition(
        "sqlite",
        apsw.sqlite_lib_version(),
        size=connection.execute(_SIZE).get,
        log=log_bytes(path),
        free=free_bytes(path),
        profiles=tuple((name, count) for name, count in connection.execute(_PROFILES)),
        feed_lag=0,
        queues=queues(followers, deliveries, now),
        erasures_since=connection.execute(_ERASURES_SINCE).get,
    )


def log_bytes(path: str) -> int:
    """Return how long the log beside a database file is."""
    try:
        return Path(f"{path}-wal").stat().st_size
    except FileNotFoundError:
        return 0


def free_bytes(path: str) -> int:
    """Return what the file system of a database file has left for its owner."""
    found = os.statvfs(Path(path).parent)
    return found.f_bavail * found.f_frsize
