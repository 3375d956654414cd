-- Why `aliases`: when a profile was merged into another one, its id and its customer go on leading
-- somewhere. They are looked at only where nothing else was found. A name is 'p:' and a profile's
-- id, or 'c:' and a customer's.
--
-- Why `answers`: a write that was sent with an Idempotency-Key and is sent again gets the answer of
-- the first time. It is written in the transaction of its write, so there is never one without the
-- other.
--
-- Why `exclusive`: where an app's policy lets a value stand on one profile only, whoever sets it
-- marks its row. Of two transactions that mark one value at once, the second finds the first one's
-- row in its way. The mark is in the row itself, so it goes when the identifier goes.
--
-- `aliases` would be spread over machines by name, `answers` by key.

ALTER TABLE apps ADD COLUMN policies text;         -- JSON: the policy of each kind that has one

CREATE TABLE aliases (
    revision          bigint NOT NULL,             -- that its end was for the source of the merge
    survivor_revision bigint NOT NULL,             -- that the merge was for the survivor
    merged_at         bigint NOT NULL,
    app_id            integer NOT NULL,
    profile_id        uuid NOT NULL,               -- where it leads: a profile, or again an alias
    name              text COLLATE "C" NOT NULL,
    PRIMARY KEY (app_id, name)
);
CREATE INDEX aliases_by_profile ON aliases (app_id, profile_id);

CREATE TABLE answers (
    expires_at  bigint NOT NULL,
    app_id      integer NOT NULL,
    key         text COLLATE "C" NOT NULL,
    fingerprint bytea NOT NULL,                    -- of the request: the key serves no other
    answer      text NOT NULL,
    PRIMARY KEY (app_id, key)
);
CREATE INDEX answers_by_expiry ON answers (expires_at);

ALTER TABLE identifiers ADD COLUMN exclusive boolean NOT NULL DEFAULT false;
CREATE UNIQUE INDEX identifiers_exclusive ON identifiers (app_id, kind, value) WHERE exclusive;
