"""Bugs that were put in on purpose: the simulator finds each within the stated number of seeds."""

from __future__ import annotations

import asyncio
import contextlib
import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from atoll.causality.clock import HybridLogicalClock
from atoll.causality.vector import descends
from atoll.commit import draft
from atoll.commit.batch import Batch
from atoll.conflicts import records
from atoll.documents import document, register, strategies
from atoll.documents.entry import EncodedEntry, decode_frames
from atoll.documents.mutation import Write
from atoll.documents.register import Version
from atoll.documents.registers import Registers
from atoll.errors import AtollError, HostileEntry, Indefinite, StoreUnreachable
from atoll.lattices import bounded_counter, counter
from atoll.lattices.counter import CounterLattice
from atoll.ownership.ownership import Ownership
from atoll.region import snapshot_pages, writer
from atoll.region.intake import Intake
from atoll.region.progress import Progress
from atoll.region.reader import Reader
from atoll.region.region import Region
from atoll.region.timeline import Timeline
from atoll.region.truncation import Truncation
from atoll.region.waits import Waits
from atoll.region.writer import Writer
from atoll.replication import snapshot
from atoll.replication.inbox import Inbox
from atoll.replication.link import Link, LinkOptions
from atoll.replication.messages import SnapshotReply
from atoll.simulation.plan import Fault, Plan, draw
from atoll.simulation.shrinking import Cut
from atoll.store.memory.tables import MemoryTables
from atoll.store.port import Commit, Row
from atoll.store.sqlite import database as sqlite_database
from atoll.testing.cluster import Cluster
from atoll.testing.disk import MountedTransaction, SimulatedDisk
from atoll.testing.virtual_time import Life

from .planting import (
    Patch,
    Plant,
    as_drawn,
    busy,
    cut_soon,
    is_found,
    is_no_bug_by_itself,
    no_incarnation,
    planting,
)

PLANTS: dict[str, Plant] = {}
plant = planting(PLANTS)


def lying_disks(cluster: Cluster) -> None:
    for node in cluster.nodes.values():
        node.disk.faults.lying = True
        node.disk.faults.kill_after = 0.02


_CLUSTERS: list[Cluster] = []


def sending_early(cluster: Cluster) -> None:
    _CLUSTERS[:] = [cluster]
    for node in cluster.nodes.values():
        node.disk.faults.kill_before = 0.01


def coarse_clocks(cluster: Cluster) -> None:
    """Clocks that are exactly alike and tick ten times a second, so that stamps tie."""
    for node in cluster.nodes.values():
        node.clock.set_right()
        exact = node.clock.__call__
        node.clock = _Coarse(node.clock, exact)  # type: ignore[assignment]


class _Coarse:
    def __init__(self, clock: Any, exact: Callable[[], int]) -> None:
        self._clock, self._exact = clock, exact

    def __call__(self) -> int:
        return self._exact() // 100 * 100

    def __getattr__(self, name: str) -> Any:
        return (
            (lambda **offset: self._clock.set_right()) if name == "set_right" else getattr(self._clock, name)
        )


def full_disks(cluster: Cluster) -> None:
    for node in cluster.nodes.values():
        node.disk.faults.failing = 0.05


def torn_files(plan: Plan) -> Plan:
    return replace(plan, files=True)


def tearing(cluster: Cluster) -> None:
    for node in cluster.nodes.values():
        node.disk.faults.tear = 0.02


def small_inboxes(plan: Plan) -> Plan:
    """Seeds from 33 on, where entries have to go a long way round."""
    plan = Cut(workloads=plan.workloads).apply(draw(plan.seed + 33))
    options = replace(plan.options, link=LinkOptions(inbox_bytes=600))
    return replace(plan, options=options, mean_s=0.04, clients=3, duration_s=5.0, trips_s={}, files=False)


