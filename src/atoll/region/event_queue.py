"""Which events are worth writing, and when. Synchronous; time is given to it, in seconds of the event loop's clock.

- A link's change becomes an event once it has lasted. One that did not last is counted, and a link that keeps changing
  gets one event a minute that says how often.
- A region's start is one event, which names the links that came up with it.
- Occurrences of one kind that wait together become one event, with their number.
- Events leave at a bounded rate. What finds no room is counted, and the next event says how many were left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

Kind = Literal[
    "region-started",
    "link-down",
    "link-up",
    "link-flapping",
    "restored",
    "failed-over",
    "snapshot-installed",
    "change-parked",
    "saga-stuck",
    "build-began",
    "build-ended",
]
"""What this version writes. A later one may write more."""


class Occurrence(NamedTuple):
    """Something that happened, before it is written."""

    kind: Kind
    at_ms: int
    """Unix milliseconds, by the node's clock."""
    peer: str = ""
    detail: str = ""
    times: int = 1


class LinkSeen(NamedTuple):
    """A link as it is at a moment."""

    up: bool
    since_ms: int
    """When that began (unix milliseconds)."""
    error: str = ""


@dataclass(frozen=True, slots=True)
class EventLimits:
    """How much is written."""

    settle_s: float = 5.0
    """A link's change that is undone within this time is no event. So long after it a start is one."""
    flapping_s: float = 60.0
    """How often a link that keeps changing is reported."""
    burst: int = 20
    """So many events may leave at once."""
    every_s: float = 30.0
    """After a burst, one event leaves in this time."""
    most_waiting: int = 200
    """Events that wait beyond these are left out."""


@dataclass(slots=True)
class _Link:
    seen: LinkSeen
    recorded: bool
    """Whether the timeline says that it is up."""
    differs_s: float | None = None
    """Since when it is not so."""
    changes: int = 0
    """How often it differed and did not last."""
    changes_s: float = 0.0
    """When the first of them was."""


class EventQueue:
    """Of one node: note what happens, and `take` what is to be written."""

    def __init__(self, limits: EventLimits) -> None:
        self.left_out = 0
        """How many occurrences found no room since `take` last gave something."""
        self._limits = limits
        self._links: dict[str, _Link] = {}
        self._started: Occurrence | None = None
        """Waits for the links."""
        self._started_s = 0.0
        self._waiting: dict[tuple[Kind, str], Occurrence] = {}
        self._room = float(limits.burst)
        self._room_s: float | None = None

    def started(self, occurrence: Occurrence, now_s: float) -> None:
        """The region starts: its links count from when they have settled."""
        self._started, self._started_s = occurrence, now_s

    def note(self, occurrence: Occurrence) -> None:
        """It joins one of its kind that waits, if there is one."""
        place = (occurrence.kind, occurrence.peer)
        waiting = self._waiting.get(place)
        if waiting is not None:
            times = waiting.times + occurrence.times
            self._waiting[place] = occurrence._replace(times=times, at_ms=waiting.at_ms)
        elif len(self._waiting) < self._limits.most_waiting:
            self._waiting[place] = occurrence
        else:
            self.left_out += occurrence.times

    def look(self, links: Mapping[str, LinkSeen], now_s: float) -> None:
        """The links that this node keeps for its region, as they are now. Call it at each change of one."""
        for peer in self._links.keys() - links.keys():
            del self._links[peer]  # another node keeps it
        for peer, seen in links.items():
            link = self._links.get(peer)
            if link is None:
                # A link that another node kept was up, as far as is known here.
                link = self._links[peer] = _Link(seen, recorded=True)
            link.seen = seen
            if self._started is not None:
                continue
            if seen.up == link.recorded:
                if link.differs_s is not None:
                    link.changes_s = link.changes_s if link.changes else now_s
                    link.changes += 1
                    link.differs_s = None
            elif link.differs_s is None:
                link.differs_s = now_s

    def take(self, now_s: float) -> list[Occurrence]:
        """What is to be written now, oldest first; the caller writes it, however often it has to try."""
        self._settle(now_s)
        limits = self._limits
        since_s = now_s if self._room_s is None else self._room_s
        self._room = min(limits.burst, self._room + (now_s - since_s) / limits.every_s)
        self._room_s = now_s
        taken = list(self._waiting)[: math.floor(self._room + 1e-9)]
        self._room -= len(taken)
        return [self._waiting.pop(place) for place in taken]

    def wake_s(self) -> float:
        """When there may be something to take, if nothing happens before."""
        times = list(self._times())
        if self._waiting:
            times.append((self._room_s or 0.0) + max(0.0, 1.0 - self._room) * self._limits.every_s)
        return min(times, default=math.inf)

    def _times(self) -> Iterator[float]:
        if self._started is not None:
            yield self._started_s + self._limits.settle_s
        for link in self._links.values():
            if link.differs_s is not None:
                yield link.differs_s + self._limits.settle_s
            elif link.changes:
                yield link.changes_s + self._limits.flapping_s

    def _settle(self, now_s: float) -> None:
        """Note what has lasted."""
        limits = self._limits
        if self._started is not None:
            self._settle_start(self._started, now_s)
        for peer, link in sorted(self._links.items()):
            if link.differs_s is not None and now_s >= link.differs_s + limits.settle_s:
                link.recorded, link.differs_s = link.seen.up, None
                kind: Kind = "link-up" if link.seen.up else "link-down"
                detail = _after(link.changes, link.seen.error)
                self.note(Occurrence(kind, link.seen.since_ms, peer, detail))
                link.changes = 0
            elif link.changes and now_s >= link.changes_s + limits.flapping_s:
                steady = "up" if link.recorded else "down"
                detail = (
                    f"{steady}, with {link.changes} changes that lasted less than {limits.settle_s:g} s each"
                )
                self.note(Occurrence("link-flapping", link.seen.since_ms, peer, detail, link.changes))
                link.changes = 0

    def _settle_start(self, started: Occurrence, now_s: float) -> None:
        if now_s < self._started_s + self._limits.settle_s:
            return
        self._started = None
        down = sorted(peer for peer, link in self._links.items() if not link.seen.up)
        for link in self._links.values():
            link.recorded = link.seen.up
        up = sorted(self._links.keys() - set(down))
        linked = f"linked with {', '.join(up)}" if up else ""
        unlinked = f"not linked with {', '.join(down)}" if down else ""
        detail = "; ".join(part for part in (started.detail, linked, unlinked) if part)
        self.note(started._replace(detail=detail))


def _after(changes: int, error: str) -> str:
    before = f"after {changes} changes that did not last" if changes else ""
    return "; ".join(part for part in (error, before) if part)
