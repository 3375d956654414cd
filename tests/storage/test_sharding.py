"""The rules that keep the way to a sharded PostgreSQL open, and that they see what breaks them.

Every statement that the tests of this folder have sent to PostgreSQL was held to them
(`conftest.py`).
"""

import pytest

from knownas.storage import migrate
from storage.sharding import broken, broken_by_schema


@pytest.mark.parametrize(
    ("statement", "rules"),
    [
        ("SELECT 1 FROM customers c JOIN profiles p USING (profile_id)", 3),
        ("SELECT 1 FROM profiles WHERE app_id = $1", 1),
        ("SELECT 1 FROM profiles WHERE app_id = $1 AND profile_id = $2", 0),
        ("SELECT 1 FROM identifiers WHERE app_id = $1 AND value = any($2::text[])", 0),
        ("SELECT 1 FROM identifiers WHERE app_id = $1 AND kind = $2", 1),
        ("INSERT INTO customers (app_id, profile_id) VALUES ($1, $2)", 1),
        ("UPDATE profiles SET updated_at = now() WHERE profile_id = $1", 1),
        ("UPDATE profiles SET updated_at = $2 WHERE customer_user_id = $1", 1),
        ("SELECT 1 FROM changes WHERE app_id = $1 AND revision = $2", 1),
        ("SELECT 1 FROM changes WHERE app_id = $1 AND profile_id = $2", 0),
        ("SELECT 1 FROM (SELECT tx FROM changes WHERE app_id = $1) AS the_feed", 0),
        ("SELECT 1 FROM shared_identifiers WHERE kind = $1", 1),
        ("INSERT INTO coverage AS c (app_id, day, change) VALUES ($1, $2, $3)", 1),
        ("INSERT INTO coverage AS c (app_id, slot, change) VALUES ($1, $2, $3)", 0),
        ("SELECT id FROM apps ORDER BY id", 1),
        ("SELECT id FROM apps ORDER BY created_at, id", 0),
        ("SELECT count(*) FROM profiles WHERE app_id = $1", 0),
        ("SET search_path = x", 1),
        ("SELECT pg_advisory_lock(1)", 1),
        ("SELECT pg_advisory_xact_lock(1)", 0),
    ],
)
def test_rules_see_what_breaks_them(statement: str, rules: int) -> None:
    """Each statement breaks so many rules, and no more."""
    assert len(broken(statement)) == rules, broken(statement)


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE TABLE profiles (\n app_id integer REFERENCES apps,\n PRIMARY KEY (profile_id)\n);",
        "CREATE TABLE customers (\n PRIMARY KEY (app_id, profile_id)\n);",
        "CREATE UNIQUE INDEX one ON identifiers (app_id, kind) WHERE exclusive;",
        "CREATE TABLE identifiers (\n number bigserial,\n PRIMARY KEY (app_id, value)\n);",
    ],
)
def test_rules_see_what_breaks_them_in_a_schema(sql: str) -> None:
    """A foreign key, a key without the column, a number from a sequence: each is one."""
    assert len(broken_by_schema(sql)) == 1


@pytest.mark.parametrize("step", migrate.available("postgres"), ids=lambda step: step.full_name)
def test_schema_can_be_spread(step: migrate.Migration) -> None:
    """No migration breaks a rule."""
    assert broken_by_schema(step.sql) == []
