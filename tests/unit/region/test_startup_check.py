from __future__ import annotations

import asyncio

import pytest

from atoll.errors import Unavailable
from atoll.recovery.startup_check import held_by
from atoll.replication.messages import WriteReply
from atoll.store.memory.store import MemoryStore

from ..virtual_time import in_virtual_time
from .world import World


@in_virtual_time
async def test_a_new_region_listens_before_its_first_write() -> None:
    async with World() as it:
        it.partition("ab", "ac")
        began = asyncio.get_running_loop().time()
        await it.write("a", "note", "k", {})
        await it.write("a", "note", "k", {})
        assert asyncio.get_running_loop().time() - began == pytest.approx(3.0, abs=0.1)


@in_virtual_time
async def test_a_region_that_lost_its_disk_gets_it_back_before_it_writes() -> None:
    async with World() as it:
        for _ in range(3):
            await it.write("a", "like", "k", {"$inc": {"count": 1}})
        await it.settled()
        await it["a"].stop()
        it.stores["a"] = MemoryStore()
        await it.create("a").start()
        refusals: list[Unavailable] = []
        while True:
            write = it.write("a", "like", "k", {"$inc": {"count": 1}})
            (reply,) = await asyncio.gather(write, return_exceptions=True)
            if not isinstance(reply, Unavailable):
                break
            refusals.append(reply)
            await asyncio.sleep(0.1)
        assert all("has lost entries" in error.message for error in refusals)
        assert isinstance(reply, WriteReply)
        assert reply.receipt.seq == 4
        assert it.shown("a", "like", "k") == {"count": 4}
        await asyncio.sleep(1)
        assert all(link.status.relays == () for link in it["a"].links.values())


@in_virtual_time
async def test_what_a_relay_has_stored_of_a_lost_disk_is_asked_for_again_once_it_was_let_go() -> None:
    """Region b may not apply what it holds in memory of a, which may number others so. What c has stored, it may."""
    async with World() as it:
        it.stores["b"].tables.refusal = "the disk is full"
        await it.write("a", "note", "k", {"text": "stored by c alone"})
        while not it["c"].vector.get("a"):  # noqa: ASYNC110 — virtual time
            await asyncio.sleep(0.01)
        it.partition("ac")
        await it["a"].stop()
        it.stores["a"] = MemoryStore()
        await it.create("a").start()
        while it["b"].links["c"].status.relays != ("a",) or not it["b"].intake.inbox:  # noqa: ASYNC110 — virtual time
            await asyncio.sleep(0.01)
        it["a"].links["b"].reopen()
        await asyncio.sleep(1)
        it.stores["b"].tables.refusal = ""
        await it.settled()
        assert it.shown("a", "note", "k") == {"text": "stored by c alone"}


@in_virtual_time
async def test_what_a_peer_was_heard_to_hold_is_waited_for_after_a_restart_without_it() -> None:
    async with World("a", "b") as it:
        for _ in range(2):
            await it.write("a", "like", "k", {"$inc": {"count": 1}})
        await it.settled()
        await it["a"].stop()
        it.stores["a"] = MemoryStore()
        await it.stores["a"].raise_counter(held_by("b"), 2)  # the run before had heard so, and got no entry
        it.partition("ab")
        await it.create("a").start()
        await asyncio.sleep(60)
        with pytest.raises(Unavailable, match="has lost entries"):
            await it.write("a", "like", "k", {"$inc": {"count": 1}})
        it.partition()
        await it.settled()
        assert (await it.write("a", "like", "k", {"$inc": {"count": 1}})).receipt.seq == 3


@in_virtual_time
async def test_a_peer_that_is_gone_for_good_keeps_nobody_from_writing() -> None:
    async with World("a", "b") as it:
        await it["a"].stop()
        await it.stores["a"].raise_counter(held_by("b"), 2)
        it.partition("ab")
        for run in range(2):
            await it.create("a").start()
            if run == 0:
                it["a"].forget("b")
            await asyncio.sleep(1)
            await it.write("a", "like", "k", {"$inc": {"count": 1}})
            await it["a"].stop()


@in_virtual_time
async def test_what_only_an_unreachable_peer_holds_comes_by_way_of_one_that_reaches_both() -> None:
    async with World() as it:
        await it.write("a", "like", "k", {"$inc": {"count": 1}})
        await it.settled()
        it.partition("ab", "bc")
        await it.write("a", "like", "k", {"$inc": {"count": 1}})
        await it["c"].group_commit.progress.covered({"a": 2})
        await it["a"].stop()
        it.stores["a"] = MemoryStore()
        it.partition("ac")
        await it.create("a").start()
        assert (await it.write("a", "like", "k", {"$inc": {"count": 1}})).receipt.seq == 3
        await it.settled()
        assert [it.shown(name, "like", "k") for name in it.names] == [{"count": 3}] * 3
        await asyncio.sleep(3)
        assert it["b"].links["c"].status.relays == ()