def far_apart(plan: Plan) -> Plan:
    """Five regions, a second's round trip between any two, and nothing goes wrong."""
    regions = ("frankfurt", "mumbai", "oregon", "tokyo", "virginia")
    return replace(
        plan,
        regions=regions,
        one_way_s={
            (a, b): 0.2 + 0.03 * (i + j) for i, a in enumerate(regions) for j, b in enumerate(regions)
        },
        offsets_ms=dict.fromkeys(regions, 0),
        drifts_ppm=dict.fromkeys(regions, 0),
        trips_s={},
        versions={},
        files=False,
        faults=(),
        detour=(),
    )


def losing_what_waits(plan: Plan) -> Plan:
    """A region loses its disk while a peer holds entries of it that wait for a third region's."""
    lost, third, peer = regions = ("frankfurt", "tokyo", "virginia")
    delays = {(a, b): 0.2 if {a, b} == {third, peer} else 0.01 for a in regions for b in regions if a != b}
    return replace(
        plan,
        regions=regions,
        one_way_s=delays,
        offsets_ms=dict.fromkeys(regions, 0),
        drifts_ppm=dict.fromkeys(regions, 0),
        clients=3,
        mean_s=0.04,
        duration_s=7.0,
        trips_s={},
        faults=(
            Fault("one_way", 1.5, 3.5, (third, peer)),
            Fault("lost_disk", 3.0, 3.2, (lost,)),
        ),
        detour=(),
    )


def in_a_line(plan: Plan) -> Plan:
    """Four regions, of which each reaches only its neighbours."""
    regions = ("frankfurt", "sydney", "tokyo", "virginia")
    cut = (("frankfurt", "sydney"), ("frankfurt", "tokyo"), ("tokyo", "virginia"))
    return replace(
        plan,
        regions=regions,
        one_way_s={(a, b): 0.02 for a in regions for b in regions if a != b},
        offsets_ms=dict.fromkeys(regions, 0),
        drifts_ppm=dict.fromkeys(regions, 0),
        trips_s={},
        duration_s=12.0,
        faults=tuple(
            Fault("one_way", 1.0, 12.0, pair) for one, other in cut for pair in ((one, other), (other, one))
        ),
        detour=cut,
    )


def between_two(plan: Plan) -> Plan:
    """Two regions, close by, that write a lot."""
    regions = ("frankfurt", "tokyo")
    return replace(
        plan,
        regions=regions,
        one_way_s={(a, b): 0.02 for a in regions for b in regions if a != b},
        offsets_ms=dict.fromkeys(regions, 0),
        drifts_ppm=dict.fromkeys(regions, 0),
        trips_s={},
        clients=3,
        mean_s=0.05,
        duration_s=6.0,
        faults=(),
        detour=(),
        files=False,
    )


def damaging(cluster: Cluster) -> None:
    """Until it is healed, one path damages every other piece."""
    source, target = next(cluster.pairs())
    cluster.network.path(source, target).corrupt = 0.5


@plant(
    "position without data", workloads=("counters",), seeds=3, found_by=("position moves with its entries",)
)
def position_without_data(patch: Patch) -> None:
    honest = Batch.commit

    def commit(self: Batch) -> Commit:
        made = honest(self)
        if len(made.segments) > 1:
            made.segments.pop()
        return made

    patch.setattr(Batch, "commit", commit)


@plant(
    "acknowledged before durable",
    workloads=("counters",),
    seeds=3,
    found_by=(
        "an acknowledged write is durable",
        "sequence numbers are used once",
    ),
)
def acknowledge_before_durable(patch: Patch) -> None:
    honest = SimulatedDisk.commit

    def commit(self: SimulatedDisk, life: Life, commit: Commit) -> None:
        asyncio.get_running_loop().call_later(0.05, honest, self, life, commit)

    patch.setattr(SimulatedDisk, "commit", commit)


@plant(
    "sent before it is durable",
    workloads=("counters",),
    seeds=12,
    found_by=("nothing leaves before it is durable",),
    prepare=sending_early,
)
def sent_before_durable(patch: Patch) -> None:
    """What a commit holds is given to a peer before the disk has it: see `sending_early`."""
    honest = SimulatedDisk.commit

    def commit(self: SimulatedDisk, life: Life, commit: Commit) -> None:
        own = [segment for segment in commit.segments if segment.origin == self.region]
        for peer in _CLUSTERS[0].nodes.values():
            if peer.name != self.region and peer.region is not None and peer.life is not None:
                for segment in own:
                    peer.life.run(peer.region.deliver, list(decode_frames(segment.body)), self.region)
        honest(self, life, commit)

    patch.setattr(SimulatedDisk, "commit", commit)


