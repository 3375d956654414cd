-- Why `changes`: it is the history of a profile (by `changes_by_profile`) and the feed of an app
-- (by `changes_by_app`, whose entries end in the position). A difference holds what was before and
-- what is after, so the one table tells how a profile was at any time, and followers what happened.
-- Writers take turns, so positions come in the order of the commits, and none comes late.
--
-- `coverage` and `shared_identifiers` are kept by each write, so that reading them needs no look at
-- the profiles: by how much each day changed how many profiles have a kind, and which identifiers
-- stand on more than one profile.

ALTER TABLE profiles ADD COLUMN revision INTEGER NOT NULL DEFAULT 1;

CREATE TABLE changes (
    position   INTEGER PRIMARY KEY AUTOINCREMENT,
    app_id     INTEGER NOT NULL,
    profile_id BLOB NOT NULL,
    revision   INTEGER NOT NULL,
    at         INTEGER NOT NULL,
    source     TEXT NOT NULL,                      -- knownas.history.Source
    difference TEXT NOT NULL                       -- knownas.history.Difference, as JSON
) STRICT;
CREATE UNIQUE INDEX changes_by_profile ON changes (app_id, profile_id, revision);
CREATE INDEX changes_by_app ON changes (app_id);

CREATE TABLE coverage (
    app_id INTEGER NOT NULL,
    day    INTEGER NOT NULL,                       -- days since 1970; 0 for all before this table
    kind   INTEGER NOT NULL,                       -- as in `identifiers`; -1 for the profiles
    change INTEGER NOT NULL,
    PRIMARY KEY (app_id, day, kind)
) STRICT, WITHOUT ROWID;

CREATE TABLE shared_identifiers (
    app_id   INTEGER NOT NULL,
    kind     INTEGER NOT NULL,
    value    TEXT NOT NULL,
    profiles INTEGER NOT NULL,
    PRIMARY KEY (app_id, kind, value)
) STRICT, WITHOUT ROWID;

CREATE TABLE feed (
    name   TEXT NOT NULL,                          -- in each cursor: one of another feed is refused
    pruned INTEGER NOT NULL                        -- the position up to which there may be gaps
) STRICT;

INSERT INTO feed VALUES (lower(hex(randomblob(6))), 0);
INSERT INTO coverage SELECT app_id, 0, -1, count(*) FROM profiles GROUP BY app_id;
INSERT INTO coverage SELECT app_id, 0, kind, count(*) FROM identifiers GROUP BY app_id, kind;
INSERT INTO shared_identifiers
SELECT app_id, kind, value, count(*) FROM identifiers
GROUP BY app_id, kind, value HAVING count(*) > 1;
