"""What a store in memory holds, and what can be asked of it at once."""

from __future__ import annotations

import asyncio
import bisect
import copy
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, takewhile

from atoll.causality.types import Generation, Stamp
from atoll.errors import SerializationConflict, StoreCorrupt, StoreError, StoreUnwritable, Unavailable
from atoll.schema.bounds import PAGE_BYTES
from atoll.store.pages import within
from atoll.store.port import (
    AuditFilter,
    AuditRow,
    Chunk,
    Commit,
    Condition,
    JournalExtent,
    Numbered,
    Parked,
    Remembered,
    Row,
    Scan,
    Segment,
    StoreStatistics,
    Wanted,
)
from atoll.store.refusals import fence_lost, unknown_collection
from atoll.store.scanning import check_condition, matches

_NEVER = float("-inf")


@dataclass(slots=True)
class _Lease:
    """Kept when it is given back: the next holder gets the next generation."""

    holder: object
    run: int
    """Counts the runs of the holder's process."""
    generation: Generation
    until_s: float = _NEVER
    """By the event loop's clock."""


class MemoryTables:
    """What a store holds, in dictionaries, and what can be asked of it without waiting.

    `store.memory.store` makes a `Store` of it.
    """

    refusal = ""
    """Set it to a reason, and commits raise StoreUnwritable with it, as on a full disk."""

    def __init__(self) -> None:
        self._documents: dict[str, dict[str, Row]] = {}
        self._keys: dict[str, list[str]] = {}
        self._journal: list[Segment] = []
        self._truncated = 0
        """The id after which `_journal` begins."""
        self._by_origin: dict[str, list[int]] = {}
        self._positions: dict[str, int] = {}
        self._clock = Stamp(0)
        self._audit: dict[str, AuditRow] = {}
        self._remembered: dict[str, Remembered] = {}
        self._parked: dict[tuple[str, int, int], Parked] = {}
        self._counters: dict[str, int] = {}
        self._schemas: dict[str, str] = {}
        self._states: dict[tuple[str, str], bytes] = {}
        self._leases: dict[str, _Lease] = {}
        self._followers: list[tuple[object, Callable[[Mapping[str, int]], None]]] = []
        self._history_changed: list[tuple[object, Callable[[str], None]]] = []
        self.commits = 0
        self.nodes = 0
        """How many were ever opened on it."""
        self.history = self.history_taken_up = ""
        """As in the port."""

    def open_collections(self, names: Iterable[str]) -> None:
        for name in names:
            self._documents.setdefault(name, {})
            self._keys.setdefault(name, [])

    def get(self, collection: str, key: str) -> Row | None:
        return self._collection(collection).get(key)

    def read(self, collection: str, key: str) -> tuple[Row | None, Mapping[str, int]]:
        return self.get(collection, key), self.positions()

    def load(self, collection: str, keys: Sequence[str]) -> dict[str, Row]:
        rows = self._collection(collection)
        return {key: rows[key] for key in keys if key in rows}

    def scan(
        self,
        collection: str,
        *,
        prefix: str = "",
        after: str | None = None,
        limit: int = 100,
        limit_bytes: int = PAGE_BYTES,
        where: Sequence[Condition] = (),
    ) -> Scan:
        rows = self._collection(collection)
        for condition in where:
            check_condition(condition)
        keys = self._keys[collection]
        start = bisect.bisect_left(keys, prefix)
        if after is not None:
            start = max(start, bisect.bisect_right(keys, after))
        among = ((key, rows[key]) for key in takewhile(lambda key: key.startswith(prefix), keys[start:]))
        found = list(islice((each for each in among if _meets(each[1], where)), limit))
        return Scan(found[: within([row for _, row in found], limit_bytes)], self.positions())

    def scan_all(
        self, collection: str, *, after: str | None = None, limit: int = 1000, limit_bytes: int = PAGE_BYTES
    ) -> list[tuple[str, Row]]:
        rows = self._collection(collection)
        keys = self._keys[collection]
        start = 0 if after is None else bisect.bisect_right(keys, after)
        found = [(key, rows[key]) for key in keys[start : start + limit]]
        return found[: within([row for _, row in found], limit_bytes)]

    def commit(self, commit: Commit) -> None:
        self._check_writable()
        self._check(commit)
        for name, written in commit.documents.items():
            rows, keys = self._documents[name], self._keys[name]
            for key, value, meta in written:
                if key not in rows:
                    bisect.insort(keys, key)
                rows[key] = Row(value, meta)
        for name, erased in commit.erased.items():
            rows, keys = self._documents[name], self._keys[name]
            for key in erased:
                if rows.pop(key, None) is not None:
                    del keys[bisect.bisect_left(keys, key)]
        for segment in commit.segments:
            self._journal.append(segment)
            self._by_origin.setdefault(segment.origin, []).append(self.journal_tail())
        self._positions.update(commit.positions)
        self._clock = max(self._clock, commit.clock or Stamp(0))
        for id in commit.audit_removed:
            self._audit.pop(id, None)
        self._audit.update((row.id, row) for row in commit.audit)
        self._remembered.update((answer.key, answer) for answer in commit.remembered)
        for dot in commit.unparked:
            self._parked.pop(dot, None)
        self._parked.update((change[:3], change) for change in commit.parked)
        self._schemas.update(commit.schemas)
        for address, value in commit.states.items():
            if value is None:
                self._states.pop(address, None)
            else:
                self._states[address] = value
        self.commits += 1

    def _check(self, commit: Commit) -> None:
        for name, generation in commit.fences.items():
            held = self.generation(name)
            if held != generation:
                raise fence_lost(name, held, generation)
        for name in (*commit.documents, *commit.erased):
            self._collection(name)
        last_seqs = {(segment.origin, segment.last_seq) for segment in commit.segments}
        if len(last_seqs) < len(commit.segments) or any(
            held is not None and held.last_seq == seq
            for origin, seq in last_seqs
            for held in (self.segment(origin, seq),)
        ):
            raise StoreCorrupt("the journal holds one of these segments already; nothing was changed")

    def positions(self) -> dict[str, int]:
        return dict(sorted(self._positions.items()))

    def clock(self) -> Stamp:
        return self._clock

    def journal(self, after_id: int, *, limit: int = 64, limit_bytes: int = PAGE_BYTES) -> list[Numbered]:
        start = max(0, after_id - self._truncated)
        segments = self._journal[start : start + limit]
        return [
            Numbered(self._truncated + at, segment)
            for at, segment in enumerate(segments[: within(segments, limit_bytes)], start + 1)
        ]

    def journal_start(self, vector: Mapping[str, int], origins: Iterable[str]) -> int:
        firsts = [
            ids[at]
            for origin in origins
            for ids, at in ((self._by_origin.get(origin, []), self._at(origin, vector.get(origin, 0) + 1)),)
            if at < len(ids)
        ]
        return min(firsts) - 1 if firsts else self.journal_tail()

    def segment(self, origin: str, seq: int) -> Segment | None:
        ids, at = self._by_origin.get(origin, []), self._at(origin, seq)
        if at == len(ids):
            return None
        segment = self._segment(ids[at])
        return segment if segment.first_seq <= seq else None

    def _at(self, origin: str, seq: int) -> int:
        """Where in `_by_origin` the first segment lies that reaches `seq`."""
        return bisect.bisect_left(
            self._by_origin.get(origin, []), seq, key=lambda id: self._segment(id).last_seq
        )

    def _segment(self, id: int) -> Segment:
        return self._journal[id - self._truncated - 1]

    def journal_tail(self) -> int:
        return self._truncated + len(self._journal)

    def journal_extent(self) -> JournalExtent:
        size_bytes = sum(len(segment.body) for segment in self._journal)
        return JournalExtent(self._truncated, self.journal_tail(), size_bytes)

    def truncate(self, up_to_id: int, *, limit: int = 500) -> int:
        self._check_writable()
        gone = max(0, min(up_to_id - self._truncated, len(self._journal) - 1, limit))
        for segment in self._journal[:gone]:
            del self._by_origin[segment.origin][0]
        del self._journal[:gone]
        self._truncated += gone
        return gone

    def remembered(self, keys: Sequence[str]) -> dict[str, bytes]:
        return {key: self._remembered[key].answer for key in keys if key in self._remembered}

    def conflicts(
        self,
        wanted: AuditFilter,
        *,
        after: tuple[int, str] | None = None,
        limit: int = 100,
        limit_bytes: int = PAGE_BYTES,
    ) -> list[AuditRow]:
        found = (row for row in self._newest() if after is None or (row.stamp_ms, row.id) < after)
        rows = list(islice((row for row in found if _wanted(row, wanted)), limit))
        return rows[: within(rows, limit_bytes)]

    def _newest(self) -> list[AuditRow]:
        return sorted(self._audit.values(), key=lambda row: (row.stamp_ms, row.id), reverse=True)

    def conflict(self, id: str) -> AuditRow | None:
        return self._audit.get(id)

    def parked(
        self, limit: int = 100, *, after: tuple[str, int, int] | None = None, limit_bytes: int = PAGE_BYTES
    ) -> list[Parked]:
        dots = [dot for dot in sorted(self._parked) if after is None or dot > after]
        rows = [self._parked[dot] for dot in dots[:limit]]
        return rows[: within(rows, limit_bytes)]

    def schemas(self) -> dict[str, str]:
        return dict(sorted(self._schemas.items()))

    def open_records(self, collection: str, key: str) -> list[AuditRow]:
        wanted = AuditFilter(collection=collection, key=key)
        return [row for row in self._newest() if row.status != "resolved" and _wanted(row, wanted)]

    def forget(self, *, remembered_before_ms: int, audit_before_ms: int, audit_keep: int) -> int:
        self._check_writable()
        old = [answer.key for answer in self._remembered.values() if answer.at_ms < remembered_before_ms]
        for key in old:
            del self._remembered[key]
        removable = sorted((row.stamp_ms, row.id) for row in self._audit.values() if row.status != "manual")
        over = len(self._audit) - audit_keep
        going = [
            id for index, (stamp_ms, id) in enumerate(removable) if stamp_ms < audit_before_ms or index < over
        ]
        for id in going:
            del self._audit[id]
        return len(old) + len(going)

    def state(self, space: str, key: str) -> bytes | None:
        return self._states.get((space, key))

    def states(
        self, space: str, *, prefix: str = "", after: str | None = None, limit: int = 1000
    ) -> list[tuple[str, bytes]]:
        found = sorted(
            (key, value)
            for (held, key), value in self._states.items()
            if held == space and key.startswith(prefix) and (after is None or key > after)
        )
        return found[:limit]

    def load_states(self, wanted: Wanted) -> dict[tuple[str, str], bytes]:
        """Those that a transaction wants."""
        return {address: self._states[address] for address in wanted.states if address in self._states}

    def counter(self, name: str) -> int:
        return self._counters.get(name, 0)

    def raise_counter(self, name: str, value: int) -> None:
        self._check_writable()
        self._counters[name] = max(value, self._counters.get(name, 0))

    def advance_counter(self, name: str, by: int) -> int:
        self._check_writable()
        if self.history.rpartition("/")[0] != self.history_taken_up.rpartition("/")[0]:
            raise Unavailable("the store may have lost assigned numbers; the region asks its peers first")
        self._counters[name] = advanced = self._counters.get(name, 0) + by
        return advanced

    def contents(self) -> list[Chunk]:
        first = Commit(positions=dict(self._positions), clock=self._clock, schemas=dict(self._schemas))
        documents = {
            name: [(key, rows[key].value, rows[key].meta) for key in self._keys[name]]
            for name, rows in self._documents.items()
        }
        rest = Commit(
            documents=documents,
            segments=list(self._journal),
            audit=list(self._audit.values()),
            remembered=list(self._remembered.values()),
            parked=list(self._parked.values()),
        )
        rest.states.update(self._states)
        return [Chunk(first, dict(self._counters)), Chunk(rest)]

    def fill(self, chunks: Sequence[Chunk]) -> None:
        self._check_writable()
        if self._journal or self._counters or self._states or any(self._documents.values()):
            raise StoreError("the store is not empty: only an empty one can be filled")
        for chunk in chunks:
            self.open_collections(chunk.commit.documents)
            self.commit(chunk.commit)
            for name, value in chunk.counters.items():
                self.raise_counter(name, value)

    def lease(self, holder: object, run: int, names: Sequence[str], for_s: float) -> dict[str, Generation]:
        now_s = asyncio.get_running_loop().time()
        granted = {}
        for name in names:
            held = self._leases.get(name)
            if held is None:
                held = self._leases[name] = _Lease(holder, run, Generation(1))
            elif held.holder is not holder and held.until_s >= now_s:
                continue
            elif held.holder is not holder or held.run != run:
                held = self._leases[name] = _Lease(holder, run, Generation(held.generation + 1))
            held.until_s = now_s + for_s
            granted[name] = held.generation
        return granted

    def generation(self, lease: str) -> Generation:
        """0 of one that was never held."""
        held = self._leases.get(lease)
        return Generation(0) if held is None else held.generation

    def holders(self, now_s: float) -> dict[str, str]:
        held = self._leases.items()
        return {name: getattr(lease.holder, "holder", "") for name, lease in held if lease.until_s >= now_s}

    def give_back(self, holder: object, names: Iterable[str]) -> None:
        for name in names:
            lease = self._leases.get(name)
            if lease is not None and lease.holder is holder:
                lease.until_s = _NEVER

    def leave(self, holder: object) -> None:
        """Nothing is told to, or held by, this node any more."""
        self._followers = [pair for pair in self._followers if pair[0] is not holder]
        self._history_changed = [pair for pair in self._history_changed if pair[0] is not holder]
        self.give_back(holder, self._leases)

    def follow(
        self,
        node: object,
        follower: Callable[[Mapping[str, int]], None],
        history_changed: Callable[[str], None] | None = None,
    ) -> None:
        self._followers.append((node, follower))
        if history_changed is not None:
            self._history_changed.append((node, history_changed))

    def copied(self) -> MemoryTables:
        """What an asynchronous standby, or a copy of the files, has at this moment."""
        nodes, self._followers, self._history_changed = (self._followers, self._history_changed), [], []
        try:
            return copy.deepcopy(self)
        finally:
            self._followers, self._history_changed = nodes

    def fail_over(self, standby: MemoryTables, history: str) -> None:
        """Be what the standby was; it is used up. Each node notices when it next looks."""
        nodes = (self._followers, self._history_changed)
        self.__dict__.update(standby.__dict__)
        self._followers, self._history_changed = nodes
        self.history = history

    def take_up(self, history: str, counters: Mapping[str, int]) -> None:
        if history != self.history:
            raise SerializationConflict("the database has been replaced again meanwhile")
        for name, value in counters.items():
            self.raise_counter(name, value)
        self.history_taken_up = history

    def tell_history(self, node: object) -> None:
        """The node learns which history this is."""
        for each, history_changed in self._history_changed:
            if each is node:
                history_changed(self.history)

    def tell(self, node: object) -> None:
        """The other nodes hear soon that `node` has committed."""
        for other, follower in self._followers:
            if other is not node:
                asyncio.get_running_loop().call_soon(follower, self.positions())

    def statistics(self) -> StoreStatistics:
        visible = {
            name: sum(row.value is not None for row in rows.values())
            for name, rows in sorted(self._documents.items())
        }
        size_bytes = sum(len(segment.body) for segment in self._journal) + sum(
            len(row.value or b"") + len(row.meta)
            for rows in self._documents.values()
            for row in rows.values()
        )
        return StoreStatistics(
            visible,
            {name: len(self._documents[name]) - count for name, count in visible.items()},
            len(self._audit),
            len(self._parked),
            size_bytes,
        )

    def _collection(self, name: str) -> dict[str, Row]:
        try:
            return self._documents[name]
        except KeyError:
            raise unknown_collection(name) from None

    def _check_writable(self) -> None:
        if self.refusal:
            raise StoreUnwritable(
                f"the store cannot be written: {self.refusal}. Reads continue", reason=self.refusal
            )


def _meets(row: Row, where: Sequence[Condition]) -> bool:
    """Whether the document is shown, and fits."""
    if row.value is None or not where:
        return row.value is not None
    document = json.loads(row.value)
    return all(matches(condition, document) for condition in where)


def _wanted(row: AuditRow, wanted: AuditFilter) -> bool:
    return (
        wanted.collection in (None, row.collection)
        and wanted.key in (None, row.key)
        and wanted.kind in (None, row.kind)
        and wanted.status in (None, row.status)
        and wanted.origin in (None, row.losing_origin, row.winning_origin)
        and (wanted.since_ms is None or row.stamp_ms >= wanted.since_ms)
        and (wanted.until_ms is None or row.stamp_ms <= wanted.until_ms)
    )
