"""Whether a database is sound: SQLite's own integrity check, then each table against the others."""

from collections.abc import Callable
from typing import Final

import apsw

CHECKS: Final = {
    "identifiers in the reverse index that their profile does not have": """
SELECT count(*) FROM identifiers i LEFT JOIN profiles p ON p.number = i.profile
WHERE p.number IS NULL OR p.app_id <> i.app_id OR p.identifiers ->> i.kind IS NOT i.value
""",
    "identifiers of profiles that the reverse index does not have": """
SELECT count(*) FROM profiles p, json_each(p.identifiers) v
WHERE v.value IS NOT NULL AND NOT EXISTS (
  SELECT 1 FROM identifiers i
  WHERE i.app_id = p.app_id AND i.kind = v.key AND i.value = v.value AND i.profile = p.number)
""",
    "customers that lead to no profile, or to one of another customer": """
SELECT count(*) FROM customers c LEFT JOIN profiles p ON p.number = c.profile
WHERE p.number IS NULL OR p.app_id <> c.app_id OR p.customer_user_id IS NOT c.customer_user_id
""",
    "profiles whose customer does not lead to them": """
SELECT count(*) FROM profiles p
WHERE p.customer_user_id IS NOT NULL AND NOT EXISTS (
  SELECT 1 FROM customers c WHERE c.app_id = p.app_id
  AND c.customer_user_id = p.customer_user_id AND c.profile = p.number)
""",
    "shared identifiers that are not, or are and are not listed": """
SELECT count(*) FROM (
  SELECT app_id, kind, value, max(listed) AS listed, max(counted) AS counted FROM (
    SELECT app_id, kind, value, profiles AS listed, 0 AS counted FROM shared_identifiers
    UNION ALL
    SELECT app_id, kind, value, 0, count(*) FROM identifiers
    GROUP BY app_id, kind, value HAVING count(*) > 1)
  GROUP BY app_id, kind, value) WHERE listed <> counted
""",
    "kinds whose coverage is not that of the profiles": """
SELECT count(*) FROM (
  SELECT app_id, kind, sum(change) AS change FROM (
    SELECT app_id, kind, change FROM coverage
    UNION ALL
    SELECT app_id, kind, -count(*) FROM identifiers GROUP BY app_id, kind
    UNION ALL
    SELECT app_id, -1, -count(*) FROM profiles GROUP BY app_id)
  GROUP BY app_id, kind) WHERE change <> 0
""",
    "profiles whose history has gone on without them": """
SELECT count(*) FROM profiles p WHERE EXISTS (
  SELECT 1 FROM changes c
  WHERE c.app_id = p.app_id AND c.profile_id = p.profile_id AND c.revision > p.revision)
""",
    "profiles of an app that does not exist": """
SELECT count(*) FROM profiles WHERE app_id NOT IN (SELECT id FROM apps)
""",
    "keys of an app that does not exist": """
SELECT count(*) FROM api_keys WHERE app_id NOT IN (SELECT id FROM apps)
""",
}


STEPS: Final = 1 + len(CHECKS)
"""How many steps a check has."""


def problems(connection: apsw.Connection, done: Callable[[int], None] | None = None) -> list[str]:
    """Return one line for each kind of damage; none for a database that is sound.

    `done` is called with the number of each step that is done.
    """
    found: list[str] = []
    done = done or (lambda _step: None)
    try:
        lines = [row[0] for row in connection.execute("PRAGMA integrity_check")]
        found += lines if lines != ["ok"] else []
    except apsw.CorruptError as error:
        found.append(f"the file is damaged: {error}")
    done(1)
    for step, (what, statement) in enumerate(CHECKS.items(), 2):
        try:
            if count := connection.execute(statement).get:
                found.append(f"{count} {what}")
        except (apsw.CorruptError, apsw.SQLError) as error:
            found.append(f"cannot look for {what}: {error}")
        done(step)
    return found
