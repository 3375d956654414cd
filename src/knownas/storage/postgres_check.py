"""Whether a database is sound: each table against the others, without a join between them.

Two tables that say the same have as many entries and, over all of them, the same sum of hashes.
So each is read once, by itself, wherever its rows are.
"""

from collections import Counter
from typing import Final

import asyncpg

from knownas.storage.postgres_changes import ENDS
from knownas.storage.postgres_link import Link

SNAPSHOT: Final = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"

_APPS: Final = "SELECT id FROM apps"

_AGREEMENTS: Final = {
    "identifiers of the profiles and of the reverse index": (
        """
SELECT count(*), sum(hashtextextended(
  concat_ws('/', p.app_id, v.number - 1, p.profile_id, v.value) COLLATE "C", 0))
FROM profiles p, json_array_elements_text(p.identifiers::json) WITH ORDINALITY AS v (value, number)
WHERE v.value IS NOT NULL
""",
        """
SELECT count(*), sum(hashtextextended(
  concat_ws('/', app_id, kind, profile_id, value) COLLATE "C", 0))
FROM identifiers
""",
    ),
    "customers of the profiles and customers that lead to a profile": (
        """
SELECT count(*), sum(hashtextextended(
  concat_ws('/', app_id, profile_id, customer_user_id) COLLATE "C", 0))
FROM profiles WHERE customer_user_id IS NOT NULL
""",
        """
SELECT count(*), sum(hashtextextended(
  concat_ws('/', app_id, profile_id, customer_user_id) COLLATE "C", 0))
FROM customers
""",
    ),
    # Of the changes those before the place that was pruned may be missing.
    "last changes of the profiles and of the history": (
        """
SELECT count(*), sum(hashtextextended(
  concat_ws('/', app_id, profile_id, revision, changed_in) COLLATE "C", 0))
FROM profiles WHERE changed_in > (SELECT pruned_tx FROM feed)
""",
        f"""
SELECT count(*), sum(hashtextextended(
  concat_ws('/', app_id, profile_id, revision, tx) COLLATE "C", 0))
FROM (
  SELECT DISTINCT ON (app_id, profile_id) app_id, profile_id, revision, tx, difference
  FROM changes ORDER BY app_id, profile_id, revision DESC) AS last
WHERE tx > (SELECT pruned_tx FROM feed) AND NOT {ENDS}
""",  # noqa: S608 - what ends is a constant
    ),
}
_COUNTS: Final = (
    "SELECT app_id, kind, -sum(change)::bigint FROM coverage GROUP BY app_id, kind",
    "SELECT app_id, kind, count(*) FROM identifiers GROUP BY app_id, kind",
    "SELECT app_id, -1, count(*) FROM profiles GROUP BY app_id",
)
_ORPHANS: Final = {
    "profiles of an app that does not exist": (
        "SELECT count(*) FROM profiles WHERE NOT app_id = any($1::integer[])"
    ),
    "keys of an app that does not exist": (
        "SELECT count(*) FROM api_keys WHERE NOT app_id = any($1::integer[])"
    ),
}


async def problems(link: Link) -> list[str]:
    """Return one line for each promise that is broken; none for a database that is sound."""
    found: list[str] = []
    async with link.transaction(SNAPSHOT):
        for what, statements in _AGREEMENTS.items():
            try:
                first, second = [(await link.fetch(statement))[0] for statement in statements]
            except asyncpg.DataError:
                return [*found, f"cannot compare the {what}: one that is stored is damaged"]
            if tuple(first) != tuple(second):
                found.append(f"the {what} do not agree: {first[0]} against {second[0]}")
        differs: Counter[tuple[int, int]] = Counter()
        for statement in _COUNTS:
            for app, kind, count in await link.fetch(statement):
                differs[app, kind] += count
        if count := sum(map(bool, differs.values())):
            found.append(f"{count} kinds whose coverage is not that of the profiles")
        apps = [row[0] for row in await link.fetch(_APPS)]
        for what, statement in _ORPHANS.items():
            if count := (await link.fetch(statement, apps))[0][0]:
                found.append(f"{count} {what}")
    return found
