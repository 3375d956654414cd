-- Why `upstream`: the other server that an app's profiles are known to, as JSON with its key sealed
-- (knownas.upstreams.Upstream). It stands in the row of the app, because that is read with each key:
-- so whoever asks for a profile that is not here knows at once where else to ask.
--
-- `shadow_counts` says how often the two were compared and how that ended, by kind as in `coverage`;
-- `shadow_differences` which profiles differed at the last comparison, and in what, without values. The
-- latter would be spread over machines by profile_id, as `changes`; of the former every machine would
-- have all.

ALTER TABLE apps ADD COLUMN upstream text;

CREATE TABLE shadow_counts (
    count  bigint NOT NULL,
    app_id integer NOT NULL,
    kind   smallint NOT NULL,                      -- as in `coverage`
    result text COLLATE "C" NOT NULL,              -- knownas.shadows.Result
    PRIMARY KEY (app_id, kind, result)
);

CREATE TABLE shadow_differences (
    at         bigint NOT NULL,
    app_id     integer NOT NULL,
    profile_id uuid NOT NULL,
    kinds      text NOT NULL,                      -- JSON object: result by name of the kind
    PRIMARY KEY (app_id, profile_id)
);
CREATE INDEX shadow_differences_by_time ON shadow_differences (app_id, at);
