"""The house form of a protocol: a pure step, `(state, event, now) → (state, effects)`.

A step does no input and output. It asks for it by effects, and hears of each outcome by an event: each effect stands
here before the event that it ends in. An effect that depends on durable state is asked for only at the event which says
that the state is durable. `region.driver` performs the effects. Times are seconds of the event loop's clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import msgspec

from atoll.causality.types import Dot, Generation
from atoll.commit.snapshot_page import SnapshotPage
from atoll.commit.work import Fence, Step
from atoll.errors import AtollError
from atoll.replication.messages import SnapshotPlace, SnapshotReply
from atoll.store.port import Parked


class MembersChanged(msgspec.Struct, frozen=True):
    """An event of every protocol: these are the peers by now. Nobody waits for one that has left."""

    peers: frozenset[str]


class Heard(msgspec.Struct, frozen=True):
    """An event of several protocols: a peer announced what it has, when the region itself had `here`."""

    peer: str
    vector: Mapping[str, int]
    here: Mapping[str, int]


class Forgotten(msgspec.Struct, frozen=True):
    """The operator says that this peer is gone for good, and what it alone held is, too."""

    peer: str


class CountersRead(msgspec.Struct, frozen=True):
    """Durable counters: those that a protocol reads when it is opened."""

    counters: Mapping[str, int]


class WakeAt(msgspec.Struct, frozen=True):
    """Send `Woken` at this time. A later `WakeAt` of the same protocol takes its place."""

    at_s: float


class Woken(msgspec.Struct, frozen=True):
    """The time of the last `WakeAt` has come."""


class ReviewLinks(msgspec.Struct, frozen=True):
    """Links are to ask for other origins than before. Done at once."""


class ReadState(msgspec.Struct, frozen=True):
    """Read a protocol's durable state. Ends in `StateRead`."""

    space: str
    key: str


class StateRead(msgspec.Struct, frozen=True):
    """None where there is none."""

    value: bytes | None


class RenewLinks(msgspec.Struct, frozen=True):
    """Open every link anew; peers drop what they received of this region and have not stored. Done at once."""


class Trust(msgspec.Struct, frozen=True):
    """Let local writes into this history of the database, and into no other. Done at once."""

    history: str


class ReopenLinks(msgspec.Struct, frozen=True):
    """Ask these peers anew. Done at once."""

    peers: tuple[str, ...]


class Log(msgspec.Struct, frozen=True):
    """A warning for whoever operates the region. Done at once."""

    message: str


class RefreshPosition(msgspec.Struct, frozen=True):
    """Read the region's position from the store: another node may have moved it. Ends in `Refreshed`."""


class Refreshed(msgspec.Struct, frozen=True):
    """The region's position as the store has it, or later."""

    vector: Mapping[str, int]


class AwaitCovered(msgspec.Struct, frozen=True):
    """Wait until the region has seen the vector. Ends in `Covered`."""

    vector: Mapping[str, int]


class Covered(msgspec.Struct, frozen=True):
    """The region has seen the vector of the last `AwaitCovered`."""


class CompareHistories(msgspec.Struct, frozen=True):
    """Ask connected peers whether they know other entries under this region's numbers. Ends in `Compared`."""


class Compared(msgspec.Struct, frozen=True):
    """What is wrong with the region's history; empty for nothing."""

    fault: str


class RaiseCounters(msgspec.Struct, frozen=True):
    """Make counters at least so high, in this order. Ends in `CountersRaised`, once all are durable."""

    counters: Mapping[str, int]


class CountersRaised(msgspec.Struct, frozen=True):
    """They are durable."""

    counters: Mapping[str, int]


class Rewind(msgspec.Struct, frozen=True):
    """Go back to the position that the database is at. Ends in `Rewound`."""


class Rewound(msgspec.Struct, frozen=True):
    """The region stands where its database does, whose clock had come so far (unix milliseconds)."""

    clock_ms: int


class ReadHistory(msgspec.Struct, frozen=True):
    """Read which history the region has taken up. Ends in `HistoryRead`."""


class HistoryRead(msgspec.Struct, frozen=True):
    """The history that the region last took up, and its own positions."""

    taken_up: str
    own: Mapping[str, int]


class TakeUp(msgspec.Struct, frozen=True):
    """Record the history as taken up. Identifiers leap past `clock_ms`, and entries are numbered anew.

    Ends in `TakenUp`.
    """

    history: str
    clock_ms: int


class TakenUp(msgspec.Struct, frozen=True):
    """The history is recorded; the region's own positions are these."""

    own: Mapping[str, int]


class ReadHolders(msgspec.Struct, frozen=True):
    """Read who holds which lease. Ends in `HoldersRead`."""


class HoldersRead(msgspec.Struct, frozen=True):
    """lease → the node that holds it."""

    holders: Mapping[str, str]


class Lease(msgspec.Struct, frozen=True):
    """Hold these for so many seconds, unless other nodes do. Ends in `Leased`."""

    names: tuple[str, ...]
    for_s: float


