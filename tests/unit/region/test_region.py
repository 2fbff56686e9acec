from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from atoll.core.mutation import Write
from atoll.errors import (
    BoundExceeded,
    ClockUnsafe,
    CursorExpired,
    InvalidOperation,
    Overloaded,
    OwnershipFixed,
    RegionUnreachable,
    StoreUnwritable,
    TokenNotReached,
    TooStale,
    Unavailable,
    UnknownCollection,
)
from atoll.region.digests import BUCKETS
from atoll.region.ownership import rendezvous
from atoll.region.peers import DigestCall, PingCall, PingReply, ReadCall, ReadReply, WriteCall, WriteReply
from atoll.region.reading import ReadOptions
from atoll.store.memory import MemoryStore

from ..virtual_time import in_virtual_time
from .world import START_MS, World


def account_of(owner: str) -> str:
    """A key whose document that region owns."""
    return next(f"k{n}" for n in range(99) if rendezvous(("a", "b", "c"), f"account\x00k{n}") == owner)


# -- writing -------------------------------------------------------------------------------------------


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
async def test_the_reply_says_what_the_writer_has_seen() -> None:
    async with World() as it:
        await it.write("a", "note", "k", {})
        await it.settled()
        reply = await it.write("b", "note", "l", {})
        assert reply.vector == {"a": 1, "b": 1}
        assert (reply.receipt.region, reply.receipt.seq) == ("b", 1)


@in_virtual_time
async def test_a_feed_that_truncation_overtakes_ends_with_an_error() -> None:
    async with World("a") as it:
        for n in range(4):
            await it.write("a", "note", "k", {"text": str(n)})
        changes = it["a"].feed.changes({}, idle_s=1.0)
        assert (found := await anext(changes)) is not None
        assert found[1] == {"a": 1}
        await it.write("a", "note", "k", {"text": "later"})
        slow = it["a"].feed.changes({"a": 4}, idle_s=1.0)
        await it.write("a", "note", "k", {"text": "last"})
        await it.stores["a"].truncate(5)
        with pytest.raises(CursorExpired) as caught:
            await anext(slow)
        assert caught.value.details == {"gone": {"a": 5}}


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


@pytest.mark.parametrize("count", [0, 1001])
@in_virtual_time
async def test_a_batch_is_bounded(count: int) -> None:
    async with World() as it:
        with pytest.raises(InvalidOperation, match="1 to 1000"):
            await it["a"].write(Write((it.mutation("note", "k", {}),) * count))


@in_virtual_time
async def test_a_write_comes_after_what_its_session_has_seen() -> None:
    async with World() as it:
        it.partition("ab", "ac")
        token = (await it.write("a", "note", "post", {})).vector
        answer = asyncio.ensure_future(it.write("b", "note", "reply", {}, token))
        await asyncio.sleep(0.5)
        assert not answer.done()
        it.partition()
        assert (await answer).vector == {"a": 1, "b": 1}


@in_virtual_time
async def test_a_write_whose_past_does_not_come_is_refused() -> None:
    async with World() as it:
        it.partition("ab", "ac")
        token = (await it.write("a", "note", "post", {})).vector
        with pytest.raises(TokenNotReached, match="a up to 1") as caught:
            await it.write("b", "note", "reply", {}, token)
        assert caught.value.details == {"missing": {"a": 1}}
        assert it["b"].vector == {}


@in_virtual_time
async def test_a_write_that_is_only_eventual_waits_for_nothing() -> None:
    async with World() as it:
        it.partition("ab", "ac")
        token = (await it.write("a", "like", "k", {})).vector
        assert (await it.write("b", "like", "k", {}, token)).receipt.seq == 1


# -- ownership -----------------------------------------------------------------------------------------


