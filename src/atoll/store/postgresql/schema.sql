-- Atoll's own tables in a region's schema, format 2. Their names start with `_`; a name without is a view for people
-- (see postgresql_views.py). Each collection's table is made by open_collections: _doc_<collection>(key, doc, meta).

-- One row: where the region stands. Whoever commits moves `commits` on from what it saw (compare-and-set).
CREATE TABLE _region (
    one          boolean PRIMARY KEY DEFAULT true CHECK (one),
    commits      bigint  NOT NULL DEFAULT 0,
    clock        bigint  NOT NULL DEFAULT 0,      -- the highest stamp ever committed
    journal_tail bigint  NOT NULL DEFAULT 0,      -- the id of the newest segment
    positions    json    NOT NULL DEFAULT '{}'    -- the version vector
) WITH (fillfactor = 10);
INSERT INTO _region DEFAULT VALUES;

-- The journal in this region's commit order: one row per group commit and origin.
CREATE TABLE _journal (
    id        bigint PRIMARY KEY,
    origin    text COLLATE "C" NOT NULL,
    first_seq bigint NOT NULL,
    last_seq  bigint NOT NULL,
    body      bytea  NOT NULL
);
ALTER TABLE _journal ALTER COLUMN body SET STORAGE EXTERNAL;
CREATE UNIQUE INDEX _journal_dot ON _journal (origin, last_seq);

-- "schema <collection>": the declaration by which all its stored documents are shown.
CREATE TABLE _schemas (
    collection  text COLLATE "C" PRIMARY KEY,
    fingerprint text NOT NULL
);

-- What protocols keep, each in a space of its own.
CREATE TABLE _states (
    space text COLLATE "C" NOT NULL,
    key   text COLLATE "C" NOT NULL,
    value bytea NOT NULL,
    PRIMARY KEY (space, key)
);

-- Durable numbers that only rise.
CREATE TABLE _counters (
    name  text COLLATE "C" PRIMARY KEY,
    value bigint NOT NULL
);

-- Conflict records, with the losing values.
CREATE TABLE _audit (
    id            text COLLATE "C" PRIMARY KEY,
    collection    text COLLATE "C" NOT NULL,
    key           text COLLATE "C" NOT NULL,
    field         text COLLATE "C" NOT NULL,
    kind          text NOT NULL,
    status        text NOT NULL,
    stamp_ms      bigint NOT NULL,
    losing_origin  text NOT NULL,
    winning_origin text NOT NULL,
    strategy      text NOT NULL,
    uncertain     boolean NOT NULL,
    body          json NOT NULL
);
CREATE INDEX _audit_newest ON _audit (stamp_ms, id);
CREATE INDEX _audit_document ON _audit (collection, key, stamp_ms, id);
CREATE INDEX _audit_status ON _audit (status, stamp_ms, id);

-- Answers given to idempotency keys.
CREATE TABLE _remembered (
    key    text COLLATE "C" PRIMARY KEY,
    at_ms  bigint NOT NULL,
    answer bytea NOT NULL
);
CREATE INDEX _remembered_age ON _remembered (at_ms);

-- Changes that could not be merged, kept for a person.
CREATE TABLE _parked (
    origin text COLLATE "C" NOT NULL,
    seq    bigint NOT NULL,
    change integer NOT NULL,
    cause  text NOT NULL,
    reason text NOT NULL,
    body   bytea NOT NULL,
    PRIMARY KEY (origin, seq, change)
);

-- What one of the region's nodes does for all: a peer's link, a machine number of snowflakes.
CREATE TABLE _leases (
    name       text COLLATE "C" PRIMARY KEY,
    holder     text NOT NULL,
    run        text NOT NULL,                 -- of the holder's process
    until      timestamptz NOT NULL,
    generation bigint NOT NULL DEFAULT 1      -- grows with each change of the holder: no row is ever deleted
) WITH (fillfactor = 50);

-- Views and indexes as they were made, to be made anew when a declaration changes.
CREATE TABLE _declared (
    name       text COLLATE "C" PRIMARY KEY,
    definition text NOT NULL
);
