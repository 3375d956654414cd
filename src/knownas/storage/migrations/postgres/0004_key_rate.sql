-- Why a text: a rate is what the operator wrote, as 600/minute, or `none` for a key without a
-- limit. NULL is the rate that the setting gives to all keys, so it can change there for all.

ALTER TABLE api_keys ADD COLUMN rate text;