@in_virtual_time
async def test_a_write_goes_to_the_region_that_owns_the_document() -> None:
    async with World() as it:
        reply = await it.write("a", "order", "k", {"region": "b"})
        assert reply.receipt.region == "b"
        assert it["a"].statistics.forwarded == 1
        await it.settled()
        assert (await it.write("c", "order", "k", {"$set": {"sku": "x"}})).receipt.region == "b"
        await it.settled()
        assert it.shown("a", "order", "k") == {"region": "b", "sku": "x"}


@in_virtual_time
async def test_a_document_does_not_change_hands() -> None:
    async with World() as it:
        await it.write("a", "order", "k", {"region": "b"})
        await it.settled()
        with pytest.raises(OwnershipFixed, match="belongs to b"):
            await it.write("a", "order", "k", {"region": "c"})


@in_virtual_time
async def test_an_owner_that_is_cut_off_cannot_be_replaced() -> None:
    async with World() as it:
        it.partition("ab")
        with pytest.raises(RegionUnreachable, match="b must take this write") as caught:
            await it.write("a", "order", "k", {"region": "b"})
        assert caught.value.details == {"region": "b"}


@in_virtual_time
async def test_a_forwarded_write_is_not_forwarded_again() -> None:
    async with World() as it:
        call = WriteCall(Write((it.mutation("order", "k", {"region": "b"}),)))
        with pytest.raises(RegionUnreachable, match="c believes that b owns"):
            await it["c"].answer(call)


@in_virtual_time
async def test_a_strong_document_has_one_writer_wherever_it_is_asked() -> None:
    async with World() as it:
        for name in it.names:
            reply = await it.write(name, "account", account_of("c"), {"$set": {"balance": 1}})
            assert reply.receipt.region == "c"


# -- reading -------------------------------------------------------------------------------------------


@in_virtual_time
async def test_an_absent_document_has_no_version() -> None:
    async with World() as it:
        reading = await it["a"].read("note", "none")
        assert (reading.value, reading.version, reading.region) == (None, "", "a")


@in_virtual_time
async def test_a_session_reads_what_it_wrote_elsewhere() -> None:
    async with World() as it:
        it.partition("ab", "ac")
        token = (await it.write("a", "note", "k", {"text": "mine"})).vector
        answer = asyncio.ensure_future(it["b"].read("note", "k", ReadOptions(token=token)))
        await asyncio.sleep(0.5)
        it.partition()
        reading = await answer
        assert (reading.value, reading.region) == (b'{"text":"mine"}', "b")
        assert it["b"].statistics.token_waits == 1


@in_virtual_time
async def test_a_read_that_waits_in_vain_says_what_is_missing() -> None:
    async with World() as it:
        it.partition("ab", "ac", "bc")
        began = asyncio.get_running_loop().time()
        with pytest.raises(TokenNotReached, match="a up to 9") as caught:
            await it["b"].read("note", "k", ReadOptions(token={"a": 9}, max_wait_s=2.5))
        assert caught.value.details == {"missing": {"a": 9}}
        assert asyncio.get_running_loop().time() - began == pytest.approx(2.5)


@in_virtual_time
async def test_a_read_goes_where_the_sessions_past_is() -> None:
    async with World() as it:
        await it.settled()
        it.stores["b"].tables.refusal = "full"  # so that b applies nothing
        token = (await it.write("a", "note", "k", {"text": "mine"})).vector
        await asyncio.sleep(0.5)
        reading = await it["b"].read("note", "k", ReadOptions(token=token, max_wait_s=0.0))
        assert (reading.value, reading.region) == (b'{"text":"mine"}', "a")
        assert it["b"].statistics.forwarded == 1


@in_virtual_time
async def test_an_eventual_read_waits_for_nothing() -> None:
    async with World() as it:
        reading = await it["b"].read("like", "k", ReadOptions(token={"a": 9}))
        assert reading.value is None
        asked = ReadOptions("eventual", token={"a": 9})
        assert (await it["b"].read("note", "k", asked)).value is None


