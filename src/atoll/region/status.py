"""What a region reports of itself: for `/health/…`, `atoll status`, `/admin/status` and the metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
from msgspec import Meta

from atoll.causality import vector as vectors
from atoll.causality.origin import by_region, of_region, origin_of, region_of

if TYPE_CHECKING:
    from atoll.region.region import Region

Check = Literal["live", "ready", "serving", "reading"]
Count = Annotated[int, Meta(ge=0)]
Counts = dict[str, Count]


class LinkStatus(msgspec.Struct):
    connected: bool
    held: bool
    """Whether it is this node of the region that pulls."""
    since_ms: int | None
    lag_s: float | None
    propagation_p50_ms: float | None
    received_entries: Count
    received_bytes: Count
    relays: list[str]
    """Other origins whose entries come through the peer."""
    behind: Count
    """Entries of the peer's own that are not here."""
    round_trip_ms: float | None
    clock_offset_ms: float | None
    clock_error_ms: float | None
    refused: Count
    last_error: str | None


class InboxStatus(msgspec.Struct):
    entries: Count
    bytes: Count
    blocked_on: dict[str, Counts]
    """origin → what its next entry waits for."""
    held: str | None
    """Why entries are held back."""


class JournalStatus(msgspec.Struct):
    """As of the last round of truncation."""

    bytes: Count
    segments: Count
    oldest_ms: int | None
    truncated: Count
    """Segments that this node has removed."""


class ClockStatus(msgspec.Struct):
    earliest_ms: int
    """The time is not before this, in unix milliseconds."""
    latest_ms: int
    """Nor after this."""
    error_ms: Count
    """How far off the clock may be."""
    most_ms: Count
    """Past it the node takes no writes: `max_clock_offset_ms`."""
    kernel_ms: Count | None
    """The kernel's own bound on the error; None where no time service keeps the clock."""
    assumed: bool
    """Whether nothing proves the clock to be within `most_ms`."""
    agreed: bool
    """Whether most of the clocks that were compared can be right at once."""

    @property
    def error_s(self) -> float:
        return self.error_ms / 1000

    @property
    def synchronised(self) -> bool:
        return self.kernel_ms is not None


class Counted(msgspec.Struct):
    """Since the node's start."""

    writes: Count
    commits: Count
    reads: Count
    applied: Counts
    """By origin."""
    forwarded: Count
    parked: Count
    rights_requests: Count
    """Times that a peer was asked for rights, since a write ran short."""
    rights_ahead: Count
    """Times that rights came here ahead of need."""
    degraded: Counts
    """Answers that a fallback gave: by `read` or `write`, and the fallback, with a slash between them."""
    token_waits: Count
    invalid_traces: Count
    snapshots: Count
    conflicts: Counts
    """By collection and kind, with a slash between them."""
    events: Counts
    events_left_out: Count


class RegistersStatus(msgspec.Struct):
    """Strong documents that a majority of regions decides."""

    voting: bool
    """Whether the region's acceptors vote."""
    reason: str | None
    """Why they do not; or why they refused a proposal that counts other regions."""
    waits_for: list[str]
    """The regions whose promises they have yet to take over before they vote."""
    acceptors: list[str]
    """The regions that decide. They follow the atoll.toml of a majority, one region at a time."""
    changing: bool
    """Whether the last change of them is not complete: what the former ones have decided may lie there only."""
    cut_off: bool
    """Whether links say that no majority of regions can be asked from here: declared fallbacks are taken."""
    undecided: Count
    """Documents that this region wrote while it was cut off, and that no majority has decided yet."""
    proposals: Count
    lost: Count
    """Rounds of proposals that ended since acceptors had promised a higher ballot."""
    combined: Count
    """Changes that shared a proposal with one before them."""
    values: Count
    """Of a witness: documents whose latest values it keeps until all regions have them."""


class BuildStatus(msgspec.Struct):
    """A field that needs something which documents were written without: claims of its values, or counts."""

    field: str
    """`collection.field`."""
    kind: str
    """`unique`, or `references`."""
    state: str
    """`waiting` for regions, `building`, or `whole`."""
    waits_for: list[str]
    """Regions that do not know the declaration yet."""
    looked: Count
    """Documents that were looked at."""
    conflicts: Count
    """Documents that wait for a person."""


