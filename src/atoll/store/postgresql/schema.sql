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

-- jsonb refuses U+0000, which JSON text may hold: there it becomes the noncharacter U+FDD0.
CREATE FUNCTION _plain(doc json) RETURNS jsonb LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN CASE
    WHEN strpos(doc::text, '\u0000') = 0 THEN doc::jsonb
    ELSE regexp_replace(doc::text, '(?<!\\)((?:\\\\)*)\\u0000', '\1' || U&'\FDD0', 'g')::jsonb
END;

-- What indexes hold: bounded, and never an error, since an error would refuse the commit.
CREATE FUNCTION _text(member jsonb) RETURNS text LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN CASE jsonb_typeof(member) WHEN 'string' THEN left(member #>> '{}', 128) END;

-- Rising with the number itself, so that ranges are found. All in it is immutable: what is not, PostgreSQL may
-- evaluate before the conditions that guard it.
CREATE FUNCTION _number(member jsonb) RETURNS double precision LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN CASE
    WHEN jsonb_typeof(member) <> 'number' THEN NULL
    WHEN abs(member::numeric) < 1e-300 THEN 0
    WHEN abs(member::numeric) <= 1e300 THEN (member #>> '{}')::double precision
    WHEN member::numeric > 0 THEN 'infinity'::double precision
    ELSE '-infinity'::double precision
END;

-- What texts stand for, as store/typed.py reads them: null where a text is no such value. Indexes hold decimals only,
-- since what reads times is not immutable.
CREATE FUNCTION _decimal(member jsonb) RETURNS numeric LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN CASE
    WHEN jsonb_typeof(member) NOT IN ('string', 'number') THEN NULL
    WHEN (member #>> '{}') ~ '^-?[0-9]+([.][0-9]+)?([eE][+-]?[0-9]{1,4})?$' AND length(member #>> '{}') <= 2210
        THEN (member #>> '{}')::numeric
END;

CREATE FUNCTION _local_text(plain text) RETURNS timestamp LANGUAGE sql STABLE STRICT PARALLEL SAFE
RETURN CASE
    WHEN plain ~ '^[0-9]{4}-[0-9]{2}-[0-9]{2}T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]([.][0-9]{1,6})?$'
        AND pg_input_is_valid(plain, 'timestamp') THEN plain::timestamp
END;

CREATE FUNCTION _local(member jsonb) RETURNS timestamp LANGUAGE sql STABLE STRICT PARALLEL SAFE
RETURN CASE jsonb_typeof(member) WHEN 'string' THEN _local_text(member #>> '{}') END;

CREATE FUNCTION _moment(member jsonb) RETURNS timestamp LANGUAGE sql STABLE STRICT PARALLEL SAFE
RETURN CASE
    WHEN jsonb_typeof(member) <> 'string' THEN NULL
    WHEN right(member #>> '{}', 1) = 'Z' THEN _local_text(left(member #>> '{}', -1))
    WHEN right(member #>> '{}', 6) ~ '^[+-]([01][0-9]|2[0-3]):[0-5][0-9]$'
        THEN _local_text(left(member #>> '{}', -6)) - right(member #>> '{}', 6)::interval
END;

CREATE FUNCTION _time(member jsonb) RETURNS time LANGUAGE sql STABLE STRICT PARALLEL SAFE
RETURN CASE
    WHEN jsonb_typeof(member) = 'string'
        AND (member #>> '{}') ~ '^([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]([.][0-9]{1,6})?$'
        THEN (member #>> '{}')::time
END;

CREATE FUNCTION _bytes(member jsonb) RETURNS bytea LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN CASE
    WHEN jsonb_typeof(member) = 'string'
        AND (member #>> '{}') ~ '^([A-Za-z0-9+/_-]{4})*([A-Za-z0-9+/_-]{2}==|[A-Za-z0-9+/_-]{3}=)?$'
        THEN decode(translate(member #>> '{}', '-_', '+/'), 'base64')
END;
