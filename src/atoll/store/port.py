"""The store that a region needs, at the level of meaning: an adapter is a file beside this one.

One conformance suite (`tests/unit/store/conformance.py`) holds every adapter to these sentences.

A store belongs to one event loop. Its methods are coroutines, so that it may be a database behind a network. One that
works in this process suspends only beside work that takes long. A store that does suspend ends each call within a
bounded time, be it with an error. A call may be cut at any `await`: what it was to write may then have happened.
Every method that fails raises an AtollError: a definite one when surely nothing was changed, `Indefinite` otherwise.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

import msgspec

from atoll.causality.origin import Origin
from atoll.causality.types import Generation, Seq, Stamp
from atoll.schema.bounds import PAGE_BYTES


class Row(msgspec.Struct, frozen=True, gc=False):
    """One document as stored."""

    value: bytes | None
    """The visible document as JSON text in UTF-8; None when deleted (a tombstone)."""
    meta: bytes
    """What the merge needs: versions, contexts, lattice states."""

    @property
    def size_bytes(self) -> int:
        return len(self.meta) + (0 if self.value is None else len(self.value))


class Scan(NamedTuple):
    """Documents of one moment."""

    rows: list[tuple[str, Row]]
    positions: Mapping[str, int]
    """The region's version vector at that moment. Do not change it."""


class Segment(NamedTuple):
    """A dense run of one origin's journal entries: what one group commit wrote, in one row."""

    origin: Origin
    first_seq: Seq
    last_seq: Seq
    body: bytes
    """The entries' frames, one after the other."""


class Numbered(NamedTuple):
    """A segment with its place in this region's own commit order."""

    id: int
    segment: Segment


class JournalExtent(NamedTuple):
    """How much of the journal is kept."""

    after_id: int
    """Segments up to this id were truncated."""
    tail: int
    """The id of the newest one."""
    size_bytes: int
    """Of all bodies: exact for a few, measured at segments spread evenly where there are many."""

    @property
    def segments(self) -> int:
        return self.tail - self.after_id


class AuditRow(NamedTuple):
    """One conflict record. `id` is the same in every region; writing it again replaces it."""

    id: str
    collection: str
    key: str
    field: str
    """Empty for the whole document."""
    kind: str
    """`insert_exists`, `update_origin_differs`, …"""
    status: str
    """`open`, `resolved` or `manual`."""
    stamp_ms: int
    """When the losing value was written (unix milliseconds, from its stamp)."""
    losing_origin: str
    winning_origin: str
    strategy: str
    uncertain: bool
    """Whether the order of the two was decided inside the clocks' uncertainty."""
    body: bytes
    """The whole record as JSON text."""


Cause = Literal["undeclared", "unreadable", "refused"]
"""Why a change was parked: newer declarations have a place for it; its bytes are no change; it is invalid, or the merge
failed."""


class Parked(NamedTuple):
    """A change that could not be merged. Its entry's position moves on; the change is kept for a person."""

    origin: Origin
    seq: Seq
    change: int
    """Which change of the entry."""
    cause: Cause
    reason: str
    """For people."""
    body: bytes


class Remembered(NamedTuple):
    """The answer given to an idempotency key."""

    key: str
    at_ms: int
    answer: bytes


@dataclass(slots=True)
class Commit:
    """Everything that one group commit changes: all of it becomes durable, or none."""

    documents: dict[str, list[tuple[str, bytes | None, bytes]]] = field(default_factory=dict)
    """collection → rows of (key, value, meta); no key twice in one collection."""
    erased: dict[str, list[str]] = field(default_factory=dict)
    """collection → keys whose rows go without leaving a tombstone. None need exist, and none is in `documents`."""
    segments: list[Segment] = field(default_factory=list)
    positions: dict[str, int] = field(default_factory=dict)
    """origin → highest seq applied; only those that moved."""
    clock: Stamp | None = None
    """The highest stamp given out or seen."""
    audit: list[AuditRow] = field(default_factory=list)
    audit_removed: list[str] = field(default_factory=list)
    """Removed before `audit` is written."""
    remembered: list[Remembered] = field(default_factory=list)
    parked: list[Parked] = field(default_factory=list)
    unparked: list[tuple[str, int, int]] = field(default_factory=list)
    """(origin, seq, change) of what was parked and has been merged after all; removed before `parked` is written."""
    schemas: dict[str, str] = field(default_factory=dict)
    """collection → fingerprint of the declaration that all its stored documents are shown by; empty when there is no
    such one. One with a `?` is on the way there: see `rollout.redeclare`."""
    states: dict[tuple[str, str], bytes | None] = field(default_factory=dict)
    """(space, key) → what a protocol keeps there; None removes it. A space is a protocol's own."""
    fences: dict[str, Generation] = field(default_factory=dict)
    """node lease → its generation: with another one at present nothing is committed."""
    size_bytes: int = field(default=0, compare=False)
    """About, of rows and segments: how long it will take."""