class CounterRights(msgspec.Struct):
    collection: str
    key: str
    field: str
    left: Count
    """Rights of all regions together, as far as is known here."""
    held: Counts
    """The same by region."""
    spent_per_s: dict[str, float]
    """How fast each region spends them at present."""
    lasts_s: float | None
    """How long this region's rights last at that speed; None while it spends none."""


class HeirStatus(msgspec.Struct):
    """A region that has left, and who has its rights in bounded counters."""

    region: str
    heir: str
    waits_for: list[str]
    """Regions that have yet to say how far they have come of it. Nobody spends its rights before."""


class RightsStatus(msgspec.Struct):
    """Bounded counters, of the documents that this node has seen written, or found at its start."""

    counters: Count
    exhausted: Count
    """Those that this region holds no right of, while another one does."""
    scarcest: list[CounterRights]
    """The ten that last for the shortest time here, and then those of which least is left."""
    heirs: list[HeirStatus]


class SagasStatus(msgspec.Struct):
    """As far as this node runs them."""

    running: bool
    """Whether it is this node of the region that runs sagas."""
    under_way: Count
    stuck: Count
    started: Count
    """Since the node's start."""
    ended: Counts
    """By status, since the node's start; those that got stuck among them."""


class RegionStatus(msgspec.Struct):
    region: str
    regions: list[str]
    witnesses: list[str]
    """Regions that vote, and hold no documents: they are not among `regions`."""
    serving: bool
    out_of_service: str | None
    warnings: list[str]
    caught_up: bool
    position: Counts
    """Region → how many of its entries are here."""
    vector: Counts
    """The same by origin, which tells the incarnations of a region apart."""
    uncertainty_ms: float
    """Half-width of what most clocks say, as stamped on entries."""
    clock: ClockStatus
    loop_stall_s: float
    links: dict[str, LinkStatus]
    inbox: InboxStatus
    journal: JournalStatus
    sagas: SagasStatus
    registers: RegistersStatus | None
    """None where no collection is decided by a majority."""
    builds: list[BuildStatus]
    """Unique fields, and references, that were declared when there were documents already."""
    rights: RightsStatus | None
    """None where no collection has bounded counters of which regions hold rights."""
    counted: Counted


def health_of(region: Region, check: Check) -> str | None:
    """Why the node is not live, ready, serving or reading; None when it is."""
    match check:
        case "live":
            return None
        case "ready":
            held = region.intake.held
            told = (
                "not caught up with its peers yet"
                if held is None
                else f"entries are held back: {held.message}"
            )
            return None if caught_up(region) else told
        case "serving":
            return region.gates.closed
        case "reading":
            return region.gates.reads_closed


def caught_up(region: Region) -> bool:
    """Whether each peer that can be reached has been heard and nothing it had then is missing."""
    here = region.vector
    statuses = [link.status for link in region.links.values()]
    reachable = [status for status in statuses if status.connected]
    return (
        region.gates.whole
        and all(status.since_ms for status in statuses)
        and all(vectors.descends(here, of_region(s.advertised, s.peer)) for s in reachable)
        and all(vectors.descends(here, of_region(s.advertised, region.name)) for s in reachable)
    )


def status_of(region: Region) -> RegionStatus:
    """Without a look into the store."""
    inbox, closed = region.intake.inbox, region.gates.closed
    kept, held = region.truncation, region.intake.held
    return RegionStatus(
        region=region.name,
        regions=list(region.regions),
        witnesses=list(region.membership.witnesses),
        serving=closed is None,
        out_of_service=closed,
        warnings=[
            *filter(None, [region.store.warning, region.commit_wait.warning()]),
            *region.clocks.warnings(),
            *region.inheritance.warnings(),
        ],
        caught_up=caught_up(region),
        position=by_region(region.vector),
        vector=region.vector,
        uncertainty_ms=region.clocks.uncertainty_ms,
        clock=_clock(region),
        loop_stall_s=region.statistics.loop_stall_s,
        links={peer: _link(region, peer) for peer in sorted(region.links)},
        inbox=InboxStatus(
            entries=len(inbox),
            bytes=inbox.size_bytes,
            blocked_on=inbox.blocked_on(region.vector),
            held=None if held is None else held.message,
        ),
        journal=JournalStatus(
            bytes=kept.extent.size_bytes,
            segments=kept.extent.segments,
            oldest_ms=kept.oldest_ms,
            truncated=kept.truncated,
        ),
        registers=_registers(region) if region.registers.any or region.witness else None,
        builds=[BuildStatus(*each) for each in region.building.report()],
        rights=_rights(region) if region.rights.any else None,
        sagas=_sagas(region),
        counted=_counted(region),
    )


