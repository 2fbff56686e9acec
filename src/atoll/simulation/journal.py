"""The history that the checkers go by: every entry that any region made durable, seen from outside.

It hears of each commit from the disks, below the regions. So it holds on to what was really durable and
when, whatever the regions themselves believe.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cache, reduce
from hashlib import blake2b
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from atoll.causality import vector as vectors
from atoll.causality.floor import floors_of, origins_in
from atoll.causality.origin import Origin, is_floor, of_region, region_of
from atoll.causality.types import Dot, Seq
from atoll.commit.snapshot_page import RECORD
from atoll.documents.entry import Change, Entry, decode_frames
from atoll.documents.rules import PURGED
from atoll.documents.trace import TRACE_BYTES
from atoll.errors import AtollError
from atoll.recovery.snapshot_record import Record
from atoll.simulation.failures import Verdict
from atoll.simulation.floors import Floors
from atoll.store.port import Commit, Segment
from atoll.testing.disk import Replaced


@cache
def trace_of(name: str) -> bytes:
    """The trace context that an operation's entry bears."""
    return b"\0" + blake2b(name.encode(), digest_size=TRACE_BYTES - 2).digest() + b"\x01"


class Touch(NamedTuple):
    """One entry's change to one document."""

    entry: Entry
    change: Change
    number: int = 0
    """Which change of the entry."""


class Loss(NamedTuple):
    """Of one of a region's origins, when its data went back."""

    kept: int
    """The last one that it still had."""
    newest: int
    """The last one that it ever had written."""


WAITS_FOR_ALL = "a purge waits for every region"
HOLDS_BACK = "a region that went back first takes what its peers have"