@dataclass(slots=True)
class Chunk:
    """Some of what a region holds. All pieces of `contents`, in their order, make an equal store."""

    commit: Commit = field(default_factory=Commit)
    counters: dict[str, int] = field(default_factory=dict)


ColumnKind = Literal["text", "integer", "number", "boolean", "time", "date", "uuid", "json"]


@dataclass(frozen=True, slots=True)
class Shape:
    """What a collection's documents look like, for SQL tools and for indexes."""

    collection: str
    columns: tuple[tuple[str, ColumnKind], ...] = ()
    """A view shows these fields, by kind; `json` for what has no simpler one."""
    indexes: tuple[str, ...] = ()
    decimals: frozenset[str] = frozenset()
    """Fields by whose value documents are looked up; and those of them whose texts are not in the order of numbers."""


Operator = Literal["eq", "ne", "lt", "le", "gt", "ge", "contains"]
Kind = Literal["json", "moment", "local", "decimal", "bytes", "time"]


class Condition(NamedTuple):
    """One `where=field:op:value`. `contains` asks whether a list holds the value, or a text the substring."""

    field: str
    op: Operator
    value: str | int | float | bool | None
    kind: Kind = "json"
    """What texts stand for where they are not compared as texts; `value` is then one of these: see `store.typed`."""


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """Which conflict records; every None means any."""

    collection: str | None = None
    key: str | None = None
    kind: str | None = None
    status: str | None = None
    origin: str | None = None
    """Either side's origin."""
    since_ms: int | None = None
    until_ms: int | None = None


@dataclass(frozen=True, slots=True)
class StoreStatistics:
    documents: Mapping[str, int]
    """collection → visible documents."""
    tombstones: Mapping[str, int]
    conflicts: int
    parked: int
    size_bytes: int


@dataclass(slots=True)
class Wanted:
    """What a transaction is to load; nothing of it need exist."""

    documents: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """collection → keys."""
    remembered: Sequence[str] = ()
    """Idempotency keys."""
    audit: Sequence[str] = ()
    """Ids of conflict records."""
    open_records: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """collection → keys of documents whose open conflict records are wanted."""
    states: Sequence[tuple[str, str]] = ()
    """(space, key) of protocols' states."""
    fences: Sequence[str] = ()
    """Names of node leases."""
    most_bytes: int | None = None
    """Of the documents together. `begin` raises TooLarge, soon after it has found more."""


@dataclass(slots=True, init=False, eq=False, repr=False)
class View:
    """What a transaction shows. All of it is of one moment."""

    positions: Mapping[str, int]
    """The region's version vector."""
    clock: Stamp
    """The highest stamp ever committed, 0 at first."""
    history: str
    """As `Store.history`."""
    rows: Mapping[tuple[str, str], Row]
    """(collection, key) → the wanted rows that exist, tombstones included."""
    remembered: Mapping[str, bytes]
    """idempotency key → the answer that was given."""
    audit: Mapping[str, AuditRow]
    """id → conflict record."""
    schemas: Mapping[str, str]
    """collection → what was last committed for it: see `Commit.schemas`."""
    open_records: Mapping[tuple[str, str], Sequence[AuditRow]]
    """(collection, key) → the open conflict records of the wanted documents, newest first."""
    states: Mapping[tuple[str, str], bytes]
    """(space, key) → the wanted states that exist."""
    generations: Mapping[str, Generation]
    """node lease → its generation, of those wanted that were ever held; see `Store.lease`."""