@plant(
    "a disk that does not sync",
    workloads=("counters",),
    seeds=4,
    found_by=("what is durable survives a crash",),
    prepare=lying_disks,
)
def disk_without_sync(patch: Patch) -> None:
    """The disk says that it has synced, and a crash shows that it has not: see `lying_disks`."""


@plant(
    "a database that does not sync",
    workloads=("counters",),
    seeds=4,
    found_by=("what is durable survives a crash",),
    prepare=tearing,
    alter=torn_files,
)
def database_without_sync(patch: Patch) -> None:
    """SQLite is told not to wait for the disk, and so a crash tears what was acknowledged."""
    honest = sqlite_database.connect

    def connect(*args: Any, **options: Any) -> Any:
        connection = honest(*args, **options)
        connection.pragma("synchronous", "OFF")
        return connection

    patch.setattr(sqlite_database, "connect", connect)


@plant(
    "tombstone dropped",
    workloads=("traffic",),
    seeds=6,
    found_by=(
        "documents converge",
        "merge states converge",
        "a read shows what its region has seen",
    ),
)
def tombstone_dropped(patch: Patch) -> None:
    honest = document.encode_row

    def encode_row(rules: Any, state: Any) -> Row:
        row = honest(rules, state)
        return row if row.value is not None else honest(rules, document.Document({}, {}))

    patch.setattr(document, "encode_row", encode_row)


@plant(
    "tombstone's context dropped",
    workloads=("traffic",),
    seeds=6,
    found_by=(
        "merge states converge",
        "a read shows what its region has seen",
    ),
)
def tombstone_context_dropped(patch: Patch) -> None:
    honest = document.delta_of

    def delta_of(*args: Any) -> Any:
        state = honest(*args)
        for name, (version, *_) in state.registers.items():
            if version.value is None:
                state.registers[name] = (Version(*[*_fields(version)[:5], {}, None]),)
        return state

    patch.setattr(document, "delta_of", delta_of)


def _fields(version: Version) -> list[Any]:
    return [getattr(version, name) for name in version.__struct_fields__]


@plant(
    "context ignored",
    workloads=("posts",),
    seeds=6,
    found_by=("an entry comes after what its writer had seen",),
)
def context_ignored(patch: Patch) -> None:
    def ready(self: Inbox, vector: Mapping[str, int], limit: int, *rest: Any) -> list[EncodedEntry]:
        taken: list[EncodedEntry] = []
        for origin, waiting in sorted(self._waiting.items()):
            seq = vector.get(origin, 0) + 1
            while seq in waiting:
                found = waiting.pop(seq)
                self._bytes[found.link] -= len(found.encoded.frame)
                taken.append(found.encoded)
                seq += 1
        return taken

    def apply(self: Batch, encoded: EncodedEntry) -> None:
        self.clock.update(encoded.entry.stamp)
        self._append(encoded.entry, encoded.frame)

    patch.setattr(Inbox, "ready", ready)
    patch.setattr(Batch, "apply", apply)


@plant(
    "no tie-break",
    workloads=(
        "traffic",
        "batches",
    ),
    seeds=6,
    prepare=coarse_clocks,
    found_by=("documents converge", "merge states converge"),
)
def no_tie_break(patch: Patch) -> None:
    patch.setattr(register, "canonical_order", lambda version: version.stamp)
    patch.setattr(strategies, "canonical_order", lambda version: version.stamp)


@plant(
    "fold in order of arrival",
    workloads=("traffic",),
    seeds=6,
    found_by=(
        "documents converge",
        "merge states converge",
        "a read shows what its region has seen",
    ),
)
def fold_in_order_of_arrival(patch: Patch) -> None:
    patch.setattr(register, "canonical_order", lambda version: 0)


