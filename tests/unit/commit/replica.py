"""A region reduced to its core: batches over dictionaries, delivered by hand, one entry at a time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial

from atoll.causality.clock import HybridLogicalClock
from atoll.commit.batch import Batch
from atoll.commit.identity import Identity
from atoll.commit.recent import Recent
from atoll.commit.snapshot_page import SnapshotPage
from atoll.commit.work import Step
from atoll.conflicts.guard import guarded
from atoll.documents import document as documents
from atoll.documents.entry import Change, EncodedEntry, LosingVersion, decode_frames
from atoll.documents.mutation import Mutation, Receipt, Write
from atoll.documents.rules import Rules, plain_text
from atoll.schema.application import Application
from atoll.store.port import AuditRow, Parked, Row

REGIONS = ("a", "b", "c")


def rules_of(application: Application) -> dict[str, Rules]:
    found = {}
    for name, compiled in application.collections.items():
        function = compiled.policy.resolver
        resolver = None if function is None else guarded(function, partial(plain_text, compiled))
        found[name] = Rules(compiled, resolver)
    return found


@dataclass
class Shown:
    """A view of an empty store."""

    positions: Mapping[str, int] = field(default_factory=dict)
    clock: int = 0
    history: str = ""
    rows: Mapping[tuple[str, str], Row] = field(default_factory=dict)
    remembered: Mapping[str, bytes] = field(default_factory=dict)
    audit: Mapping[str, AuditRow] = field(default_factory=dict)
    schemas: Mapping[str, str] = field(default_factory=dict)
    states: Mapping[tuple[str, str], bytes] = field(default_factory=dict)
    generations: Mapping[str, int] = field(default_factory=dict)
    open_records: Mapping[tuple[str, str], list[AuditRow]] = field(default_factory=dict)


class Replica:
    def __init__(self, name: str, rules: dict[str, Rules], *, skew_ms: int = 0) -> None:
        self.name = name
        self.rules = rules
        self.time_ms = 1_000_000 + skew_ms
        self.clock = HybridLogicalClock(lambda: self.time_ms, 0, 10_000_000)
        self.vector: dict[str, int] = {}
        self.recent = Recent()
        self.rows: dict[tuple[str, str], Row] = {}
        self.audit: dict[str, AuditRow] = {}
        self.journal: list[EncodedEntry] = []
        self.remembered: dict[str, bytes] = {}
        self.parked: list[str] = []
        """Reasons."""
        self.kept: dict[tuple[str, int, int], Parked] = {}
        self.detected = 0

    def batch(self) -> Batch:
        identity = Identity(self.name, REGIONS, 5, 1 << 20)
        batch = Batch(
            identity,
            self.rules,
            self.clock,
            self.vector,
            rows=self.rows,
            remembered=self.remembered,
            audit=self.audit,
            now_ms=self.time_ms,
        )
        batch.recent = self.recent
        return batch

    def _take(self, batch: Batch) -> None:
        commit = batch.commit()
        for collection, rows in commit.documents.items():
            for key, value, meta in rows:
                self.rows[(collection, key)] = Row(value, meta)
        for removed in commit.audit_removed:
            self.audit.pop(removed, None)
        for record in commit.audit:
            self.audit[record.id] = record
        for segment in commit.segments:
            self.journal.extend(decode_frames(segment.body))
        self.remembered.update({each.key: each.answer for each in commit.remembered})
        self.parked += [each.reason for each in commit.parked]
        for dot in commit.unparked:
            self.kept.pop(dot)
        self.kept.update({each[:3]: each for each in commit.parked})
        self.detected += len(batch.detected)
        self.vector = batch.vector

    def write(self, *mutations: Mutation, idempotency_key: str | None = None) -> Receipt:
        self.time_ms += 7
        batch = self.batch()
        receipt = batch.write(Write(mutations, idempotency_key))
        self._take(batch)
        return receipt

    def learn(self, change: Change) -> None:
        batch = self.batch()
        batch.learn([change], Write(()))
        self._take(batch)

    def upgrade(self, rules: dict[str, Rules]) -> None:
        """Restart with other declarations."""
        self.rules = rules
        batch = self.batch()
        for parked in [self.kept[dot] for dot in sorted(self.kept)]:
            batch.reapply(parked)
        for address in sorted(self.rows):
            if address[0] in rules:
                recorded = [row for row in self.audit.values() if (row.collection, row.key) == address]
                batch.re_resolve(address, recorded)
        self._take(batch)

    def receive(self, encoded: Iterable[EncodedEntry]) -> None:
        batch = self.batch()
        for each in encoded:
            batch.apply(each)
        self._take(batch)

    def perform(self, step: Step) -> None:
        batch = self.batch()
        step.perform(batch, Shown())
        self._take(batch)

    def snapshot(self) -> list[SnapshotPage]:
        """All that it holds, in the pieces in which a peer takes it over once it has all the entries."""
        documents = [(*address, row) for address, row in sorted(self.rows.items())]
        resolved = tuple(
            LosingVersion(row.id, row.status, row.body)
            for row in self.audit.values()
            if row.status == "resolved"
        )
        return [
            *(SnapshotPage(documents=(each,), stamp=self.clock.last) for each in documents),
            SnapshotPage(resolved=resolved, parked=tuple(self.kept.values())),
        ]

    def ready_from(self, other: Replica) -> EncodedEntry | None:
        """The first entry in the other's journal that is new here and whose context is covered."""
        for encoded in other.journal:
            entry = encoded.entry
            if entry.seq == self.vector.get(entry.origin, 0) + 1 and all(
                self.vector.get(origin, 0) >= seq for origin, seq in entry.context.items()
            ):
                return encoded
        return None

    def shown(self, collection: str, key: str) -> bytes | None:
        row = self.rows.get((collection, key))
        return None if row is None else row.value

    def digests(self) -> dict[tuple[str, str], bytes]:
        return {
            address: documents.digest(
                self.rules[address[0]], address[1], documents.decode_row(self.rules[address[0]], row)
            )
            for address, row in self.rows.items()
        }


def settle(replicas: list[Replica]) -> None:
    """Deliver everything to everyone."""
    moved = True
    while moved:
        moved = False
        for here in replicas:
            for there in replicas:
                encoded = here.ready_from(there) if here is not there else None
                if encoded is not None:
                    here.receive([encoded])
                    moved = True
