"""What a region asks of its peers: the port, and the messages that cross it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Literal, Protocol

import msgspec

from atoll.consensus.acceptor import Request, Vote
from atoll.consensus.acceptor_set import AcceptorSet, Counted
from atoll.consensus.claims import Claim
from atoll.consensus.decided import Intent, Placed
from atoll.consensus.outcome import Outcome
from atoll.consensus.references import Beside
from atoll.documents.mutation import Mutation, Receipt, Write
from atoll.replication.failure import Failure


class ReadCall(msgspec.Struct, array_like=True, frozen=True, tag="read"):
    """Read one document where a session's token is covered, or where it is owned."""

    collection: str
    key: str
    vector: dict[str, int]


class WriteCall(msgspec.Struct, array_like=True, frozen=True, tag="write"):
    """Commit a write in the region that may take it."""

    write: Write
    vector: dict[str, int] = {}
    """What the session had seen: the write must come after it."""
    id: bytes = b""
    """Of a change to a consensus register: proposed twice, it is made once."""
    by: str = ""
    """The region that forwards such a change."""
    doubted: int | None = None
    """Where another region may propose the change, too: a revision that the document had before it."""


class WritesCall(msgspec.Struct, array_like=True, frozen=True, tag="writes"):
    """Several changes of one consensus register, each on its own."""

    calls: tuple[WriteCall, ...]


class DigestCall(msgspec.Struct, array_like=True, frozen=True, tag="digest"):
    """Digests of one collection: of its buckets, or of the documents in one bucket."""

    collection: str
    bucket: int | None = None


class PingCall(msgspec.Struct, array_like=True, frozen=True, tag="ping"):
    """Compare clocks."""


class EntryCall(msgspec.Struct, array_like=True, frozen=True, tag="entry"):
    """Which entry the peer holds under a number."""

    origin: str
    seq: int


class HeldCall(msgspec.Struct, array_like=True, frozen=True, tag="held"):
    """What the peer holds durably, once it holds this, or after a while."""

    vector: dict[str, int]


class SagaCall(msgspec.Struct, array_like=True, frozen=True, tag="saga"):
    """Start a saga, or tell it something, in the region that runs it."""

    saga: str
    id: str
    order: Literal["start", "tell"]
    body: bytes
    """The fields of a start, or a command: JSON."""
    key: str | None = None
    """The idempotency key of a command."""


class SnapshotPlace(msgspec.Struct, array_like=True, frozen=True):
    """Where a page of a snapshot begins."""

    part: Literal["documents", "audit", "parked", "entries"] = "documents"
    collection: str = ""
    """Those before it, in the order of their names, are behind."""
    key: str | None = None
    """The last document before."""
    record: tuple[int, str] | None = None
    """The last conflict record before: (stamp_ms, id), from the newest on."""
    change: tuple[str, int, int] | None = None
    """The last parked change before."""
    since: dict[str, int] = {}
    """The entries before."""
    until: dict[str, int] = {}
    """The entries that are asked for."""


class SnapshotCall(msgspec.Struct, array_like=True, frozen=True, tag="snapshot"):
    """Ask for a page of all that the peer holds."""

    place: SnapshotPlace
    region: str
    """Who asks. It gets no section of an entry that it may not hold."""


class VoteCall(msgspec.Struct, array_like=True, frozen=True, tag="vote"):
    """Ask the peer's acceptors."""

    voters: dict[str, int]
    """Region → the incarnation of its acceptors that the proposer counts."""
    requests: tuple[Request, ...]
    set: AcceptorSet
    """Of which the proposer counts them."""

    @classmethod
    def of(cls, counted: Counted, *requests: Request) -> VoteCall:
        return cls(dict(counted.voters), requests, counted.set)


class JoinCall(msgspec.Struct, array_like=True, frozen=True, tag="join"):
    """Record that a region's acceptors begin anew, and hand out what the peer's own have promised and accepted."""

    region: str
    incarnation: int
    after: str | None = None
    """The last register of the page before."""
    set: AcceptorSet | None = None
    """The latest that it has heard of."""


