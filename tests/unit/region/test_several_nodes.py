"""Two nodes of region a over one store, and region b."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from atoll.causality.vector import descends
from atoll.consensus import acceptor, decided
from atoll.documents.mutation import Write
from atoll.errors import FenceLost, Unavailable
from atoll.region.joining import LEASE
from atoll.region.reading import ReadOptions
from atoll.region.region import Region
from atoll.region.voting import REGISTERS
from atoll.replication.wire import Heartbeat
from atoll.store.memory.store import MemoryStore

from ..virtual_time import in_virtual_time, until
from .world import World


class Pair(World):
    """`one` and `other` are a's nodes; b reaches the first."""

    one: Region
    other: Region


@asynccontextmanager
async def pair(*names: str) -> AsyncIterator[Pair]:
    async with Pair(*(names or ("a", "b")), shares_store=True) as it:
        it.one = it["a"]
        it.stores["a"] = MemoryStore(it.stores["a"].tables)
        it.other = it.create("a", founding=True)
        it.regions["a"] = it.one
        await it.other.start()
        try:
            yield it
        finally:
            await it.other.stop()


@in_virtual_time
async def test_one_pulls_and_both_hear_the_peer() -> None:
    async with pair() as it:
        await asyncio.sleep(1)
        assert (it.one.holds("b"), it.other.holds("b")) == (True, False)
        for node in (it.one, it.other):
            assert node.health_of("ready") is None
            assert node.waits.staleness_s() < 0.5


@in_virtual_time
async def test_a_read_that_waits_at_one_node_is_woken_by_the_others_commit() -> None:
    async with pair() as it:
        reading = asyncio.ensure_future(it.other.read("note", "k", ReadOptions(token={"b": 1}, max_wait_s=5)))
        await asyncio.sleep(0.5)
        assert not reading.done()
        await it.write("b", "note", "k", {"text": "hello"})
        found = await reading
        assert (found.value, found.region) == (b'{"text":"hello"}', "a")
        assert it.other.links["b"].status.received_entries == 0  # it came by the first node


@in_virtual_time
async def test_a_feed_at_one_node_shows_the_others_writes() -> None:
    async with pair() as it:
        feed = it.other.feed.changes({}, idle_s=30)
        for number in range(3):
            waiting = asyncio.ensure_future(anext(feed))
            await asyncio.sleep(1)
            await it.one.write(Write((it.mutation("note", f"k{number}", {"text": "x"}),)))
            found = await waiting
            assert found is not None
            assert (found[0].origin, found[0].seq) == ("a", number + 1)


@in_virtual_time
async def test_writes_at_both_nodes_are_one_dense_sequence() -> None:
    async with pair() as it:
        await asyncio.sleep(1)

        async def count(node: Region) -> None:
            for _ in range(20):
                await node.write(Write((it.mutation("like", "k", {"$inc": {"count": 1}}),)))

        await asyncio.gather(count(it.one), count(it.other))
        assert await it.stores["a"].positions() == {"a": 40}
        await it.settled()
        assert it.shown("a", "like", "k") == it.shown("b", "like", "k") == {"count": 40}


@in_virtual_time
async def test_the_other_node_goes_on_when_the_one_that_pulls_ends() -> None:
    async with pair() as it:
        await asyncio.sleep(1)
        await it.one.stop()
        await it.write("b", "note", "late", {"text": "x"})
        await it.other.read("note", "late", ReadOptions(token={"b": 1}, max_wait_s=20))
        assert it.other.holds("b")
        assert it.shown("a", "note", "late") == {"text": "x"}


