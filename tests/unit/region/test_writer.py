from __future__ import annotations

import asyncio

import pytest

from atoll.documents.mutation import Write
from atoll.errors import BoundExceeded, InvalidOperation, OwnershipFixed, RegionUnreachable, TokenNotReached
from atoll.replication.messages import WriteCall

from ..virtual_time import in_virtual_time
from .world import World


@in_virtual_time
async def test_the_reply_says_what_the_writer_has_seen() -> None:
    async with World() as it:
        await it.write("a", "note", "k", {})
        await it.settled()
        reply = await it.write("b", "note", "l", {})
        assert reply.vector == {"a": 1, "b": 1}
        assert (reply.receipt.origin, reply.receipt.seq) == ("b", 1)


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


@in_virtual_time
async def test_a_write_goes_to_the_region_that_owns_the_document() -> None:
    async with World() as it:
        reply = await it.write("a", "order", "k", {"region": "b"})
        assert reply.receipt.origin == "b"
        assert it["a"].statistics.forwarded == 1
        await it.settled()
        assert (await it.write("c", "order", "k", {"$set": {"sku": "x"}})).receipt.origin == "b"
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
        with pytest.raises(RegionUnreachable, match="b must execute this write") as caught:
            await it.write("a", "order", "k", {"region": "b"})
        assert caught.value.details == {"region": "b"}


@in_virtual_time
async def test_a_forwarded_write_is_not_forwarded_again() -> None:
    async with World() as it:
        call = WriteCall(Write((it.mutation("order", "k", {"region": "b"}),)))
        with pytest.raises(RegionUnreachable, match="c expects b to own"):
            await it["c"].answer(call)


@in_virtual_time
async def test_a_strong_document_with_an_owner_has_one_writer_wherever_it_is_asked() -> None:
    async with World() as it:
        for name in it.names:
            reply = await it.write(name, "ledger", "pear", {"$set": {"balance": 1}})
            assert reply.receipt.origin == "b"


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