class AcceptorsCall(msgspec.Struct, array_like=True, frozen=True, tag="acceptors"):
    """Say which acceptors are counted, and which ought to be."""

    set: AcceptorSet
    """The latest that the asker has heard of: it has been decided."""


class PlaceCall(msgspec.Struct, array_like=True, frozen=True, tag="place"):
    """Put the intent of a transaction on one register."""

    mutations: tuple[Mutation | Claim | Beside, ...]
    """Of one document."""
    intent: Intent
    """Without what the register becomes."""
    id: bytes = b""
    """Of the transaction, where it has an idempotency key: it is made once."""
    fingerprint: bytes = b""
    by: str = ""
    """The region that forwards it."""


class SettleCall(msgspec.Struct, array_like=True, frozen=True, tag="settle"):
    """Say what became of a transaction, and have its intents taken off these registers."""

    transaction: str
    outcome: Outcome
    registers: tuple[str, ...] = ()
    """Those that the peer proposes for."""
    over: bool = False
    """No intents are left, and nobody will ask again."""


class GoesOnCall(msgspec.Struct, array_like=True, frozen=True, tag="goes-on"):
    """Ask the region that began a transaction whether it may still commit."""

    transaction: str


class RelieveCall(msgspec.Struct, array_like=True, frozen=True, tag="relieve"):
    """A witness keeps what others should: have it where documents are, so that the witness need not keep it."""

    registers: tuple[str, ...] = ()
    """To be decided anew: then all regions hold their values."""
    transactions: tuple[tuple[str, bytes], ...] = ()
    """To be finished: their identifiers, and what the witness has accepted as their outcomes."""


Call = (
    ReadCall
    | WriteCall
    | WritesCall
    | DigestCall
    | PingCall
    | EntryCall
    | SnapshotCall
    | VoteCall
    | JoinCall
    | AcceptorsCall
    | PlaceCall
    | SettleCall
    | HeldCall
    | SagaCall
    | RelieveCall
    | GoesOnCall
)


class ReadReply(msgspec.Struct, array_like=True, frozen=True, tag="read"):
    value: bytes | None
    version: str
    vector: dict[str, int]


class WriteReply(msgspec.Struct, array_like=True, frozen=True, tag="write"):
    receipt: Receipt
    vector: dict[str, int]
    yours: bool = False
    """The region that forwarded it changes the register most: it should propose the next change itself."""


class WritesReply(msgspec.Struct, array_like=True, frozen=True, tag="writes"):
    replies: tuple[tuple[WriteReply | None, Failure | None], ...]
    """One for each call: what came of it."""


class DigestReply(msgspec.Struct, array_like=True, frozen=True, tag="digest"):
    count: int
    digests: dict[str, bytes]
    """bucket number or document key → digest"""


class PingReply(msgspec.Struct, array_like=True, frozen=True, tag="ping"):
    region: str
    now_ms: int
    fingerprint: str
    """Of the declared collections."""
    kernel_ms: int | None = None
    """How far off its clock is at most, by its kernel; None where that does not say."""


class EntryReply(msgspec.Struct, array_like=True, frozen=True, tag="entry"):
    digest: bytes | None
    """None where the journal does not hold it."""


class SnapshotReply(msgspec.Struct, array_like=True, frozen=True, tag="snapshot"):
    """A page. What it holds was read at some moment between `before` and `after`."""

    incarnation: tuple[int, int]
    """Differs once the peer's disk was replaced."""
    declared: dict[str, dict[str, str]]
    """collection → mergeable field → its kind."""
    before: dict[str, int]
    """What the peer had before it read the page, so that all of this is in it."""
    after: dict[str, int]
    """What it had afterwards: nothing of what comes later is in it."""
    clock: int
    """The highest stamp that it had seen then."""
    content: bytes
    """See `replication.snapshot`."""
    next: SnapshotPlace | None
    """Where to go on; None after the last page, and where the journal does not hold the entries that are asked for."""
    last: bytes | None = None
    """Digest of the peer's own last entry in `after`: tells it from another one that is given the same number."""
    revision: bytes = b""
    """Of the declarations that the peer shows its documents by; empty while none are numbered."""
    key: bytes = b""
    """Names the key under which `content` is sealed; empty where it is not."""


