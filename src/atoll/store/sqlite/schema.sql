-- One region's database, format 2. Each collection's table is made by open_collections:
-- doc_<collection>(key, value, meta). Rowid tables throughout: WITHOUT ROWID halves the write rate at 4 kB pages.

-- The journal in this region's commit order: one row per group commit and origin.
-- Truncation must keep the newest row, since its id is what the next one is counted from.
CREATE TABLE journal (
    id        INTEGER PRIMARY KEY,
    origin    TEXT    NOT NULL,
    first_seq INTEGER NOT NULL,
    last_seq  INTEGER NOT NULL,
    body      BLOB    NOT NULL
);
CREATE UNIQUE INDEX journal_dot ON journal (origin, last_seq);

-- The region's version vector.
CREATE TABLE positions (
    origin TEXT PRIMARY KEY NOT NULL,
    seq    INTEGER NOT NULL
);

-- format, region, deployment; clock (the highest stamp ever committed); "schema <collection>" (the declaration
-- by which all its stored documents are shown).
CREATE TABLE settings (
    name  TEXT PRIMARY KEY NOT NULL,
    value NOT NULL
);

-- What protocols keep, each in a space of its own.
CREATE TABLE states (
    space TEXT NOT NULL,
    key   TEXT NOT NULL,
    value BLOB NOT NULL,
    PRIMARY KEY (space, key)
);

-- Durable numbers that only rise.
CREATE TABLE counters (
    name  TEXT PRIMARY KEY NOT NULL,
    value INTEGER NOT NULL
);

-- Conflict records, with the losing values.
CREATE TABLE audit (
    id            TEXT PRIMARY KEY NOT NULL,
    collection    TEXT NOT NULL,
    key           TEXT NOT NULL,
    field         TEXT NOT NULL,
    kind          TEXT NOT NULL,
    status        TEXT NOT NULL,
    stamp_ms      INTEGER NOT NULL,
    losing_origin  TEXT NOT NULL,
    winning_origin TEXT NOT NULL,
    strategy      TEXT NOT NULL,
    uncertain     INTEGER NOT NULL,
    body          TEXT NOT NULL
);
CREATE INDEX audit_newest ON audit (stamp_ms, id);
CREATE INDEX audit_document ON audit (collection, key, stamp_ms, id);
CREATE INDEX audit_status ON audit (status, stamp_ms, id);

-- Answers given to idempotency keys.
CREATE TABLE remembered (
    key    TEXT PRIMARY KEY NOT NULL,
    at_ms  INTEGER NOT NULL,
    answer BLOB NOT NULL
);
CREATE INDEX remembered_age ON remembered (at_ms);

-- Changes that could not be merged, kept for a person.
CREATE TABLE parked (
    origin TEXT NOT NULL,
    seq    INTEGER NOT NULL,
    change INTEGER NOT NULL,
    cause  TEXT NOT NULL,
    reason TEXT NOT NULL,
    body   BLOB NOT NULL,
    PRIMARY KEY (origin, seq, change)
);
