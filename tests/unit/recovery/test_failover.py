"""A region's database is replaced by an older one while its nodes run."""

from __future__ import annotations

import asyncio

import pytest

from atoll.causality.origin import of_region
from atoll.documents.mutation import Write
from atoll.errors import TokenNotReached, Unavailable
from atoll.protocol import port
from atoll.region.reading import ReadOptions
from atoll.region.region import Region
from atoll.replication.messages import StreamRequest

from ..region.test_several_nodes import Pair, pair
from ..region.world import World
from ..virtual_time import in_virtual_time

FIRST, SECOND, AGAIN = "cluster/1/0", "cluster/2/5", "cluster/1/9"


async def put(it: World, node: Region, key: str) -> int:
    """Returns how many entries the region has numbered by then, under whatever incarnation."""
    reply = await node.write(Write((it.mutation("note", key, {"text": key}),)))
    return sum(of_region(reply.vector, "a").values())


async def lose_two(it: Pair) -> None:
    """Region a has five entries, of which its database then lacks the last two; b has all."""
    tables = it.stores["a"].tables
    for number in range(3):
        await put(it, it.one, f"k{number}")
    standby = tables.copied()
    for number in (3, 4):
        await put(it, it.one, f"k{number}")
    await it.settled()
    tables.fail_over(standby, SECOND)
    assert tables.positions()["a"] == 3


@in_virtual_time
async def test_what_peers_have_comes_back_before_a_number_is_given_out() -> None:
    async with pair() as it:
        await lose_two(it)
        found = await asyncio.gather(put(it, it.one, "new"), put(it, it.other, "new-2"))
        assert sorted(found) == [6, 7]
        await it.settled()
        for key in ("k3", "k4", "new", "new-2"):
            assert it.shown("a", "note", key) == it.shown("b", "note", key) == {"text": key}
        assert it.stores["a"].tables.history_taken_up == SECOND


@in_virtual_time
async def test_a_node_that_knows_no_more_than_the_older_database_waits_all_the_same() -> None:
    async with pair() as it:
        tables = it.stores["a"].tables
        await put(it, it.one, "k0")
        await it.settled()
        standby = tables.copied()
        tables.leave(it.other.store)  # it hears of nothing meanwhile, and remembers what the standby has
        await put(it, it.one, "k1")
        await it.settled()
        tables.follow(it.other.store, it.other.progress._noticed, it.other._history_changed)
        tables.fail_over(standby, SECOND)
        assert await put(it, it.other, "new") == 3
        await it.settled()
        assert it.shown("b", "note", "k1") == {"text": "k1"}


@in_virtual_time
async def test_writes_wait_for_every_peer_where_commits_may_be_missing() -> None:
    async with pair() as it:
        await lose_two(it)
        it.partition("ab")
        with pytest.raises(Unavailable, match="waits for b"):
            await put(it, it.one, "new")
        await asyncio.sleep(60)
        with pytest.raises(Unavailable, match="waits for b"):
            await put(it, it.other, "new")
        assert it.one.gates.closed is not None
        assert it.one.gates.reads_closed is None
        assert (await it.one.read("note", "k2")).value == b'{"text":"k2"}'
        it.partition()
        await asyncio.sleep(5)
        assert await put(it, it.one, "new") == 6
        assert it.one.gates.closed is None


@in_virtual_time
async def test_a_peer_that_is_gone_is_said_to_one_node_and_believed_by_both() -> None:
    async with pair() as it:
        await lose_two(it)
        it.partition("ab")
        with pytest.raises(Unavailable):
            await put(it, it.one, "new")
        it.other.failover.history_changed(SECOND)
        it.one.failover.post(port.Forgotten("b"))
        await asyncio.sleep(10)
        assert await put(it, it.other, "new") == 4


@in_virtual_time
async def test_a_database_that_was_only_started_again_is_not_waited_for_for_ever() -> None:
    async with pair() as it:
        tables = it.stores["a"].tables
        tables.history = tables.history_taken_up = FIRST
        await put(it, it.one, "k0")
        it.partition("ab")
        tables.history = AGAIN
        before_s = asyncio.get_running_loop().time()
        assert await put(it, it.one, "k1") == 2
        assert asyncio.get_running_loop().time() >= before_s + it.options.startup_check_s  # it was waited for


