"""The SQL of a region's SQLite database: what changes it, and the statements of each collection."""

from __future__ import annotations

from typing import NamedTuple

from atoll.store.port import AuditRow
from atoll.store.queries import AUDIT_COLUMNS, PARKED_COLUMNS
from atoll.store.refusals import unknown_collection

ADD_SEGMENT = "INSERT INTO journal (origin, first_seq, last_seq, body) VALUES (?, ?, ?, ?)"
SET_POSITION = (
    "INSERT INTO positions (origin, seq) VALUES (?, ?) ON CONFLICT (origin) DO UPDATE SET seq = excluded.seq"
)
SET_CLOCK = (
    "INSERT INTO settings (name, value) VALUES ('clock', ?) "
    "ON CONFLICT (name) DO UPDATE SET value = max(value, excluded.value)"
)
RAISE_COUNTER = (
    "INSERT INTO counters (name, value) VALUES (?, ?) "
    "ON CONFLICT (name) DO UPDATE SET value = max(value, excluded.value)"
)
ADVANCE_COUNTER = (
    "INSERT INTO counters (name, value) VALUES (?, ?) "
    "ON CONFLICT (name) DO UPDATE SET value = value + excluded.value RETURNING value"
)
SET_STATE = (
    "INSERT INTO states (space, key, value) VALUES (?, ?, ?) "
    "ON CONFLICT (space, key) DO UPDATE SET value = excluded.value"
)
REMOVE_STATE = "DELETE FROM states WHERE space = ? AND key = ?"
READ_AUDIT = (*AuditRow._fields[:-1], "CAST(body AS BLOB)")
SELECT_AUDIT = f"SELECT {', '.join(READ_AUDIT)} FROM audit"
SELECT_DOCUMENTS = "SELECT key, CAST(value AS BLOB), meta FROM"
SET_AUDIT = f"INSERT OR REPLACE INTO audit ({AUDIT_COLUMNS}) VALUES ({'?, ' * 11}CAST(? AS TEXT))"
REMEMBER = "INSERT OR REPLACE INTO remembered (key, at_ms, answer) VALUES (?, ?, ?)"
PARK = f"INSERT OR REPLACE INTO parked ({PARKED_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)"
UNPARK = "DELETE FROM parked WHERE origin = ? AND seq = ? AND change = ?"
COLLECTION_TABLES = (
    r"SELECT name FROM sqlite_schema WHERE type = 'table' AND name LIKE 'doc\_%' ESCAPE '\' ORDER BY name"
)
COLUMNS = "(key TEXT PRIMARY KEY NOT NULL, value TEXT, meta BLOB NOT NULL)"
SET_SCHEMA = "INSERT OR REPLACE INTO settings (name, value) VALUES ('schema ' || ?, ?)"


class Statements(NamedTuple):
    """The SQL of one collection. Values are bound and read as bytes, and stored as text: no transcoding."""

    table: str
    get: str
    load: str
    insert: str
    update: str
    """By rowid: the transaction has found the row already, and need not search its key again."""
    erase: str

    @classmethod
    def of(cls, collection: str) -> Statements:
        table = '"doc_' + collection.replace('"', '""') + '"'
        return cls(
            table,
            f"SELECT CAST(value AS BLOB), meta FROM {table} WHERE key = ?",
            f"SELECT key, CAST(value AS BLOB), meta, rowid FROM {table} WHERE key IN ",
            f"INSERT INTO {table} (key, value, meta) VALUES (?, CAST(? AS TEXT), ?) "
            "ON CONFLICT (key) DO UPDATE SET value = excluded.value, meta = excluded.meta",
            f"UPDATE {table} SET value = CAST(? AS TEXT), meta = ? WHERE rowid = ?",
            f"DELETE FROM {table} WHERE key = ?",
        )


class Collections(dict[str, Statements]):
    def __missing__(self, collection: str) -> Statements:
        raise unknown_collection(collection)
