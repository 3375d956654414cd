-- Why `upstream`: the other server that an app's profiles are known to, as JSON with its key sealed
-- (knownas.upstreams.Upstream). It stands in the row of the app, because that is read with each key:
-- so whoever asks for a profile that is not here knows at once where else to ask.

ALTER TABLE apps ADD COLUMN upstream TEXT;
