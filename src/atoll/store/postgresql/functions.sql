-- What conditions, indexes and views call. It is run by the first node whose functions differ from these, so a function
-- may be added here without a new format. One that indexes hold must keep its meaning: another one needs another name.

-- jsonb refuses U+0000, which JSON text may hold: there it becomes the noncharacter U+FDD0.
CREATE OR REPLACE FUNCTION _plain(doc json) RETURNS jsonb LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN CASE
    WHEN strpos(doc::text, '\u0000') = 0 THEN doc::jsonb
    ELSE regexp_replace(doc::text, '(?<!\\)((?:\\\\)*)\\u0000', '\1' || U&'\FDD0', 'g')::jsonb
END;

-- What indexes hold: bounded, and never an error, since an error would refuse the commit.
CREATE OR REPLACE FUNCTION _text(member jsonb) RETURNS text LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN CASE jsonb_typeof(member) WHEN 'string' THEN left(member #>> '{}', 128) END;

-- Rising with the number itself, so that ranges are found. All in it is immutable: what is not, PostgreSQL may
-- evaluate before the conditions that guard it.
CREATE OR REPLACE FUNCTION _number(member jsonb) RETURNS double precision LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN CASE
    WHEN jsonb_typeof(member) <> 'number' THEN NULL
    WHEN abs(member::numeric) < 1e-300 THEN 0
    WHEN abs(member::numeric) <= 1e300 THEN (member #>> '{}')::double precision
    WHEN member::numeric > 0 THEN 'infinity'::double precision
    ELSE '-infinity'::double precision
END;

-- What texts stand for, as store/typed.py reads them: null where a text is no such value. Indexes hold decimals only,
-- since what reads times is not immutable.
CREATE OR REPLACE FUNCTION _decimal(member jsonb) RETURNS numeric LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN CASE
    WHEN jsonb_typeof(member) NOT IN ('string', 'number') THEN NULL
    WHEN (member #>> '{}') ~ '^-?[0-9]+([.][0-9]+)?([eE][+-]?[0-9]{1,4})?$' AND length(member #>> '{}') <= 2210
        THEN (member #>> '{}')::numeric
END;

CREATE OR REPLACE FUNCTION _local_text(plain text) RETURNS timestamp LANGUAGE sql STABLE STRICT PARALLEL SAFE
RETURN CASE
    WHEN plain ~ '^[0-9]{4}-[0-9]{2}-[0-9]{2}T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]([.][0-9]{1,6})?$'
        AND pg_input_is_valid(plain, 'timestamp') THEN plain::timestamp
END;

CREATE OR REPLACE FUNCTION _local(member jsonb) RETURNS timestamp LANGUAGE sql STABLE STRICT PARALLEL SAFE
RETURN CASE jsonb_typeof(member) WHEN 'string' THEN _local_text(member #>> '{}') END;

CREATE OR REPLACE FUNCTION _moment(member jsonb) RETURNS timestamp LANGUAGE sql STABLE STRICT PARALLEL SAFE
RETURN CASE
    WHEN jsonb_typeof(member) <> 'string' THEN NULL
    WHEN right(member #>> '{}', 1) = 'Z' THEN _local_text(left(member #>> '{}', -1))
    WHEN right(member #>> '{}', 6) ~ '^[+-]([01][0-9]|2[0-3]):[0-5][0-9]$'
        THEN _local_text(left(member #>> '{}', -6)) - right(member #>> '{}', 6)::interval
END;

CREATE OR REPLACE FUNCTION _time(member jsonb) RETURNS time LANGUAGE sql STABLE STRICT PARALLEL SAFE
RETURN CASE
    WHEN jsonb_typeof(member) = 'string'
        AND (member #>> '{}') ~ '^([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]([.][0-9]{1,6})?$'
        THEN (member #>> '{}')::time
END;

CREATE OR REPLACE FUNCTION _bytes(member jsonb) RETURNS bytea LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN CASE
    WHEN jsonb_typeof(member) = 'string'
        AND (member #>> '{}') ~ '^([A-Za-z0-9+/_-]{4})*([A-Za-z0-9+/_-]{2}==|[A-Za-z0-9+/_-]{3}=)?$'
        THEN decode(translate(member #>> '{}', '-_', '+/'), 'base64')
END;
