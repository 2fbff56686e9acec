from __future__ import annotations

import asyncio

import pytest

from atoll.causality.origin import Origin, of_region, region_of
from atoll.errors import CursorExpired, InvalidToken, TokenNotReached
from atoll.protocol import port
from atoll.region.reading import ReadOptions
from atoll.store.memory.store import MemoryStore

from ..virtual_time import in_virtual_time
from .world import World

LIKED = {"$inc": {"count": 1}}


async def start_again(it: World, store: MemoryStore | None = None) -> None:
    """Region a lost its disk, or has an old copy of it."""
    await it["a"].stop()
    it.stores["a"] = MemoryStore() if store is None else store
    await it.create("a").start()


def copied(store: MemoryStore) -> MemoryStore:
    copy = MemoryStore()
    copy.tables = store.tables.copied()
    return copy


async def last_entry_at_c_alone(it: World) -> None:
    """Of two that region a has written, b has one."""
    await it.write("a", "like", "k", LIKED)
    await it.settled()
    it.partition("ab", "bc")
    await it.write("a", "like", "k", LIKED)
    await becomes(it, "c", Origin("a"), 2)


async def becomes(it: World, region: str, origin: Origin, seq: int) -> None:
    async with asyncio.timeout(60):
        await it[region].group_commit.progress.covered({origin: seq})


@in_virtual_time
async def test_a_new_region_listens_before_its_first_write() -> None:
    async with World() as it:
        it.partition("ab", "ac")
        began = asyncio.get_running_loop().time()
        await it.write("a", "note", "k", {})
        await it.write("a", "note", "k", {})
        assert asyncio.get_running_loop().time() - began == pytest.approx(3.0, abs=0.1)


@in_virtual_time
async def test_a_region_that_lost_its_disk_writes_at_once_and_gets_it_back() -> None:
    async with World() as it:
        for _ in range(3):
            await it.write("a", "like", "k", LIKED)
        await it.settled()
        it.partition("ab", "ac")
        await start_again(it)
        began = asyncio.get_running_loop().time()
        reply = await it.write("a", "like", "k", LIKED)
        assert asyncio.get_running_loop().time() == began  # nobody is heard first
        assert (region_of(reply.receipt.origin), reply.receipt.seq) == ("a", 1)
        assert reply.receipt.origin != "a"
        it.partition()
        await becomes(it, "a", Origin("a"), 3)
        await it.settled()
        assert [it.shown(name, "like", "k") for name in it.names] == [{"count": 4}] * 3
        await asyncio.sleep(3)
        assert all(link.status.relays == () for link in it["a"].links.values())


@in_virtual_time
async def test_regions_with_empty_stores_that_start_together_hear_each_other() -> None:
    """Each asked the others to start their links over, and so cut its own, for ever."""
    it = World(distance_s=0.001)
    for name in it.names:
        it.create(name, founding=False)
    async with asyncio.TaskGroup() as starts:
        for region in it.regions.values():
            starts.create_task(region.start())
    await it.write("a", "like", "k", LIKED)
    async with asyncio.timeout(60):
        await it.settled()
    assert all(region.startup_check.state.settled for region in it.regions.values())
    for region in it.regions.values():
        await region.stop()


@in_virtual_time
async def test_no_number_is_given_out_twice_though_its_entries_are_with_an_absent_peer_alone() -> None:
    """A region loses its disk while one peer is away, which alone holds its last entries."""
    async with World() as it:
        await last_entry_at_c_alone(it)
        it.partition("ac", "bc")
        await start_again(it)
        for _ in range(3):
            await it.write("a", "like", "k", LIKED)
        it.partition()
        await it.settled()
        assert [it.shown(name, "like", "k") for name in it.names] == [{"count": 5}] * 3


@in_virtual_time
async def test_what_a_relay_has_stored_of_a_lost_disk_is_asked_for_again_once_it_was_let_go() -> None:
    """Region b may not apply what it holds in memory of a, which counts as lost. What c has stored, it may."""
    async with World() as it:
        it.stores["b"].tables.refusal = "the disk is full"
        await it.write("a", "note", "k", {"text": "stored by c alone"})
        await becomes(it, "c", Origin("a"), 1)
        it.partition("ac")
        await start_again(it)
        await asyncio.sleep(5)
        it.stores["b"].tables.refusal = ""
        await it.settled()
        assert it.shown("a", "note", "k") == {"text": "stored by c alone"}


