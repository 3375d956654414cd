-- Why: whoever revokes a key wants to know first whether anybody still uses it. Each server process
-- writes it once a minute, so it is true to a minute, and what a killed one had noted is lost.

ALTER TABLE api_keys ADD COLUMN last_used_at INTEGER;
