-- Why: files are uploaded in pieces, and imported when they are whole, by whichever process has the
-- time. How far that is must outlive each of them.
--
-- The pieces are rows, so that any server can take the next one, and any can import them. They would
-- be spread over machines by import_id; `imports` is small, and every machine would have it whole.

CREATE TABLE imports (
    created_at bigint NOT NULL,
    ended_at   bigint,
    app_id     integer NOT NULL,
    id         text COLLATE "C" NOT NULL,
    detail     text NOT NULL,                      -- knownas.imports.Import, as JSON
    PRIMARY KEY (app_id, id)
);
CREATE INDEX imports_by_time ON imports (app_id, created_at, id);
CREATE INDEX imports_unended ON imports (created_at, id) WHERE ended_at IS NULL;

CREATE TABLE import_pieces (
    start     bigint NOT NULL,                     -- in the file, from 0
    app_id    integer NOT NULL,
    import_id text COLLATE "C" NOT NULL,
    piece     bytea NOT NULL,
    PRIMARY KEY (app_id, import_id, start)
);
ALTER TABLE import_pieces ALTER COLUMN piece SET STORAGE EXTERNAL;  -- most are packed already
