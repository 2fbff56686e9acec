"""Regions purge what all of them have seen to be over, and nothing before that."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from atoll.commit.identity import REMAINS
from atoll.documents.mutation import Delete, Mutation, Write, patch_of, put_of
from atoll.membership.members import Members, Membership
from atoll.region.purging import Purging
from atoll.region.region import Region
from atoll.simulation.application import built_in
from atoll.testing import Cluster, simulated

from ..virtual_time import in_virtual_time
from .world import World

NAMES = ("frankfurt", "tokyo", "virginia")


def _write(make: Callable[[Region], Mutation]) -> Callable[[Region], Coroutine[Any, Any, Any]]:
    return lambda region: region.write(Write((make(region),)))


def _note(text: str) -> Callable[[Region], Coroutine[Any, Any, Any]]:
    body = f'{{"body":"{text}","lines":["{text}"]}}'.encode()
    return _write(lambda region: put_of(region.rules["note"], "n", body))


def _flags(**operators: Any) -> Callable[[Region], Coroutine[Any, Any, Any]]:
    named = {f"${name}": given for name, given in operators.items()}
    return _write(lambda region: patch_of(region.rules["setting"], "s", named))


def _deleted(collection: str, key: str) -> Callable[[Region], Coroutine[Any, Any, Any]]:
    return _write(lambda region: Delete(collection, key))


async def _stored(cluster: Cluster, collection: str, key: str) -> list[bytes]:
    """The merge state of a document in each region."""
    rows = [await cluster.region(name).store.get(collection, key) for name in cluster.names]
    return [row.meta for row in rows if row is not None]


async def _started() -> Cluster:
    cluster = Cluster(built_in(), NAMES, seed=1)
    cluster.start()
    await asyncio.sleep(1)
    return cluster


async def _written_and_deleted(cluster: Cluster) -> None:
    await cluster["tokyo"].ask(_note("secret"))
    await cluster.settle(10)
    await cluster["frankfurt"].ask(_deleted("note", "n"))
    await cluster.settle(10)


def test_a_deleted_text_goes_from_every_region() -> None:
    async def scenario() -> None:
        cluster = await _started()
        await _written_and_deleted(cluster)
        assert all(b"secret" in meta for meta in await _stored(cluster, "note", "n"))
        await asyncio.sleep(10)
        await cluster.settle(10)
        metas = await _stored(cluster, "note", "n")
        assert len(metas) == 3
        assert not any(b"secret" in meta for meta in metas)
        await cluster["virginia"].ask(_note("new"))
        await cluster.settle(10)
        shown = {cluster.shown(name)["note", "n"] for name in NAMES}
        assert shown == {b'{"body":"new","lines":["new"]}'}

    simulated(scenario)


def test_nothing_is_purged_that_a_region_has_not_seen() -> None:
    async def scenario() -> None:
        cluster = await _started()
        await cluster["tokyo"].ask(_note("secret"))
        await cluster.settle(10)
        cluster.partition(("virginia",), ("frankfurt", "tokyo"))
        await cluster["frankfurt"].ask(_deleted("note", "n"))
        await asyncio.sleep(30)
        assert b"secret" in (await _stored(cluster, "note", "n"))[0]
        await cluster["virginia"].ask(
            _write(lambda region: patch_of(region.rules["note"], "n", {"$append": {"body": " and more"}}))
        )
        cluster.heal()
        await cluster.settle(20)
        await asyncio.sleep(20)
        await cluster.settle(10)
        (record,) = cluster.audit("tokyo").values()
        assert b"secret and more" in record
        assert not any(b"secret" in meta for meta in await _stored(cluster, "note", "n"))

    simulated(scenario)


def test_a_map_whose_members_come_and_go_does_not_grow() -> None:
    async def scenario() -> None:
        cluster = await _started()
        sizes = []
        for number in range(30):
            node = cluster[NAMES[number % 3]]
            await node.ask(_flags(set={f"flags.f{number}": "on"}))
            await node.ask(_flags(unset=[f"flags.f{number}"]))
            if number % 10 == 9:
                await asyncio.sleep(10)
                await cluster.settle(10)
                sizes.append(max(map(len, await _stored(cluster, "setting", "s"))))
        assert sizes[2] - sizes[1] < 20  # once all have written

    simulated(scenario)


def test_a_region_without_its_disk_loses_nothing_silently() -> None:
    async def scenario() -> None:
        cluster = await _started()
        await _written_and_deleted(cluster)
        await asyncio.sleep(10)
        await cluster.settle(10)
        cluster.partition(("virginia",), ("frankfurt", "tokyo"))
        cluster.lose_disk("virginia")
        cluster.start("virginia")
        await asyncio.sleep(10)
        await cluster["virginia"].ask(_note("late"))
        cluster.heal()
        await cluster.settle(60)
        assert {cluster.shown(name)["note", "n"] for name in NAMES} == {b'{"body":"","lines":[]}'}
        for name in NAMES:
            records = [record for record in cluster.audit(name).values() if b"update_deleted" in record]
            assert len(records) == 1
        await cluster["virginia"].ask(_note("again"))
        await cluster.settle(10)
        await asyncio.sleep(10)
        await cluster.settle(10)
        assert {cluster.shown(name)["note", "n"] for name in NAMES} == {b'{"body":"again","lines":["again"]}'}
        assert all(b'"status":"resolved"' in record for record in cluster.audit("tokyo").values())

    simulated(scenario)


@in_virtual_time
async def test_what_a_region_announced_before_it_lost_its_disk_does_not_count() -> None:
    async with World("a", "b") as it:
        await it.write("a", "like", "k", {"$inc": {"count": 1}})
        region, link = it["a"], it["a"].links["b"]
        purging = Purging(
            region.members,
            region.links,
            region.store,
            region.group_commit,
            gates=(),
            every_s=1e9,
        )
        await asyncio.sleep(5)
        assert purging._stable() == {}
        assert purging._stable() == {"a": 1}
        link.status.advertised = {"b~01": 1}
        assert purging._stable() == {}


@in_virtual_time
async def test_what_a_region_announces_while_it_installs_a_snapshot_does_not_count() -> None:
    async with World("a", "b") as it:
        await it.write("a", "like", "k", {"$inc": {"count": 1}})
        region, link = it["a"], it["a"].links["b"]
        purging = Purging(
            region.members, region.links, region.store, region.group_commit, gates=(), every_s=1e9
        )
        await asyncio.sleep(5)
        assert [purging._stable(), purging._stable()] == [{}, {"a": 1}]
        it["b"].gates.register(reads=lambda: "it is installing a snapshot")
        await asyncio.sleep(1)
        assert not link.status.whole
        assert [purging._stable(), purging._stable()] == [{}, {}]


@in_virtual_time
async def test_a_region_alone_purges_nothing_once_another_one_joins() -> None:
    async with World("a", "b") as it:
        await it.write("a", "like", "k", {"$inc": {"count": 1}})
        it.partition("ab")
        await asyncio.sleep(10)
        region, members = it["a"], Members(Membership.of(["a"]))
        purging = Purging(members, region.links, region.store, region.group_commit, gates=(), every_s=1e9)
        assert [purging._stable(), purging._stable()] == [{}, {"a": 1}]
        members.current = region.members.current
        assert [purging._stable(), purging._stable()] == [{}, {}]


@pytest.mark.parametrize(("purge_s", "noted"), [(0.0, 0), (1e9, 1)])
@in_virtual_time
async def test_only_a_region_that_purges_notes_what_is_over(purge_s: float, noted: int) -> None:
    async with World("a", purge_s=purge_s) as it:
        await it.write("a", "like", "k", {"$inc": {"count": 1}})
        await it.write("a", "like", "k", None)
        assert len(await it.stores["a"].states(REMAINS)) == noted
