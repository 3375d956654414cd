-- Why: operators may sign in through an OpenID Connect issuer. Each has at most one identity there:
-- an e-mail address, in lower case, or `sub:` with the subject; '' is none. Who has an identity need
-- have no password: that is '' then, and fits nothing.
-- The table is small: every machine would have it whole.

ALTER TABLE operators ADD COLUMN oidc text COLLATE "C" NOT NULL DEFAULT '';
CREATE UNIQUE INDEX operators_by_oidc ON operators (oidc) WHERE oidc <> '';