@plant(
    "rights transferred twice",
    workloads=("inventory",),
    seeds=16,
    found_by=(
        "a counter is the sum of its increments",
        "a bounded counter stays above its bound",
    ),
)
def rights_spent_twice(patch: Patch) -> None:
    def held(state: Any, origin: str) -> int:
        used, grants = state.get(origin, (0, {}))
        own = grants.get(origin, 0) - used
        return max(0, own + sum(row[1].get(origin, 0) for other, row in state.items() if other != origin))

    patch.setattr(bounded_counter, "_held", held)


@plant(
    "token compared as one number",
    workloads=("sessions",),
    seeds=6,
    found_by=(
        "a session reads what it has seen",
        "writes follow reads and earlier writes",
    ),
)
def token_as_one_number(patch: Patch) -> None:
    honest = Waits.wait_for

    async def wait_for(self: Waits, token: Mapping[str, int], max_wait_s: float | None = None) -> bool:
        if sum(self._group_commit.progress.vector.values()) >= sum(token.values()):
            return True
        return await honest(self, token, max_wait_s)

    patch.setattr(Waits, "wait_for", wait_for)


@plant("applied twice", workloads=("counters",), seeds=4, found_by=("each entry is applied exactly once",))
def applied_twice(patch: Patch) -> None:
    honest = Batch.apply

    def apply(self: Batch, encoded: EncodedEntry) -> None:
        honest(self, encoded)
        if encoded.entry.seq % 7 == 0:
            self._append(encoded.entry, encoded.frame)

    patch.setattr(Batch, "apply", apply)


@plant("lost wake-up", workloads=("sessions",), seeds=4, found_by=("a session's read is served in time",))
def lost_wake_up(patch: Patch) -> None:
    async def covered(self: Progress, vector: Mapping[str, int]) -> None:
        if not descends(self.vector, vector):
            await asyncio.get_running_loop().create_future()

    patch.setattr(Progress, "covered", covered)


@plant(
    "clock goes back",
    workloads=("counters",),
    seeds=8,
    found_by=(
        "stamps of a region rise",
        "a stamp exceeds those its writer had seen",
    ),
)
def clock_goes_back(patch: Patch) -> None:
    def now(self: HybridLogicalClock) -> int:
        self.last = self.physical() << 16
        return self.last

    patch.setattr(HybridLogicalClock, "now", now)


@plant(
    "one kind of conflict not recorded",
    workloads=("traffic",),
    seeds=6,
    found_by=("every lost value is in the audit",),
)
def one_kind_not_recorded(patch: Patch) -> None:
    honest = records.open_records

    def open_records(*args: Any, **options: Any) -> Any:
        return {k: r for k, r in honest(*args, **options).items() if r.kind != "update_deleted"}

    patch.setattr(records, "open_records", open_records)


@plant(
    "resolved records not carried",
    workloads=("traffic",),
    seeds=6,
    found_by=("every lost value is in the audit",),
)
def resolved_not_carried(patch: Patch) -> None:
    honest = draft.Draft.change
    patch.setattr(draft.Draft, "change", lambda self, resolved: honest(self, ()))


@plant(
    "the last resolver counts",
    workloads=("traffic",),
    seeds=40,
    found_by=("the audit is the same in every region",),
)
def last_resolver_counts(patch: Patch) -> None:
    honest = records.resolved_row
    patch.setattr(records, "resolved_row", lambda losing, known: honest(losing, {}))


@plant("retries count again", workloads=("retries",), seeds=4, found_by=("a retried write counts once",))
def retries_count_again(patch: Patch) -> None:
    honest = MemoryTables.remembered
    patch.setattr(MemoryTables, "remembered", lambda self, keys: {} if keys else honest(self, keys))


