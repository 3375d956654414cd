-- Why `tombstones`: nothing that is kept of an erased person tells who it was, and yet an import, a
-- copy or a restored backup must not bring it back. A subject is an HMAC of a name ('p:' and a
-- profile's id, 'c:' and a customer's) under a key of the app, which is itself encrypted. There is
-- more than one key where databases that have erased on their own were copied into one.
--
-- Why `erasures` tells when one was completed: a deleted row stays in its table until VACUUM has
-- run, which has to be after the transaction `tx`.
--
-- Why `about`: the history of one profile may tell of another: of a customer that it lost, or of a
-- profile that was merged into it and taken back out. When that one is erased, it is found by this.
--
-- `tombstones` would be spread over machines by subject, `erasures` by id; `erasure_keys` and
-- `server_secrets` are small.

ALTER TABLE changes ADD COLUMN about text COLLATE "C";  -- a name as in `aliases`; NULL for most
CREATE INDEX changes_by_about ON changes (app_id, about) WHERE about IS NOT NULL;
UPDATE changes SET about = 'c:' || (difference::json -> 'c' ->> 0)
WHERE difference::json -> 'c' ->> 0 IS NOT NULL;

ALTER TABLE apps ADD COLUMN has_erased boolean NOT NULL DEFAULT false;  -- whether it has a key

CREATE TABLE erasure_keys (
    app_id integer NOT NULL,
    id     bytea NOT NULL,                         -- the same for a key however it is sealed
    sealed bytea NOT NULL,                         -- by the vault, context erasure/<the app's UUID>
    PRIMARY KEY (app_id, id)
);

CREATE TABLE tombstones (
    erased_at  bigint NOT NULL,
    revived_at bigint,                             -- when someone new began under this name
    app_id     integer NOT NULL,
    erasure_id uuid NOT NULL,                      -- erasures.id
    subject    bytea NOT NULL,
    PRIMARY KEY (app_id, subject)
);

CREATE TABLE erasures (
    erased_at    bigint NOT NULL,
    completed_at bigint,
    tx           bigint NOT NULL,                  -- pg_current_xact_id() of the deletion
    app_id       integer NOT NULL,
    id           uuid NOT NULL,
    receipt      text NOT NULL,                    -- JSON; nothing in it tells who
    PRIMARY KEY (app_id, id)
);
CREATE INDEX erasures_by_time ON erasures (app_id, erased_at, id);
CREATE INDEX erasures_waiting ON erasures (erased_at) WHERE completed_at IS NULL;

CREATE TABLE server_secrets (
    name   text COLLATE "C" PRIMARY KEY,           -- 'receipts': what signs them
    sealed bytea NOT NULL                          -- by the vault, context server/<name>
);