@in_virtual_time
async def test_an_eventual_collection_can_be_read_as_a_session() -> None:
    async with World() as it:
        it.partition("ab", "ac")
        token = (await it.write("a", "like", "k", {})).vector
        with pytest.raises(TokenNotReached):
            await it["b"].read("like", "k", ReadOptions("session", token, max_wait_s=0.1))


@in_virtual_time
async def test_nobody_may_wait_for_ever() -> None:
    async with World() as it:
        it.partition("ab", "ac", "bc")
        began = asyncio.get_running_loop().time()
        assert not await it["b"].waits.wait_for({"a": 9}, max_wait_s=1e6)
        assert asyncio.get_running_loop().time() - began == pytest.approx(30)


@in_virtual_time
async def test_a_bounded_read_is_served_while_the_lag_is_known_to_be_small() -> None:
    async with World() as it:
        await it.settled()
        await asyncio.sleep(1)
        assert (await it["a"].read("price", "k")).degraded is None
        assert it["a"].waits.staleness_s() <= 0.3


@in_virtual_time
async def test_a_bounded_read_is_refused_when_cut_off() -> None:
    async with World() as it:
        await asyncio.sleep(1)
        it.partition("ab", "ac")
        await asyncio.sleep(5)
        with pytest.raises(TooStale, match="may lag by") as caught:
            await it["a"].read("price", "k")
        assert caught.value.details["lag_s"] > 5
        assert (await it["a"].read("price", "k", ReadOptions("eventual"))).region == "a"
        await it["a"].read("price", "k", ReadOptions(max_staleness_s=60))


@pytest.mark.parametrize("level", [None, "eventual", "session", "causal"])
@in_virtual_time
async def test_a_bound_that_is_asked_for_holds_at_every_level(level: str | None) -> None:
    async with World() as it:
        it.partition("ab", "ac")
        await asyncio.sleep(5)
        with pytest.raises(TooStale):
            await it["a"].read("like", "k", ReadOptions(level, max_staleness_s=1.0, max_wait_s=0.0))


@in_virtual_time
async def test_a_region_that_heard_nothing_may_be_endlessly_stale() -> None:
    async with World() as it:
        it.partition("ab", "ac")
        assert it["a"].waits.staleness_s() == float("inf")
        with pytest.raises(TooStale) as caught:
            await it["a"].read("price", "k")
        assert caught.value.details == {"lag_s": None}


@in_virtual_time
async def test_a_strong_read_is_of_the_region_that_orders_the_writes() -> None:
    async with World() as it:
        key = account_of("b")
        await it.write("a", "account", key, {"balance": 5})
        reading = await it["c"].read("account", key)
        assert (reading.value, reading.region) == (b'{"balance":5}', "b")
        it.partition("bc")
        with pytest.raises(RegionUnreachable, match="orders the writes"):
            await it["c"].read("account", key)
        assert (await it["c"].read("account", key, ReadOptions("eventual"))).region == "c"


@in_virtual_time
async def test_a_strong_read_needs_a_strong_collection() -> None:
    async with World() as it:
        with pytest.raises(InvalidOperation, match="declared causal"):
            await it["a"].read("note", "k", ReadOptions("strong"))


@in_virtual_time
async def test_a_weaker_answer_says_so() -> None:
    async with World() as it:
        assert (await it["a"].read("stock", "k")).degraded == "escrow"


# -- bounded counters ----------------------------------------------------------------------------------


@in_virtual_time
async def test_rights_are_fetched_where_they_run_short() -> None:
    async with World() as it:
        await it.write("a", "stock", "k", {"left": 30})
        await it.settled()
        await it.write("b", "stock", "k", {"$inc": {"left": -25}})
        await it.settled()
        assert [it.shown(name, "stock", "k") for name in it.names] == [{"left": 5}] * 3
        assert it["b"].writer.escrow.requests >= 1