@plant(
    "counters take the last delta",
    workloads=("counters",),
    seeds=3,
    found_by=("a counter is the sum of its increments",),
)
def counters_take_the_last(patch: Patch) -> None:
    patch.setattr(CounterLattice, "merge", lambda self, state, delta: {**state, **delta})
    honest = CounterLattice._add

    def add(self: CounterLattice, state: Any, amount: int, actor: Any) -> Any:
        delta = honest(self, {}, amount, actor)
        return None if delta is None else delta

    patch.setattr(CounterLattice, "_add", add)


@plant(
    "half a commit",
    workloads=("traffic",),
    seeds=6,
    prepare=full_disks,
    found_by=(
        "the audit is the same in every region",
        "nothing is parked between equals",
        "documents converge",
        "a read shows what its region has seen",
    ),
    alter=busy,
)
def half_a_commit(patch: Patch) -> None:
    honest = MemoryTables.commit

    def commit(self: MemoryTables, commit: Commit) -> None:
        if self.refusal:
            reason, self.refusal = self.refusal, ""
            honest(self, Commit(documents=commit.documents))
            self.refusal = reason
        honest(self, commit)

    patch.setattr(MemoryTables, "commit", commit)


@plant(
    "owners ignored",
    workloads=("orders",),
    seeds=4,
    found_by=("a sharded document has one writer",),
)
def owners_ignored(patch: Patch) -> None:
    patch.setattr(Ownership, "of_write", lambda self, write, stored: None)


@plant(
    "the feed starts late",
    workloads=(
        "feed",
        "counters",
    ),
    seeds=4,
    found_by=(
        "the change feed is in causal order",
        "the change feed misses nothing",
    ),
)
def feed_starts_late(patch: Patch) -> None:
    honest = MemoryTables.journal_start
    patch.setattr(
        MemoryTables, "journal_start", lambda self, vector, origins: honest(self, vector, origins) + 1
    )


@plant(
    "what a deletion hides is not recorded",
    workloads=("traffic",),
    seeds=10,
    found_by=("every lost value is in the audit",),
)
def touch_forgotten(patch: Patch) -> None:
    patch.setattr(draft.Draft, "_touch", lambda self: None)


@plant(
    "relays through one peer",
    workloads=("counters",),
    seeds=12,
    found_by=("a cut between two that both reach a third stops nothing",),
    alter=in_a_line,
)
def relays_through_one_peer(patch: Patch) -> None:
    """Found by seed 2 of the first hundred: the one peer may be cut off as well."""

    def origins(self: Region, peer: str) -> tuple[str, ...]:
        down = [other for other, link in self.links.items() if other != peer and not link.status.connected]
        connected = [other for other, link in self.links.items() if link.status.connected]
        return (peer, self.name, *(down if not connected or peer == min(connected) else []))

    patch.setattr(Region, "origins", origins)


@plant(
    "a full inbox keeps the past out",
    workloads=(
        "traffic",
        "posts",
    ),
    seeds=3,
    found_by=("a cut between two that both reach a third stops nothing",),
    alter=small_inboxes,
)
def full_inbox_keeps_the_past_out(patch: Patch) -> None:
    """Found by seeds 2 and 11485: links stood at their bounds with what waited for what lay behind it."""

    async def backpressure(self: Intake, link: str, bytes_waiting: int) -> None:
        while self.inbox.bytes_of(link) >= bytes_waiting and not self._closed:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(future)
            await future

    patch.setattr(Intake, "backpressure", backpressure)


@plant(
    "ownership decided too early",
    workloads=("orders",),
    seeds=12,
    found_by=("a sharded document has one writer",),
)
def ownership_decided_too_early(patch: Patch) -> None:
    """Found by seeds 5 and 9: while a write waited for its session, the document came, and was another's."""

    async def write(self: Writer, write: Any, token: Any = None) -> Any:
        owner = await self._owner(write)
        if owner in (None, self._region):
            return await self._write_here(write, token)
        return await self._ask(owner, write, self._options.peer_timeout_s, token)

    patch.setattr(Writer, "write", write)
    patch.setattr(Ownership, "admit", lambda self, write, stored: None)


