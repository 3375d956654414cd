-- Why three tables: so that each look-up is one point read. `profiles` holds a profile whole,
-- `customers` finds it by the team's own id, `identifiers` by what other systems call it.
--
-- Why they know nothing of each other: each is to be spread over machines by a column of its own
-- (`profiles` by profile_id, `customers` by customer_user_id, `identifiers` by value), which stands
-- in its key. So there is no foreign key between them and no number that stands for a profile.
-- `apps` and `api_keys` are small: every machine would have them whole.
--
-- `identifiers` of a profile is a JSON list by position of the kind in `knownas.model.KINDS`,
-- with null for what is not set, and the nulls at the end left out. So a new kind needs no
-- change of stored rows, and SQL can still read one value: identifiers::json ->> 3.
--
-- Texts are compared byte by byte, whatever the locale of the database: COLLATE "C".

CREATE TABLE apps (
    id         integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,  -- never reused
    uuid       text COLLATE "C" NOT NULL UNIQUE,
    name       text COLLATE "C" NOT NULL UNIQUE,
    created_at bigint NOT NULL
);

CREATE TABLE api_keys (
    digest     bytea PRIMARY KEY,                  -- SHA-256 of the key; the key is nowhere
    id         text COLLATE "C" NOT NULL UNIQUE,
    app_id     integer NOT NULL,
    type       text NOT NULL,
    label      text NOT NULL,
    created_at bigint NOT NULL,
    expires_at bigint,
    ended_at   bigint                              -- revoked, or first seen expired
);

CREATE TABLE profiles (
    created_at       bigint NOT NULL,              -- the wide columns first: no padding
    updated_at       bigint NOT NULL,
    app_id           integer NOT NULL,
    profile_id       uuid NOT NULL,
    customer_user_id text COLLATE "C",
    identifiers      text COLLATE "C" NOT NULL,
    attributes       text COLLATE "C",             -- JSON list of [key, value], or NULL for none
    PRIMARY KEY (app_id, profile_id)
);

CREATE TABLE customers (
    app_id           integer NOT NULL,
    profile_id       uuid NOT NULL,
    customer_user_id text COLLATE "C" NOT NULL,
    PRIMARY KEY (app_id, customer_user_id)
);

CREATE TABLE identifiers (
    app_id     integer NOT NULL,
    kind       smallint NOT NULL,                  -- position in knownas.model.KINDS
    profile_id uuid NOT NULL,
    value      text COLLATE "C" NOT NULL,
    PRIMARY KEY (app_id, kind, value, profile_id)
);
