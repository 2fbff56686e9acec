"""Bugs that were put in on purpose: the simulator finds each within the stated number of seeds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import pytest

from atoll.causality.clock import HybridLogicalClock
from atoll.causality.vector import descends
from atoll.conflicts import records
from atoll.core import document, draft, inbox, register
from atoll.core.batch import Batch
from atoll.core.entry import Framed
from atoll.core.inbox import Inbox
from atoll.core.register import Version
from atoll.lattices.bounded_counter import BoundedCounterLattice
from atoll.lattices.counter import CounterLattice
from atoll.region.door import Door
from atoll.region.ownership import Ownership
from atoll.region.region import Region
from atoll.simulation.plan import draw
from atoll.simulation.runner import Report, run
from atoll.simulation.shrinking import Cut
from atoll.store.memory import MemoryStore
from atoll.store.port import Commit, Row
from atoll.testing.cluster import Cluster
from atoll.testing.disk import MountedDisk

Patch = pytest.MonkeyPatch


class Plant(NamedTuple):
    """One bug: how to put it in, what to run, within how many seeds it must be found, and by which checker."""

    bug: Callable[[Patch], None]
    workloads: tuple[str, ...]
    seeds: int
    invariants: frozenset[str]
    prepare: Callable[[Cluster], None] | None = None


def position_without_data(patch: Patch) -> None:
    honest = Batch.commit

    def commit(self: Batch) -> Commit:
        made = honest(self)
        if len(made.segments) > 1:
            made.segments.pop()
        return made

    patch.setattr(Batch, "commit", commit)


def acknowledge_before_durable(patch: Patch) -> None:
    honest = MountedDisk.commit

    def commit(self: MountedDisk, commit: Commit) -> None:
        asyncio.get_running_loop().call_later(0.05, honest, self, commit)

    patch.setattr(MountedDisk, "commit", commit)


def disk_without_sync(patch: Patch) -> None:
    """The disk says that it has synced, and a crash shows that it has not: see `lying_disks`."""


def lying_disks(cluster: Cluster) -> None:
    for node in cluster.nodes.values():
        node.disk.faults.lying = True
        node.disk.faults.kill_after = 0.02


def tombstone_dropped(patch: Patch) -> None:
    honest = document.encode_row

    def encode_row(rules: Any, state: Any) -> Row:
        row = honest(rules, state)
        return row if row.value is not None else honest(rules, document.Document({}, {}))

    patch.setattr(document, "encode_row", encode_row)


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


def context_ignored(patch: Patch) -> None:
    def ready(self: Inbox, vector: Mapping[str, int], limit: int, *rest: Any) -> list[Framed]:
        taken: list[Framed] = []
        for origin, waiting in sorted(self._waiting.items()):
            seq = vector.get(origin, 0) + 1
            while seq in waiting:
                framed, link = waiting.pop(seq)
                self._bytes[link] -= len(framed.frame)
                taken.append(framed)
                seq += 1
        return taken

    def apply(self: Batch, framed: Framed) -> None:
        self._append(framed.entry, framed.frame)

    patch.setattr(Inbox, "ready", ready)
    patch.setattr(Batch, "apply", apply)


def no_tie_break(patch: Patch) -> None:
    patch.setattr(register, "canonical_order", lambda version: version.stamp)
    from atoll.conflicts import strategies

    patch.setattr(strategies, "canonical_order", lambda version: version.stamp)


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
        return (lambda **offset: None) if name == "set_right" else getattr(self._clock, name)


def fold_in_order_of_arrival(patch: Patch) -> None:
    patch.setattr(register, "canonical_order", lambda version: 0)


def rights_spent_twice(patch: Patch) -> None:
    def rights(self: BoundedCounterLattice, state: Any, region: str) -> int:
        used, grants = state.get(region, (0, {}))
        held = grants.get(region, 0) - used
        return max(0, held + sum(row[1].get(region, 0) for other, row in state.items() if other != region))

    patch.setattr(BoundedCounterLattice, "rights", rights)


def token_as_one_number(patch: Patch) -> None:
    honest = Region.wait_for

    async def wait_for(self: Region, token: Mapping[str, int], max_wait_s: float | None = None) -> bool:
        if sum(self.vector.values()) >= sum(token.values()):
            return True
        return await honest(self, token, max_wait_s)

    patch.setattr(Region, "wait_for", wait_for)


def applied_twice(patch: Patch) -> None:
    honest = Batch.apply

    def apply(self: Batch, framed: Framed) -> None:
        honest(self, framed)
        if framed.entry.seq % 7 == 0:
            self._append(framed.entry, framed.frame)

    patch.setattr(Batch, "apply", apply)


def lost_wake_up(patch: Patch) -> None:
    async def covered(self: Door, vector: Mapping[str, int]) -> None:
        if not descends(self.vector, vector):
            await asyncio.get_running_loop().create_future()

    patch.setattr(Door, "covered", covered)


def clock_goes_back(patch: Patch) -> None:
    def now(self: HybridLogicalClock) -> int:
        self.last = self.physical() << 16
        return self.last

    patch.setattr(HybridLogicalClock, "now", now)


def one_kind_not_recorded(patch: Patch) -> None:
    honest = records.standing

    def standing(*args: Any, **options: Any) -> Any:
        return {k: r for k, r in honest(*args, **options).items() if r.kind != "update_deleted"}

    patch.setattr(records, "standing", standing)


def settled_not_carried(patch: Patch) -> None:
    honest = draft.Draft.change
    patch.setattr(draft.Draft, "change", lambda self, settled: honest(self, ()))


def last_settler_counts(patch: Patch) -> None:
    honest = records.settled_row
    patch.setattr(records, "settled_row", lambda loser, known: honest(loser, {}))


def retries_count_again(patch: Patch) -> None:
    honest = MemoryStore.remembered
    patch.setattr(MemoryStore, "remembered", lambda self, keys: {} if keys else honest(self, keys))


def counters_take_the_last(patch: Patch) -> None:
    patch.setattr(CounterLattice, "merge", lambda self, state, delta: {**state, **delta})
    honest = CounterLattice._add

    def add(self: CounterLattice, state: Any, amount: int, actor: Any) -> Any:
        delta = honest(self, {}, amount, actor)
        return None if delta is None else delta

    patch.setattr(CounterLattice, "_add", add)


def half_a_commit(patch: Patch) -> None:
    honest = MemoryStore.commit

    def commit(self: MemoryStore, commit: Commit) -> None:
        if self.refusal:
            reason, self.refusal = self.refusal, ""
            honest(self, Commit(documents=commit.documents))
            self.refusal = reason
        honest(self, commit)

    patch.setattr(MemoryStore, "commit", commit)


def full_disks(cluster: Cluster) -> None:
    for node in cluster.nodes.values():
        node.disk.faults.failing = 0.05


def owners_ignored(patch: Patch) -> None:
    patch.setattr(Ownership, "of_write", lambda self, write: None)


def feed_starts_late(patch: Patch) -> None:
    honest = MemoryStore.journal_start
    patch.setattr(MemoryStore, "journal_start", lambda self, vector, origins: honest(self, vector, origins) + 1)


def relays_through_one_peer(patch: Patch) -> None:
    """Found by seed 2 of the first hundred: the one peer may be cut off as well."""

    def origins(self: Region, peer: str) -> tuple[str, ...]:
        down = [other for other, link in self.links.items() if other != peer and not link.status.connected]
        connected = [other for other, link in self.links.items() if link.status.connected]
        return (peer, self.name, *(down if not connected or peer == min(connected) else []))

    patch.setattr(Region, "_origins", origins)


def full_inbox_keeps_the_past_out(patch: Patch) -> None:
    """Found by seed 2: a link stood at its bound with entries that waited for what only it could bring."""
    patch.setattr(inbox.Inbox, "release", lambda self, link, origins: None)


def ownership_decided_too_early(patch: Patch) -> None:
    """Found by seeds 5 and 9: while a write waited for its session, the document came, and was another's."""
    honest = Region._catch_up

    async def catch_up(self: Region, write: Any, token: Any) -> None:
        if self.ownership.of_write(write) is not None or getattr(self, "_skip", False):
            await honest(self, write, token)

    async def write(self: Region, write: Any, token: Any = None) -> Any:
        owner = self.ownership.of_write(write)
        if owner in (None, self.name):
            await honest(self, write, token)
            return await self._write_here(write, token)
        return await self._ask(owner, write, self.options.peer_timeout_s, token)

    patch.setattr(Region, "write", write)