@plant(
    "links start each other over and over",
    workloads=("freshness", "posts"),
    seeds=60,
    found_by=("bounded reads are served on a healthy network", "links stay up on a healthy network"),
    alter=far_apart,
)
def reviewed_by_what_has_come(patch: Patch) -> None:
    """Found by seed 2103: a link that was just being opened anew was started over whenever another came up."""

    def review(self: Link) -> None:
        if self.status.connected and self._origins(self._peer) != (self._peer, *self.status.relays):
            self._again.set()

    patch.setattr(Link, "review", review)


@plant(
    "a damaged length is waited for",
    workloads=("counters",),
    seeds=40,
    found_by=(
        "healed regions agree in time",
        "a cut between two that both reach a third stops nothing",
    ),
    prepare=damaging,
    alter=between_two,
)
def header_unchecked(patch: Patch) -> None:
    """Found by seed 5261: a bit of a frame's length was changed, and the link stood there, up and silent."""
    patch.setattr(zlib, "crc32", lambda data: 0)


@plant(
    "an empty store numbers on under the first incarnation",
    workloads=("counters", "traffic"),
    seeds=12,
    found_by=("an entry is the same in every region", "sequence numbers are used once"),
    alter=losing_what_waits,
)
def numbers_used_again(patch: Patch) -> None:
    no_incarnation(patch)


@plant(
    "bounds of a request not checked",
    workloads=("mistakes",),
    seeds=4,
    found_by=("bad input changes nothing",),
)
def bounds_unchecked(patch: Patch) -> None:
    patch.setattr(writer, "check_batch", lambda count: None)


@plant(
    "a defect in place of an error",
    workloads=("mistakes",),
    seeds=6,
    found_by=("bad input gets its own error", "bad input changes nothing"),
)
def defect_for_error(patch: Patch) -> None:
    patch.setattr(counter, "check_integer", lambda value, where: int(value.real))


@plant(
    "a refused write leaves its beginning",
    workloads=("mistakes",),
    seeds=6,
    found_by=(
        "bad input changes nothing",
        "a definite error means that nothing happened",
        "what is shown is what the history says",
    ),
)
def beginning_left(patch: Patch) -> None:
    honest = Batch.write

    def write(self: Batch, write: Write, *rest: Any) -> Any:
        try:
            return honest(self, write, *rest)
        except AtollError:
            if len(write.mutations) > 1:
                first = msgspec.structs.replace(write, mutations=write.mutations[:1], idempotency_key=None)
                with contextlib.suppress(AtollError):
                    honest(self, first, *rest)
            raise

    patch.setattr(Batch, "write", write)


@plant(
    "hostile values believed",
    workloads=("hostile", "traffic"),
    seeds=6,
    found_by=("hostile entries are taken alike everywhere", "nothing is parked between equals"),
    alter=busy,
)
def hostile_values_believed(patch: Patch) -> None:
    """Found by reading: numbers that can be skipped, but not decoded, made regions differ by order of arrival."""
    skipping = msgspec.json.Decoder(msgspec.Raw).decode

    def check_value(rules: Any, key: str, register: str, value: bytes) -> None:
        try:
            skipping(value)
        except (msgspec.DecodeError, RecursionError):
            raise HostileEntry("no JSON") from None

    patch.setattr(document, "check_value", check_value)


@plant(
    "registers without a use dropped",
    workloads=("hostile", "traffic"),
    seeds=8,
    found_by=(
        "merge states converge",
        "what is shown is what the history says",
        "the audit is the same in every region",
        "every lost value is in the audit",
    ),
    alter=busy,
)
def useless_registers_dropped(patch: Patch) -> None:
    """Found by reading: a touch of a simple document was kept by tombstones, and dropped by live documents."""
    honest = document.encode_row

    def encode_row(rules: Any, state: Any) -> Row:
        row = honest(rules, state)
        whole = state.registers.get("", ())
        if not rules.simple or row.value is None or len(whole) != 1:
            return row
        kept = msgspec.structs.replace(whole[0], value=document.ELSEWHERE)
        return document.row_of(whole[0].value, kept)

    patch.setattr(document, "encode_row", encode_row)


