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
from atoll.causality.floor import origins_in
from atoll.causality.origin import latest_of, of_region
from atoll.causality.types import Dot, Seq
from atoll.commit.batch import Batch
from atoll.commit.snapshot_page import INCOMPLETE, KEPT_ASIDE, RECORD, SnapshotPage
from atoll.commit.work import Wants
from atoll.errors import Unavailable
from atoll.replication.messages import SnapshotPlace, SnapshotReply
from atoll.store.port import View

Phase = Literal["pulling", "installing", "done"]
_PHASES: dict[str, Phase] = {"pulling": "pulling", INCOMPLETE.decode(): "installing", "done": "done"}
_decode_shows = msgspec.json.Decoder(dict[str, int]).decode


@dataclass(frozen=True, slots=True)
class Record:
    """Of the last round. A round that is not done keeps reads and writes away."""

    number: int = 0
    phase: Phase = "done"
    steps: int = 0
    """How often pages were kept, removed or merged, in all rounds."""
    shows: Mapping[str, int] = field(default_factory=dict)
    """While pages are pulled: what those that are here may show."""

    @property
    def incomplete(self) -> bool:
        """Whether the vector says more than the documents show."""
        return self.phase == "installing"

    def encode(self) -> bytes:
        shows = msgspec.json.encode(dict(self.shows))
        return b"%d %d %s %s" % (self.number, self.steps, shows, self.phase.encode())

    @classmethod
    def of(cls, state: bytes | None) -> Record:
        """From what is stored; None where there never was a round."""
        if state is None:
            return cls()
        number, steps, shows, phase = state.split()
        return cls(int(number), _PHASES[phase.decode()], int(steps), _decode_shows(shows))

    def next_round(self) -> Record:
        assert not self.incomplete, "a round whose position is installed is done first"
        return replace(self, number=self.number + 1, phase="pulling", shows={})

    def moved(self, phase: Phase) -> Record:
        """To a later phase of the same round."""
        assert self.phase != "done", "a round that is done goes no further"
        return replace(self, phase=phase, shows={})

    def stepped(self, shows: Mapping[str, int] | None = None) -> Record:
        """After one more step of pages, which may show this from then on."""
        return replace(self, steps=self.steps + 1, shows=self.shows if shows is None else shows)


def _check(view: View, record: Record) -> None:
    """Raises Unavailable when another node has moved the record, or the database has lost steps."""
    found = Record.of(view.states.get(RECORD))
    if found != record:
        raise Unavailable(f"the snapshot is at {found.encode()!r} by now, not at {record.encode()!r}")


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

    before: Record
    after: Record
    rows: tuple[tuple[str, bytes], ...]

    def want(self, wants: Wants) -> None:
        """They are written whatever is there."""

    def perform(self, batch: Batch, view: View) -> None:
        _check(view, self.before)
        batch.pending.states[RECORD] = self.after.encode()
        for key, data in self.rows:
            batch.keep(KEPT_ASIDE, key, data)


class MergePage(NamedTuple):
    """What a page holds is merged, in a database that claims all of it."""

    record: Record
    until: Mapping[str, int]
    page: SnapshotPage

    def want(self, wants: Wants) -> None:
        self.page.want(wants)

    def perform(self, batch: Batch, view: View) -> None:
        _check(view, self.record)
        batch.pending.states[RECORD] = self.record.stepped().encode()
        if not vectors.descends(view.positions, self.until):
            raise Unavailable("the database was replaced while a snapshot was merged")
        self.page.perform(batch, view)


class LetGo(NamedTuple):
    """A region asks with what it has of its own: it counts as lost what nobody announces beyond that.

    So what pages show of it beyond that must not be installed any more. Nor what is on its way, if it begins `anew`.
    """

    region: str
    past: Mapping[str, int]
    anew: bool

    def want(self, wants: Wants) -> None:
        """Every transaction shows the record."""

    def perform(self, batch: Batch, view: View) -> None:
        found = Record.of(view.states.get(RECORD))
        if found.phase != "pulling":
            return  # what is installed is announced
        if not vectors.descends(self.past, of_region(found.shows, self.region)):
            batch.pending.states[RECORD] = found.next_round().encode()
        elif self.anew:
            batch.pending.states[RECORD] = found.stepped().encode()


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
    """What the peer had before it read the first page: all of that is in the other pages."""
    until: Mapping[str, int]
    """What it had after the last one that is not of entries: nothing later is in these. All pages hold all of it."""
    incarnation: tuple[int, int]
    declared: Mapping[str, Mapping[str, str]]
    next: SnapshotPlace = field(default_factory=SnapshotPlace)
    pages: tuple[int, ...] = ()
    entries: tuple[int, ...] = ()
    """The pages of the entries that lead from `began` to `until`."""
    lasts: Mapping[Dot, bytes] = field(default_factory=dict)
    """Entries of the peer's own that pages may show, and that are not in what it had before → their digests."""

    @classmethod
    def of(cls, peer: str, page: SnapshotReply) -> Round:
        """As it begins, with nothing of its first page."""
        return cls(peer, page.before, page.after, page.incarnation, page.declared)

    @property
    def complete(self) -> bool:
        return self.next.part == "entries" and not origins_in(vectors.missing(self.next.since, self.until))

    def why_not(self, page: SnapshotReply, digests: Mapping[Dot, bytes]) -> str:
        """Why the page is not of the same snapshot, of a peer that has lost nothing and reads alike."""
        read_alike = (page.incarnation, page.declared) == (self.incarnation, self.declared)
        if not read_alike or not vectors.descends(page.before, self.until):
            return f"the snapshot of {self.peer} has changed"
        if self.next.part == "entries" and page.next is None:
            return f"{self.peer} no longer has all entries that its snapshot shows"
        for dot, digest in digests.items():
            if self.lasts.get(dot, digest) != digest:
                return (
                    f"entry {dot.seq} of {dot.origin} is another one than the snapshot of {self.peer} shows"
                )
        return ""

    def take(self, page: SnapshotReply, number: int) -> Round:
        if self.next.part == "entries":
            return replace(self, next=page.next or self.next, entries=(*self.entries, number))
        lasts, own = dict(self.lasts), latest_of(page.after, self.peer)
        seq = page.after.get(own, 0)
        if page.last is not None and seq > self.began.get(own, 0):
            lasts.setdefault(Dot(own, Seq(seq)), page.last)
        until = vectors.merge(self.until, page.after)
        then = page.next or SnapshotPlace("entries", since=dict(self.began), until=until)
        return replace(self, until=until, next=then, pages=(*self.pages, number), lasts=lasts)