class Leased(msgspec.Struct, frozen=True):
    """Of what was asked for, this node holds so much: lease → its generation."""

    asked: tuple[str, ...]
    held: Mapping[str, Generation]


class GiveBack(msgspec.Struct, frozen=True):
    """Hold these leases no longer. Ends in `GivenBack`."""

    names: tuple[str, ...]


class GivenBack(msgspec.Struct, frozen=True):
    """Other nodes may hold these."""

    names: tuple[str, ...]


class Claim(msgspec.Struct, frozen=True):
    """Hold this lease from now on, unless another node does. Ends in `Claimed`."""

    name: str


class Claimed(msgspec.Struct, frozen=True):
    """The generation in which this node holds the lease; None where another one does."""

    name: str
    generation: Generation | None


class Release(msgspec.Struct, frozen=True):
    """Hold what was claimed no longer. Ends in `Released`."""

    name: str


class Released(msgspec.Struct, frozen=True):
    """Another node may hold it."""

    name: str


class Commit(msgspec.Struct, frozen=True):
    """Make the step part of a transaction, and take note of a peer's stamp before. Ends in `Committed`.

    Nothing of it is committed, and it ends in `Failed`, once another node holds the lease of the `fence`.
    """

    step: Step
    stamp: int = 0
    fence: Fence | None = None


class Committed(msgspec.Struct, frozen=True):
    """The step is durable."""

    step: Step


class ReadSchemas(msgspec.Struct, frozen=True):
    """Ask the store by which declarations documents are shown. Ends in `SchemasRead`."""


class SchemasRead(msgspec.Struct, frozen=True):
    """As `Store.schemas`."""

    schemas: Mapping[str, str]


class Survey(msgspec.Struct, frozen=True):
    """Look at a protocol's state in the store, at a lease, and at the links. Ends in `Surveyed`."""

    state: tuple[str, str]
    """(space, key)."""
    lease: str


class Surveyed(msgspec.Struct, frozen=True):
    """What the store holds as the state, what the region has, which peers are connected."""

    state: bytes | None
    vector: Mapping[str, int]
    connected: frozenset[str]
    generation: Generation | None
    """Of the lease that was named; None where this node does not hold it."""


class AskPage(msgspec.Struct, frozen=True):
    """Ask a peer for a page of its snapshot. Ends in `PageReceived`; what the page holds was checked."""

    peer: str
    place: SnapshotPlace
    timeout_s: float


class PageReceived(msgspec.Struct, frozen=True):
    """A page of a peer's snapshot."""

    peer: str
    place: SnapshotPlace
    page: SnapshotReply
    digests: Mapping[Dot, bytes] = {}
    """Of the entries that it holds."""


class ScanKept(msgspec.Struct, frozen=True):
    """Read the next page that was kept aside, past a key. Ends in `KeptScanned`."""

    after: str


class KeptScanned(msgspec.Struct, frozen=True):
    """A page and its key; `round` is 0 where a page was removed, and the key is empty after the last one."""

    key: str
    round: int = 0
    peer: str = ""
    page: SnapshotReply | None = None


class OpenKept(msgspec.Struct, frozen=True):
    """Read what a page holds that was kept aside. Ends in `KeptOpened`."""

    number: int


class KeptOpened(msgspec.Struct, frozen=True):
    """What the page holds, in pieces for one commit each."""

    number: int
    pieces: tuple[SnapshotPage, ...]


class ReadParked(msgspec.Struct, frozen=True):
    """Read some parked changes past one. Ends in `ParkedRead`."""

    after: tuple[str, int, int] | None


class ParkedRead(msgspec.Struct, frozen=True):
    """Parked changes in their order; none after the last one."""

    page: tuple[Parked, ...]


class ScanKeys(msgspec.Struct, frozen=True):
    """Read some keys of a collection past one, deleted documents' too. Ends in `KeysScanned`."""

    collection: str
    after: str | None


class KeysScanned(msgspec.Struct, frozen=True):
    """Keys in their order; none after the last one."""

    keys: tuple[str, ...]


Snapshots = AskPage | ScanKept | OpenKept
Waited = (
    Snapshots
    | ReadParked
    | ScanKeys
    | Claim
    | Release
    | Commit
    | ReadSchemas
    | Survey
    | RefreshPosition
    | ReadState
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


class Failed(msgspec.Struct, frozen=True):
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
    | StateRead
    | CountersRaised
    | HistoryRead
    | TakenUp
    | HoldersRead
    | Leased
    | GivenBack
    | Claimed
    | Released
    | Committed
    | SchemasRead
    | Surveyed
    | PageReceived
    | KeptScanned
    | KeptOpened
    | ParkedRead
    | KeysScanned
    | Failed
)

State = TypeVar("State")
Next = tuple[State, tuple[Effect, ...]]
"""What a step returns: the state that follows, and what is to be done."""