@in_virtual_time
async def test_nothing_is_oversold_by_all_at_once() -> None:
    async with World() as it:
        await it.write("a", "ticket", "k", {"left": 20})
        await it.settled()
        buying = [it.write(name, "ticket", "k", {"$inc": {"left": -1}}) for name in "abc" * 10]
        answers = await asyncio.gather(*buying, return_exceptions=True)
        await it.settled()
        sold = sum(not isinstance(answer, BaseException) for answer in answers)
        assert it.shown("c", "ticket", "k") == {"left": 20 - sold}
        assert 0 < sold <= 20
        assert all(
            isinstance(answer, BoundExceeded) for answer in answers if isinstance(answer, BaseException)
        )


@in_virtual_time
async def test_a_region_cut_off_sells_what_it_holds() -> None:
    async with World() as it:
        await it.write("a", "stock", "k", {"left": 30})
        await it.settled()
        it.partition("ab", "bc")
        await it.write("b", "stock", "k", {"$inc": {"left": -10}})
        with pytest.raises(BoundExceeded) as caught:
            await it.write("b", "stock", "k", {"$inc": {"left": -1}})
        assert (caught.value.details["left_here"], caught.value.details["left_in_all"]) == (0, 20)


@in_virtual_time
async def test_a_deleted_counter_is_created_anew_with_the_rights_of_all() -> None:
    async with World() as it:
        await it.write("a", "stock", "k", {"left": 30})
        await it.settled()
        await it.write("b", "stock", "k", None)
        await it.settled()
        await it.write("c", "stock", "k", {"left": 3})
        await it.settled()
        assert [it.shown(name, "stock", "k") for name in it.names] == [{"left": 3}] * 3


# -- life ----------------------------------------------------------------------------------------------


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
async def test_a_region_is_caught_up_once_it_has_what_its_peers_have() -> None:
    async with World() as it:
        await it.write("b", "note", "k", {})
        assert not it.create("a").health.caught_up
        await it["a"].start()
        await asyncio.sleep(1)
        assert it["a"].health.caught_up


@in_virtual_time
async def test_why_a_region_is_out_of_service() -> None:
    async with World() as it:
        region = it["a"]
        assert "has just started and has not yet heard b, c" in (region.health.out_of_service or "")
        assert region.health.reads_nothing is None
        await asyncio.sleep(1)
        assert region.health.out_of_service is None
        region.health.draining = True
        assert region.health.out_of_service == "draining"
        region.health.draining = False
        it.stores["a"].tables.refusal = "no space left"
        with pytest.raises(StoreUnwritable):
            await it.write("a", "note", "k", {})
        assert "no space left" in (region.health.out_of_service or "")


@in_virtual_time
async def test_a_region_finds_out_by_itself_that_its_disk_is_well_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def at_once(work: Callable[[], None]) -> None:
        work()

    monkeypatch.setattr(asyncio, "to_thread", at_once)  # threads know nothing of virtual time
    async with World(housekeeping_s=0.5) as it:
        it.stores["a"].tables.refusal = "full"
        with pytest.raises(StoreUnwritable):
            await it.write("a", "note", "k", {})
        it.stores["a"].tables.refusal = ""
        await asyncio.sleep(1)
        assert it["a"].health.out_of_service is None


@in_virtual_time
async def test_background_work_that_breaks_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with World() as it:

        def defect(*arguments: object) -> None:
            raise ZeroDivisionError("a defect")

        monkeypatch.setattr(it["a"].clocks.offsets, "interval", defect)
        await asyncio.sleep(3)
        assert "clock of c ended" in (it["a"].health.out_of_service or "")
        assert "ZeroDivisionError" in caplog.text


# -- clocks --------------------------------------------------------------------------------------------


@in_virtual_time
async def test_a_clock_far_off_takes_its_region_out_of_service() -> None:
    async with World(skew_ms={"a": 2000}) as it:
        await asyncio.sleep(3)
        assert "outside what the peers agree on" in (it["a"].health.out_of_service or "")
        with pytest.raises(ClockUnsafe, match="clock of a"):
            await it.write("a", "note", "k", {})
        assert it["b"].health.out_of_service is None
        await it.write("b", "note", "k", {})


