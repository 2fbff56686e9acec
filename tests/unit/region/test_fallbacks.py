"""What strong collections do in a region that is cut off from a majority, and what becomes of it afterwards."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from atoll.documents.mutation import Write, put_of
from atoll.errors import (
    AtollError,
    BoundExceeded,
    Indefinite,
    RegionUnreachable,
    TokenNotReached,
    VersionMismatch,
)
from atoll.region.reading import ReadOptions
from atoll.region.status import RegistersStatus
from atoll.region.tentative import UNDECIDED
from atoll.replication.messages import VoteCall, WriteReply
from atoll.schema import BoundedCounter, Collection
from atoll.schema.application import application_of
from atoll.store.port import AuditFilter

from ..virtual_time import in_virtual_time
from .world import World


class Seat(Collection, consistency="strong", fallback="eventual"):
    guest: str = ""


class Claim(Collection, consistency="strong", fallback="eventual", resolve="fww"):
    owner: str = ""


def both(versions: list[Any]) -> Any:
    guests = sorted({version["guest"] for version in versions if version is not None})
    return {"guest": "+".join(guests)}


class Table(Collection, consistency="strong", fallback="eventual", resolve=both):
    guest: str = ""


class Price(Collection, consistency="strong", fallback="stale-read"):
    cents: int = 0


class Purse(Collection, consistency="strong", fallback="reject"):
    balance: int = 0


class Stock(Collection, consistency="strong", fallback="escrow"):
    left: BoundedCounter = 0


APPLICATION = application_of(Seat, Claim, Table, Price, Purse, Stock)
PLENTY_S = 15.0


def fallen() -> World:
    return World(application=APPLICATION)


async def read(it: World, region: str, key: str = "k", collection: str = "seat", **options: Any) -> Any:
    """(document, degraded)"""
    found = await it[region].read(collection, key, ReadOptions(**options))
    return None if found.value is None else json.loads(found.value), found.degraded


async def put(it: World, region: str, guest: str, key: str = "k", token: Any = None) -> WriteReply:
    return await it.write(region, "seat", key, {"guest": guest}, token)


async def cut_off(it: World, region: str) -> None:
    """All have started, and then the links have noticed."""
    await put(it, region, "started", "any")
    it.partition(*("".join(sorted((region, other))) for other in it.names if other != region))
    await asyncio.sleep(5)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - a call is no event
        await asyncio.sleep(0.0001)


async def healed(it: World) -> None:
    it.partition()
    await asyncio.sleep(PLENTY_S)
    await it.settled()


def registers(it: World, region: str) -> RegistersStatus:
    found = it[region].status().registers
    assert found is not None
    return found


async def audit(it: World, region: str) -> list[Any]:
    return [json.loads(row.body) for row in await it[region].list_conflicts(AuditFilter())]


# -- taken only when cut off -------------------------------------------------------------------------


@in_virtual_time
async def test_no_fallback_is_taken_while_a_majority_answers() -> None:
    async with fallen() as it:
        await put(it, "a", "started", "any")
        it.partition("ab")
        await asyncio.sleep(5)
        for number, name in enumerate("abcabc"):
            reply = await put(it, name, str(number))
            assert reply.receipt.degraded is None
            assert [await read(it, reader) for reader in "abc"] == [({"guest": str(number)}, None)] * 3
        assert not it["a"].status().counted.degraded
        assert not registers(it, "a").cut_off


@in_virtual_time
async def test_none_is_taken_before_links_are_open() -> None:
    async with fallen() as it:
        assert (await put(it, "a", "first")).receipt.degraded is None
        assert await read(it, "b") == ({"guest": "first"}, None)


@in_virtual_time
async def test_a_stale_read_is_of_the_regions_own_copy_and_says_so() -> None:
    async with fallen() as it:
        await it.write("a", "price", "k", {"cents": 1})
        await it.settled()
        await cut_off(it, "a")
        await it.write("b", "price", "k", {"cents": 2})
        assert await read(it, "a", collection="price") == ({"cents": 1}, "stale-read")
        assert await read(it, "c", collection="price") == ({"cents": 2}, None)
        with pytest.raises(RegionUnreachable, match="majority"):
            await it.write("a", "price", "k", {"cents": 3})
        assert it["a"].status().counted.degraded == {"read/stale-read": 1}
        assert registers(it, "a").cut_off
        await healed(it)
        assert await read(it, "a", collection="price") == ({"cents": 2}, None)


@in_virtual_time
async def test_a_session_is_never_shown_less_than_it_has_seen() -> None:
    async with fallen() as it:
        await cut_off(it, "a")
        token = (await it.write("b", "price", "k", {"cents": 2})).vector
        with pytest.raises(TokenNotReached):
            await read(it, "a", collection="price", token=token)


@in_virtual_time
async def test_reject_refuses_reads_and_writes() -> None:
    async with fallen() as it:
        await it.write("a", "purse", "k", {"balance": 1})
        await it.settled()
        await cut_off(it, "a")
        with pytest.raises(RegionUnreachable):
            await read(it, "a", collection="purse")
        with pytest.raises(RegionUnreachable):
            await it.write("a", "purse", "k", {"balance": 2})


@in_virtual_time
async def test_what_was_proposed_without_an_answer_is_never_taken_as_well() -> None:
    """A majority may decide it yet. To take it here, too, would make it twice."""
    async with fallen() as it:
        await put(it, "a", "before")
        called = len(it.calls)
        lost = asyncio.ensure_future(put(it, "a", "proposed"))
        await until(lambda: any(isinstance(call, VoteCall) for _, _, call in it.calls[called:]))
        it.partition("ab", "ac")
        with pytest.raises(Indefinite):
            await lost
        assert not registers(it, "a").undecided


@in_virtual_time
async def test_a_retry_of_what_may_be_decided_is_not_taken_either() -> None:
    async with fallen() as it:
        await put(it, "a", "before")
        write = Write((put_of(it["a"].rules["seat"], "k", b'{"guest":"once"}'),), "key")
        called = len(it.calls)
        lost = asyncio.ensure_future(it["a"].write(write))
        await until(lambda: any(isinstance(call, VoteCall) for _, _, call in it.calls[called:]))
        it.partition("ab", "ac")
        with pytest.raises(Indefinite):
            await lost
        await put(it, "a", "another", "l")
        assert registers(it, "a").undecided
        with pytest.raises(AtollError) as caught:
            await it["a"].write(write)
        assert isinstance(caught.value, Indefinite | RegionUnreachable)
        assert await read(it, "a") == ({"guest": "before"}, "eventual")


# -- written while cut off -----------------------------------------------------------------------------


@in_virtual_time
async def test_a_write_is_taken_and_says_so_and_is_decided_afterwards() -> None:
    async with fallen() as it:
        await put(it, "b", "before")
        await it.settled()
        await cut_off(it, "a")
        assert (await put(it, "a", "tentative")).receipt.degraded == "eventual"
        assert await read(it, "a") == ({"guest": "tentative"}, "eventual")
        assert await read(it, "b") == ({"guest": "before"}, None)
        assert registers(it, "a").undecided == 1
        await healed(it)
        assert [await read(it, name) for name in "abc"] == [({"guest": "tentative"}, None)] * 3
        assert registers(it, "a").undecided == 0
        assert await it.stores["a"].states(UNDECIDED) == []
        assert [await audit(it, name) for name in "abc"] == [[], [], []]
        assert it["a"].status().counted.degraded == {"write/eventual": 1, "read/eventual": 1}


@in_virtual_time
async def test_a_document_that_was_created_while_cut_off_is_decided_afterwards() -> None:
    async with fallen() as it:
        await cut_off(it, "a")
        await put(it, "a", "new")
        assert await read(it, "b") == (None, None)
        await healed(it)
        assert [await read(it, name) for name in "abc"] == [({"guest": "new"}, None)] * 3
        assert await audit(it, "b") == []


@in_virtual_time
@pytest.mark.parametrize("first", ["a", "b"])
@pytest.mark.parametrize(
    ("collection", "shown", "lost"),
    [("seat", "later", "earlier"), ("claim", "earlier", "later"), ("table", "earlier+later", None)],
)
async def test_what_collides_is_resolved_and_the_audit_says_so(
    first: str, collection: str, shown: str, lost: str | None
) -> None:
    """`first` is where the earlier one was written: in the region that is cut off, or by the majority."""
    field = "owner" if collection == "claim" else "guest"
    async with fallen() as it:
        await it.write("b", collection, "k", {field: "before"})
        await it.settled()
        await cut_off(it, "a")
        await it.write(first, collection, "k", {field: "earlier"})
        await asyncio.sleep(1)
        await it.write("b" if first == "a" else "a", collection, "k", {field: "later"})
        await healed(it)
        assert [(await read(it, name, collection=collection))[0] for name in "abc"] == [{field: shown}] * 3
        audits = [await audit(it, name) for name in "abc"]
        assert audits[0] == audits[1] == audits[2]
        values = [record["losing"]["value"][field] for record in audits[0]]
        assert {record["status"] for record in audits[0]} == {"resolved"}
        assert values == ([lost] if lost else ["earlier"])


@in_virtual_time
async def test_what_the_majority_writes_next_is_on_top_of_what_was_written_while_cut_off() -> None:
    """Nothing is lost by it: its writer had the other write, or the audit has it."""
    async with fallen() as it:
        await put(it, "b", "before")
        await it.settled()
        await cut_off(it, "a")
        await put(it, "a", "tentative")
        it.partition()
        await until(lambda: it.shown("b", "seat", "k") == {"guest": "tentative"})
        await put(it, "b", "next")
        assert [await read(it, name) for name in "abc"] == [({"guest": "next"}, None)] * 3
        await healed(it)
        assert [await read(it, name) for name in "abc"] == [({"guest": "next"}, None)] * 3
        assert [await audit(it, name) for name in "abc"] == [[], [], []]


@in_virtual_time
async def test_conditions_are_checked_against_the_regions_own_copy() -> None:
    async with fallen() as it:
        await put(it, "b", "before")
        await it.settled()
        await cut_off(it, "a")
        version = (await it["a"].read("seat", "k")).version
        rules = it["a"].rules["seat"]
        with pytest.raises(VersionMismatch):
            await it["a"].write(Write((put_of(rules, "k", b"{}", if_absent=True),)))
        await it["a"].write(Write((put_of(rules, "k", b'{"guest":"mine"}', if_match=version),)))
        with pytest.raises(VersionMismatch):
            await it["a"].write(Write((put_of(rules, "k", b"{}", if_match=version),)))


@in_virtual_time
async def test_a_session_that_wrote_while_cut_off_reads_it_by_majority_in_any_region() -> None:
    async with fallen() as it:
        await put(it, "b", "before")
        await it.settled()
        await cut_off(it, "a")
        token = (await put(it, "a", "mine")).vector
        it.partition()
        await asyncio.sleep(0.1)
        assert await read(it, "c", token=token, max_wait_s=10.0) == ({"guest": "mine"}, None)


@in_virtual_time
async def test_a_delete_while_cut_off_is_decided_afterwards() -> None:
    async with fallen() as it:
        await put(it, "b", "before")
        await it.settled()
        await cut_off(it, "a")
        await it.write("a", "seat", "k", None)
        assert await read(it, "a") == (None, "eventual")
        await healed(it)
        assert [await read(it, name) for name in "abc"] == [(None, None)] * 3


@in_virtual_time
async def test_a_repetition_gets_the_same_answer_before_and_after() -> None:
    async with fallen() as it:
        await cut_off(it, "a")
        write = Write((put_of(it["a"].rules["seat"], "k", b'{"guest":"once"}'),), "key")
        first = (await it["a"].write(write)).receipt
        again = (await it["a"].write(write)).receipt
        await healed(it)
        later = (await it["a"].write(write)).receipt
        for receipt in (again, later):
            assert (receipt.replayed, receipt.degraded, receipt.dot) == (True, "eventual", first.dot)


@in_virtual_time
async def test_a_restarted_region_still_has_it_decided() -> None:
    async with fallen() as it:
        await cut_off(it, "a")
        await put(it, "a", "kept")
        await it["a"].stop()
        await it.create("a").start()
        await healed(it)
        assert [await read(it, name) for name in "abc"] == [({"guest": "kept"}, None)] * 3
        assert registers(it, "a").undecided == 0


@in_virtual_time
async def test_a_transaction_never_takes_a_fallback() -> None:
    async with fallen() as it:
        await cut_off(it, "a")
        mutations = tuple(it.mutation("seat", key, {"guest": "both"}) for key in ("k", "l"))
        with pytest.raises(RegionUnreachable):
            await it["a"].transact(Write(mutations))


# -- escrow --------------------------------------------------------------------------------------------


async def sell(it: World, region: str, amount: int) -> WriteReply:
    return await it.write(region, "stock", "k", {"$inc": {"left": -amount}})


@in_virtual_time
async def test_the_total_is_exact_while_all_answer() -> None:
    """Each read has all that any region had sold before it, however far away."""
    async with fallen() as it:
        it.request_s = dict.fromkeys((("a", "b"), ("b", "c"), ("c", "a")), 0.1)
        await it.write("a", "stock", "k", {"left": 90})
        await it.settled()
        left = 90
        for region in "abcabc":
            await sell(it, region, 5)
            left -= 5
            for name in it.names:
                assert await read(it, name, collection="stock") == ({"left": left}, None)


@in_virtual_time
async def test_cut_off_a_region_sells_what_it_holds_and_says_so() -> None:
    async with fallen() as it:
        await it.write("a", "stock", "k", {"left": 90})
        await it.settled()
        assert (await sell(it, "a", 1)).receipt.degraded is None
        await cut_off(it, "a")
        assert (await sell(it, "a", 29)).receipt.degraded == "escrow"
        with pytest.raises(BoundExceeded):
            await sell(it, "a", 1)
        assert (await sell(it, "b", 10)).receipt.degraded is None
        assert await read(it, "a", collection="stock") == ({"left": 60}, "escrow; not heard: b, c")
        assert await read(it, "b", collection="stock") == ({"left": 79}, "escrow; not heard: a")
        await healed(it)
        assert [await read(it, name, collection="stock") for name in "abc"] == [({"left": 50}, None)] * 3
        assert it["a"].status().counted.degraded == {"write/escrow": 1, "read/escrow": 1}
