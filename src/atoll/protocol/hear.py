"""What a step hears: how an effect ended, or that a time has come. See `protocol.ask`."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from atoll.causality.types import Dot
from atoll.commit.snapshot_page import SnapshotPage
from atoll.commit.work import Step
from atoll.errors import AtollError
from atoll.protocol.ask import Effect
from atoll.replication.messages import SnapshotReply
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


class Woken(msgspec.Struct, frozen=True):
    """The time of the last `WakeAt` has come."""


class Refreshed(msgspec.Struct, frozen=True):
    """The region's position as the store has it, or later."""

    vector: Mapping[str, int]


class Covered(msgspec.Struct, frozen=True):
    """The region has seen the vector of the last `AwaitCovered`."""


class Compared(msgspec.Struct, frozen=True):
    """What is wrong with the region's history; empty for nothing."""

    fault: str


class CountersRead(msgspec.Struct, frozen=True):
    """Durable counters: those that a protocol reads when it is opened."""

    counters: Mapping[str, int]


class CountersRaised(msgspec.Struct, frozen=True):
    """They are durable."""

    counters: Mapping[str, int]


class Rewound(msgspec.Struct, frozen=True):
    """The region stands where its database does, whose clock had come so far (unix milliseconds)."""

    clock_ms: int


class HistoryRead(msgspec.Struct, frozen=True):
    """The history that the region last took up, and its own position."""

    taken_up: str
    own: int


class TakenUp(msgspec.Struct, frozen=True):
    """The history is recorded; the region's own position is this."""

    own: int


class HoldersRead(msgspec.Struct, frozen=True):
    """lease → the node that holds it."""

    holders: Mapping[str, str]


class Leased(msgspec.Struct, frozen=True):
    """Of what was asked for, this node holds so much."""

    asked: tuple[str, ...]
    held: frozenset[str]


class GivenBack(msgspec.Struct, frozen=True):
    """Other nodes may hold these."""

    names: tuple[str, ...]


class Claimed(msgspec.Struct, frozen=True):
    """Whether this node holds the lease."""

    name: str
    granted: bool


class Released(msgspec.Struct, frozen=True):
    """Another node may hold it."""

    name: str


class Committed(msgspec.Struct, frozen=True):
    """The step is durable."""

    step: Step


class Surveyed(msgspec.Struct, frozen=True):
    """What the store says of collections, what the region has, which peers are connected."""

    schemas: Mapping[str, str]
    vector: Mapping[str, int]
    connected: frozenset[str]
    holds_lease: bool
    """The one that was named."""


class PageReceived(msgspec.Struct, frozen=True):
    """A page of a peer's snapshot."""

    peer: str
    page: SnapshotReply


class PositionsRead(msgspec.Struct, frozen=True):
    """peer → what it has now; only those that answered."""

    positions: Mapping[str, Mapping[str, int]]


class KeptScanned(msgspec.Struct, frozen=True):
    """A page and its key; `round` is 0 where a page was removed, and the key is empty after the last one."""

    key: str
    round: int = 0
    peer: str = ""
    page: SnapshotReply | None = None


class KeptOpened(msgspec.Struct, frozen=True):
    """What the page holds, in pieces for one commit each."""

    number: int
    pieces: tuple[SnapshotPage, ...]


class DigestsRead(msgspec.Struct, frozen=True):
    """(origin, seq) → digest; None where the journal does not hold it."""

    digests: Mapping[Dot, bytes | None]


class ParkedRead(msgspec.Struct, frozen=True):
    """Parked changes in their order; none after the last one."""

    page: tuple[Parked, ...]


class KeysScanned(msgspec.Struct, frozen=True):
    """Keys in their order; none after the last one."""

    keys: tuple[str, ...]


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
