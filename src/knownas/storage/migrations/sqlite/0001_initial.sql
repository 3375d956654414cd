-- Why three tables: so that each look-up is one point read. `profiles` holds a profile whole,
-- `customers` finds it by the team's own id, `identifiers` by what other systems call it.
--
-- Why `number`: the two finding tables point to a profile by a small integer, not by its
-- 16-byte id. It keeps their rows short, and a look-up by rowid is the fastest that SQLite has.
-- It never leaves the file.
--
-- `identifiers` of a profile is a JSON list by position of the kind in `knownas.model.KINDS`,
-- with null for what is not set, and the nulls at the end left out. So a new kind needs no
-- change of stored rows, and SQL can still read one value: identifiers ->> 3.

CREATE TABLE apps (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,  -- never reused, so a stale cache opens nothing
    uuid       TEXT NOT NULL UNIQUE,
    name       TEXT NOT NULL UNIQUE,
    created_at INTEGER NOT NULL
) STRICT;

CREATE TABLE api_keys (
    digest     BLOB PRIMARY KEY,                   -- SHA-256 of the key; the key is nowhere
    id         TEXT NOT NULL UNIQUE,
    app_id     INTEGER NOT NULL,
    type       TEXT NOT NULL,
    label      TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    ended_at   INTEGER                             -- revoked, or first seen expired
) STRICT, WITHOUT ROWID;

CREATE TABLE profiles (
    number           INTEGER PRIMARY KEY,
    app_id           INTEGER NOT NULL,
    profile_id       BLOB NOT NULL,                -- the UUID's 16 bytes
    customer_user_id TEXT,
    identifiers      TEXT NOT NULL,
    attributes       TEXT,                         -- JSON list of [key, value], or NULL for none
    created_at       INTEGER NOT NULL,
    updated_at       INTEGER NOT NULL,
    UNIQUE (app_id, profile_id)
) STRICT;

CREATE TABLE customers (
    app_id           INTEGER NOT NULL,
    customer_user_id TEXT NOT NULL,
    profile          INTEGER NOT NULL,             -- profiles.number
    PRIMARY KEY (app_id, customer_user_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE identifiers (
    app_id  INTEGER NOT NULL,
    kind    INTEGER NOT NULL,                      -- position in knownas.model.KINDS
    value   TEXT NOT NULL,
    profile INTEGER NOT NULL,                      -- profiles.number
    PRIMARY KEY (app_id, kind, value, profile)
) STRICT, WITHOUT ROWID;