@in_virtual_time
async def test_a_clock_that_was_set_right_serves_again() -> None:
    async with World(skew_ms={"a": 2000}) as it:
        await asyncio.sleep(3)
        it.skew_ms["a"] = 0
        await asyncio.sleep(30)
        assert it["a"].health.out_of_service is None
        await it.write("a", "note", "k", {})
        await it.settled()


@in_virtual_time
async def test_a_clock_a_little_off_goes_on() -> None:
    async with World(skew_ms={"a": 300, "b": -100}) as it:
        await asyncio.sleep(3)
        for name in it.names:
            await it.write(name, "note", name, {})
        await it.settled()
        assert 0 < it["a"].clocks.uncertainty_ms <= 500


@in_virtual_time
async def test_a_region_alone_trusts_its_own_clock() -> None:
    async with World("a") as it:
        await it.write("a", "note", "k", {})
        assert it["a"].health.caught_up
        assert it["a"].waits.staleness_s() == 0.0
        assert it["a"].health.out_of_service is None


# -- peers ---------------------------------------------------------------------------------------------


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


@in_virtual_time
async def test_digests_are_equal_where_the_data_is() -> None:
    async with World() as it:
        for n in range(30):
            await it.write("abc"[n % 3], "note", f"k{n}", {"text": str(n)})
        await it.write("a", "note", "k0", None)
        await it.settled()
        one, *others = [await it[name].digests.of("note") for name in it.names]
        assert all(other.digests == one.digests for other in others)
        assert one.count == 29
        await it.write("a", "note", "k1", {"text": "changed"})
        assert (await it["a"].digests.of("note")).digests != one.digests


@in_virtual_time
async def test_a_bucket_names_its_documents() -> None:
    async with World() as it:
        for n in range(10):
            await it.write("a", "note", f"k{n}", {})
        buckets = (await it["a"].digests.of("note")).digests
        assert all(0 <= int(bucket) < BUCKETS for bucket in buckets)
        found: set[str] = set()
        for bucket in buckets:
            reply = await it["a"].answer(DigestCall("note", int(bucket)))
            found |= set(reply.digests)  # type: ignore[union-attr]
        assert found == {f"k{n}" for n in range(10)}
        with pytest.raises(UnknownCollection):
            await it["a"].digests.of("unheard")


# -- change feed ---------------------------------------------------------------------------------------


async def take(it: World, region: str, vector: dict[str, int], count: int) -> list[tuple[str, int]]:
    found: list[tuple[str, int]] = []
    async for item in it[region].feed.changes(vector, idle_s=5):
        assert item is not None
        entry, after = item
        assert after[entry.origin] == entry.seq
        found.append((entry.origin, entry.seq))
        if len(found) == count:
            break
    return found


@in_virtual_time
async def test_the_feed_holds_every_entry_once() -> None:
    async with World() as it:
        for n in range(5):
            await it.write("ab"[n % 2], "note", "k", {"text": str(n)})
        await it.settled()
        for name in it.names:
            assert sorted(await take(it, name, {}, 5)) == [("a", 1), ("a", 2), ("a", 3), ("b", 1), ("b", 2)]
            assert sorted(await take(it, name, {"a": 2, "b": 1}, 2)) == [("a", 3), ("b", 2)]


@in_virtual_time
async def test_the_feed_goes_on_with_what_comes() -> None:
    async with World() as it:
        await it.write("a", "note", "k", {})
        following = asyncio.ensure_future(take(it, "b", {}, 3))
        for _ in range(2):
            await asyncio.sleep(1)
            await it.write("c", "note", "k", {})
        assert await following == [("a", 1), ("c", 1), ("c", 2)]


@in_virtual_time
async def test_a_quiet_feed_says_so() -> None:
    async with World() as it:
        began = asyncio.get_running_loop().time()
        async for item in it["a"].feed.changes({}, idle_s=5):
            assert item is None
            break
        assert asyncio.get_running_loop().time() - began == pytest.approx(5)
