"""The house form of a protocol: a pure step, `(state, event, now) → (state, effects)`.

A step does no input and output. It asks for it by effects, and hears of each outcome by an event. So an effect that
depends on durable state is asked for only at the event which says that the state is durable. `region.driver` performs
the effects. Times are seconds of the event loop's clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from atoll.commit.snapshot_page import SnapshotPage
from atoll.commit.work import Step
from atoll.errors import AtollError
from atoll.replication.messages import SnapshotPlace, SnapshotReply
from atoll.store.port import Parked

# -- effects: what a step asks for ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class WakeAt:
    """Send `Woken` at this time. A later `WakeAt` of the same protocol takes its place."""

    at_s: float


@dataclass(frozen=True, slots=True)
class ReviewLinks:
    """Links are to ask for other origins than before. Done at once."""


@dataclass(frozen=True, slots=True)
class RefreshPosition:
    """Read the region's position from the store: another node may have moved it. Ends in `Refreshed`."""


@dataclass(frozen=True, slots=True)
class AwaitCovered:
    """Wait until the region has seen the vector. Ends in `Covered`."""

    vector: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class CompareHistories:
    """Ask connected peers whether they know other entries under this region's numbers. Ends in `Compared`."""


@dataclass(frozen=True, slots=True)
class RaiseCounters:
    """Make counters at least so high, in this order. Ends in `CountersRaised`, once all are durable."""

    counters: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class RenewLinks:
    """Open every link anew; peers drop what they received of this region and have not stored. Done at once."""


@dataclass(frozen=True, slots=True)
class Rewind:
    """Go back to the position that the database is at. Ends in `Rewound`."""


@dataclass(frozen=True, slots=True)
class ReadHistory:
    """Read which history the region has taken up. Ends in `HistoryRead`."""


@dataclass(frozen=True, slots=True)
class TakeUp:
    """Record the history as taken up; counters of identifiers leap past `clock_ms`. Ends in `TakenUp`."""

    history: str
    clock_ms: int


@dataclass(frozen=True, slots=True)
class Trust:
    """Let local writes into this history of the database, and into no other. Done at once."""

    history: str


@dataclass(frozen=True, slots=True)
class ReadHolders:
    """Read who holds which lease. Ends in `HoldersRead`."""


@dataclass(frozen=True, slots=True)
class Lease:
    """Hold these for so many seconds, unless other nodes do. Ends in `Leased`."""

    names: tuple[str, ...]
    for_s: float


@dataclass(frozen=True, slots=True)
class GiveBack:
    """Hold these leases no longer. Ends in `GivenBack`."""

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ReopenLinks:
    """Ask these peers anew. Done at once."""

    peers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Log:
    """A warning for whoever operates the region. Done at once."""

    message: str


@dataclass(frozen=True, slots=True)
class Claim:
    """Hold this lease from now on, unless another node does. Ends in `Claimed`."""

    name: str


@dataclass(frozen=True, slots=True)
class Release:
    """Hold what was claimed no longer. Ends in `Released`."""

    name: str


@dataclass(frozen=True, slots=True)
class Commit:
    """Make the step part of a transaction, and take note of a peer's stamp before. Ends in `Committed`."""

    step: Step
    stamp: int = 0


@dataclass(frozen=True, slots=True)
class Survey:
    """Look at the store and at the links. Ends in `Surveyed`."""

    lease: str = ""


@dataclass(frozen=True, slots=True)
class AskPage:
    """Ask a peer for a page of its snapshot. Ends in `PageReceived`; what the page holds was checked."""

    peer: str
    place: SnapshotPlace
    timeout_s: float


@dataclass(frozen=True, slots=True)
class AskPositions:
    """Ask peers what they have now. Ends in `PositionsRead`."""

    peers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ScanKept:
    """Read the next page that was kept aside, past a key. Ends in `KeptScanned`."""

    after: str


@dataclass(frozen=True, slots=True)
class OpenKept:
    """Read what a page holds that was kept aside. Ends in `KeptOpened`."""

    number: int


@dataclass(frozen=True, slots=True)
class ReadDigests:
    """Read the digests of entries as they are here. Ends in `DigestsRead`."""

    dots: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class ReadParked:
    """Read some parked changes past one. Ends in `ParkedRead`."""

    after: tuple[str, int, int] | None


@dataclass(frozen=True, slots=True)
class ScanKeys:
    """Read some keys of a collection past one, deleted documents' too. Ends in `KeysScanned`."""

    collection: str
    after: str | None


