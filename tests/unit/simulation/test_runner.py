"""What the last look at a simulated deployment takes for a violation."""

from __future__ import annotations

import asyncio

import pytest

from atoll.documents.entry import decode_frames
from atoll.documents.mutation import Write, put_of
from atoll.simulation.application import built_in
from atoll.simulation.failures import SafetyViolation, Verdict
from atoll.simulation.journal import Journal
from atoll.simulation.runner import check_agreement, rules_of
from atoll.simulation.world import World
from atoll.testing import Cluster, simulated


def _world(**nodes: int) -> World:
    declared, verdict = built_in(), Verdict()
    cluster = Cluster(declared, ("frankfurt", "tokyo"), seed=1, nodes=nodes)
    cluster.start()
    return World(cluster, rules_of(declared), Journal(verdict), verdict)


async def _write(world: World, name: str) -> None:
    put = put_of(world.rules["profile"], name, b'{"name":"Ann"}')
    await world.cluster["frankfurt"].ask(lambda region: region.write(Write((put,))))


def test_a_node_that_is_late_is_waited_for() -> None:
    """Found by seed 990061227: an event was written between the moment that all agreed and the look."""

    async def scenario() -> None:
        world = _world(tokyo=2)
        cluster = world.cluster
        await asyncio.sleep(1)
        await cluster.settle(10)
        disk = cluster["tokyo"].disk
        disk.faults.untold, disk.trip_s = 1.0, 0.05
        late = next(node for node in cluster.of("tokyo") if not node.pulled)
        before = disk.store.positions()
        for name in ("ann", "bob"):
            await _write(world, name)
        frankfurt = cluster["frankfurt"].disk.store
        while disk.store.positions() != frankfurt.positions():  # noqa: ASYNC110 — virtual time
            await asyncio.sleep(0.01)
        region = cluster.region(late.name)
        assert region.vector == before
        start = frankfurt.journal_start(before, ["frankfurt"])
        for numbered in frankfurt.journal(start):
            region.intake.deliver(list(decode_frames(numbered.segment.body)), "frankfurt")
            await asyncio.sleep(0)  # its commit is under way
        assert region.intake.inbox
        await check_agreement(world, history=False)
        assert region.vector == frankfurt.positions()

    simulated(scenario)


def test_what_a_region_lost_waits_until_the_region_is_heard() -> None:
    """Found by seed 795932975: all agreed as soon as the cut between the two had ended."""

    async def scenario() -> None:
        world = _world()
        cluster = world.cluster
        await asyncio.sleep(1)
        cluster["frankfurt"].kernel_uncertainty_ms = 20  # a time service that is wrong vouches for it
        cluster["frankfurt"].clock.step(60_000)
        await _write(world, "ann")
        inbox = cluster.region("tokyo").intake.inbox
        while not inbox:  # noqa: ASYNC110 — virtual time
            await asyncio.sleep(0.01)
        cluster.lose_disk("frankfurt")
        cluster.partition(["frankfurt"], ["tokyo"])
        cluster.start("frankfurt")
        await cluster.settle(10)
        assert len(inbox) == 1
        cluster.heal()
        await check_agreement(world, history=False)
        assert not inbox

    simulated(scenario)


def test_what_waits_though_it_was_applied_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        world = _world()
        await asyncio.sleep(1)
        await _write(world, "ann")
        await world.cluster.settle(10)
        store = world.cluster["frankfurt"].disk.store
        (numbered, *_) = store.journal(0)
        inbox = world.cluster.region("tokyo").intake.inbox
        for encoded in decode_frames(numbered.segment.body):
            inbox.add(encoded, "frankfurt", {})
        with pytest.raises(SafetyViolation, match="nothing waits that has been applied"):
            await check_agreement(world, history=False)

    simulated(scenario)


def test_a_region_that_lost_its_disk_has_time_for_a_snapshot() -> None:
    """Found by seed 795938259: its 21 pages took 18 s, and after 15 s it was to take writes."""
    journal = Journal(Verdict())
    journal.patient = True
    assert journal.complete
    journal.replaced("tokyo", {}, "lost")
    assert not journal.complete