class Journal:
    """Checks each commit as it becomes durable: dense, causal, whole, once, and the same bytes everywhere."""

    def __init__(self, verdict: Verdict) -> None:
        self.entries: dict[Dot, Entry] = {}
        self._revisions: dict[tuple[str, str, int], Change] = {}
        self._by_trace: dict[bytes, list[Dot]] = {}
        self.by_document: dict[tuple[str, str], list[Touch]] = {}
        self.vectors: dict[str, dict[str, int]] = {}
        """What each region has made durable."""
        self.crafted: set[bytes] = set()
        """Frames that a workload made up."""
        self.hostile: set[Dot] = set()
        """Entries that no honest region would have written."""
        self.refused: set[tuple[str, int, int]] = set()
        """(origin, seq, change) that no region may merge."""
        self._went_back = False
        """Whether any region has another disk than at its start, or an older one."""
        self.losses: dict[str, Loss] = {}
        """Origins of regions whose data went back to what they were before, or are gone."""
        self.struck: list[Entry] = []
        """Those that were lost before they had reached another region: `strike_lost`."""
        self._restored: set[str] = set()
        """Those that were restored, and have not started since."""
        self._owed: dict[str, Mapping[str, int]] = {}
        """What a region whose data went back must have again before it writes."""
        self.withheld: dict[str, Mapping[str, int]] = {}
        """The same, before it may be read."""
        self.patient = False
        """Whether journals keep what a region lacks, however long it is away."""
        self.erased: set[tuple[str, str]] = set()
        """(collection, key) of documents that retention has removed in some region: each keeps its own time."""
        self._incomplete: set[str] = set()
        """Regions whose position says more than their documents show: a snapshot is not merged yet."""
        self._frames: dict[Dot, bytes] = {}
        self._verdict = verdict
        self.floors = Floors(verdict)
        self._digest = blake2b(digest_size=16)

    @property
    def digest(self) -> str:
        """Of everything that was committed, where and in which order: equal for equal runs."""
        return self._digest.hexdigest()

    @property
    def complete(self) -> bool:
        """Whether journals keep all that any region lacks; else one of them may need a snapshot."""
        return self.patient and not self._went_back

    def dots(self, trace: str) -> list[Dot]:
        """The entries of one operation."""
        return self._by_trace.get(trace_of(trace), [])

    def observe(self, region: str, commit: Commit) -> None:
        """A commit of `region` has become durable."""
        vector = self.vectors.setdefault(region, {})
        try:
            for segment in commit.segments:
                self._digest.update(region.encode() + segment.body)
                for encoded in decode_frames(segment.body):
                    self._take(region, vector, encoded.entry, encoded.frame)
        except AtollError as error:
            self._verdict.safety("journal is readable", f"{region} committed a damaged segment: {error}")
        if not commit.segments or RECORD in commit.states:
            self._adopt(region, vector, commit)  # entries that came meanwhile may share the commit
        if RECORD in commit.states:
            self._incomplete.discard(region)
            if Record.of(commit.states[RECORD]).incomplete:
                self._incomplete.add(region)
        for origin, seq in commit.positions.items():
            if vector.get(origin, 0) != seq:
                self._verdict.safety(
                    "position moves with its entries",
                    f"{region} stored position {seq} of {origin} and holds {vector.get(origin, 0)} of it",
                )
        for parked in commit.parked:
            # Nobody parks what it wrote itself, unless it was made to write it, or wrote it before a downgrade.
            made = parked.cause != "undeclared" or parked[:2] in self.hostile
            if region_of(parked.origin) == region and made:
                self.refused.add(parked[:3])
        self.erased |= {(name, key) for name, keys in commit.erased.items() for key in keys}
        for row in sorted(commit.audit):
            self._digest.update(row.body)

    def _adopt(self, region: str, vector: dict[str, int], commit: Commit) -> None:
        """Take positions without entries, of a snapshot that is installed. They have to be somebody's entries.

        Whether the snapshot really holds these, the comparison of documents tells.
        """
        for origin, seq in commit.positions.items():
            if vector.get(origin, 0) < seq:
                if (origin, seq) not in self.entries and not is_floor(origin):
                    self._verdict.safety(
                        "a snapshot is of what happened",
                        f"{region} adopted {origin}:{seq}, which nobody wrote",
                    )
                vector[origin] = seq
                self._digest.update(f"{region} adopts {origin}:{seq}".encode())
        self.floors.check_position(region, vector)

    def cut(self, region: str, segments: Iterable[Segment]) -> None:
        """A region has cut its journal. Checked where no region is given up, and none has lost its disk."""
        if not self.complete:
            return
        for segment in segments:
            for other, vector in self.vectors.items():
                if vector.get(segment.origin, 0) < segment.last_seq:
                    self._verdict.safety(
                        "a journal keeps what a region lacks",
                        f"{region} cut {segment.origin}:{segment.last_seq}, which {other} has not",
                    )

    def _take(self, region: str, vector: dict[str, int], entry: Entry, frame: bytes) -> None:
        dot = entry.dot
        safety = self._verdict.safety
        if entry.seq != vector.get(entry.origin, 0) + 1:
            safety(
                "each entry is applied exactly once",
                f"{region} applied {entry.origin}:{entry.seq} when it had {vector.get(entry.origin, 0)} of it",
            )
        raw, entry = entry, replace(entry, context=self.floors.spelt_context(region, vector, entry))
        if lacking := origins_in(vectors.missing(vector, entry.context)):
            safety(
                "an entry comes after what its writer had seen", f"{region} applied {dot} without {lacking}"
            )
        known, own = self._frames.get(dot), region == region_of(entry.origin)
        if known is None:
            self._first(region, dot, entry, frame)
            if frame not in self.crafted:
                self.floors.check_written(raw, vector)
            owed = self._owed.pop(region, {}) if own else {}
            if lacking := vectors.missing(vector, owed):
                safety(HOLDS_BACK, f"{region} wrote {dot} before it had {lacking} again")
        elif known != frame:
            safety(
                "an entry is the same in every region",
                f"{region} holds {dot} with other bytes than its origin",
            )
        elif own and not self.may_be_lost(dot):
            safety("sequence numbers are used once", f"{region} committed {dot} a second time")
        vector |= floors_of(vectors.missing(vector, entry.context))
        vector[entry.origin] = entry.seq

    def _first(self, region: str, dot: Dot, entry: Entry, frame: bytes) -> None:
        if region != region_of(entry.origin):
            self._verdict.safety(
                "nothing leaves before it is durable",
                f"{region} has {dot}, which {entry.origin} has not stored",
            )
        if region in self._incomplete:
            self._verdict.safety(
                "nothing is written beside an installed position",
                f"{region} wrote {dot} before its snapshot was merged",
            )
        before = self.entries.get(Dot(entry.origin, Seq(entry.seq - 1)))
        if before is not None and before.stamp >= entry.stamp:
            self._verdict.safety(
                "stamps of a region rise", f"{dot} has a stamp no later than the one before it"
            )
        for origin, seq in entry.context.items():
            seen = self.entries.get(Dot(Origin(origin), Seq(seq)))
            if seen is not None and seen.stamp >= entry.stamp:
                self._verdict.safety(
                    "a stamp exceeds those its writer had seen",
                    f"{dot} has seen {origin}:{seq}, stamped later",
                )
        self.entries[dot] = entry
        self._frames[dot] = frame
        if frame in self.crafted:
            self.hostile.add(dot)
        else:
            self._check_purges(entry)
        if entry.trace is not None:
            became = self._by_trace.setdefault(entry.trace, [])
            became.append(dot)
            # Answers to idempotency keys are kept in the region alone, and go with its disk.
            made = {_made(self.entries[each]) for each in became}
            if len(made) > 1 and not any(map(self.may_be_lost, became)):
                self._verdict.safety("a retried write counts once", f"one write became {became}")
        for index, change in enumerate(entry.changes):
            touches = self.by_document.setdefault((change.collection, change.key), [])
            touches.append(Touch(entry, change, index))
            if change.collection in ("account", "booking"):
                self._decided(change)

    def _decided(self, change: Change) -> None:
        """Several regions may journal a revision; it is one."""
        revision = revision_of(change)
        if not revision:
            return
        known = self._revisions.setdefault((change.collection, change.key, revision), change)
        if known != change:
            self._verdict.safety(
                "a register decides each revision once",
                f"{change.collection}/{change.key} has two revisions {revision}: {known} and {change}",
            )

    def _check_purges(self, entry: Entry) -> None:
        """What its purges say that all had seen, all have, and every entry that it had not seen was written after."""
        purges = [change.registers[PURGED] for change in entry.changes if PURGED in change.registers]
        if not purges or self._went_back:
            return
        others = dict(self.vectors)
        for dot, other in self.entries.items():
            if entry.context.get(dot.origin, 0) < dot.seq and other is not entry and dot not in self.hostile:
                others[str(dot)] = other.context
        for value in filter(None, purges):
            seen = msgspec.json.decode(value)[1]
            for name, vector in others.items():
                if lacking := vectors.missing(vector, seen):
                    self._verdict.safety(WAITS_FOR_ALL, f"{entry.dot} purges, and {name} lacks {lacking}")

    def mounted(self, region: str, positions: Mapping[str, int]) -> None:
        """A node starts on what its disk kept; it must be all that was durable."""
        held = {origin: seq for origin, seq in self.vectors.get(region, {}).items() if seq}
        if dict(positions) != held:
            self._verdict.safety(
                "what is durable survives a crash",
                f"{region} came back with {dict(positions)}, it had {held}",
            )
        if region in self._restored:
            self._restored.discard(region)
            self._owed[region] = self.withheld[region] = self._held_by_others(region)

    def replaced(self, region: str, positions: Mapping[str, int], how: Replaced) -> None:
        """A region's data went back to `positions`: what no other region has beyond them, and only that, is lost."""
        self.vectors[region] = dict(positions)
        self._went_back = True
        self._incomplete.discard(region)
        newest: dict[str, int] = {}
        for dot in self.entries:
            newest[dot.origin] = max(dot.seq, newest.get(dot.origin, 0))
        for origin, last in of_region(newest, region).items():
            before = self.losses.get(origin, Loss(last, last))
            self.losses[origin] = Loss(min(before.kept, positions.get(origin, 0)), max(before.newest, last))
        match how:
            case "restored":  # it is read again once it has what the others have when it starts
                self._restored.add(region)
            case "failed over":  # it goes on being read
                self._owed[region] = of_region(self._held_by_others(region), region)
            case "lost":
                """It waits for its peers for some time only."""

    def _held_by_others(self, region: str) -> dict[str, int]:
        return reduce(vectors.merge, (held for other, held in self.vectors.items() if other != region), {})

    def check_held_back(self, region: str, vector: Mapping[str, int]) -> None:
        """A region was read at `vector`."""
        if lacking := vectors.missing(vector, self.withheld.get(region, {})):
            self._verdict.safety(HOLDS_BACK, f"{region} was read before it had {lacking} again")

    def strike_lost(self) -> None:
        """At the end: what was lost before it had reached another region never happened."""
        for origin, loss in sorted(self.losses.items()):
            for seq in range(self.newest.get(origin, 0) + 1, loss.newest + 1):
                self._strike(Dot(Origin(origin), Seq(seq)))
        self.floors.check_over(self.newest)

    def may_be_lost(self, dot: Dot) -> bool:
        """Whether its region's data went back to before it. Then it may be gone."""
        loss = self.losses.get(dot[0])
        return loss is not None and loss.kept < dot[1] <= loss.newest

    def _strike(self, dot: Dot) -> None:
        entry = self.entries.pop(dot, None)
        if entry is None:
            return
        self.struck.append(entry)
        del self._frames[dot]
        self.hostile.discard(dot)
        self.refused -= {(*dot, number) for number in range(len(entry.changes))}
        if entry.trace is not None:
            self._by_trace[entry.trace].remove(dot)
        for change in entry.changes:
            found = self.by_document[change.collection, change.key]
            found[:] = [touch for touch in found if touch.entry is not entry]

    @property
    def newest(self) -> dict[str, int]:
        """The vector that covers every durable entry."""
        return reduce(vectors.merge, self.vectors.values(), {})

    def touches(self, collection: str, key: str, within: Mapping[str, int] | None = None) -> Iterator[Touch]:
        """What was done to a document, restricted to what a vector has seen; without what was refused."""
        if within is not None:
            within = self.floors.spelt_out(within)
        for touch in self.by_document.get((collection, key), ()):
            entry = touch.entry
            if self.refused and (entry.origin, entry.seq, touch.number) in self.refused:
                continue
            if within is None or within.get(entry.origin, 0) >= entry.seq:
                yield touch


def revision_of(change: Change) -> int:
    """Which revision of its register a change is; 0 for one that no register has decided."""
    if "=" not in change.deltas:
        return 0
    revision, stamp, _ = msgspec.msgpack.decode(change.deltas["="])
    return int(revision) if stamp else 0


def _made(entry: Entry) -> Dot:
    """What a write became: its entry, or the revision of a register, whichever regions journal that."""
    revisions = [revision_of(change) for change in entry.changes]
    return Dot(Origin("="), Seq(revisions[0])) if any(revisions) else entry.dot
