-- Why `webhooks` has a position: all of the feed up to it is delivered, or stands in `deliveries`.
-- A delivery that is taken at the first attempt leaves no row. The lease says which process delivers
-- for a webhook, and until when the others leave it alone.
--
-- `deliveries` names changes and holds nothing of them. Of those of a profile that wait, the one
-- with the lowest revision has a `next_at`, the others wait for it.

CREATE TABLE webhooks (
    app_id           INTEGER NOT NULL,
    id               TEXT NOT NULL,
    url              TEXT NOT NULL,
    secrets          BLOB NOT NULL,                -- sealed under the master key: knownas.vault
    types            TEXT,                         -- JSON list of events' types; NULL for all
    position         INTEGER NOT NULL,             -- in `changes`
    created_at       INTEGER NOT NULL,
    disabled_at      INTEGER,
    disabled_because TEXT,
    lost_at          INTEGER,                      -- when history was pruned behind `position`
    failed_at        INTEGER,                      -- the last attempt that was in vain
    failed_status    INTEGER,
    failure          TEXT,
    lease            TEXT NOT NULL DEFAULT '',
    lease_until      INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (app_id, id)
) STRICT, WITHOUT ROWID;

CREATE TABLE deliveries (
    app_id        INTEGER NOT NULL,
    webhook_id    TEXT NOT NULL,
    profile_id    BLOB NOT NULL,
    revision      INTEGER NOT NULL,
    state         TEXT NOT NULL,                   -- pending, or dead: given up
    attempts      INTEGER NOT NULL,
    next_at       INTEGER,
    failed_at     INTEGER,
    failed_status INTEGER,
    failure       TEXT,
    PRIMARY KEY (app_id, webhook_id, profile_id, revision)
) STRICT, WITHOUT ROWID;
CREATE INDEX deliveries_due ON deliveries (app_id, webhook_id, next_at) WHERE next_at IS NOT NULL;
CREATE INDEX deliveries_by_state
    ON deliveries (app_id, webhook_id, state, profile_id, revision);
CREATE INDEX deliveries_by_failure ON deliveries (failed_at) WHERE state = 'dead';
