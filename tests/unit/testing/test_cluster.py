"""Simulated regions behave as real ones: what is acknowledged lasts, and errors say what is known."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from atoll.documents.mutation import Write, put_of
from atoll.errors import Indefinite, RegionUnreachable, StoreUnwritable
from atoll.region.region import Region
from atoll.replication.messages import PingCall, PingReply
from atoll.simulation.application import built_in
from atoll.testing import Cluster, NotSettled, simulated


def _put(name: str) -> Callable[[Region], Coroutine[Any, Any, Any]]:
    def write(region: Region) -> Coroutine[Any, Any, Any]:
        body = b'{"name":"' + name.encode() + b'"}'
        return region.write(Write((put_of(region.rules["profile"], "ann", body),)))

    return write


async def _started(*names: str) -> Cluster:
    cluster = Cluster(built_in(), names or ("frankfurt", "tokyo"), seed=1)
    cluster.start()
    await asyncio.sleep(1)
    return cluster


def test_what_was_acknowledged_survives_a_kill() -> None:
    async def scenario() -> None:
        cluster = await _started()
        await cluster["tokyo"].ask(_put("Ann"))
        cluster.restart("tokyo")
        await cluster.settle(10)
        assert cluster.shown("frankfurt") == {("profile", "ann"): b'{"name":"Ann","age":0}'}

    simulated(scenario)


def test_a_kill_before_the_commit_is_durable_keeps_nothing() -> None:
    async def scenario() -> None:
        cluster = await _started()
        cluster["tokyo"].disk.faults.kill_before = 1.0
        with pytest.raises(Indefinite):
            await cluster["tokyo"].ask(_put("Ann"))
        cluster.heal()
        await cluster.settle(10)
        assert cluster.shown("tokyo") == {}

    simulated(scenario)


def test_a_kill_after_it_keeps_all() -> None:
    async def scenario() -> None:
        cluster = await _started()
        cluster["tokyo"].disk.faults.kill_after = 1.0
        with pytest.raises(Indefinite):
            await cluster["tokyo"].ask(_put("Ann"))
        assert not cluster["tokyo"].running
        cluster.heal()
        await cluster.settle(10)
        assert len(cluster.shown("frankfurt")) == 1

    simulated(scenario)


def test_a_full_disk_takes_no_writes() -> None:
    async def scenario() -> None:
        cluster = await _started()
        cluster["tokyo"].disk.faults.refusal = "no space left"
        with pytest.raises(StoreUnwritable):
            await cluster["tokyo"].ask(_put("Ann"))

    simulated(scenario)


def test_a_partition_keeps_regions_apart() -> None:
    async def scenario() -> None:
        cluster = await _started()
        cluster.partition(["tokyo"])
        await cluster["tokyo"].ask(_put("Ann"))
        with pytest.raises(NotSettled, match="frankfurt misses"):
            await cluster.settle(5)

    simulated(scenario)


def test_a_call_whose_answer_is_lost_is_indefinite() -> None:
    async def scenario() -> None:
        cluster = await _started()
        cluster.network.path("frankfurt", "tokyo").loss = 1.0
        with pytest.raises(Indefinite):
            await cluster["tokyo"].ask(lambda region: region.site.ask("frankfurt", PingCall(), PingReply))

    simulated(scenario)


def test_a_region_that_is_down_is_unreachable() -> None:
    async def scenario() -> None:
        cluster = await _started()
        cluster.kill("frankfurt")
        with pytest.raises(RegionUnreachable):
            await cluster["tokyo"].ask(lambda region: region.site.ask("frankfurt", PingCall(), PingReply))
        with pytest.raises(RegionUnreachable):
            await cluster["frankfurt"].ask(_put("Ann"))

    simulated(scenario)


def test_clocks_step_and_are_set_right() -> None:
    async def scenario() -> None:
        cluster = await _started()
        clock = cluster["tokyo"].clock
        clock.step(-5000)
        assert clock.offset_ms == -5000
        clock.set_right(offset_ms=7)
        assert clock.offset_ms == 7

    simulated(scenario)


def test_a_node_far_from_its_database_is_not_overtaken_for_ever() -> None:
    """Found by seed 795932099: of its transactions each was lost to nodes that are near."""

    async def scenario() -> None:
        cluster = Cluster(built_in(), ("frankfurt", "tokyo"), seed=1, nodes={"tokyo": 2})
        cluster["tokyo/2"].connection.trip_s = 0.5
        cluster.start()
        await asyncio.sleep(2)

        async def write() -> None:
            for number in range(5000):
                await cluster["tokyo/1"].ask(_put(f"near {number}"))
                await asyncio.sleep(0.01)

        near = asyncio.ensure_future(write())
        for number in range(20):
            await cluster["tokyo/2"].ask(_put(f"far {number}"))
        assert not near.done()
        near.cancel()

    simulated(scenario)
