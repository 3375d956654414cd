-- Why `tombstones`: nothing that is kept of an erased person tells who it was, and yet an import, a
-- copy or a restored backup must not bring it back. A subject is an HMAC of a name ('p:' and a
-- profile's id, 'c:' and a customer's) under a key of the app, which is itself encrypted. There is
-- more than one key where databases that have erased on their own were copied into one.
--
-- Why `erasures` tells when one was completed: deleted rows leave their bytes in the file until its
-- pages are written anew, which is done later, for several at once.
--
-- Why `about`: the history of one profile may tell of another: of a customer that it lost, or of a
-- profile that was merged into it and taken back out. When that one is erased, it is found by this.

ALTER TABLE changes ADD COLUMN about TEXT;         -- a name as in `aliases`, or NULL for most
CREATE INDEX changes_by_about ON changes (app_id, about) WHERE about IS NOT NULL;
UPDATE changes SET about = 'c:' || (difference ->> '$.c[0]')
WHERE difference ->> '$.c[0]' IS NOT NULL;

CREATE TABLE erasure_keys (
    app_id INTEGER NOT NULL,
    id     BLOB NOT NULL,                          -- the same for a key however it is sealed
    sealed BLOB NOT NULL,                          -- by the vault, context erasure/<the app's UUID>
    PRIMARY KEY (app_id, id)
) STRICT, WITHOUT ROWID;

CREATE TABLE tombstones (
    app_id     INTEGER NOT NULL,
    subject    BLOB NOT NULL,
    erasure_id BLOB NOT NULL,                      -- erasures.id
    erased_at  INTEGER NOT NULL,
    revived_at INTEGER,                            -- when someone new began under this name
    PRIMARY KEY (app_id, subject)
) STRICT, WITHOUT ROWID;

CREATE TABLE erasures (
    app_id       INTEGER NOT NULL,
    id           BLOB NOT NULL,                    -- a UUID's 16 bytes
    erased_at    INTEGER NOT NULL,
    receipt      TEXT NOT NULL,                    -- JSON; nothing in it tells who
    completed_at INTEGER,
    PRIMARY KEY (app_id, id)
) STRICT, WITHOUT ROWID;
CREATE INDEX erasures_by_time ON erasures (app_id, erased_at, id);
CREATE INDEX erasures_waiting ON erasures (erased_at) WHERE completed_at IS NULL;

CREATE TABLE server_secrets (
    name   TEXT PRIMARY KEY,                       -- 'receipts': what signs them
    sealed BLOB NOT NULL                           -- by the vault, context server/<name>
) STRICT, WITHOUT ROWID;