@plant(
    "resolved records believed",
    workloads=("hostile", "traffic"),
    seeds=6,
    found_by=(
        "hostile entries are taken alike everywhere",
        "the audit holds nothing else",
        "the audit is the same in every region",
    ),
    alter=busy,
)
def resolved_records_believed(patch: Patch) -> None:
    patch.setattr(records, "check_resolved", lambda losing, entry, change: None)


@plant(
    "an older put wipes out newer fields",
    workloads=("versions",),
    seeds=4,
    found_by=("old and new declarations lose no field",),
    alter=busy,
)
def newer_fields_wiped_out(patch: Patch) -> None:
    patch.setattr(document, "carried_over", lambda rules, shown, plain: plain)
    patch.setattr(draft, "carried_over", lambda rules, shown, plain: plain)


@plant(
    "unknown fields dropped",
    workloads=("versions",),
    seeds=4,
    found_by=(
        "a mergeable field shows all that was done to it",
        "documents converge",
        "merge states converge",
    ),
    alter=busy,
)
def unknown_fields_dropped(patch: Patch) -> None:
    patch.setattr(document, "unknown_part", lambda rules, change: None)


@plant(
    "unknown registers dropped",
    workloads=("versions",),
    seeds=6,
    found_by=("documents converge", "merge states converge", "a read shows what its region has seen"),
    alter=busy,
)
def unknown_registers_dropped(patch: Patch) -> None:
    honest = document.delta_of

    def delta_of(rules: Any, entry: Any, change: Any) -> Any:
        state = honest(rules, entry, change)
        known = {
            name for name in state.registers if name in ("", "~") or name.partition(".")[0] in rules.known
        }
        state.registers = Registers({name: state.registers[name] for name in known})
        return state

    patch.setattr(document, "delta_of", delta_of)


@plant(
    "what was parked stays parked",
    workloads=("versions",),
    seeds=4,
    found_by=("old and new declarations lose no field", "a read shows what its region has seen"),
    alter=busy,
)
def parked_for_ever(patch: Patch) -> None:
    patch.setattr(Batch, "reapply", lambda self, parked: None)


@plant(
    "documents not shown anew after an upgrade",
    workloads=("versions",),
    seeds=12,
    found_by=("documents converge", "a read shows what its region has seen"),
)
def not_shown_anew(patch: Patch) -> None:
    patch.setattr(Batch, "re_resolve", lambda self, address, recorded: None)


def far_databases(cluster: Cluster) -> None:
    for node in cluster.nodes.values():
        node.disk.trip_s = 0.1
        node.disk.faults.cut = 0.05


def with_broken_databases(plan: Plan) -> Plan:
    """Once regions have started, connections to their databases break again and again; nothing else goes wrong."""
    cuts = tuple(Fault("cut_database", 1.0, plan.duration_s, (name,), 0.1) for name in plan.regions)
    far = dict.fromkeys(plan.regions, 0.02)
    return replace(busy(plan), trips_s=far, faults=cuts, detour=())


@plant(
    "a read with another moment's vector",
    workloads=("counters", "traffic"),
    seeds=15,
    found_by=("a read shows what its region has seen", "a counter is the sum of its increments"),
    prepare=far_databases,
    alter=lambda plan: replace(plan, clients=3, mean_s=0.02),
)
def vector_of_another_moment(patch: Patch) -> None:
    honest = Reader.read_here

    async def read_here(self: Reader, collection: str, key: str) -> Any:
        return (await honest(self, collection, key))._replace(vector=self._group_commit.progress.vector)

    patch.setattr(Reader, "read_here", read_here)


@plant(
    "a commit in doubt is called undone",
    workloads=("counters",),
    seeds=6,
    found_by=("a definite error means that nothing happened",),
    alter=with_broken_databases,
)
def doubt_called_undone(patch: Patch) -> None:
    honest = MountedTransaction.commit

    async def commit(self: MountedTransaction, commit: Commit) -> None:
        try:
            await honest(self, commit)
        except Indefinite as error:
            raise StoreUnreachable(error.message) from None

    patch.setattr(MountedTransaction, "commit", commit)


