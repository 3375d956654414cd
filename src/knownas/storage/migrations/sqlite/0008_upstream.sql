-- Why `upstream`: the other server that an app's profiles are known to, as JSON with its key sealed
-- (knownas.upstreams.Upstream). It stands in the row of the app, because that is read with each key:
-- so whoever asks for a profile that is not here knows at once where else to ask.
--
-- `shadow_counts` says how often the two were compared and how that ended, by kind as in `coverage`;
-- `shadow_differences` which profiles differed at the last comparison, and in what, without values.

ALTER TABLE apps ADD COLUMN upstream TEXT;

CREATE TABLE shadow_counts (
    app_id INTEGER NOT NULL,
    kind   INTEGER NOT NULL,                       -- as in `coverage`
    result TEXT NOT NULL,                          -- knownas.shadows.Result
    count  INTEGER NOT NULL,
    PRIMARY KEY (app_id, kind, result)
) STRICT, WITHOUT ROWID;

CREATE TABLE shadow_differences (
    app_id     INTEGER NOT NULL,
    profile_id BLOB NOT NULL,
    at         INTEGER NOT NULL,
    kinds      TEXT NOT NULL,                      -- JSON object: result by name of the kind
    PRIMARY KEY (app_id, profile_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX shadow_differences_by_time ON shadow_differences (app_id, at);