class Transaction(View, ABC):
    """What is committed now, and the right to add to it.

    What it shows is still so when its commit becomes durable. Of all nodes that share the database one commits at a
    time, each on top of the one before. So seqs that follow `positions` are dense, and in commit order.
    """

    __slots__ = ()

    @abstractmethod
    async def commit(self, commit: Commit) -> None:
        """Write all of it, at most once; durable on return. A commit that is cut is Indefinite.

        Nothing has changed after a definite error:
        - SerializationConflict: another node has committed since the transaction began.
        - FenceLost: a node lease has another generation than `Commit.fences` says.
        - StoreUnwritable: the disk is full, read-only or failing; and other StoreErrors.

        Raises Indefinite when nobody can say whether it was written; the next transaction's `positions` tell.
        """


class Documents(Protocol):
    """The documents of a region, as they are committed."""

    async def open_collections(self, names: Iterable[str]) -> None:
        """Make the store ready, and make sure that each collection has its table; idempotent, durable on return.

        Called before anything else.
        """

    async def declare(self, shapes: Sequence[Shape]) -> None:
        """Make the indexes, and views for SQL tools where the database has users of its own; idempotent.

        Building an index takes long once. Those that are no longer declared go away.
        """

    async def get(self, collection: str, key: str) -> Row | None:
        """One row, tombstones included."""

    async def read(self, collection: str, key: str) -> tuple[Row | None, Mapping[str, int]]:
        """The read path: as `get`, with the `positions` of the very moment that the row is of. Do not change them."""

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
        """Visible documents in key order (by code point), strictly past `after`. All pages are as in `store.pages`."""

    async def scan_all(
        self, collection: str, *, after: str | None = None, limit: int = 1000, limit_bytes: int = PAGE_BYTES
    ) -> list[tuple[str, Row]]:
        """All rows in key order, tombstones included: for digests and repair."""


class Journal(Protocol):
    """The journal in this region's own commit order, and how far the region has come."""

    async def positions(self) -> dict[str, int]:
        """The region's version vector, with all that any node has committed."""

    async def clock(self) -> Stamp:
        """The highest stamp ever committed, 0 at first."""

    async def journal(
        self, after_id: int, *, limit: int = 64, limit_bytes: int = PAGE_BYTES
    ) -> list[Numbered]:
        """Segments in this region's commit order past `after_id`; the one that reaches `limit_bytes` is the last.

        Whoever has seen an id has seen all before it: none is filled in later.
        """

    async def journal_start(self, vector: Mapping[str, int], origins: Iterable[str]) -> int:
        """The id after which every entry of `origins` past `vector` lies (for `journal`)."""

    async def segment(self, origin: str, seq: int) -> Segment | None:
        """The segment that holds one entry, or None when it was truncated or never seen."""

    async def journal_tail(self) -> int:
        """The id of the newest segment, 0 when empty."""

    async def journal_extent(self) -> JournalExtent:
        """What is kept of it; cheap enough to ask every minute."""

    async def truncate(self, up_to_id: int, *, limit: int = 500) -> int:
        """Remove the oldest segments up to this id, at most `limit`; durable on return. Returns how many went.

        The newest one stays whatever is asked, since its id is what the next is counted from.
        """


class Audit(Protocol):
    """Conflict records, parked changes, and the answers given to idempotency keys."""

    async def conflicts(
        self,
        wanted: AuditFilter,
        *,
        after: tuple[int, str] | None = None,
        limit: int = 100,
        limit_bytes: int = PAGE_BYTES,
    ) -> list[AuditRow]:
        """Newest first by (stamp_ms, id), strictly past `after`."""

    async def conflict(self, id: str) -> AuditRow | None:
        """One record."""

    async def parked(
        self, limit: int = 100, *, after: tuple[str, int, int] | None = None, limit_bytes: int = PAGE_BYTES
    ) -> list[Parked]:
        """Parked changes by (origin, seq, change), strictly past `after`."""

    async def remembered(self, keys: Sequence[str]) -> dict[str, bytes]:
        """idempotency key → the answer that was given."""

    async def forget(self, *, remembered_before_ms: int, audit_before_ms: int, audit_keep: int) -> int:
        """Apply retention: by age, and at most `audit_keep` records (manual ones are kept). Returns rows removed."""


