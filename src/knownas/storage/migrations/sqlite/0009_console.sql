-- Why: people look at profiles in the console, and somebody has to answer for each look. They are
-- operators of the whole server, not of an app, and sign in with a password.
--
-- A session is known by the SHA-256 of a token that only the operator's browser has.
--
-- `audit` tells what an operator did or looked up. It has no identifier and no customer id in it;
-- the profile's id is taken out of it when the person is erased.

CREATE TABLE operators (
    name       TEXT PRIMARY KEY,
    role       TEXT NOT NULL,                      -- viewer, support or admin
    password   TEXT NOT NULL,                      -- argon2id, with its salt and parameters
    created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE sessions (
    digest     BLOB PRIMARY KEY,
    operator   TEXT NOT NULL,
    expires_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX sessions_by_operator ON sessions (operator);

CREATE TABLE audit (
    at       INTEGER NOT NULL,
    id       TEXT NOT NULL,
    operator TEXT NOT NULL,
    app_id   INTEGER NOT NULL,                     -- 0: of no app
    action   TEXT NOT NULL,
    about    TEXT NOT NULL,                        -- the id of a profile, or ''
    detail   TEXT NOT NULL,
    PRIMARY KEY (at, id)
) STRICT, WITHOUT ROWID;
CREATE INDEX audit_by_profile ON audit (app_id, about) WHERE about <> '';
