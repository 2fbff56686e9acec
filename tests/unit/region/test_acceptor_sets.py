"""Whose acceptors decide, in regions whose files change."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from atoll.consensus.acceptor_set import AcceptorSet
from atoll.errors import AtollError, InvalidOperation
from atoll.region.voting import REGISTERS
from atoll.store.memory.store import MemoryStore

from ..virtual_time import in_virtual_time
from .world import World


async def until(found: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not found():  # noqa: ASYNC110 — virtual time
            await asyncio.sleep(0.1)


def decides(it: World, names: str) -> bool:
    """Whether these regions count each other, and vote."""
    sets = [it[name].voting.set for name in names]
    return all(
        each is not None and each.settled and each.members == tuple(names) and it[name].voting.votes
        for name, each in zip(names, sets, strict=True)
    )


async def follow(it: World, names: str, *regions: str) -> None:
    for name in regions:
        await it[name].change_members(it[name].members.current.of_regions(names))


async def end(it: World, name: str) -> None:
    await it[name].stop()
    del it.regions[name]


@in_virtual_time
async def test_the_first_start_takes_the_regions_of_the_file() -> None:
    async with World() as it:
        await until(lambda: decides(it, "abc"))
        assert {it[name].voting.set for name in "abc"} == {AcceptorSet(1, ("a", "b", "c"))}
        await end(it, "b")
        it.names = ("a", "b")  # what another file says at a later start is a wish
        await it.create("b").start()
        assert it["b"].voting.members == ("a", "b", "c")


@in_virtual_time
async def test_two_removals_in_a_row_lose_nothing() -> None:
    """What two of five have accepted that leave, and one that stays, is held by a majority of those that stay."""
    async with World(*"abcde") as it:
        await until(lambda: decides(it, "abcde"))
        it.partition("ca", "cb", "da", "db", "ea", "eb", "cd", "ce")  # c hears of nothing
        await it["d"].stop()
        del it.regions["d"]
        it.partition("ca", "cb", "cd", "ce")
        await it.write("a", "account", "k", {"balance": 1})
        it.partition()
        await end(it, "e")
        await follow(it, "abc", "a", "b", "c")
        await until(lambda: decides(it, "abc"))
        assert (it["a"].voting.set or AcceptorSet(0, ())).epoch == 5
        it.partition("ab", "ac")  # of those that accepted it, b alone is left
        assert (await it["c"].read("account", "k")).value == b'{"balance":1}'


@in_virtual_time
async def test_a_region_that_comes_back_drops_what_its_acceptor_held() -> None:
    async with World() as it:
        await it.write("a", "account", "k", {"balance": 1})
        await it.settled()
        await follow(it, "ab", "a", "b")
        await until(lambda: decides(it, "ab"))
        await follow(it, "ab", "a", "b")
        assert await it.stores["c"].states(REGISTERS)
        assert "is not among the regions that decide, a, b" in (it["c"].voting.joining or "")
        await it.write("a", "account", "k", {"balance": 2})
        await follow(it, "abc", "a", "b")
        await until(lambda: decides(it, "abc"))
        held = dict(await it.stores["c"].states(REGISTERS))
        assert "account/k" not in held  # a and b hold it: nothing has to be moved
        it.partition("ac")
        assert (await it["c"].read("account", "k")).value == b'{"balance":2}'


@in_virtual_time
async def test_a_region_that_is_left_decides_alone() -> None:
    async with World() as it:
        await it.write("a", "account", "k", {"balance": 1})
        await it.settled()
        with pytest.raises(
            InvalidOperation, match="a, b, c answer, and are a majority of a, b, c: take a lost"
        ):
            await it["a"].decide_alone()
        await end(it, "b")
        await end(it, "c")
        with pytest.raises(AtollError):
            await it.write("a", "account", "k", {"balance": 2})
        assert await it["a"].decide_alone() == ["a"]
        await it.write("a", "account", "k", {"balance": 3})
        it.stores["c"] = MemoryStore()
        await follow(it, "ac", "a")
        it.names = ("a", "c")
        await it.create("c").start()
        await until(lambda: decides(it, "ac"))
        assert (await it["c"].read("account", "k")).value == b'{"balance":3}'
        it.names = ("a", "b", "c")
        await it.create("b").start()  # a lost one, with its disk
        with pytest.raises(
            InvalidOperation, match="a says that b was taken out of the deployment: it is for"
        ):
            await it["b"].decide_alone()
