"""What `knownas doctor` looks at of a PostgreSQL database; nothing is changed.

These statements are of no server that answers requests: they may ask the clock of the database.
"""

import re
import time
from typing import Final

from knownas.condition import Finding, Level, newest_change
from knownas.storage import migrate
from knownas.storage.postgres_link import Link, Target
from knownas.storage.postgres_schema import apart

OLDEST_TESTED: Final = 150_000
APART_MS: Final = 1_000
FAR_APART_MS: Final = 5_000
LONG_SECONDS: Final = 60
FULL_SHARE: Final = 0.9

_SERVER: Final = """
SELECT current_setting('server_version_num')::integer, current_setting('server_version'),
  current_setting('fsync'), current_setting('full_page_writes'),
  current_setting('synchronous_commit'), current_setting('autovacuum'),
  pg_is_in_recovery(), (extract(epoch FROM clock_timestamp()) * 1000)::bigint
"""
_CONNECTIONS: Final = """
SELECT (SELECT sum(numbackends) FROM pg_stat_database)::integer,
  current_setting('max_connections')::integer
"""
_MISSING: Final = """
SELECT name FROM unnest($1::text[]) AS name WHERE to_regclass(name) IS NULL ORDER BY name
"""
_INVALID: Final = """
SELECT c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
WHERE NOT i.indisvalid AND i.indrelid IN (
  SELECT to_regclass(name) FROM unnest($1::text[]) AS name)
"""
_FORBIDDEN: Final = """
SELECT name FROM unnest($1::text[]) AS name
WHERE to_regclass(name) IS NOT NULL AND NOT (
  has_table_privilege(name, 'SELECT') AND has_table_privilege(name, 'INSERT')
  AND has_table_privilege(name, 'UPDATE') AND has_table_privilege(name, 'DELETE'))
ORDER BY name
"""
_OLDEST_WRITER: Final = """
SELECT pid, extract(epoch FROM clock_timestamp() - xact_start)::integer FROM pg_stat_activity
WHERE backend_xid IS NOT NULL AND xact_start IS NOT NULL ORDER BY xact_start LIMIT 1
"""
_LAST_CHANGE: Final = "SELECT at FROM changes ORDER BY tx DESC LIMIT 1"

_TABLE: Final = re.compile(r"^CREATE TABLE (\w+)", re.MULTILINE)
_INDEX: Final = re.compile(r"^CREATE (?:UNIQUE )?INDEX (\w+)", re.MULTILINE)
_DROPPED: Final = re.compile(r"^DROP (?:TABLE|INDEX) (\w+)", re.MULTILINE)


def findings(target: Target, now: int, *, seconds: float) -> list[Finding]:
    """Return what there is to say of a database, at a time in milliseconds since 1970.

    Connects within `seconds`. Raises StorageError when it cannot be used.
    """

    async def look(link: Link) -> list[Finding]:
        return [*await _server(link), *await _connections(link), *await _schema(link, now)]

    return apart(target, seconds, look)


async def _server(link: Link) -> list[Finding]:
    before = time.time_ns() // 1_000_000
    [row] = await link.fetch(_SERVER)
    number, version, fsync, full_pages, commit, vacuum, is_standby, clock = row
    after = time.time_ns() // 1_000_000
    found = [_version(number, version), _clocks(before, after, clock)]
    if is_standby:
        found.append(
            Finding(
                "database",
                "problem",
                "This is a standby, which cannot be written to.",
                "Name the primary, or all hosts, in KNOWNAS_DATABASE.",
            )
        )
    for name, value in (("fsync", fsync), ("full_page_writes", full_pages)):
        if value != "on":
            found.append(_loses(f"{name} is {value}", f"ALTER SYSTEM SET {name} = on"))
    if commit == "off":
        found.append(
            _loses("synchronous_commit is off", "Set it to on, for this database at least.")
        )
    if vacuum != "on":
        found.append(
            Finding(
                "database",
                "warning",
                "autovacuum is off: tables only grow, and erasures are never complete.",
                "ALTER SYSTEM SET autovacuum = on",
            )
        )
    return found


