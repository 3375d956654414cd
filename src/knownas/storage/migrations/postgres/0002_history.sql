-- Why `changes`: it is the history of a profile (by its primary key) and the feed of an app (by
-- `changes_by_app`). A difference holds what was before and what is after, so the one table tells
-- how a profile was at any time, and followers what happened.
--
-- `tx` orders the feed. It is the number of the transaction that made the change, or a greater one:
-- never less than that of the profile's change before. A change is told once no transaction is
-- under way whose number is not greater than its `tx`. So whoever commits late is told late, and
-- nobody who follows has passed its place (`postgres_feed.py`).
--
-- `coverage` and `shared_identifiers` are kept by each write, so that reading them needs no look at
-- the profiles: by how much each day changed how many profiles have a kind, and which identifiers
-- stand on more than one profile.
--
-- `changes` would be spread over machines by profile_id, as `profiles`; `shared_identifiers` by
-- value, as `identifiers`; `coverage` by slot. `feed` is one row.

ALTER TABLE profiles
    ADD COLUMN revision   bigint NOT NULL DEFAULT 1,
    ADD COLUMN changed_in bigint NOT NULL DEFAULT 0;  -- the `tx` of its last change

CREATE TABLE changes (
    tx         bigint NOT NULL,
    revision   bigint NOT NULL,
    at         bigint NOT NULL,
    app_id     integer NOT NULL,
    profile_id uuid NOT NULL,
    source     text NOT NULL,                      -- knownas.history.Source
    difference text NOT NULL,                      -- knownas.history.Difference, as JSON
    PRIMARY KEY (app_id, profile_id, revision)
);
CREATE INDEX changes_by_app ON changes (app_id, tx, profile_id, revision);
CREATE INDEX changes_by_tx ON changes (tx);

CREATE TABLE coverage (
    change bigint NOT NULL,
    app_id integer NOT NULL,
    day    integer NOT NULL,                       -- days since 1970; 0 for all before this table
    kind   smallint NOT NULL,                      -- as in `identifiers`; -1 for the profiles
    slot   smallint NOT NULL,                      -- so that writers need not wait for each other
    PRIMARY KEY (app_id, day, kind, slot)
);

CREATE TABLE shared_identifiers (
    profiles bigint NOT NULL,
    app_id   integer NOT NULL,
    kind     smallint NOT NULL,
    value    text COLLATE "C" NOT NULL,
    PRIMARY KEY (app_id, kind, value)
);

CREATE TABLE feed (
    name            text NOT NULL,                 -- in each cursor: one of another feed is refused
    home            text NOT NULL,                 -- where this table is: a restored one is another
    base            bigint NOT NULL,               -- a transaction's number counts from here
    pruned_tx       bigint NOT NULL,               -- the place up to which there may be gaps
    pruned_profile  uuid NOT NULL,
    pruned_revision bigint NOT NULL
);

-- Its first opening gives it a name and a home.
INSERT INTO feed VALUES ('', '', 0, 0, '00000000-0000-0000-0000-000000000000', 0);
INSERT INTO coverage (app_id, day, kind, slot, change)
SELECT app_id, 0, -1, 0, count(*) FROM profiles GROUP BY app_id;
INSERT INTO coverage (app_id, day, kind, slot, change)
SELECT app_id, 0, kind, 0, count(*) FROM identifiers GROUP BY app_id, kind;
INSERT INTO shared_identifiers (app_id, kind, value, profiles)
SELECT app_id, kind, value, count(*) FROM identifiers
GROUP BY app_id, kind, value HAVING count(*) > 1;
