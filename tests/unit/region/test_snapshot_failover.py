"""A region whose database fails over while it installs a snapshot: pages and merges may be lost with it."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from atoll.documents.mutation import Write, put_of
from atoll.region.region import Region
from atoll.simulation.application import built_in
from atoll.testing import Cluster, simulated
from atoll.testing.cluster import OPTIONS

CUT_AT_ONCE = replace(
    OPTIONS,
    journal_s=0.0,
    journal_absent_s=0.5,
    journal_round_s=0.2,
    snapshot_grace_s=0.1,
    snapshot_page_rows=2,
)
NAMES = [f"ann {number}" for number in range(12)]


async def _write(cluster: Cluster, region: str, name: str) -> None:
    def write(asked: Region) -> object:
        return asked.write(Write((put_of(asked.rules["profile"], name, b'{"name":"Ann"}'),)))

    await cluster[region].ask(write)  # type: ignore[arg-type]  # whatever it returns is awaited


@pytest.mark.parametrize("lost_s", [0.02, 0.3, 2.0])
@pytest.mark.parametrize("at_s", [0.4 * each for each in range(1, 8)])
def test_a_failover_loses_no_page(at_s: float, lost_s: float) -> None:
    """Found by seed 795937603."""

    async def scenario() -> None:
        cluster = Cluster(built_in(), ("frankfurt", "tokyo"), seed=1, options=CUT_AT_ONCE)
        disk = cluster["tokyo"].disk
        disk.trip_s = 0.001
        cluster.start()
        await asyncio.sleep(1)
        await _write(cluster, "tokyo", "of tokyo")
        await cluster.settle(10)
        cluster.kill("tokyo")
        for name in NAMES:
            await _write(cluster, "frankfurt", name)
        await asyncio.sleep(3)
        cluster.start("tokyo")
        await asyncio.sleep(at_s)
        disk.detach_standby()
        await asyncio.sleep(lost_s)
        disk.fail_over()
        await cluster.settle(60)
        assert {key for _, key in cluster.shown("tokyo")} == {*NAMES, "of tokyo"}
        assert cluster.shown("tokyo") == cluster.shown("frankfurt")

    simulated(scenario)