def _loses(says: str, do: str) -> Finding:
    return Finding("durability", "problem", f"{says}: a power cut loses acknowledged writes.", do)


def _version(number: int, version: str) -> Finding:
    says = f"PostgreSQL {version}."
    if number < OLDEST_TESTED:
        return Finding(
            "version",
            "warning",
            f"{says} It is older than any that the tests run on.",
            f"Upgrade to {OLDEST_TESTED // 10_000} or newer.",
        )
    return Finding("version", "ok", says)


def _clocks(before: int, after: int, clock: int) -> Finding:
    """Compare the database's clock with this machine's, which was read before and after."""
    apart_ms = max(before - clock, clock - after, 0)
    says = f"The database's clock and this machine's are {apart_ms / 1_000:.1f} s apart."
    level: Level = "ok"
    if apart_ms > APART_MS:
        level = "problem" if apart_ms > FAR_APART_MS else "warning"
    return Finding("clock", level, says, "" if level == "ok" else "Have both kept by NTP.")


async def _connections(link: Link) -> list[Finding]:
    [(used, most)] = await link.fetch(_CONNECTIONS)
    says = f"{used} of {most} connections are in use."
    found = [Finding("connections", "ok", says)]
    if used > FULL_SHARE * most:
        do = "Raise max_connections, or put a PgBouncer in between."
        found = [Finding("connections", "warning", says, do)]
    writers = await link.fetch(_OLDEST_WRITER)
    if writers and writers[0][1] > LONG_SECONDS:
        process, seconds = writers[0]
        found.append(
            Finding(
                "feed",
                "warning",
                f"The process {process} of PostgreSQL has written without a commit for "
                f"{seconds:,} s: the feed and the webhooks wait for it.",
                f"Have it end, or end it: SELECT pg_terminate_backend({process}). Then set "
                "idle_in_transaction_session_timeout.",
            )
        )
    return found


async def _schema(link: Link, now: int) -> list[Finding]:
    """Return how the tables and indexes differ from those that all migrations make."""
    scripts = [step.sql for step in migrate.available("postgres")]
    dropped = {name for sql in scripts for name in _DROPPED.findall(sql)}
    tables = [name for sql in scripts for name in _TABLE.findall(sql) if name not in dropped]
    indexes = [name for sql in scripts for name in _INDEX.findall(sql) if name not in dropped]
    missing = [row[0] for row in await link.fetch(_MISSING, [*tables, *indexes])]
    invalid = [row[0] for row in await link.fetch(_INVALID, tables)]
    forbidden = [row[0] for row in await link.fetch(_FORBIDDEN, tables)]
    found = []
    if missing:
        found.append(
            Finding(
                "indexes",
                "problem",
                f"Tables or indexes are missing: {', '.join(missing)}.",
                "Somebody has changed the schema by hand, or the search_path is another one. "
                "Make them as the files in knownas/storage/migrations/postgres do.",
            )
        )
    if invalid:
        found.append(
            Finding(
                "indexes",
                "problem",
                f"Indexes are not valid, so nothing is found by them: {', '.join(invalid)}.",
                "; ".join(f"REINDEX INDEX CONCURRENTLY {name}" for name in invalid),
            )
        )
    if not (missing or invalid):
        what = f"All {len(tables) + len(indexes)} tables and indexes are there."
        found.append(Finding("indexes", "ok", what))
    if forbidden:
        found.append(
            Finding(
                "permissions",
                "problem",
                f"This user may not read and write {', '.join(forbidden)}.",
                "GRANT SELECT, INSERT, UPDATE, DELETE on them, or have the user own them.",
            )
        )
    else:
        found.append(Finding("permissions", "ok", "This user may read and write all tables."))
    if not missing:
        rows = await link.fetch(_LAST_CHANGE)
        found.append(newest_change(rows[0][0] if rows else None, now))
    return found
