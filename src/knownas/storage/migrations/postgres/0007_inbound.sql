-- Why `ages`: what an event tells counts where it is newer than what is there, and events come in any
-- order. So beside a profile it stands of which time each of its identifiers is: a JSON list of the
-- revision up to which that is known, and an object of the time by kind. What other ways change later
-- is in `changes`, so they need not know of this column. NULL: no event was ever about this profile.
--
-- Why `inbound_refusals`: who is refused is to come again, and meanwhile only the operator can help.
--
-- `dead_letters` are events of which something could not be stored, as they came, a thousand at most.
-- These three tables are small: every machine would have them whole.

ALTER TABLE profiles ADD COLUMN ages text;

CREATE TABLE inbound_secrets (
    created_at bigint NOT NULL,
    app_id     integer NOT NULL,
    id         text COLLATE "C" NOT NULL,
    sender     text COLLATE "C" NOT NULL,          -- knownas.webhooks.senders
    digest     bytea NOT NULL,                     -- SHA-256 of the Authorization; that is nowhere
    PRIMARY KEY (app_id, id)
);

CREATE TABLE inbound_refusals (
    refused bigint NOT NULL,                       -- how often
    last_at bigint NOT NULL,
    app_id  integer NOT NULL,
    sender  text COLLATE "C" NOT NULL,
    PRIMARY KEY (app_id, sender)
);

CREATE TABLE dead_letters (
    at     bigint NOT NULL,
    app_id integer NOT NULL,
    size   integer NOT NULL,                       -- bytes of the whole
    id     text COLLATE "C" NOT NULL,              -- a hash of the event
    sender text COLLATE "C" NOT NULL,
    reason text NOT NULL,
    body   bytea NOT NULL,                         -- the first 64 KiB
    PRIMARY KEY (app_id, id)
);
CREATE INDEX dead_letters_by_time ON dead_letters (app_id, at, id);
