"""The SQL of a region's PostgreSQL database, put together from names and from what is asked for.

Of all statements one commit is one, over arrays: `commit_sql`. PostgreSQL's text refuses U+0000: it is kept as the
noncharacter U+FDD0 with a digit, and so is U+FDD0 itself.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from atoll.store import queries
from atoll.store.port import AuditRow, Condition
from atoll.store.queries import AUDIT_COLUMNS
from atoll.store.scanning import check_condition
from atoll.store.typed import index_range

SELECT_AUDIT = f"SELECT {AUDIT_COLUMNS} FROM _audit"
_LONGEST_NAME_BYTES = 63
_HASH_DIGITS = 8
_ORDERS = {"lt": "<", "le": "<=", "gt": ">", "ge": ">="}
_NUL, _ESCAPE = "\x00", "\ufdd0"


def kept(text: str) -> str:
    """As it can be stored; in the same order, but for U+0000."""
    if _NUL in text or _ESCAPE in text:
        return text.replace(_ESCAPE, _ESCAPE + "1").replace(_NUL, _ESCAPE + "0")
    return text


def given(text: str) -> str:
    """As it was before `kept`."""
    if _ESCAPE in text:
        return text.replace(_ESCAPE + "0", _NUL).replace(_ESCAPE + "1", _ESCAPE)
    return text


def shown(text: str) -> str:
    """As `_plain` shows it to conditions, which do not tell U+0000 from U+FDD0."""
    return text.replace(_NUL, _ESCAPE)


def kept_all(row: Iterable[Any]) -> list[Any]:
    """Values with their texts as they can be stored."""
    return [kept(value) if type(value) is str else value for value in row]


def given_all(row: Iterable[Any]) -> tuple[Any, ...]:
    """Columns with their texts as they were."""
    return tuple([given(value) if type(value) is str else value for value in row])


def named(prefix: str, name: str) -> str:
    """An identifier, quoted; a name that is too long for one ends in a hash of itself."""
    full = prefix + name
    if len(full.encode()) > _LONGEST_NAME_BYTES:
        digest = hashlib.blake2b(name.encode(), digest_size=_HASH_DIGITS // 2).hexdigest()
        full = f"{full.encode()[: _LONGEST_NAME_BYTES - _HASH_DIGITS - 1].decode(errors='ignore')}_{digest}"
    return quoted_name(full)


def quoted_name(name: str) -> str:
    """An identifier that may hold anything."""
    return '"' + name.replace('"', '""') + '"'


def table_of(collection: str) -> str:
    return named("_doc_", collection)


def create_table(collection: str) -> str:
    return (
        f"CREATE TABLE IF NOT EXISTS {table_of(collection)} "
        '(key text COLLATE "C" PRIMARY KEY, doc json, meta bytea NOT NULL)'
    )


_BEFORE = (
    "coalesce(sum(coalesce(octet_length(doc::text), 0) + octet_length(meta))"
    " OVER (ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0)"
)
"""How many bytes the documents before have."""
REMEMBERED, STATES, FENCES = -2, -3, -4
"""What a row of `transaction_sql` is of; a document has the number of its collection."""


@lru_cache(maxsize=256)
def transaction_sql(
    collections: tuple[str, ...],
    *,
    remembered: bool = False,
    states: bool = False,
    fences: bool = False,
    most_bytes: int | None = None,
) -> str:
    """$1 the lock or 0, then the keys of each collection, then the idempotency keys, then spaces and keys of
    states, then names of leases. The first row is the region's; of the others `part` says what they are.
    With `most_bytes` a document's number is the size of those before it, and it comes empty where that is more.

    The snapshot is older than the lock; if somebody committed in between, the commit's compare-and-set will tell.
    """
    parts = [
        "SELECT -1 AS part, CASE WHEN $1::bigint = 0 THEN 'none' ELSE pg_try_advisory_lock($1)::text END AS key, "
        "positions AS doc, (SELECT convert_to(coalesce(json_object_agg(collection, fingerprint), '{}')::text, 'UTF8') "
        "FROM _schemas) AS meta, commits, clock, journal_tail FROM _region"
    ]
    for at, collection in enumerate(collections):
        found = f"FROM {table_of(collection)} WHERE key = ANY (${at + 2}::text[])"
        if most_bytes is None:
            parts.append(f"SELECT {at}, key, doc, meta, 0, 0, 0 {found}")
        else:
            fits = f"CASE WHEN before <= {most_bytes} THEN"
            measured = f"(SELECT key, doc, meta, {_BEFORE} AS before {found}) AS measured"
            parts.append(f"SELECT {at}, key, {fits} doc END, {fits} meta END, before, 0, 0 FROM {measured}")
    place = len(collections) + 2
    if remembered:
        parts.append(
            f"SELECT {REMEMBERED}, key, NULL, answer, 0, 0, 0 FROM _remembered WHERE key = ANY (${place}::text[])"
        )
        place += 1
    if states:
        parts.append(
            f"SELECT {STATES}, space || '/' || key, NULL, value, 0, 0, 0 FROM _states "
            f"WHERE (space, key) IN (SELECT given.* FROM unnest(${place}::text[], ${place + 1}::text[]) AS given)"
        )
        place += 2
    if fences:
        parts.append(
            f"SELECT {FENCES}, name, NULL, NULL, generation, 0, 0 FROM _leases WHERE name = ANY (${place}::text[])"
        )
    return " UNION ALL ".join(parts)


def _upsert(table: str, keys: int, columns: dict[str, str]) -> tuple[str, tuple[str, ...]]:
    """Rows are inserted, or replaced where the first `keys` columns are held: its SQL and the arrays' types.

    `{given}` stands for the arrays.
    """
    names = list(columns)
    updates = ", ".join(f"{name} = excluded.{name}" for name in names[keys:])
    conflict = f" ON CONFLICT ({', '.join(names[:keys])}) DO UPDATE SET {updates}" if keys else ""
    return (
        f"INSERT INTO {table} ({', '.join(names)}) SELECT given.* FROM {{given}}{conflict}",
        tuple(columns.values()),
    )


def _delete(table: str, columns: dict[str, str]) -> tuple[str, tuple[str, ...]]:
    names = ", ".join(columns)
    held, given = (", ".join(f"{side}.{name}" for name in columns) for side in ("gone", "given"))
    return (
        f"DELETE FROM {table} AS gone USING {{given}} ({names}) WHERE ({held}) = ({given})",
        tuple(columns.values()),
    )


_DOT = {"origin": "text", "seq": "bigint", "change": "integer"}
_AUDIT_TYPES = [*["text"] * 6, "bigint", *["text"] * 3, "boolean", "json"]
_PARTS = {
    "segments": _upsert(
        "_journal",
        0,
        {"id": "bigint", "origin": "text", "first_seq": "bigint", "last_seq": "bigint", "body": "bytea"},
    ),
    "audit_removed": _delete("_audit", {"id": "text"}),
    "audit": _upsert("_audit", 1, dict(zip(AuditRow._fields, _AUDIT_TYPES, strict=True))),
    "remembered": _upsert("_remembered", 1, {"key": "text", "at_ms": "bigint", "answer": "bytea"}),
    "unparked": _delete("_parked", _DOT),
    "parked": _upsert("_parked", 3, {**_DOT, "cause": "text", "reason": "text", "body": "bytea"}),
    "schemas": _upsert("_schemas", 1, {"collection": "text", "fingerprint": "text"}),
    "states_removed": _delete("_states", {"space": "text", "key": "text"}),
    "states": _upsert("_states", 2, {"space": "text", "key": "text", "value": "bytea"}),
}
_FENCES = (
    # Leases are locked until the commit ends: whoever takes one over knows that none comes after.
    "fences AS (SELECT held.name FROM _leases AS held JOIN unnest($8::text[], $9::bigint[]) AS fence "
    "(name, generation) USING (name, generation) FOR SHARE OF held), "
)
_FENCED = " AND (SELECT count(*) FROM fences) = cardinality($8::text[])"


@lru_cache(maxsize=1024)
def commit_sql(collections: tuple[str, ...], erased: tuple[str, ...], parts: frozenset[str]) -> str:
    """One statement for a whole commit: it does nothing, and returns no row, when another one came first.

    Nor while another node has the lock: its transaction would be lost, however often it began anew.

    $1 the `commits` that was seen, $2 clock, $3 journal's tail, $4 positions, $5 channel, $6 what to tell there, $7 the
    lock. Then come arrays: two of fences, three for each collection, and one of keys for each that loses rows. Those of
    the parts, in the order of `_PARTS`, end it.
    """
    fenced = "fences" in parts
    statements = [
        f"WITH {_FENCES if fenced else ''}won AS (UPDATE _region SET commits = commits + 1, "
        "clock = greatest(clock, $2::bigint), journal_tail = $3::bigint, positions = $4::json "
        "WHERE commits = $1::bigint AND pg_try_advisory_xact_lock_shared($7::bigint)"
        f"{_FENCED if fenced else ''} RETURNING commits)"
    ]
    next_place = 10 if fenced else 8
    documents = {"key": "text", "doc": "json", "meta": "bytea"}
    changes = {f"documents{at}": _upsert(table_of(name), 1, documents) for at, name in enumerate(collections)}
    changes |= {f"erased{at}": _delete(table_of(name), {"key": "text"}) for at, name in enumerate(erased)}
    changes |= {name: part for name, part in _PARTS.items() if name in parts}
    for name, (sql, types) in changes.items():
        places = ", ".join(f"${next_place + at}::{kind}[]" for at, kind in enumerate(types))
        next_place += len(types)
        statements.append(f"{name} AS ({sql.replace('{given}', f'won, unnest({places}) AS given')})")
    return ", ".join(statements) + " SELECT pg_notify($5::text, $6::text) FROM won"


class Bound(queries.Bound):
    """Values and their places in a statement of PostgreSQL."""

    def place(self, value: object, kind: str) -> str:
        self.values.append(value)
        return f"${len(self.values)}::{kind}"

    def text(self, value: str) -> str:
        return self.place(kept(value), "text")


def page_sql(asked: queries.PageQuery) -> str:
    """The rows before which less than the bound was found. The database measures them, and sends no others."""
    columns, table, order, sized, terms, bound, limit, limit_bytes = asked
    names = ", ".join(columns)
    json = ("doc", "body") if table == "_audit" else ("doc",)
    texts = [f"{name}::text" if name in json else name for name in columns[-sized:]]
    size = " + ".join(f"coalesce(octet_length({text}), 0)" for text in texts)
    found = f"SELECT {names} FROM {table}{queries.where(terms)} ORDER BY {order}"
    found += f" LIMIT {bound.place(limit, 'bigint')}"
    before = f"sum({size}) OVER (ORDER BY {order} ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)"
    measured = f"SELECT *, coalesce({before}, 0) AS so_far FROM ({found}) AS found"
    return (
        f"SELECT {names} FROM ({measured}) AS measured "
        f"WHERE so_far < {bound.place(limit_bytes, 'bigint')} ORDER BY {order}"
    )


def condition_sql(condition: Condition, bound: queries.Bound, *, indexed: bool = False) -> str:
    """One condition over the column `doc`, with the meaning of `store.scanning`."""
    check_condition(condition)
    name, op, value, kind = condition
    field = literal(shown(name)) if indexed else bound.place(shown(name), "text")
    member = f"(_plain(doc) -> {field})"
    if kind != "json":
        return _typed(condition, member, bound, indexed=indexed)
    if op == "contains":
        return _contains(member, value, bound)
    if op in _ORDERS:
        exact = _order(member, op, value, bound)
    else:
        as_json = bound.place(_json_of(value), "jsonb")
        exact = f"coalesce({member}, 'null') = {as_json}"
        if op == "ne":
            return f"NOT ({exact})"
    return f"({_indexed(member, op, value, bound)} AND {exact})" if indexed else f"({exact})"


def _typed(condition: Condition, member: str, bound: queries.Bound, *, indexed: bool) -> str:
    """By the functions of `functions.sql`."""
    _, op, value, kind = condition
    assert isinstance(value, str)
    given = f"_{kind}(to_jsonb({bound.text(value)}))"
    if op == "contains":
        return f"({_any_element(member, f'_{kind}(element) = {given}')})"
    term = f"_{kind}({member}) {_ORDERS.get(op, '=')} {given}"
    if op == "ne":
        return f"NOT coalesce({term}, false)"
    if indexed and kind in ("moment", "local"):
        low, high = index_range(condition)
        for order, edge in ((">=", low), ("<=", high)):
            if isinstance(edge, str):
                term += f' AND _text({member}) COLLATE "C" {order} {bound.text(edge)}'
    return f"({term})"


def _any_element(member: str, term: str) -> str:
    elements = f"CASE jsonb_typeof({member}) WHEN 'array' THEN {member} ELSE '[]' END"
    return f"EXISTS (SELECT FROM jsonb_array_elements({elements}) AS element WHERE {term})"


def _order(member: str, op: str, value: object, bound: queries.Bound) -> str:
    if isinstance(value, str):
        text = bound.place(shown(value), "text")
        return (
            f"jsonb_typeof({member}) = 'string' AND ({member} #>> '{{}}') COLLATE \"C\" {_ORDERS[op]} {text}"
        )
    return f"jsonb_typeof({member}) = 'number' AND {member} {_ORDERS[op]} {bound.place(_json_of(value), 'jsonb')}"


def _indexed(member: str, op: str, value: object, bound: queries.Bound) -> str:
    """What an index of `index_expressions` can answer; never less than what is exactly asked for."""
    order = {"eq": "=", "lt": "<=", "le": "<=", "gt": ">=", "ge": ">="}[op]
    if isinstance(value, str):
        return f'_text({member}) COLLATE "C" {order} left({bound.place(shown(value), "text")}, 128)'
    if isinstance(value, bool) or value is None:
        return "true"
    return f"_number({member}) {order} _number({bound.place(_json_of(value), 'jsonb')})"


def index_expressions(field: str, *, decimal: bool = False) -> dict[str, str]:
    """A field's indexes: of texts and of numbers, or of decimals."""
    member = f"(_plain(doc) -> {literal(field)})"
    if decimal:
        return {"decimal": f"_decimal({member})"}
    return {"text": f'_text({member}) COLLATE "C"', "number": f"_number({member})"}


def _contains(member: str, value: object, bound: queries.Bound) -> str:
    listed = _any_element(member, f"element = {bound.place(_json_of(value), 'jsonb')}")
    if not isinstance(value, str):
        return listed
    text = bound.place(shown(value), "text")
    found = f"strpos(({member} #>> '{{}}') COLLATE \"C\", {text}) > 0"
    return f"({listed} OR coalesce(jsonb_typeof({member}) = 'string' AND {found}, false))"


def literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _json_of(value: object) -> str:
    return json.dumps(shown(value) if isinstance(value, str) else value, ensure_ascii=False)