@in_virtual_time
async def test_what_another_node_wrote_is_not_taken_for_lost() -> None:
    async with pair() as it:
        await asyncio.sleep(1)
        it.stores["a"].tables.leave(it.other.store)  # notices come late
        await it.one.write(Write((it.mutation("note", "k", {"text": "x"}),)))
        for seq, expected in ((1, "a"), (9, None)):
            it.other.links["b"].status.advertised = {"a": seq}
            it.other.heard("b", Heartbeat("b", it.one.now_ms(), {"a": seq}, {}))
            await asyncio.sleep(0.1)
            reply = await it.other.write(Write((it.mutation("note", "k2", {"text": "x"}),)))
            assert (reply.receipt.origin == "a") == (expected == "a")


@in_virtual_time
async def test_nodes_that_hear_nothing_of_each_other_do_not_wait_for_each_others_entries() -> None:
    """One pulls from b and the other from c; what c writes comes after what b wrote."""
    async with pair("a", "b", "c") as it:
        await asyncio.sleep(4)
        assert [it.one.holds(peer) for peer in "bc"] != [it.other.holds(peer) for peer in "bc"]
        tables = it.stores["a"].tables
        tables._followers.clear()  # notices are lost
        for number in range(5):
            first, second = ("b", "c") if number % 2 else ("c", "b")
            reply = await it.write(first, "note", f"k{number}", {"text": first})
            reply = await it.write(second, "note", f"k{number}", {"text": second}, reply.vector)
            async with asyncio.timeout(0.5):
                while not descends(tables.positions(), reply.vector):  # noqa: ASYNC110 — virtual time
                    await asyncio.sleep(0.01)


@in_virtual_time
async def test_a_paused_node_goes_on_with_no_snapshot_that_another_one_pulls() -> None:
    """Both would number their pages alike, and neither would move the record in between."""
    async with pair() as it:
        for number in range(300):
            await it.write("b", "note", f"k{number}", {"text": "x"})
        await it.settled()
        it.partition("ab")
        it.one.snapshot_install.too_late("b", {"b": 1_000})
        await it.one.snapshot_install.until(lambda state: state.phase == "pulling")
        renewing = next(task for task in it.one._tasks.values() if "leases" in task.get_name())
        renewing.cancel()  # it takes itself for the holder, as after a pause
        await it.other.snapshot_install.until(lambda state: state.phase == "pulling")
        assert it.one.snapshot_install.state.phase == "pulling"
        it.partition()
        async with asyncio.timeout(60):
            await it.one.snapshot_install.until(lambda state: state.phase == "looking on")
            await it.other.snapshot_install.until(lambda state: state.completed == 1)
        assert it.one.snapshot_install.state.completed == 0


@in_virtual_time
async def test_a_node_drops_nothing_that_another_has_taken_over_while_it_joins() -> None:
    async with pair("a", "b", "c") as it:
        await it.write("a", "account", "k", {"balance": 1})
        await it.settled()
        it.partition("ac", "bc")
        await it.write("a", "account", "k", {"balance": 2})
        it.one.voting.numbering = lambda: 7  # its acceptors have lost their promises
        await until(lambda: it.one.voting.waits_for == ["c"])
        it.partition("ab", "ac", "bc")
        it.other.voting.numbering = lambda: 7
        await asyncio.sleep(5)
        it.partition("ab", "bc")
        await until(lambda: it.one.voting.keeps_promises)
        held = acceptor.decoded(await it.stores["a"].state(REGISTERS, "account/k"))
        assert decided.decoded(held.value).value == b'{"balance":2}'


@in_virtual_time
async def test_a_node_that_was_stopped_while_it_joined_goes_on_with_nothing() -> None:
    async with pair("a", "b", "c") as it:
        await it.write("a", "account", "k", {"balance": 1})
        mine, others = (node.acceptor_sets.joiner for node in (it.one, it.other))
        async with mine._as_one() as fence:
            with pytest.raises(Unavailable, match="another node of a joins"):
                await others.clear(7)
            await it.one.store.give_back([LEASE])  # as when it was stopped for longer than the lease
            async with others._as_one():
                with pytest.raises(FenceLost):
                    await mine._clear(7, fence)