def _clock(region: Region) -> ClockStatus:
    found = region.clocks.find()
    interval, bound = found.bound.interval(found.at_ms), found.bound
    return ClockStatus(
        earliest_ms=interval.earliest,
        latest_ms=interval.latest,
        error_ms=bound.error_ms,
        most_ms=region.options.max_clock_offset_ms,
        kernel_ms=found.kernel_ms,
        assumed=bound.assumed,
        agreed=bound.agreed,
    )


def _link(region: Region, peer: str) -> LinkStatus:
    status, now_ms = region.links[peer].status, region.now_ms()
    offset = region.clocks.offset(peer)
    return LinkStatus(
        connected=status.connected,
        held=region.holds(peer),
        since_ms=status.since_ms,
        lag_s=region.freshness.lag_s(peer, now_ms),
        propagation_p50_ms=region.statistics.propagation_p50_ms(peer),
        received_entries=status.received_entries,
        received_bytes=status.received_bytes,
        relays=sorted({*map(region_of, status.relays)} - {region.name}),
        behind=sum(
            max(0, seq - region.vector.get(origin, 0))
            for origin, seq in of_region(status.advertised, peer).items()
        ),
        round_trip_ms=None if offset is None else offset.round_trip_ms,
        clock_offset_ms=None if offset is None else offset.offset_ms,
        clock_error_ms=None if offset is None else offset.error_ms,
        refused=status.refused,
        last_error=status.last_error,
    )


def _registers(region: Region) -> RegistersStatus:
    voting, counted = region.voting, region.statistics
    return RegistersStatus(
        voting=voting.closed is None,
        reason=voting.closed or voting.stranger,
        waits_for=voting.waits_for if voting.joining else [],
        acceptors=list(voting.members),
        changing=voting.set is not None and not voting.set.settled,
        undecided=region.registers.tentative.count,
        cut_off=not (region.witness or region.proposer.reaches_majority()),
        proposals=counted.proposals,
        lost=counted.proposals_lost,
        combined=counted.changes_combined,
        values=len(voting.held),
    )


def _rights(region: Region) -> RightsStatus:
    rights, heirs, waits_for = region.rights, region.inheritance.heirs, region.inheritance.waits_for
    return RightsStatus(
        counters=rights.counters,
        exhausted=rights.exhausted,
        scarcest=[
            CounterRights(
                collection=each.collection,
                key=each.key,
                field=each.field,
                left=each.left,
                held=dict(each.rights),
                spent_per_s=dict(each.spent_per_s),
                lasts_s=each.lasts_s,
            )
            for each in rights.scarcest()
        ],
        heirs=[
            HeirStatus(left, heirs.holder_of(origin_of(left, heirs.upto(left)))[0], waits_for(left))
            for left in sorted(heirs.spans)
        ],
    )


def _sagas(region: Region) -> SagasStatus:
    runner, driving = region.sagas.runner, region.sagas.driving
    return SagasStatus(
        running=runner.running,
        under_way=runner.under_way,
        stuck=len(driving.stuck),
        started=region.sagas.started,
        ended=dict(driving.ended),
    )


def _counted(region: Region) -> Counted:
    counted = region.statistics
    return Counted(
        writes=counted.writes,
        commits=counted.commits,
        reads=counted.reads,
        applied=dict(counted.entries_applied),
        forwarded=counted.forwarded,
        parked=counted.parked,
        rights_requests=region.writer.escrow.requests,
        rights_ahead=region.writer.escrow.ahead,
        degraded=dict(counted.degraded),
        token_waits=counted.token_waits,
        invalid_traces=counted.invalid_traces,
        snapshots=region.snapshot_install.state.completed,
        conflicts={f"{name}/{kind}": number for (name, kind), number in sorted(counted.conflicts.items())},
        events=dict(region.events.written),
        events_left_out=region.events.left_out,
    )
