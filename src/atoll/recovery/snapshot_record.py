"""How far a region is with its peers' snapshots: the durable record, and the steps of group commits that move it.

Each step names the record that it goes on from, and the transaction compares. So a node that was paused, and goes on
with a round that another node has ended meanwhile, changes nothing. That holds whoever has the lease. The record counts
the steps. So a node whose database has lost some, by a failover, does not go on as if they were there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Literal, NamedTuple

import msgspec

from atoll.causality import vector as vectors
from atoll.causality.origin import latest_of
from atoll.causality.types import Dot, Seq
from atoll.commit.batch import Batch
from atoll.commit.snapshot_page import INCOMPLETE, KEPT_ASIDE, RECORD, SnapshotPage
from atoll.commit.work import Wants
from atoll.errors import Unavailable
from atoll.replication.messages import SnapshotPlace, SnapshotReply
from atoll.store.port import View

Phase = Literal["pulling", "installing", "late", "done"]
"""`late`: since the install, a node's link was told once more that it comes too late: it takes another snapshot."""
_PHASES: dict[str, Phase] = {"pulling": "pulling", "installing": "installing", "late": "late", "done": "done"}


@dataclass(frozen=True, slots=True)
class Record:
    """Of the last round. A round that is not done keeps reads and writes away."""

    number: int = 0
    phase: Phase = "done"
    done: int = 0
    """The last round that was done: pages of it and of earlier ones do not count."""
    incomplete: bool = False
    """Whether the vector says more than the documents show: that of this round, or of an earlier one, is installed."""
    steps: int = 0
    """How often pages were kept, removed or merged, in all rounds."""

    def encode(self) -> bytes:
        text = b"%d %s %d %d" % (self.number, self.phase.encode(), self.done, self.steps)
        return text + b" " + INCOMPLETE if self.incomplete else text

    @classmethod
    def of(cls, state: bytes | None) -> Record:
        """From what is stored; None where there never was a round."""
        if state is None:
            return cls()
        number, phase, done, steps, *incomplete = state.split()
        return cls(int(number), _PHASES[phase.decode()], int(done), bool(incomplete), int(steps))

    def next_round(self) -> Record:
        return replace(self, number=self.number + 1, phase="pulling")

    def moved(self, phase: Phase) -> Record:
        """To a later phase of the same round."""
        assert self.phase != "done", "a round that is done goes no further"
        if phase == "done":
            return Record(self.number, phase, self.number, steps=self.steps)
        return replace(self, phase=phase, incomplete=True)

    def stepped(self) -> Record:
        """After one more step of pages."""
        return replace(self, steps=self.steps + 1)

    def goes_on_from(self, earlier: Record) -> bool:
        """Whether nobody has moved the record since, but to say that a link comes too late, and nothing was lost."""
        return self == earlier or (self.phase == "late" and replace(self, phase="installing") == earlier)


def _check(view: View, record: Record) -> Record:
    """What is stored. Raises Unavailable when another node has moved the record, or the database has lost steps."""
    found = Record.of(view.states.get(RECORD))
    if not found.goes_on_from(record):
        raise Unavailable(f"the snapshot is at {found.encode()!r} by now, not at {record.encode()!r}")
    return found


class MoveRecord(NamedTuple):
    """The record moves; `vector` is what the region has from then on, as it holds it in some form."""

    before: Record
    after: Record
    vector: Mapping[str, int] = MappingProxyType({})

    def want(self, wants: Wants) -> None:
        """Every transaction shows the record."""

    def perform(self, batch: Batch, view: View) -> None:
        _check(view, self.before)
        batch.advance(self.vector)
        batch.pending.states[RECORD] = self.after.encode()


class KeepPages(NamedTuple):
    """Pages are kept aside, or removed where they are empty."""

    record: Record
    rows: tuple[tuple[str, bytes], ...]

    def want(self, wants: Wants) -> None:
        """They are written whatever is there."""

    def perform(self, batch: Batch, view: View) -> None:
        batch.pending.states[RECORD] = _check(view, self.record).stepped().encode()
        for key, data in self.rows:
            batch.keep(KEPT_ASIDE, key, data)


class MergePage(NamedTuple):
    """Documents of a page are merged, once every entry that may be in them is here."""

    record: Record
    until: Mapping[str, int]
    page: SnapshotPage

    def want(self, wants: Wants) -> None:
        self.page.want(wants)

    def perform(self, batch: Batch, view: View) -> None:
        batch.pending.states[RECORD] = _check(view, self.record).stepped().encode()
        if not vectors.descends(view.positions, self.until):
            raise Unavailable("the database was replaced while a snapshot was merged")
        self.page.perform(batch, view)


class KeptPage(msgspec.Struct, array_like=True, frozen=True):
    """A page as it lies in the store."""

    round: int
    peer: str
    page: SnapshotReply


pack = msgspec.msgpack.Encoder().encode


def key_of(number: int) -> str:
    """Where a page lies."""
    return f"{number:08d}"


@dataclass(frozen=True, slots=True)
class Round:
    """A snapshot as far as it is here."""

    peer: str
    began: Mapping[str, int]
    """What the peer had before it read the first page: all of that is in the snapshot."""
    until: Mapping[str, int]
    """What it had after the last one: nothing later is in it."""
    incarnation: tuple[int, int]
    declared: Mapping[str, Mapping[str, str]]
    next: SnapshotPlace | None
    pages: tuple[int, ...] = ()
    lasts: Mapping[Dot, bytes] = field(default_factory=dict)
    """Entries of the peer's own that pages may show, and that are not in what was installed → their digests."""

    @classmethod
    def of(cls, peer: str, page: SnapshotReply) -> Round:
        return cls(peer, page.before, page.after, page.incarnation, page.declared, page.next)

    def goes_on_with(self, page: SnapshotReply) -> bool:
        """Whether the page is of the same snapshot: of a peer that has lost nothing, and reads alike."""
        return (page.incarnation, page.declared) == (self.incarnation, self.declared) and vectors.descends(
            page.before, self.began
        )

    def take(self, page: SnapshotReply, number: int) -> Round:
        lasts, own = dict(self.lasts), latest_of(page.after, self.peer)
        seq = page.after.get(own, 0)
        if page.last is not None and seq > self.began.get(own, 0):
            lasts.setdefault(Dot(own, Seq(seq)), page.last)
        until = vectors.merge(self.until, page.after)
        return replace(self, until=until, next=page.next, pages=(*self.pages, number), lasts=lasts)


Rounds = Mapping[int, Round]


def with_page(rounds: Rounds, number: int, kept: KeptPage) -> Rounds:
    """Page `number` belongs to its round."""
    found = rounds.get(kept.round) or Round.of(kept.peer, kept.page)
    return {**rounds, kept.round: found.take(kept.page, number)}


def finished(rounds: Rounds) -> tuple[Round, ...]:
    """Those that are complete, and whose place no later one has taken."""
    complete = [each for _, each in sorted(rounds.items()) if each.next is None]
    return tuple(
        each
        for at, each in enumerate(complete)
        if not any(vectors.descends(later.began, each.began) for later in complete[at + 1 :])
    )


def until_of(rounds: Rounds) -> dict[str, int]:
    """Every entry that may be in the pages."""
    until: dict[str, int] = {}
    for each in finished(rounds):
        until = vectors.merge(until, each.until)
    return until