@in_virtual_time
async def test_an_old_copy_of_a_disk_begins_anew_by_what_a_peer_holds() -> None:
    async with World("a", "b") as it:
        await it.write("a", "like", "k", LIKED)
        copy = copied(it.stores["a"])
        await it.write("a", "like", "k", LIKED)
        await it.settled()
        await start_again(it, copy)
        reply = await it.write("a", "like", "k", LIKED)
        assert reply.receipt.origin != "a"
        await it.settled()
        assert it.shown("b", "like", "k") == it.shown("a", "like", "k") == {"count": 3}


@in_virtual_time
async def test_an_owner_orders_nothing_before_it_has_what_it_wrote_before() -> None:
    async with World() as it:
        await it.write("a", "ledger", "fig", {"balance": 7})
        await it.settled()
        await start_again(it)
        assert (await it["b"].read("ledger", "fig")).value == b'{"balance":7}'
        reply = await it.write("a", "ledger", "fig", {"$set": {"balance": 8}})
        assert reply.vector["a"] == 1


@in_virtual_time
async def test_rights_of_a_former_incarnation_are_spent_once_nothing_of_it_is_to_come() -> None:
    async with World() as it:
        await it.write("a", "ticket", "k", {"left": 5})
        await it.settled()
        await start_again(it)
        await it.settled()
        await asyncio.sleep(5)
        assert it["a"].startup_check.state.settled
        await it.write("a", "ticket", "k", {"$inc": {"left": -5}})
        await it.settled()
        assert [it.shown(name, "ticket", "k") for name in it.names] == [{"left": 0}] * 3


@in_virtual_time
async def test_a_peer_that_is_gone_for_good_keeps_nothing_open() -> None:
    async with World("a", "b") as it:
        await it.write("a", "like", "k", LIKED)
        it.partition("ab")
        await start_again(it)
        await asyncio.sleep(10)
        assert not it["a"].startup_check.state.settled
        it["a"].startup_check.post(port.Forgotten("b"))
        await asyncio.sleep(1)
        assert it["a"].startup_check.state.settled


@in_virtual_time
async def test_what_only_an_unreachable_peer_holds_comes_by_way_of_one_that_reaches_both() -> None:
    async with World() as it:
        await last_entry_at_c_alone(it)
        it.partition("ac")
        await start_again(it)
        await it.write("a", "like", "k", LIKED)
        await becomes(it, "a", Origin("a"), 2)
        await it.settled()
        assert [it.shown(name, "like", "k") for name in it.names] == [{"count": 3}] * 3
        await asyncio.sleep(3)
        assert it["b"].links["c"].status.relays == ()


async def lose_two(it: World) -> dict[str, int]:
    """Region a loses its disk, and entries 2 and 3 of it, which nobody else has. What its clients had seen."""
    await it.write("a", "note", "k", {"text": "kept"})
    await it.settled()
    it.partition("ab", "ac")
    for _ in range(2):
        seen = (await it.write("a", "note", "own", {"text": "lost"})).vector
    await start_again(it)
    it.partition()
    return dict(seen)


@in_virtual_time
async def test_a_token_of_what_is_lost_is_never_satisfied_by_later_writes() -> None:
    async with World(max_wait_s=1.0) as it:
        token = await lose_two(it)
        for number in range(20):
            await it.write("a", "note", f"k{number}", {"text": "later"})
        await it.settled()
        await asyncio.sleep(5)
        for name in it.names:
            with pytest.raises(InvalidToken) as caught:
                await it[name].read("note", "own", ReadOptions(token=token))
            assert caught.value.details["reason"] == "lost"
            with pytest.raises(InvalidToken):
                await it.write(name, "note", "own", {"text": "new"}, token)


@in_virtual_time
async def test_before_that_is_certain_such_a_token_is_waited_for_in_vain() -> None:
    async with World(max_wait_s=1.0) as it:
        token = await lose_two(it)
        it.partition("ac")  # c may hold more
        await start_again(it)
        for number in range(20):
            await it.write("a", "note", f"k{number}", {"text": "later"})
        await asyncio.sleep(20)
        for name in it.names:
            with pytest.raises(TokenNotReached):
                await it[name].read("note", "own", ReadOptions(token=token))


@in_virtual_time
async def test_a_cursor_of_what_is_lost_has_expired_in_every_region() -> None:
    async with World() as it:
        cursor = await lose_two(it)
        for number in range(3):
            await it.write("a", "note", f"k{number}", {"text": "later"})
        await it.settled()
        await asyncio.sleep(5)
        for name in it.names:
            with pytest.raises(CursorExpired) as caught:
                await it[name].feed.check_cursor(cursor)
            assert caught.value.details["gone"] == {"a": 2}
            await it[name].feed.check_cursor(it[name].vector)
        assert sum(of_region(it["b"].vector, "a").values()) == 4
