"""Events of simulated regions: each is in every region once, whatever happens meanwhile."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import msgspec

from atoll.documents.mutation import Write, put_of
from atoll.schema import Collection, application_of
from atoll.schema.application import Application
from atoll.schema.system import EVENTS
from atoll.testing import Cluster, simulated
from atoll.testing.cluster import OPTIONS


class Note(Collection):
    text: str = ""


class Later(Collection):
    text: str = ""


OLDER, NEWER = application_of(Note), application_of(Note, Later)
NAMES = ("frankfurt", "tokyo", "virginia")
RECORDING = replace(OPTIONS, events_most=10_000)


def events(cluster: Cluster, name: str) -> list[dict[str, Any]]:
    shown = sorted(cluster.shown(name).items())
    return [msgspec.json.decode(value) for (collection, _), value in shown if collection == EVENTS]


def counted(cluster: Cluster, kind: str, **members: Any) -> list[int]:
    """How many of them each region shows."""
    return [
        sum(each["kind"] == kind and members.items() <= each.items() for each in events(cluster, name))
        for name in NAMES
    ]


async def started(application: Application = NEWER, **options: Any) -> Cluster:
    nodes = options.pop("nodes", {})
    cluster = Cluster(application, NAMES, seed=1, options=replace(RECORDING, **options), nodes=nodes)
    cluster.start()
    await asyncio.sleep(10)
    return cluster


async def agreed(cluster: Cluster) -> None:
    await cluster.settle(60)
    found = [await cluster.digests(name) for name in NAMES]
    assert found[0] == found[1] == found[2]
    assert events(cluster, "tokyo") == events(cluster, "frankfurt") == events(cluster, "virginia")


def test_a_partition_is_seen_from_both_sides() -> None:
    async def scenario() -> None:
        cluster = await started()
        cluster.partition(["tokyo"])
        await asyncio.sleep(30)
        assert counted(cluster, "link-down", region="tokyo") == [0, 2, 0]  # written there, and on its way
        cluster.partition()
        await asyncio.sleep(30)
        await agreed(cluster)
        for kind in ("link-down", "link-up"):
            assert counted(cluster, kind) == [4, 4, 4]
            assert counted(cluster, kind, region="frankfurt", peer="tokyo") == [1, 1, 1]

    simulated(scenario)


def test_a_restart_is_one_event() -> None:
    async def scenario() -> None:
        cluster = await started()
        cluster.restart("tokyo")
        await asyncio.sleep(30)
        await agreed(cluster)
        assert counted(cluster, "region-started", region="tokyo") == [2, 2, 2]
        assert counted(cluster, "region-started", region="virginia") == [1, 1, 1]

    simulated(scenario)


def test_a_parked_change_is_reported_where_it_was_parked() -> None:
    async def scenario() -> None:
        cluster = await started()
        cluster.upgrade("virginia", OLDER)
        await asyncio.sleep(10)

        async def write(region: Any) -> Any:
            return await region.write(Write((put_of(region.rules["later"], "k", b'{"text":"x"}'),)))

        await cluster["tokyo"].ask(write)
        await asyncio.sleep(10)
        await agreed_without_later(cluster)
        assert counted(cluster, "change-parked") == [1, 1, 1]
        assert counted(cluster, "change-parked", region="virginia", peer="tokyo") == [1, 1, 1]
        (event,) = [each for each in events(cluster, "tokyo") if each["kind"] == "change-parked"]
        assert event["detail"].startswith("later/k of tokyo: ")

    async def agreed_without_later(cluster: Cluster) -> None:
        await cluster.settle(60)
        assert events(cluster, "tokyo") == events(cluster, "virginia")

    simulated(scenario)


def test_a_lost_disk_brings_its_events_back() -> None:
    async def scenario() -> None:
        cluster = await started()
        cluster.lose_disk("tokyo")
        await asyncio.sleep(5)
        cluster.start("tokyo")
        await asyncio.sleep(30)
        await agreed(cluster)
        assert counted(cluster, "region-started", region="tokyo") == [2, 2, 2]

    simulated(scenario)


def test_a_restore_is_an_event_and_keeps_the_others() -> None:
    async def scenario() -> None:
        cluster = await started()
        archive = await cluster.back_up("tokyo")
        await cluster.restore("tokyo", archive)
        cluster.start("tokyo")
        await asyncio.sleep(30)
        await agreed(cluster)
        assert counted(cluster, "restored", region="tokyo") == [1, 1, 1]
        assert counted(cluster, "region-started", region="tokyo") == [2, 2, 2]

    simulated(scenario)


def test_a_snapshot_install_is_an_event() -> None:
    async def scenario() -> None:
        cluster = await started(journal_s=0.5, journal_absent_s=1.0, journal_round_s=0.5)
        cluster.lose_disk("tokyo")
        await asyncio.sleep(5)
        cluster.start("tokyo")
        await asyncio.sleep(40)
        await agreed(cluster)
        assert counted(cluster, "snapshot-installed", region="tokyo") == [1, 1, 1]
        assert counted(cluster, "region-started", region="tokyo") == [2, 2, 2]

    simulated(scenario)


def test_of_several_nodes_one_reports_a_link() -> None:
    async def scenario() -> None:
        cluster = await started(nodes={"tokyo": 3})
        cluster.partition(["virginia"])
        await asyncio.sleep(30)
        cluster.partition()
        await asyncio.sleep(30)
        await agreed(cluster)
        for kind in ("link-down", "link-up"):
            assert counted(cluster, kind, region="tokyo", peer="virginia") == [1, 1, 1]
        assert counted(cluster, "region-started", region="tokyo") == [3, 3, 3]
        assert len({each["node"] for each in events(cluster, "tokyo") if each["region"] == "tokyo"}) == 3

    simulated(scenario)


def test_a_failover_is_an_event_of_each_node() -> None:
    async def scenario() -> None:
        cluster = await started(nodes={"tokyo": 2})
        disk = cluster["tokyo"].disk
        disk.detach_standby()
        disk.fail_over()
        await asyncio.sleep(30)
        await agreed(cluster)
        assert counted(cluster, "failed-over", region="tokyo") == [2, 2, 2]

    simulated(scenario)
