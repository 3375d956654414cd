"""What keeps the way to a sharded PostgreSQL (Citus) open: rules for each statement that is sent.

Each table would be spread by one column, so that column has to stand in each of its keys and to
be bound in each statement; nothing may need two of the tables at once; what a statement writes
must not depend on the machine that runs it; and no session may be needed again.
"""

import re
from typing import Final

SPREAD_BY: Final = {
    "profiles": "profile_id",
    "customers": "customer_user_id",
    "identifiers": "value",
    "changes": "profile_id",
    "shared_identifiers": "value",
    "coverage": "slot",
    "aliases": "name",
    "answers": "key",
    "tombstones": "subject",
    "erasures": "id",
    "deliveries": "profile_id",
    "shadow_differences": "profile_id",
}

EVERYWHERE: Final = (
    re.compile(r"SELECT count\(\*\)"),  # counting, and `knownas check`
    re.compile(r"count\(\*\) FROM deliveries"),
    re.compile(r"DELETE FROM \w+ WHERE app_id = \$1\Z"),  # the deletion of an app
    re.compile(r"ORDER BY p\.profile_id LIMIT \$2\s*\Z"),  # the pages of `knownas copy`
    re.compile(r"SELECT tx FROM changes "),  # the feed is of all profiles: its pages, end, pruning
    re.compile(r"sum\(change\)"),  # what all writers have counted, added up
    re.compile(r"FROM shared_identifiers\s+WHERE app_id = \$1"),  # a list of all values
    re.compile(r"^DELETE FROM answers WHERE expires_at <= \$1\Z"),  # those that have expired
    re.compile(r"^SELECT 1 FROM aliases WHERE app_id = \$1 LIMIT 1\Z"),  # whether any was merged
    re.compile(r"GROUP BY app_id(?:, kind)?\Z"),  # `knownas check`
    re.compile(r"ORDER BY \w+ LIMIT \$3\s*\Z"),  # pages of a copy, or of all names
    re.compile(r"WHERE s\.app_id = \$1 AND s\.profile_id = any"),  # whom a person was merged of
    re.compile(r"\babout = any\(\$2"),  # where histories tell of somebody else
    re.compile(r"^\s*DELETE FROM answers s WHERE s\.app_id = \$1\s+AND EXISTS"),  # a person's
    re.compile(r"\bcompleted_at IS NULL\Z"),  # erasures that wait
    re.compile(r"\(erased_at, id\) < \(\$2, \$3\)"),  # a list of erasures
    re.compile(r"FROM deliveries( d)?\s+WHERE \S+ = \S+ AND \S*webhook_id = "),  # a webhook's queue
    re.compile(r"^\s*UPDATE deliveries SET next_at = \$3 "),  # all of a webhook's
    re.compile(r"FROM shadow_differences\s+WHERE app_id = \$1 (?:ORDER BY|AND at <)"),  # the newest
    re.compile(r"SELECT at FROM changes "),  # how far the feed, and who follows it, is behind
    re.compile(r"FROM deliveries GROUP BY webhook_id, state\s*\Z"),  # all queues
    re.compile(r"^DELETE FROM deliveries WHERE "),  # a webhook's end, and what is long dead
)
"""Statements that are meant for all rows of an app, or of all apps, wherever they are."""

_TABLE: Final = re.compile(
    r"\b(?:FROM|JOIN|INTO|UPDATE|USING|TABLE)\s+(?:ONLY\s+)?(\w+)", re.IGNORECASE
)
_IMPURE: Final = re.compile(
    r"\b(?:now|random|gen_random_uuid|uuidv[47]|nextval|currval|clock_timestamp|timeofday"
    r"|statement_timestamp|transaction_timestamp)\s*\(|\b(?:current_|local)(?:time|timestamp|date)\b",
    re.IGNORECASE,
)
_CLOCK: Final = re.compile(r"^\s*SELECT [^;]*\bpg_(?:is_in_recovery|stat_activity)\b[^;]*\Z")
"""What `knownas doctor` asks a server of itself: its clock, too."""
_SESSION: Final = re.compile(
    r"^\s*(?:SET|RESET|LISTEN|NOTIFY|PREPARE|DECLARE|LOAD|CREATE\s+TEMP)\b"
    r"|\bpg_(?:try_)?advisory_lock\b|\bset_config\b",
    re.IGNORECASE,
)
_ORDER_BY_ID_ALONE: Final = re.compile(
    r"\bORDER BY (?:\w+\.)?id\s*(?:DESC|ASC)?\s*(?:$|\)|LIMIT)", re.IGNORECASE
)
_KEY: Final = re.compile(r"\b(?:PRIMARY KEY|UNIQUE)\s*\(([^)]*)\)", re.IGNORECASE)
_UNIQUE_INDEX: Final = re.compile(
    r"\bCREATE UNIQUE INDEX \w+ ON (\w+)\s*\(([^)]*)\)", re.IGNORECASE
)
_CREATED: Final = re.compile(r"CREATE TABLE (\w+) \((.*?)\n\);", re.DOTALL)


def broken(statement: str) -> list[str]:
    """Return the rules that a statement of the running server breaks."""
    tables = sorted({name.lower() for name in _TABLE.findall(statement)} & SPREAD_BY.keys())
    said = []
    if len(tables) > 1:
        said.append(f"it needs {' and '.join(tables)} at once")
    if _IMPURE.search(statement) and not _CLOCK.search(statement):
        said.append("it uses a function whose value depends on where and when it is called")
    if _SESSION.search(statement):
        said.append("it leaves something in the session")
    if _ORDER_BY_ID_ALONE.search(statement):
        said.append("it orders by nothing but a number from a sequence")
    if not any(pattern.search(statement) for pattern in EVERYWHERE):
        said += [
            f"it does not bind {SPREAD_BY[table]} of {table}"
            for table in tables
            if not _binds(statement, SPREAD_BY[table])
        ]
    return said


def broken_by_schema(sql: str) -> list[str]:
    """Return the rules that a migration breaks."""
    sql = re.sub(r"--.*", "", sql)
    said = []
    if re.search(r"\bREFERENCES\b|\bFOREIGN KEY\b", sql, re.IGNORECASE):
        said.append("it has a foreign key")
    for table, body in _CREATED.findall(sql):
        if table in SPREAD_BY:
            said += [
                f"a key of {table} is without {SPREAD_BY[table]}"
                for key in _KEY.findall(body)
                if SPREAD_BY[table] not in re.split(r"\W+", key)
            ]
            if re.search(r"\b(?:\w*serial|IDENTITY|nextval)\b", body, re.IGNORECASE):
                said.append(f"{table} is numbered by a sequence")
    said += [
        f"a key of {table} is without {SPREAD_BY[table]}"
        for table, key in _UNIQUE_INDEX.findall(sql)
        if table in SPREAD_BY and SPREAD_BY[table] not in re.split(r"\W+", key)
    ]
    return said


def _binds(statement: str, column: str) -> bool:
    inserted = re.search(r"INSERT INTO \w+\s*(?:AS \w+\s*)?\(([^)]*)\)", statement)
    if inserted:
        return column in re.split(r"\W+", inserted[1])
    return bool(re.search(rf"\b{column} = (?:any\(\$|\$|a\.{column}\b)", statement))
