"""Everything about a region at run time that can be chosen."""

from __future__ import annotations

from dataclasses import dataclass, field

from atoll.conflicts.guard import GuardOptions
from atoll.region.event_queue import EventLimits
from atoll.region.group_commit import GroupCommitOptions
from atoll.region.intake import IntakeOptions
from atoll.replication.link import LinkOptions
from atoll.schema.bounds import DOCUMENT_BYTES


@dataclass(frozen=True, slots=True)
class RegionOptions:
    max_wait_s: float = 1.0
    """A read waits so long here for its session's token, unless it says otherwise, before it goes elsewhere."""
    longest_wait_s: float = 30.0
    """No read may ask to wait longer."""
    commit_wait_s: float = 4.0
    """An acknowledgement waits so long until its order is certain. Less than what whoever forwards a write waits."""
    peer_timeout_s: float = 5.0
    """A call to a peer that is not answered by then may or may not have happened."""
    escrow_timeout_s: float = 3.0
    """A decrement that needs rights from peers gives up after this."""
    heartbeat_s: float = 0.2
    """An idle link says so this often; it bounds how well staleness is known."""
    ping_s: float = 2.0
    """How often clocks are compared with each peer's."""
    lease_s: float = 3.0
    """So long after a node of the region died another one pulls from the peers in its place."""
    saga_lease_s: float = 6.0
    """A region that cannot reach a majority stops running sagas so long after it last could, and another one takes them
    over soon after. It must be several times the most that clocks are off."""
    sagas_s: float = 30 * 24 * 3600.0
    """How long sagas are kept that are over."""
    sagas_round_s: float = 600.0
    """How often they are looked for."""
    housekeeping_s: float = 1.0
    """How often checkpoints run beside the writer; retention runs every 60th time."""
    max_clock_offset_ms: int = 500
    """Stamps further ahead than this are not accepted, and a node further off takes no writes."""
    require_synchronised_clocks: bool = False
    """Whether a node takes writes only while kernels prove that its clock is within that bound."""
    startup_check_s: float = 3.0
    """After a start a region waits at most so long, before its first write, to hear what its peers have of it."""
    document_bytes: int = DOCUMENT_BYTES
    """The largest document."""
    idempotency_s: float = 24 * 3600.0
    """How long the answer to an idempotency key is remembered."""
    audit_s: float = 30 * 24 * 3600.0
    """How long conflict records are kept; manual ones that wait for a person stay."""
    audit_most: int = 1_000_000
    """The most conflict records that are kept."""
    events_s: float = 30 * 24 * 3600.0
    """How long events are kept, counted back from the newest one."""
    events_most: int = 10_000
    """The most events that are kept; with 0 nothing is recorded."""
    events_round_s: float = 600.0
    """How often events are removed that are kept no longer."""
    events: EventLimits = field(default_factory=EventLimits)
    journal_s: float = 24 * 3600.0
    """How long journal entries are kept at least, for consumers of changes that are away."""
    journal_absent_s: float = 7 * 24 * 3600.0
    """A peer that was not heard for so long no longer keeps entries in the journal that it lacks."""
    journal_most_bytes: int | None = None
    """Past it entries go that are younger, or that a peer lacks which is not connected; None for no bound."""
    journal_round_s: float = 60.0
    """How often the journal is looked at, whether some of it may go."""
    purge_s: float = 10.0
    """How often what is over in documents is purged, where all regions have seen that; never with 0."""
    forget_s: float = 600.0
    """So long after a strong document was deleted its register is dropped, unless it remembers changes for longer.
    No message may take longer."""
    inherit_s: float = 600.0
    """So long after a region was taken out of the deployment another one becomes the heir of its rights. Until then a
    mistake can be put right."""
    founding: bool = False
    """Whether the deployment is new, so that an empty store has lost nothing: then entries are numbered under the first
    incarnation."""
    shares_store: bool = False
    """Whether the region may have several nodes, now or later."""
    read_leases: bool = True
    """Whether the node asks for leases (`read_lease_s`). Several nodes of a region would wait for each other's."""
    snapshot_grace_s: float = 1.0
    """When a peer's journal no longer holds what comes next here, another peer may bring it within this time."""
    snapshot_page_rows: int = 2000
    """The most documents, records or changes on one page of a snapshot."""
    snapshot_retry_s: float = 0.5
    """How long to wait before a page of a snapshot is asked for again."""
    group_commit: GroupCommitOptions = field(default_factory=GroupCommitOptions)
    intake: IntakeOptions = field(default_factory=IntakeOptions)
    link: LinkOptions = field(default_factory=LinkOptions)
    guard: GuardOptions = field(default_factory=GuardOptions)

    @property
    def alone(self) -> bool:
        """Whether the region has one node."""
        return self.read_leases or not self.shares_store


DEFAULT_OPTIONS = RegionOptions()
