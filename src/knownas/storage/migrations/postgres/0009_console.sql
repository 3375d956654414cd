-- Why: people look at profiles in the console, and somebody has to answer for each look. They are
-- operators of the whole server, not of an app, and sign in with a password.
--
-- A session is known by the SHA-256 of a token that only the operator's browser has.
--
-- `audit` tells what an operator did or looked up. It has no identifier and no customer id in it;
-- the profile's id is taken out of it when the person is erased.
-- These three tables are small: every machine would have them whole.

CREATE TABLE operators (
    created_at bigint NOT NULL,
    name       text COLLATE "C" PRIMARY KEY,
    role       text COLLATE "C" NOT NULL,          -- viewer, support or admin
    password   text NOT NULL                       -- argon2id, with its salt and parameters
);

CREATE TABLE sessions (
    expires_at bigint NOT NULL,
    digest     bytea PRIMARY KEY,
    operator   text COLLATE "C" NOT NULL
);
CREATE INDEX sessions_by_operator ON sessions (operator);

CREATE TABLE audit (
    at       bigint NOT NULL,
    app_id   integer NOT NULL,                     -- 0: of no app
    id       text COLLATE "C" NOT NULL,
    operator text COLLATE "C" NOT NULL,
    action   text COLLATE "C" NOT NULL,
    about    text COLLATE "C" NOT NULL,            -- the id of a profile, or ''
    detail   text NOT NULL,
    PRIMARY KEY (at, id)
);
CREATE INDEX audit_by_profile ON audit (app_id, about) WHERE about <> '';
