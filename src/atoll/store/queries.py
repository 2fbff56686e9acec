"""What both databases are asked in nearly the same words; how a value is bound is the dialect's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from atoll.store.port import AuditFilter, AuditRow, Chunk, Commit, Parked, Remembered, Segment
from atoll.store.scanning import prefix_end

AUDIT_COLUMNS = ", ".join(AuditRow._fields)
PARKED_COLUMNS = ", ".join(Parked._fields)
SEGMENT_COLUMNS = ", ".join(Segment._fields)
NEWEST_FIRST = "ORDER BY stamp_ms DESC, id DESC"
FORGOTTEN_AT_ONCE = 5_000
_CHUNK_BYTES = 2 << 20
_CHUNK_ROWS = 5_000


class Bound:
    """Values and their places in a statement; the places are SQLite's."""

    def __init__(self) -> None:
        self.values: list[Any] = []

    def place(self, value: object, kind: str) -> str:
        """`kind` is the type's name in PostgreSQL."""
        self.values.append(value)
        return "?"

    def text(self, value: str) -> str:
        """The place of a text that the database holds."""
        return self.place(value, "text")


def where(terms: Sequence[str]) -> str:
    return f" WHERE {' AND '.join(terms)}" if terms else ""


def key_range(bound: Bound, prefix: str, after: str | None) -> list[str]:
    """Conditions on keys with a prefix, strictly past `after`."""
    terms: list[str] = []
    if after is not None and after >= prefix:
        terms.append(f"key > {bound.text(after)}")
    elif prefix:
        terms.append(f"key >= {bound.text(prefix)}")
    end = prefix_end(prefix)
    if end is not None:
        terms.append(f"key < {bound.text(end)}")
    return terms


def audit_terms(bound: Bound, wanted: AuditFilter, after: tuple[int, str] | None) -> list[str]:
    """Conditions on conflict records, strictly past `after`."""
    columns = ("collection", "key", "kind", "status")
    asked = [(column, getattr(wanted, column)) for column in columns]
    terms = [f"{column} = {bound.text(value)}" for column, value in asked if value is not None]
    if wanted.origin is not None:
        terms.append(f"{bound.text(wanted.origin)} IN (losing_origin, winning_origin)")
    if wanted.since_ms is not None:
        terms.append(f"stamp_ms >= {bound.place(wanted.since_ms, 'bigint')}")
    if wanted.until_ms is not None:
        terms.append(f"stamp_ms <= {bound.place(wanted.until_ms, 'bigint')}")
    if after is not None:
        terms.append(f"(stamp_ms, id) < ({bound.place(after[0], 'bigint')}, {bound.text(after[1])})")
    return terms


class Section(NamedTuple):
    """One table of a region's contents."""

    table: str
    columns: Sequence[str]
    order: str
    commit: Callable[[list[Any]], Commit]
    """Of rows that hold the columns."""


SECTIONS = (
    Section("journal", Segment._fields, "id", lambda rows: Commit(segments=[Segment(*row) for row in rows])),
    Section(
        "states",
        ("space", "key", "value"),
        "space, key",
        lambda rows: Commit(states={(space, key): value for space, key, value in rows}),
    ),
    Section("audit", AuditRow._fields, "id", lambda rows: Commit(audit=[AuditRow(*row) for row in rows])),
    Section(
        "remembered",
        Remembered._fields,
        "key",
        lambda rows: Commit(remembered=[Remembered(*row) for row in rows]),
    ),
    Section(
        "parked",
        Parked._fields,
        "origin, seq, change",
        lambda rows: Commit(parked=[Parked(*row) for row in rows]),
    ),
)
HELD = (*(section.table for section in SECTIONS), "counters")
"""Tables of which a store that was never committed to has no row, beside the collections' own."""


class Gathering:
    """Collects rows until they make a chunk of some MiB."""

    def __init__(self, commit: Callable[[list[Any]], Commit]) -> None:
        self._commit = commit
        self._rows: list[Sequence[Any]] = []
        self._size_bytes = 0

    def add(self, row: Sequence[Any]) -> Iterator[Chunk]:
        self._rows.append(row)
        self._size_bytes += sum(len(value) for value in row if isinstance(value, bytes | str))
        if self._size_bytes >= _CHUNK_BYTES or len(self._rows) >= _CHUNK_ROWS:
            yield from self.rest()

    def rest(self) -> Iterator[Chunk]:
        rows, self._rows, self._size_bytes = self._rows, [], 0
        if rows:
            yield Chunk(self._commit(rows))
