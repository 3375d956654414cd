-- Why: files are uploaded in pieces, and imported when they are whole, by whichever process has the
-- time. How far that is must outlive each of them.
--
-- The files themselves stand beside the database: as rows they would make it larger for good.

CREATE TABLE imports (
    app_id     INTEGER NOT NULL,
    id         TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    ended_at   INTEGER,
    detail     TEXT NOT NULL,                      -- knownas.imports.Import, as JSON
    PRIMARY KEY (app_id, id)
) STRICT, WITHOUT ROWID;
CREATE INDEX imports_by_time ON imports (app_id, created_at, id);
CREATE INDEX imports_unended ON imports (created_at, id) WHERE ended_at IS NULL;
