-- Why `aliases`: when a profile was merged into another one, its id and its customer go on leading
-- somewhere. They are looked at only where nothing else was found. A name is 'p:' and a profile's
-- id, or 'c:' and a customer's.
--
-- Why `answers`: a write that was sent with an Idempotency-Key and is sent again gets the answer of
-- the first time. It is written in the transaction of its write, so there is never one without the
-- other.

ALTER TABLE apps ADD COLUMN policies TEXT;         -- JSON: the policy of each kind that has one

CREATE TABLE aliases (
    app_id            INTEGER NOT NULL,
    name              TEXT NOT NULL,
    profile_id        BLOB NOT NULL,               -- where it leads: a profile, or again an alias
    revision          INTEGER NOT NULL,            -- that its end was for the source of the merge
    survivor_revision INTEGER NOT NULL,            -- that the merge was for the survivor
    merged_at         INTEGER NOT NULL,
    PRIMARY KEY (app_id, name)
) STRICT, WITHOUT ROWID;
CREATE INDEX aliases_by_profile ON aliases (app_id, profile_id);

CREATE TABLE answers (
    app_id      INTEGER NOT NULL,
    key         TEXT NOT NULL,
    fingerprint BLOB NOT NULL,                     -- of the request: the key serves no other
    answer      TEXT NOT NULL,
    expires_at  INTEGER NOT NULL,
    PRIMARY KEY (app_id, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX answers_by_expiry ON answers (expires_at);
