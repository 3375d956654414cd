-- Why `webhooks` has a place in the feed: all up to it is delivered, or stands in `deliveries`. A
-- delivery that is taken at the first attempt leaves no row. The lease says which process delivers
-- for a webhook, and until when the others leave it alone.
--
-- `deliveries` names changes and holds nothing of them. Of those of a profile that wait, the one
-- with the lowest revision has a `next_at`, the others wait for it. It would be spread over machines
-- by profile_id, as `changes`; `webhooks` is small, and every machine would have it whole.

CREATE TABLE webhooks (
    created_at       bigint NOT NULL,
    disabled_at      bigint,
    lost_at          bigint,                       -- when history was pruned behind its place
    failed_at        bigint,                       -- the last attempt that was in vain
    lease_until      bigint NOT NULL DEFAULT 0,
    at_tx            bigint NOT NULL,              -- its place in `changes`, by the feed's order
    at_revision      bigint NOT NULL,
    at_profile       uuid NOT NULL,
    app_id           integer NOT NULL,
    failed_status    integer,
    id               text COLLATE "C" NOT NULL,
    url              text NOT NULL,
    secrets          bytea NOT NULL,               -- sealed under the master key: knownas.vault
    types            text,                         -- JSON list of events' types; NULL for all
    disabled_because text,
    failure          text,
    lease            text NOT NULL DEFAULT '',
    PRIMARY KEY (app_id, id)
);

CREATE TABLE deliveries (
    revision      bigint NOT NULL,
    next_at       bigint,
    failed_at     bigint,
    app_id        integer NOT NULL,
    attempts      integer NOT NULL,
    failed_status integer,
    profile_id    uuid NOT NULL,
    webhook_id    text COLLATE "C" NOT NULL,
    state         text COLLATE "C" NOT NULL,       -- pending, or dead: given up
    failure       text,
    PRIMARY KEY (app_id, webhook_id, profile_id, revision)
);
CREATE INDEX deliveries_due ON deliveries (app_id, webhook_id, next_at) WHERE next_at IS NOT NULL;
CREATE INDEX deliveries_by_state ON deliveries (app_id, webhook_id, state, profile_id, revision);
CREATE INDEX deliveries_by_failure ON deliveries (failed_at) WHERE state = 'dead';