PLANTS = {
    "position without data": Plant(position_without_data, ("counters",), 3, frozenset({"position moves with its entries"})),
    "acknowledged before durable": Plant(acknowledge_before_durable, ("counters",), 3, frozenset({"an acknowledged write is durable", "sequence numbers are used once"})),
    "a disk that does not sync": Plant(disk_without_sync, ("counters",), 4, frozenset({"what is durable survives a crash"}), lying_disks),
    "tombstone dropped": Plant(tombstone_dropped, ("traffic",), 6, frozenset()),
    "tombstone's context dropped": Plant(tombstone_context_dropped, ("traffic",), 6, frozenset()),
    "context ignored": Plant(context_ignored, ("posts",), 6, frozenset({"an entry comes after what its writer had seen"})),
    "no tie-break": Plant(no_tie_break, ("traffic", "batches"), 6, frozenset(), coarse_clocks),
    "fold in order of arrival": Plant(fold_in_order_of_arrival, ("traffic",), 6, frozenset()),
    "rights spent twice": Plant(rights_spent_twice, ("inventory",), 6, frozenset({"a counter is the sum of its increments", "a bounded counter stays above its bound"})),
    "token compared as one number": Plant(token_as_one_number, ("sessions",), 6, frozenset({"a session reads what it has seen", "writes follow reads and earlier writes"})),
    "applied twice": Plant(applied_twice, ("counters",), 4, frozenset({"each entry is applied exactly once"})),
    "lost wake-up": Plant(lost_wake_up, ("inventory",), 6, frozenset({"rights can be gathered in one region"})),
    "clock goes back": Plant(clock_goes_back, ("counters",), 8, frozenset({"stamps of a region rise", "a stamp exceeds those its writer had seen"})),
    "one kind of conflict not recorded": Plant(one_kind_not_recorded, ("traffic",), 6, frozenset({"every lost value is in the audit"})),
    "settled records not carried": Plant(settled_not_carried, ("traffic",), 6, frozenset()),
    "the last settler counts": Plant(last_settler_counts, ("traffic",), 12, frozenset()),
    "retries count again": Plant(retries_count_again, ("retries",), 4, frozenset({"a retried write counts once"})),
    "counters take the last delta": Plant(counters_take_the_last, ("counters",), 3, frozenset({"a counter is the sum of its increments"})),
    "half a commit": Plant(half_a_commit, ("traffic",), 6, frozenset(), full_disks),
    "owners ignored": Plant(owners_ignored, ("orders",), 4, frozenset({"a sharded document has one writer", "a strong document has one writer", "a strong read sees what was acknowledged"})),
    "the feed starts late": Plant(feed_starts_late, ("feed", "counters"), 4, frozenset()),
    "relays through one peer": Plant(relays_through_one_peer, ("counters",), 12, frozenset({"a cut between two that both reach a third stops nothing"})),
    "a full inbox keeps the past out": Plant(full_inbox_keeps_the_past_out, ("traffic", "posts"), 60, frozenset({"a cut between two that both reach a third stops nothing"})),
    "ownership decided too early": Plant(ownership_decided_too_early, ("orders",), 12, frozenset({"a sharded document has one writer"})),
}  # fmt: skip


def _hunt(plant: Plant) -> Report | None:
    for seed in range(plant.seeds):
        plan = Cut(workloads=plant.workloads).apply(draw(seed))
        report = run(plan, prepare=plant.prepare)
        if report.failure is not None:
            return report
    return None


@pytest.mark.parametrize("name", PLANTS)
def test_planted_bug_is_found(name: str, monkeypatch: Patch) -> None:
    plant = PLANTS[name]
    plant.bug(monkeypatch)
    report = _hunt(plant)
    assert report is not None, f"not found within {plant.seeds} seeds"
    assert report.failure is not None
    assert not plant.invariants or report.failure.invariant in plant.invariants, str(report.failure)