class VoteReply(msgspec.Struct, array_like=True, frozen=True, tag="vote"):
    voters: dict[str, int]
    """The incarnations that the peer has recorded, and its own."""
    votes: tuple[Vote, ...]
    """One for each request; none where the request counts on an acceptor as it is no more, or on another set."""
    set: AcceptorSet
    """That the peer has recorded."""


class JoinReply(msgspec.Struct, array_like=True, frozen=True, tag="join"):
    voting: bool
    """Whether the peer's own acceptors vote."""
    voters: dict[str, int]
    """The incarnations that the peer has recorded: one that comes back must know them, too."""
    registers: tuple[tuple[str, bytes], ...]
    """A page of them, in the order of their names."""
    more: bool
    forgotten: int = 0
    """What was promised at most for registers that are dropped: see `consensus.acceptor`."""
    set: AcceptorSet | None = None
    """The latest that the peer has heard of; None where it has heard of none."""
    named: tuple[str, ...] = ()
    """The regions that the peer's configuration names."""


class AcceptorsReply(msgspec.Struct, array_like=True, frozen=True, tag="acceptors"):
    set: AcceptorSet | None
    """As in `JoinReply`."""
    named: tuple[str, ...]
    """As in `JoinReply`."""
    moved: int
    """The epoch of the latest set that this region has moved to."""
    incarnation: int
    """Of the acceptor that has moved; -1 while it does not vote."""


class PlaceReply(msgspec.Struct, array_like=True, frozen=True, tag="place"):
    placed: Placed
    yours: bool = False
    """As in `WriteReply`."""


class SettleReply(msgspec.Struct, array_like=True, frozen=True, tag="settle"):
    """It is done."""


class HeldReply(msgspec.Struct, array_like=True, frozen=True, tag="held"):
    vector: dict[str, int]
    settled: bool
    """Whether nothing of the region's former incarnations is still to come to it."""


class SagaReply(msgspec.Struct, array_like=True, frozen=True, tag="saga"):
    document: bytes
    """Of the saga: JSON."""
    vector: dict[str, int]


class GoesOnReply(msgspec.Struct, array_like=True, frozen=True, tag="goes-on"):
    may: bool
    """False where nobody coordinates it: its outcome is decided, or only others can decide it."""
    sure: bool = True
    """Whether the region knows. Of several nodes one is asked, and another may coordinate it."""


class RelieveReply(msgspec.Struct, array_like=True, frozen=True, tag="relieve"):
    """It is under way."""


Reply = (
    ReadReply
    | WriteReply
    | WritesReply
    | DigestReply
    | PingReply
    | EntryReply
    | SnapshotReply
    | VoteReply
    | JoinReply
    | AcceptorsReply
    | PlaceReply
    | SettleReply
    | HeldReply
    | SagaReply
    | RelieveReply
    | GoesOnReply
)


class StreamRequest(msgspec.Struct, array_like=True, frozen=True):
    """Ask a peer for journal entries."""

    region: str
    """Who asks."""
    vector: dict[str, int]
    """What the asker has."""
    origins: tuple[str, ...]
    """Whose entries: a region stands for all its incarnations."""
    anew: bool = False
    """Whether the asker's database has lost commits: what is on its way from it, and not stored, is void."""
    numbers: str = ""
    """The origin under which the asker numbers its own entries."""


class Peers(Protocol):
    """The network, as a region sees it."""

    async def call(self, region: str, call: Call, *, timeout_s: float) -> Reply:
        """Ask one peer.

        Raises RegionUnreachable when it surely did not happen, Indefinite when it may have, and any
        AtollError that the peer answered with.
        """

    def stream(self, region: str, request: StreamRequest) -> AsyncGenerator[bytes, None]:
        """The peer's journal as a byte stream of `replication.wire` frames; ends when the link breaks.

        Raises RegionUnreachable.
        """
