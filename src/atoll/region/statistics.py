"""What a region counts; the server turns it into metrics, the CLI into tables."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter

from atoll.causality.clock import stamp_ms
from atoll.causality.origin import region_of
from atoll.commit.batch import Batch

_DELAYS = 512
"""Of each region, that are kept."""


def _latest() -> deque[int]:
    return deque(maxlen=_DELAYS)


@dataclass(slots=True)
class Statistics:
    writes: int = 0
    """Local entries committed."""
    entries_applied: Counter[str] = field(default_factory=Counter)
    """region → remote entries merged."""
    conflicts: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(collection, kind) → conflicts detected here, first sight."""
    parked: int = 0
    commits: int = 0
    reads: int = 0
    forwarded: int = 0
    """Writes and reads that another region answered."""
    proposals: int = 0
    """Of new values of strong documents, that were sent to acceptors."""
    proposals_lost: int = 0
    """Rounds of them that ended since acceptors had promised a higher ballot."""
    changes_combined: int = 0
    """Changes that shared a proposal with one before them."""
    degraded: Counter[str] = field(default_factory=Counter)
    """`read` or `write`, a slash, and the fallback → answers that are weaker than the collection's policy."""
    token_waits: int = 0
    """Reads that waited for their token."""
    invalid_traces: int = 0
    """Writes whose trace context was dropped as malformed."""
    loop_stall_s: float = 0.0
    """The longest time, within the last minute or two, that something held the event loop; 0 where nobody looks."""
    propagation_ms: defaultdict[str, deque[int]] = field(default_factory=lambda: defaultdict(_latest))
    """region → stamp to visible here, the last ones (by two clocks, so an estimate)."""

    def committed(self, batch: Batch, now_ms: int) -> None:
        self.commits += 1
        self.writes += len(batch.written)
        for origin, entries in groupby(batch.applied, key=attrgetter("origin")):
            region, stamps = region_of(origin), [each.stamp for each in entries]
            self.entries_applied[region] += len(stamps)
            delays = [max(0, now_ms - stamp_ms(stamp)) for stamp in stamps[-_DELAYS:]]
            self.propagation_ms[region] += delays
        for record in batch.detected:
            self.conflicts[(record.collection, record.kind)] += 1
        self.parked += len(batch.pending.parked)

    def propagation_p50_ms(self, region: str) -> int | None:
        delays = sorted(self.propagation_ms.get(region, ()))
        return delays[len(delays) // 2] if delays else None
