"""The house form of a protocol: a pure step, `(state, event, now) → (state, effects)`.

A step does no input and output. It asks for it by effects, and hears of each outcome by an event. So an effect that
depends on durable state is asked for only at the event which says that the state is durable. `region.driver` performs
the effects. Times are seconds of the event loop's clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import msgspec

from atoll.causality.types import Dot
from atoll.commit.work import Step
from atoll.replication.messages import SnapshotPlace


class WakeAt(msgspec.Struct, frozen=True):
    """Send `Woken` at this time. A later `WakeAt` of the same protocol takes its place."""

    at_s: float


class ReviewLinks(msgspec.Struct, frozen=True):
    """Links are to ask for other origins than before. Done at once."""


class RefreshPosition(msgspec.Struct, frozen=True):
    """Read the region's position from the store: another node may have moved it. Ends in `Refreshed`."""


class AwaitCovered(msgspec.Struct, frozen=True):
    """Wait until the region has seen the vector. Ends in `Covered`."""

    vector: Mapping[str, int]


class CompareHistories(msgspec.Struct, frozen=True):
    """Ask connected peers whether they know other entries under this region's numbers. Ends in `Compared`."""


class RaiseCounters(msgspec.Struct, frozen=True):
    """Make counters at least so high, in this order. Ends in `CountersRaised`, once all are durable."""

    counters: Mapping[str, int]


class RenewLinks(msgspec.Struct, frozen=True):
    """Open every link anew; peers drop what they received of this region and have not stored. Done at once."""


class Rewind(msgspec.Struct, frozen=True):
    """Go back to the position that the database is at. Ends in `Rewound`."""


class ReadHistory(msgspec.Struct, frozen=True):
    """Read which history the region has taken up. Ends in `HistoryRead`."""


class TakeUp(msgspec.Struct, frozen=True):
    """Record the history as taken up; counters of identifiers leap past `clock_ms`. Ends in `TakenUp`."""

    history: str
    clock_ms: int


class Trust(msgspec.Struct, frozen=True):
    """Let local writes into this history of the database, and into no other. Done at once."""

    history: str


class ReadHolders(msgspec.Struct, frozen=True):
    """Read who holds which lease. Ends in `HoldersRead`."""


class Lease(msgspec.Struct, frozen=True):
    """Hold these for so many seconds, unless other nodes do. Ends in `Leased`."""

    names: tuple[str, ...]
    for_s: float


class GiveBack(msgspec.Struct, frozen=True):
    """Hold these leases no longer. Ends in `GivenBack`."""

    names: tuple[str, ...]


class ReopenLinks(msgspec.Struct, frozen=True):
    """Ask these peers anew. Done at once."""

    peers: tuple[str, ...]


class Log(msgspec.Struct, frozen=True):
    """A warning for whoever operates the region. Done at once."""

    message: str


class Claim(msgspec.Struct, frozen=True):
    """Hold this lease from now on, unless another node does. Ends in `Claimed`."""

    name: str


class Release(msgspec.Struct, frozen=True):
    """Hold what was claimed no longer. Ends in `Released`."""

    name: str


class Commit(msgspec.Struct, frozen=True):
    """Make the step part of a transaction, and take note of a peer's stamp before. Ends in `Committed`."""

    step: Step
    stamp: int = 0


class Survey(msgspec.Struct, frozen=True):
    """Look at the store and at the links. Ends in `Surveyed`."""

    lease: str = ""


class AskPage(msgspec.Struct, frozen=True):
    """Ask a peer for a page of its snapshot. Ends in `PageReceived`; what the page holds was checked."""

    peer: str
    place: SnapshotPlace
    timeout_s: float


class AskPositions(msgspec.Struct, frozen=True):
    """Ask peers what they have now. Ends in `PositionsRead`."""

    peers: tuple[str, ...]


class ScanKept(msgspec.Struct, frozen=True):
    """Read the next page that was kept aside, past a key. Ends in `KeptScanned`."""

    after: str


class OpenKept(msgspec.Struct, frozen=True):
    """Read what a page holds that was kept aside. Ends in `KeptOpened`."""

    number: int


class ReadDigests(msgspec.Struct, frozen=True):
    """Read the digests of entries as they are here. Ends in `DigestsRead`."""

    dots: tuple[Dot, ...]


class ReadParked(msgspec.Struct, frozen=True):
    """Read some parked changes past one. Ends in `ParkedRead`."""

    after: tuple[str, int, int] | None


class ScanKeys(msgspec.Struct, frozen=True):
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