@plant(
    "a commit in doubt is not looked up",
    workloads=("counters",),
    seeds=10,
    prepare=far_databases,
    found_by=(
        "every error has its class",
        "sequence numbers are used once",
        "each entry is applied exactly once",  # of others, whose position is not looked up either
        "healed regions agree in time",  # as above: it goes on before an entry that it lacks
    ),
    alter=busy,
)
def doubt_not_looked_up(patch: Patch) -> None:
    def take_up(self: Timeline, view: Any, known: Mapping[str, int]) -> None:
        view.positions = dict(self._progress.vector)

    patch.setattr(Timeline, "take_up", take_up)


@plant(
    "what came back meanwhile waits for ever",
    workloads=("counters", "traffic"),
    seeds=6,
    found_by=("nothing waits that has been applied",),
    prepare=far_databases,
)
def never_dropped(patch: Patch) -> None:
    """Found by seed 8: a peer sent a region's entries back before the region had heard that they were committed."""
    patch.setattr(Inbox, "drop", lambda self, origin, first, last: None)


def cut_patiently(plan: Plan) -> Plan:
    """Journals are cut at once, but for what a region lacks."""
    plan = cut_soon(plan)
    return replace(plan, options=replace(plan.options, journal_absent_s=3600.0))


@plant(
    "the journal is cut before all have it",
    workloads=("counters", "traffic"),
    seeds=4,
    found_by=("a journal keeps what a region lacks",),
    alter=cut_patiently,
)
def cut_too_early(patch: Patch) -> None:
    async def had_by(self: Truncation, peers: Any) -> int:
        return self.extent.tail

    patch.setattr(Truncation, "_had_by", had_by)


@plant(
    "what was cut is skipped in silence",
    workloads=("counters", "traffic"),
    seeds=8,
    found_by=("healed regions agree in time", "a cut between two that both reach a third stops nothing"),
    alter=cut_soon,
)
def skipped_in_silence(patch: Patch) -> None:
    patch.setattr(Region, "too_late", lambda self, peer, past: None)


@plant(
    "a snapshot is adopted before all pages are here",
    workloads=("counters", "traffic"),
    seeds=8,
    found_by=(
        "a counter is the sum of its increments",
        "a read shows what its region has seen",
        "documents converge",
        "merge states converge",
        "the audit is the same in every region",
    ),
    alter=cut_soon,
)
def adopted_too_early(patch: Patch) -> None:
    async def read_page(*args: Any, **options: Any) -> SnapshotReply:
        page = await snapshot.read_page(*args, **options)
        return msgspec.structs.replace(page, next=None)

    patch.setattr(snapshot_pages, "snapshot", _Changed(snapshot, read_page=read_page))


@plant(
    "a snapshot leaves tombstones out",
    workloads=("counters", "traffic"),
    seeds=8,
    found_by=("a read shows what its region has seen", "documents converge", "merge states converge"),
    alter=cut_soon,
)
def without_tombstones(patch: Patch) -> None:
    def open_page(page: SnapshotReply) -> snapshot.Content:
        content = snapshot.open_page(page)
        content.documents = [row for row in content.documents if row[1] is not None]
        return content

    patch.setattr(snapshot_pages, "snapshot", _Changed(snapshot, open_page=open_page))


class _Changed:
    """A module with something else in it."""

    def __init__(self, module: Any, **changed: Any) -> None:
        self._module = module
        self.__dict__.update(changed)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


@pytest.mark.parametrize("name", PLANTS)
def test_planted_bug_is_found(name: str, monkeypatch: Patch) -> None:
    is_found(PLANTS[name], monkeypatch)


HELPED = [
    name
    for name, planted in PLANTS.items()
    if planted.prepare not in (None, lying_disks) or planted.alter is not as_drawn
]


@pytest.mark.parametrize("name", HELPED)
def test_nothing_is_found_without_the_bug(name: str) -> None:
    """What some bugs are helped with, such as clocks that tie, breaks nothing by itself."""
    is_no_bug_by_itself(PLANTS[name])
