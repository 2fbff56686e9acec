from __future__ import annotations

import asyncio

import pytest

from atoll.errors import Unavailable
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
