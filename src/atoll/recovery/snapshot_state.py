"""What one node knows of a snapshot that its region takes over; see `recovery.snapshot_install`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from atoll.causality.types import Generation
from atoll.commit.snapshot_page import SnapshotPage
from atoll.recovery.snapshot_record import Record, Round
from atoll.replication.messages import SnapshotPlace


@dataclass(frozen=True, slots=True)
class Settings:
    """What does not change while a node runs, but for its peers."""

    region: str
    peers: tuple[str, ...]
    declared: Mapping[str, Mapping[str, str]]
    """collection → mergeable field → its kind, as declared here."""
    lease_s: float
    grace_s: float
    retry_s: float
    timeout_s: float
    shares_store: bool


@dataclass(frozen=True, slots=True)
class InstallState:
    """Of one node."""

    settings: Settings
    phase: Literal[
        "idle", "grace", "claiming", "beginning", "looking on", "taking up", "pulling", "settling", "merging",
        "removing",
    ] = "idle"  # fmt: skip
    record: Record = field(default_factory=Record)
    round: Round | None = None
    """The one of the record, once a page of it is here."""
    pages: int = 0
    """The number of the last one that is kept."""
    late: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """peer → what its journal no longer holds and was asked for."""
    connected: frozenset[str] = frozenset()
    failures: int = 0
    """In a row, to get a page."""
    source: str = ""
    """The peer whose pages are asked for, before the first one is here."""
    avoided: str = ""
    """The peer whose pages were given up last."""
    asked: SnapshotPlace | None = None
    """Where the page begins that is asked for; None while none is."""
    incoming: Round | None = None
    """The round with the page that is about to be kept."""
    here: Mapping[str, int] = field(default_factory=dict)
    """What the region had at the last look."""
    to_merge: tuple[int, ...] = ()
    pieces: tuple[SnapshotPage, ...] = ()
    """What is left of the page that is merged."""
    merged: int = 0
    trouble: str = ""
    generation: Generation | None = None
    """Of the lease; None while this node does not hold it."""
    survey_s: float = 0.0
    """When the last look at the store began."""
    looked_s: float = 0.0
    """When the last look began that has ended."""
    completed: int = 0
    """Snapshots that this node has installed."""
    replaced: bool = False
    """Whether another database has taken the place of the one that was last looked at."""

    @property
    def pending(self) -> bool:
        """Whether the region holds back."""
        return self.record.phase != "done" or self.replaced

    @property
    def pulling(self) -> bool:
        """Whether pages are fetched: no entries are, meanwhile."""
        return self.record.phase == "pulling"

    @property
    def reason(self) -> str:
        """What is waited for, and how far it is."""
        region = self.settings.region
        if self.replaced and self.record.phase == "done":
            return f"the database of {region} was replaced, and may hold half a snapshot"
        parts = [f"{region} is installing a snapshot, because journals no longer hold what it lacks"]
        if (found := self.round) is not None:
            count = len(found.pages) + len(found.entries)
            parts.append(f"{found.peer}: {count} pages" + (", all of it" if found.complete else ""))
        if self.merged:
            parts.append(f"{self.merged} of {self.merged + len(self.to_merge)} pages merged")
        if self.trouble:
            parts.append(self.trouble)
        return "; ".join(parts)
