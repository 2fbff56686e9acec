"""What regions know of each other's rights, and rights that move before they are missing."""

from __future__ import annotations

import asyncio

import pytest

from atoll.documents.mutation import Transfer, Write
from atoll.errors import BoundExceeded
from atoll.replication.messages import WriteCall, WriteReply

from ..virtual_time import in_virtual_time
from .world import World


async def sell(world: World, region: str, amount: int = 1, key: str = "k", collection: str = "stock") -> None:
    await world.write(region, collection, key, {"$inc": {"left": -amount}})


def asked(world: World) -> list[tuple[str, str, Transfer]]:
    """(who asked, who was asked, for what)"""
    return [
        (one, other, mutation)
        for one, other, call in world.calls
        if isinstance(call, WriteCall)
        for mutation in call.write.mutations
        if isinstance(mutation, Transfer)
    ]


@in_virtual_time
async def test_every_region_tells_what_each_holds() -> None:
    async with World() as world:
        await world.write("a", "stock", "k", {"left": 90})
        await world.settled()
        await asyncio.sleep(1)
        await sell(world, "b", 10)
        await world.settled()
        await asyncio.sleep(1)
        for region in world.regions.values():
            status = region.status().rights
            assert status is not None
            (only,) = status.scarcest
            assert (only.collection, only.key, only.field, only.left) == ("stock", "k", "left", 80)
            assert only.held == {"a": 30, "b": 20, "c": 30}
            assert only.spent_per_s["b"] > only.spent_per_s["a"] == 0
            assert (only.lasts_s is not None) == (region.name == "b")
            assert status.exhausted == 0


@in_virtual_time
async def test_the_scarcest_counters_come_first_and_they_are_few() -> None:
    async with World() as world:
        for number in range(20):
            await world.write("a", "stock", f"k{number:02}", {"left": 3000 - number})
        await asyncio.sleep(1)
        await sell(world, "a", 20, "k05")
        await world.settled()
        await asyncio.sleep(1)
        status = world["a"].status().rights
        assert status is not None
        assert status.counters == 20
        assert [each.key for each in status.scarcest] == ["k05", *(f"k{n:02}" for n in range(19, 10, -1))]


@in_virtual_time
async def test_a_restarted_region_knows_what_it_finds_and_a_deleted_counter_is_forgotten() -> None:
    async with World() as world:
        await world.write("a", "stock", "k", {"left": 90})
        await world.settled()
        await world["b"].stop()
        await world.create("b").start()
        await asyncio.sleep(1)
        status = world["b"].status().rights
        assert status is not None
        assert [each.key for each in status.scarcest] == ["k"]
        await world.write("a", "stock", "k", None)
        await world.settled()
        await asyncio.sleep(1)
        after = world["b"].status().rights
        assert after is not None
        assert after.counters == 0


@in_virtual_time
async def test_rights_come_ahead_of_need() -> None:
    """One region sells all there is, and no sale ever waits for a peer."""
    async with World() as world:
        await world.write("a", "stock", "k", {"left": 900})
        await world.settled()
        for _ in range(700):
            await sell(world, "c")
            await asyncio.sleep(0.05)
        counted = world["c"].status().counted
        assert counted.rights_requests == 0
        assert counted.rights_ahead > 0
        assert {(one, ahead.ahead) for one, _, ahead in asked(world)} == {("c", True)}
        assert world.shown("c", "stock", "k") == {"left": 200}


@in_virtual_time
async def test_cut_off_a_region_sells_what_it_holds_and_asks_nobody() -> None:
    async with World() as world:
        await world.write("a", "stock", "k", {"left": 90})
        await world.settled()
        world.partition("ab", "bc")
        await asyncio.sleep(3)
        for _ in range(30):
            await sell(world, "b")
            await asyncio.sleep(0.05)
        with pytest.raises(BoundExceeded):
            await sell(world, "b")
        await asyncio.sleep(1)
        status = world["b"].status()
        assert status.rights is not None
        assert status.rights.exhausted == 1
        assert not [each for each in asked(world) if each[2].ahead]
        world.partition()
        await world.settled()
        assert {world.shown(name, "stock", "k")["left"] for name in world.names} == {60}


@in_virtual_time
async def test_a_region_that_runs_short_hands_nothing_over_ahead_of_need() -> None:
    """Found by seed 88020 with `inventory` alone: what one gathered, the others asked back."""
    async with World() as world:
        await world.write("a", "stock", "k", {"left": 30})
        await world.settled()
        world.partition("ab", "bc")
        with pytest.raises(BoundExceeded):
            await sell(world, "b", 20)
        world.partition()
        await asyncio.sleep(1)
        ahead = Transfer("stock", "k", "left", world["a"].origin, 5, ahead=True)
        reply = await world["b"].answer(WriteCall(Write((ahead,)), {}))
        assert isinstance(reply, WriteReply)
        assert reply.receipt.seq == 0
        await asyncio.sleep(15)
        reply = await world["b"].answer(WriteCall(Write((ahead,)), {}))
        assert isinstance(reply, WriteReply)
        assert reply.receipt.seq > 0