Snapshots = AskPage | AskPositions | ScanKept | OpenKept | ReadDigests
Waited = (
    Snapshots
    | ReadParked
    | ScanKeys
    | Claim
    | Release
    | Commit
    | Survey
    | RefreshPosition
    | Rewind
    | AwaitCovered
    | CompareHistories
    | RaiseCounters
    | ReadHistory
    | TakeUp
    | ReadHolders
    | Lease
    | GiveBack
)
"""They end in an outcome, or in `Failed`."""
Effect = WakeAt | ReviewLinks | RenewLinks | ReopenLinks | Trust | Log | Waited

State = TypeVar("State")
Next = tuple[State, tuple[Effect, ...]]
"""What a step returns: the state that follows, and what is to be done."""


@dataclass(frozen=True, slots=True)
class MembersChanged:
    """An event of every protocol: these are the peers by now. Nobody waits for one that has left."""

    peers: frozenset[str]


# -- outcomes: what a step hears of it ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Woken:
    """The time of the last `WakeAt` has come."""


@dataclass(frozen=True, slots=True)
class Refreshed:
    """The region's position as the store has it, or later."""

    vector: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Covered:
    """The region has seen the vector of the last `AwaitCovered`."""


@dataclass(frozen=True, slots=True)
class Compared:
    """What is wrong with the region's history; empty for nothing."""

    fault: str


@dataclass(frozen=True, slots=True)
class CountersRead:
    """Durable counters: those that a protocol reads when it is opened."""

    counters: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class CountersRaised:
    """They are durable."""

    counters: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Rewound:
    """The region stands where its database does, whose clock had come so far (unix milliseconds)."""

    clock_ms: int


@dataclass(frozen=True, slots=True)
class HistoryRead:
    """The history that the region last took up, and its own position."""

    taken_up: str
    own: int


@dataclass(frozen=True, slots=True)
class TakenUp:
    """The history is recorded; the region's own position is this."""

    own: int


@dataclass(frozen=True, slots=True)
class HoldersRead:
    """lease → the node that holds it."""

    holders: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Leased:
    """Of what was asked for, this node holds so much."""

    asked: tuple[str, ...]
    held: frozenset[str]


@dataclass(frozen=True, slots=True)
class GivenBack:
    """Other nodes may hold these."""

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Claimed:
    """Whether this node holds the lease."""

    name: str
    granted: bool


@dataclass(frozen=True, slots=True)
class Released:
    """Another node may hold it."""

    name: str


@dataclass(frozen=True, slots=True)
class Committed:
    """The step is durable."""

    step: Step


@dataclass(frozen=True, slots=True)
class Surveyed:
    """What the store says of collections, what the region has, which peers are connected."""

    schemas: Mapping[str, str]
    vector: Mapping[str, int]
    connected: frozenset[str]
    holds_lease: bool
    """The one that was named."""


@dataclass(frozen=True, slots=True)
class PageReceived:
    """A page of a peer's snapshot."""

    peer: str
    page: SnapshotReply


@dataclass(frozen=True, slots=True)
class PositionsRead:
    """peer → what it has now; only those that answered."""

    positions: Mapping[str, Mapping[str, int]]


@dataclass(frozen=True, slots=True)
class KeptScanned:
    """A page and its key; `round` is 0 where a page was removed, and the key is empty after the last one."""

    key: str
    round: int = 0
    peer: str = ""
    page: SnapshotReply | None = None


@dataclass(frozen=True, slots=True)
class KeptOpened:
    """What the page holds, in pieces for one commit each."""

    number: int
    pieces: tuple[SnapshotPage, ...]


@dataclass(frozen=True, slots=True)
class DigestsRead:
    """(origin, seq) → digest; None where the journal does not hold it."""

    digests: Mapping[tuple[str, int], bytes | None]


@dataclass(frozen=True, slots=True)
class ParkedRead:
    """Parked changes in their order; none after the last one."""

    page: tuple[Parked, ...]


@dataclass(frozen=True, slots=True)
class KeysScanned:
    """Keys in their order; none after the last one."""

    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Failed:
    """An effect came to nothing."""

    effect: Effect
    error: AtollError


Outcome = (
    Woken
    | Refreshed
    | Rewound
    | Covered
    | Compared
    | CountersRead
    | CountersRaised
    | HistoryRead
    | TakenUp
    | HoldersRead
    | Leased
    | GivenBack
    | Claimed
    | Released
    | Committed
    | Surveyed
    | PageReceived
    | PositionsRead
    | KeptScanned
    | KeptOpened
    | DigestsRead
    | ParkedRead
    | KeysScanned
    | Failed
)
