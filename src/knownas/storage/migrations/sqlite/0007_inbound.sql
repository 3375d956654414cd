-- Why `ages`: what an event tells counts where it is newer than what is there, and events come in any
-- order. So beside a profile it stands of which time each of its identifiers is: a JSON list of the
-- revision up to which that is known, and an object of the time by kind. What other ways change later
-- is in `changes`, so they need not know of this column. NULL: no event was ever about this profile.
--
-- Why `inbound_refusals`: who is refused is to come again, and meanwhile only the operator can help.
--
-- `dead_letters` are events of which something could not be stored, as they came, a thousand at most.

ALTER TABLE profiles ADD COLUMN ages TEXT;

CREATE TABLE inbound_secrets (
    app_id     INTEGER NOT NULL,
    id         TEXT NOT NULL,
    sender     TEXT NOT NULL,                      -- knownas.webhooks.senders
    digest     BLOB NOT NULL,                      -- SHA-256 of the Authorization; that is nowhere
    created_at INTEGER NOT NULL,
    PRIMARY KEY (app_id, id)
) STRICT, WITHOUT ROWID;

CREATE TABLE inbound_refusals (
    app_id  INTEGER NOT NULL,
    sender  TEXT NOT NULL,
    refused INTEGER NOT NULL,                      -- how often
    last_at INTEGER NOT NULL,
    PRIMARY KEY (app_id, sender)
) STRICT, WITHOUT ROWID;

CREATE TABLE dead_letters (
    app_id INTEGER NOT NULL,
    id     TEXT NOT NULL,                          -- a hash of the event
    sender TEXT NOT NULL,
    at     INTEGER NOT NULL,
    reason TEXT NOT NULL,
    body   BLOB NOT NULL,                          -- the first 64 KiB
    size   INTEGER NOT NULL,                       -- bytes of the whole
    UNIQUE (app_id, id)
) STRICT;
CREATE INDEX dead_letters_by_time ON dead_letters (app_id, at, id);
