from __future__ import annotations

import asyncio

import pytest

from atoll.errors import Overloaded, TokenNotReached
from atoll.replication.messages import PingCall, PingReply, ReadCall, ReadReply

from ..virtual_time import in_virtual_time
from .world import START_MS, World


@in_virtual_time
async def test_what_one_region_writes_all_show() -> None:
    async with World() as it:
        await it.write("a", "note", "k", {"text": "hello"})
        await it.settled()
        assert [it.shown(name, "note", "k") for name in it.names] == [{"text": "hello"}] * 3


@in_virtual_time
async def test_concurrent_operations_add_up() -> None:
    async with World() as it:
        await asyncio.gather(*(it.write(name, "like", "k", {"$inc": {"count": 2}}) for name in it.names))
        await it.settled()
        assert [it.shown(name, "like", "k") for name in it.names] == [{"count": 6}] * 3


@in_virtual_time
async def test_regions_cut_apart_both_take_writes() -> None:
    async with World() as it:
        await it.write("b", "note", "k", {"text": "before"})
        await it.settled()
        it.partition("ab", "ac")
        await it.write("a", "note", "k", {"text": "from a"})
        await it.write("b", "note", "k", {"text": "from b"})
        it.partition()
        await it.settled()
        assert len({it.shown(name, "note", "k")["text"] for name in it.names}) == 1


@in_virtual_time
async def test_a_region_in_between_passes_entries_on() -> None:
    async with World() as it:
        await it.settled()
        it.partition("ab")
        await it.write("a", "note", "k", {"text": "around"})
        await it.settled()
        assert it.shown("b", "note", "k") == {"text": "around"}


@in_virtual_time
async def test_no_entry_comes_back_to_where_it_was_written() -> None:
    async with World() as it:
        for _ in range(3):
            await it.write("a", "like", "k", {"$inc": {"count": 1}})
            await it.write("b", "like", "k", {"$inc": {"count": 1}})
        await it.settled()
        await asyncio.sleep(1)
        received = {peer: link.status.received_entries for peer, link in it["a"].links.items()}
        assert received == {"b": 3, "c": 0}


@in_virtual_time
async def test_a_restarted_region_goes_on_where_it_was() -> None:
    async with World() as it:
        await it.write("a", "like", "k", {"$inc": {"count": 1}})
        last = it["a"].clock.last
        await it["a"].stop()
        region = it.create("a")
        await region.start()
        assert (region.vector, region.clock.last) == ({"a": 1}, last)
        assert (await it.write("a", "like", "k", {"$inc": {"count": 1}})).receipt.seq == 2


@in_virtual_time
async def test_a_stopped_region_takes_no_writes_and_can_be_read() -> None:
    async with World() as it:
        await it.write("a", "note", "k", {})
        await it["a"].stop()
        await it["a"].stop()
        with pytest.raises(Overloaded, match="closing"):
            await it.write("a", "note", "k", {})
        assert it.shown("a", "note", "k") == {"text": ""}


@in_virtual_time
async def test_a_peers_questions_are_answered() -> None:
    async with World() as it:
        await it.write("a", "note", "k", {"text": "x"})
        ping = await it["a"].answer(PingCall())
        assert isinstance(ping, PingReply)
        assert (ping.region, ping.fingerprint) == ("a", it.application.fingerprint())
        assert ping.now_ms >= START_MS
        read = await it["a"].answer(ReadCall("note", "k", {"a": 1}))
        assert isinstance(read, ReadReply)
        assert (read.value, read.vector) == (b'{"text":"x"}', {"a": 1})
        with pytest.raises(TokenNotReached):
            await it["a"].answer(ReadCall("note", "k", {"a": 2}))
