"""Whose acceptors decide, in regions whose files change."""

from __future__ import annotations

import pytest

from atoll.consensus import acceptor
from atoll.consensus.acceptor import Retire
from atoll.consensus.acceptor_set import AcceptorSet, Counted
from atoll.errors import AtollError, InvalidOperation
from atoll.region.voting import REGISTERS
from atoll.replication.messages import VoteCall
from atoll.store.memory.store import MemoryStore

from ..virtual_time import in_virtual_time, until
from .world import World


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


@in_virtual_time
async def test_acceptors_that_vote_take_nothing_over() -> None:
    """Another node of the region may be joining yet, while these have promised something since."""
    async with World() as it:
        await until(lambda: decides(it, "abc"))
        it.partition("ab", "ac")
        await it.write("b", "account", "k", {"balance": 1})
        it.partition()
        joiner = it["a"].acceptor_sets.joiner
        async with joiner._as_one() as fence:
            assert await joiner._read("b", 0, fence)
        assert await it.stores["b"].states(REGISTERS)
        assert not await it.stores["a"].states(REGISTERS)


@in_virtual_time
async def test_registers_are_not_dropped_while_a_change_is_under_way() -> None:
    async with World() as it:
        await it.write("a", "account", "k", {"balance": 1})
        await it.write("a", "account", "k", None)
        await it.settled()
        held = acceptor.decoded(await it.stores["b"].state(REGISTERS, "account/k"))
        voters = it["b"].voting.counted().voters
        changing, settled = (
            AcceptorSet(2, ("a", "b", "c"), ("a", "b", "c", "d")),
            AcceptorSet(3, ("a", "b", "c")),
        )
        for found, granted in ((changing, False), (settled, True)):
            call = VoteCall.of(Counted(found, voters), Retire("account/k", held.accepted))
            reply = await it["b"].voting.vote(call)
            assert [vote.granted for vote in reply.votes] == [granted]