class States(Protocol):
    """What protocols keep, and numbers that only rise."""

    async def state(self, space: str, key: str) -> bytes | None:
        """What a protocol keeps under a key; see `Commit.states`."""

    async def states(
        self, space: str, *, prefix: str = "", after: str | None = None, limit: int = 1000
    ) -> list[tuple[str, bytes]]:
        """A space's states in key order (by code point), strictly past `after`, all of one moment."""

    async def schemas(self) -> dict[str, str]:
        """collection → fingerprint, as last committed."""

    async def counter(self, name: str) -> int:
        """A durable number, 0 at first."""

    async def raise_counter(self, name: str, value: int) -> None:
        """Set it to `value` unless it is higher already; durable on return."""

    async def advance_counter(self, name: str, by: int) -> int:
        """Add `by`, at least 1, and return the new value; durable on return. No two calls return the same."""


class Leases(Protocol):
    """What one of a region's nodes does for all, and which database they share."""

    async def lease(self, names: Sequence[str], for_s: float) -> Mapping[str, Generation]:
        """Hold these for so many seconds from now on, unless other nodes do.

        Returns name → generation of those that this node holds. The generation grows each time that the holder
        changes, and a node that is started again is another holder: see `Commit.fences`. A store that only one node
        can open gives all of them, in their first generation.
        """

    @property
    def holder(self) -> str:
        """What `holders` calls this node."""

    async def holders(self) -> Mapping[str, str]:
        """name → the node that holds it at present. Nothing for a store that only one node can open."""

    async def give_back(self, names: Sequence[str]) -> None:
        """Hold these no longer; idempotent."""

    async def history(self) -> str:
        """Names the history that the database is in, `family/number/run`, or is empty where there is only one. In
        another one, commits may be missing that were durable before: a standby was promoted, or a copy put in the
        database's place. Another `run` alone is the same database, started again."""

    async def history_taken_up(self) -> str:
        """The one that the region has last taken up. Until it is the present one, bar its run, `advance_counter` is
        refused with Unavailable: numbers that were given out could come again."""

    async def take_up(self, history: str, counters: Mapping[str, int]) -> None:
        """The region has again what its peers had of it. Raises counters as `raise_counter` does, before; durable on
        return. Raises SerializationConflict when the database is in another history by now."""


class Maintenance(Protocol):
    """What operators do with a store as a whole."""

    @property
    def warning(self) -> str:
        """What is unsafe about it, for `atoll status`; empty when nothing is."""

    def contents(self) -> AsyncGenerator[Chunk, None]:
        """All that the region holds, of one moment, in pieces of a few MiB; commits go on meanwhile.

        Also collections that nobody has opened; the journal's segments in commit order.
        """

    async def fill(self, chunks: AsyncIterable[Chunk]) -> None:
        """Take over the `contents` of another store, making the collections that they name; durable on return.

        Only for a store that holds nothing yet (StoreError). Whatever is raised, also by `chunks`, nothing is taken.
        """

    async def statistics(self) -> StoreStatistics:
        """Counts for `atoll status`; may take a full scan."""

    async def checkpoint(self) -> None:
        """Housekeeping beside the writer; holds neither the event loop nor commits up."""

    async def close(self) -> None:
        """Release everything; idempotent."""


class Transactions(Protocol):
    """Where a region's data change: the group commit."""

    def begin(self, wanted: Wanted) -> AbstractAsyncContextManager[Transaction]:
        """`async with store.begin(wanted) as transaction`: one that is left without `commit` changes nothing.

        One node has at most one at a time, and awaits nothing in it but its own methods.
        """

    def follow(
        self,
        follower: Callable[[Mapping[str, int]], None],
        history_changed: Callable[[str], None] | None = None,
    ) -> None:
        """`follower` gets the region's positions soon after other nodes have moved them.

        `history_changed` gets the history before anything of another one is read. Neither may raise.
        """


class Store(Documents, Journal, Audit, States, Leases, Maintenance, Transactions, Protocol):
    """What an adapter offers: all of the ports. Each part of a region asks for those that it uses."""