@in_virtual_time
async def test_what_a_peer_received_and_did_not_store_is_dropped_there() -> None:
    async with pair() as it:
        tables = it.stores["a"].tables
        await put(it, it.one, "k0")
        await it.settled()
        standby = tables.copied()
        it.stores["b"].tables.refusal = "no space left"
        await put(it, it.one, "lost")
        await asyncio.sleep(1)
        assert len(it["b"].intake.inbox) == 1
        tables.fail_over(standby, SECOND)
        assert await put(it, it.one, "new") == 2
        it.stores["b"].tables.refusal = ""
        await it.settled()
        assert it.shown("b", "note", "lost") is None
        assert it.shown("b", "note", "new") == {"text": "new"}


@in_virtual_time
async def test_identifiers_are_refused_until_the_history_is_taken_up_and_then_leap() -> None:
    async with pair() as it:
        store, tables = it.one.store, it.stores["a"].tables
        standby = tables.copied()
        assert await store.advance_counter("ids", 1000) == 1000
        it.partition("ab")
        tables.fail_over(standby, SECOND)
        with pytest.raises(Unavailable):
            await store.advance_counter("ids", 1000)
        it.partition()
        await asyncio.sleep(10)
        assert await store.advance_counter("ids", 1000) > 100_000_000


@in_virtual_time
async def test_a_session_does_not_read_behind_what_it_has_seen() -> None:
    async with pair() as it:
        await lose_two(it)
        it.partition("ab")
        with pytest.raises(TokenNotReached):
            await it.one.read("note", "k4", ReadOptions(token={"a": 5}, max_wait_s=1))
        it.partition()
        found = await it.one.read("note", "k4", ReadOptions(token={"a": 5}, max_wait_s=10))
        assert found.value == b'{"text":"k4"}'


@in_virtual_time
async def test_a_feed_shows_each_entry_once_and_numbers_that_were_lost_for_good_again() -> None:
    async with pair() as it:
        tables = it.stores["a"].tables
        feed = it.one.feed.changes({}, idle_s=30)
        shown: list[str] = []

        async def follow() -> None:
            async for found in feed:
                if found is not None:
                    shown.extend(change.key for change in found[0].changes)

        following = asyncio.ensure_future(follow())
        await put(it, it.one, "k0")
        await it.settled()
        standby = tables.copied()
        await put(it, it.one, "k1")
        await it.settled()
        it.partition("ab")
        await put(it, it.one, "gone")
        await asyncio.sleep(1)
        tables.fail_over(standby, SECOND)
        it.partition()
        assert await put(it, it.one, "new") == 3
        await asyncio.sleep(1)
        following.cancel()
        assert shown == ["k0", "k1", "gone", "new"]


@in_virtual_time
async def test_a_stream_ends_when_the_journal_that_it_reads_is_another_databases() -> None:
    async with pair() as it:
        tables = it.stores["a"].tables
        stream = it.one.stream(StreamRequest("b", {}, ("a",)))
        assert await anext(stream)
        assert await anext(stream)  # idle, it says how far the region is
        tables.fail_over(tables.copied(), SECOND)
        await it.one.store.positions()
        async with asyncio.timeout(5):
            assert [chunk async for chunk in stream] == []


@in_virtual_time
async def test_two_servers_that_both_took_writes_are_found_out() -> None:
    """The region went on with one of them; the database that is left holds an entry of the other."""
    async with pair() as it:
        tables = it.stores["a"].tables
        await put(it, it.one, "k0")
        await it.settled()
        it.partition("ab")
        standby = tables.copied()
        await put(it, it.one, "there")
        divided = tables.copied()
        tables.fail_over(standby, SECOND)
        it.one.failover.post(port.Forgotten("b"))
        it.other.failover.history_changed(SECOND)
        it.other.failover.post(port.Forgotten("b"))
        await asyncio.sleep(5)
        await put(it, it.one, "here")
        it.partition()
        await it.settled()
        assert it.shown("b", "note", "here") == {"text": "here"}
        await asyncio.sleep(5)  # it tells its peer where its former incarnation ended
        tables.fail_over(divided, "cluster/1/99")
        with pytest.raises(Unavailable):
            await put(it, it.one, "new")
        await asyncio.sleep(5)
        assert "entry 2 of a was given up" in (it.one.gates.closed or "")
        with pytest.raises(Unavailable, match="history that was abandoned"):
            await put(it, it.one, "new")
