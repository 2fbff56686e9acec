"""What both databases are asked in the same words. A dialect's own are its names, and how values are bound."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

from atoll.schema.bounds import CHUNK_BYTES, PAGE_BYTES
from atoll.store.port import (
    AuditFilter,
    AuditRow,
    Chunk,
    Commit,
    Condition,
    Numbered,
    Parked,
    Remembered,
    Row,
    Scan,
    Segment,
)
from atoll.store.scanning import prefix_end

AUDIT_COLUMNS = ", ".join(AuditRow._fields)
PARKED_COLUMNS = ", ".join(Parked._fields)
SEGMENT_COLUMNS = ", ".join(Segment._fields)
_NEWEST = "stamp_ms DESC, id DESC"
NEWEST_FIRST = f"ORDER BY {_NEWEST}"
_FORGOTTEN_AT_ONCE = 5_000
MEASURED_SEGMENTS = 200
"""At most so many are looked at for a `JournalExtent`."""
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


def audit_row(row: Sequence[Any]) -> AuditRow:
    """A conflict record, of its columns."""
    read = AuditRow(*row)
    return read._replace(uncertain=bool(read.uncertain))  # SQLite's are numbers


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
    Section("audit", AuditRow._fields, "id", lambda rows: Commit(audit=[audit_row(row) for row in rows])),
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
        if self._size_bytes >= CHUNK_BYTES or len(self._rows) >= _CHUNK_ROWS:
            yield from self.rest()

    def rest(self) -> Iterator[Chunk]:
        rows, self._rows, self._size_bytes = self._rows, [], 0
        if rows:
            yield Chunk(self._commit(rows))


class PageQuery(NamedTuple):
    """What a page of bounded size is made of."""

    columns: Sequence[str]
    table: str
    order: str
    sized: int
    """So many of the last columns count, 1 or 2; the last one is never null."""
    terms: Sequence[str]
    """All of which must hold."""
    bound: Bound
    limit: int
    limit_bytes: int


class SqlStore(ABC):
    """Calls of a `Store` that both databases answer by the same statements."""

    prefix: ClassVar[str]
    """Of the names of tables that are Atoll's own."""
    audit_columns: ClassVar[Sequence[str]]
    """Of conflict records, as expressions."""
    document: ClassVar[str]
    """The column with a document's JSON, as an expression."""
    places: ClassVar[tuple[str, str]]
    """Of the first two values that are bound."""

    @abstractmethod
    def bound(self) -> Bound:
        """To bind a statement's values."""

    @abstractmethod
    async def found(self, sql: str, values: Sequence[Any]) -> list[Sequence[Any]]:
        """Rows of a statement that only reads, with texts as they were before they were stored."""

    @abstractmethod
    async def removed(self, delete: str, *values: Any) -> int:
        """How many rows a DELETE, in a transaction of its own, has removed."""

    @abstractmethod
    async def page(self, asked: PageQuery) -> list[Sequence[Any]]:
        """As `found`, in order; the row whose bytes reach the bound is the last."""

    @abstractmethod
    async def page_at(
        self, asked: PageQuery, *, searching: bool = False
    ) -> tuple[list[Sequence[Any]], Mapping[str, int]]:
        """As `page`, in the order of the column `key`, with the positions of that moment.

        `searching`: rows have to be looked at that are not on the page, nobody knows how many.
        """

    @abstractmethod
    def table(self, collection: str) -> str:
        """Raises UnknownCollection."""

    @abstractmethod
    def condition(self, collection: str, condition: Condition, bound: Bound) -> str:
        """As SQL; see `store.scanning`."""

    async def scan(
        self,
        collection: str,
        *,
        prefix: str = "",
        after: str | None = None,
        limit: int = 100,
        limit_bytes: int = PAGE_BYTES,
        where: Sequence[Condition] = (),
    ) -> Scan:
        bound = self.bound()
        terms = [*key_range(bound, prefix, after), f"{self.document} IS NOT NULL"]
        terms += [self.condition(collection, each, bound) for each in where]
        asked = self._documents(collection, terms, bound, limit, limit_bytes)
        rows, positions = await self.page_at(asked, searching=bool(where))
        return Scan(_keyed(rows), positions)

    async def scan_all(
        self, collection: str, *, after: str | None = None, limit: int = 1000, limit_bytes: int = PAGE_BYTES
    ) -> list[tuple[str, Row]]:
        bound = self.bound()
        terms = key_range(bound, "", after)
        return _keyed(await self.page(self._documents(collection, terms, bound, limit, limit_bytes)))

    def _documents(
        self, collection: str, terms: Sequence[str], bound: Bound, limit: int, limit_bytes: int
    ) -> PageQuery:
        columns = ("key", self.document, "meta")
        return PageQuery(columns, self.table(collection), "key", 2, terms, bound, limit, limit_bytes)

    async def conflicts(
        self,
        wanted: AuditFilter,
        *,
        after: tuple[int, str] | None = None,
        limit: int = 100,
        limit_bytes: int = PAGE_BYTES,
    ) -> list[AuditRow]:
        bound = self.bound()
        terms = audit_terms(bound, wanted, after)
        columns, table = self.audit_columns, f"{self.prefix}audit"
        asked = PageQuery(columns, table, _NEWEST, 1, terms, bound, limit, limit_bytes)
        return [audit_row(row) for row in await self.page(asked)]

    async def conflict(self, id: str) -> AuditRow | None:
        bound = self.bound()
        select = f"SELECT {', '.join(self.audit_columns)} FROM {self.prefix}audit"
        rows = await self.found(f"{select} WHERE id = {bound.text(id)}", bound.values)
        return audit_row(rows[0]) if rows else None

    async def parked(
        self, limit: int = 100, *, after: tuple[str, int, int] | None = None, limit_bytes: int = PAGE_BYTES
    ) -> list[Parked]:
        bound, terms = self.bound(), []
        if after is not None:
            places = ", ".join(map(bound.place, after, ("text", "bigint", "integer")))
            terms = [f"(origin, seq, change) > ({places})"]
        table, order = f"{self.prefix}parked", "origin, seq, change"
        asked = PageQuery(Parked._fields, table, order, 1, terms, bound, limit, limit_bytes)
        return [Parked(*row) for row in await self.page(asked)]

    async def forget(self, *, remembered_before_ms: int, audit_before_ms: int, audit_keep: int) -> int:
        """As in the port, a bounded number of rows a call, so that writers need not wait: call until 0."""
        audit, remembered = f"{self.prefix}audit", f"{self.prefix}remembered"
        one, two = self.places
        records = (
            f"DELETE FROM {audit} WHERE id IN (SELECT id FROM {audit} WHERE status <> 'manual' "
            f"AND stamp_ms < {one} ORDER BY stamp_ms, id LIMIT {two})"
        )
        answers = (
            f"DELETE FROM {remembered} WHERE key IN "
            f"(SELECT key FROM {remembered} WHERE at_ms < {one} ORDER BY at_ms LIMIT {two})"
        )
        forgotten = await self.removed(answers, remembered_before_ms, _FORGOTTEN_AT_ONCE)
        over = (await self.found(f"SELECT count(*) FROM {audit}", ()))[0][0] - audit_keep
        aged = await self.removed(records, audit_before_ms, _FORGOTTEN_AT_ONCE)
        if over > aged and aged < _FORGOTTEN_AT_ONCE:
            most = min(over, _FORGOTTEN_AT_ONCE) - aged
            aged += await self.removed(records, (1 << 63) - 1, most)
        return forgotten + aged

    async def truncate(self, up_to_id: int, *, limit: int = 500) -> int:
        table, (one, two) = f"{self.prefix}journal", self.places
        return await self.removed(
            f"DELETE FROM {table} WHERE id IN (SELECT id FROM {table} WHERE id <= {one} "
            f"AND id < (SELECT max(id) FROM {table}) ORDER BY id LIMIT {two})",
            up_to_id,
            limit,
        )

    async def state(self, space: str, key: str) -> bytes | None:
        bound = self.bound()
        terms = [f"space = {bound.text(space)}", f"key = {bound.text(key)}"]
        rows = await self.found(f"SELECT value FROM {self.prefix}states{where(terms)}", bound.values)
        return rows[0][0] if rows else None

    async def states(
        self, space: str, *, prefix: str = "", after: str | None = None, limit: int = 1000
    ) -> list[tuple[str, bytes]]:
        bound = self.bound()
        terms = [f"space = {bound.text(space)}", *key_range(bound, prefix, after)]
        select = f"SELECT key, value FROM {self.prefix}states{where(terms)} ORDER BY key"
        return [(key, value) for key, value in await self._limited(select, bound, limit)]

    async def counter(self, name: str) -> int:
        bound = self.bound()
        select = f"SELECT value FROM {self.prefix}counters WHERE name = {bound.text(name)}"
        rows = await self.found(select, bound.values)
        return int(rows[0][0]) if rows else 0

    async def journal(
        self, after_id: int, *, limit: int = 64, limit_bytes: int = PAGE_BYTES
    ) -> list[Numbered]:
        bound, columns, table = self.bound(), ("id", *Segment._fields), f"{self.prefix}journal"
        terms = [f"id > {bound.place(after_id, 'bigint')}"]
        rows = await self.page(PageQuery(columns, table, "id", 1, terms, bound, limit, limit_bytes))
        return [Numbered(id, Segment(*segment)) for id, *segment in rows]

    async def segment(self, origin: str, seq: int) -> Segment | None:
        bound = self.bound()
        terms = [f"origin = {bound.text(origin)}", f"last_seq >= {bound.place(seq, 'bigint')}"]
        select = f"SELECT {SEGMENT_COLUMNS} FROM {self.prefix}journal{where(terms)} ORDER BY last_seq"
        found = [Segment(*row) for row in await self._limited(select, bound, 1)]
        return found[0] if found and found[0].first_seq <= seq else None

    async def _limited(self, select: str, bound: Bound, limit: int) -> list[Sequence[Any]]:
        return await self.found(f"{select} LIMIT {bound.place(limit, 'bigint')}", bound.values)


def _keyed(rows: Sequence[Sequence[Any]]) -> list[tuple[str, Row]]:
    return [(key, Row(value, meta)) for key, value, meta in rows]
