from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest

from atoll.causality.origin import Origin
from atoll.documents.mutation import Receipt, Transfer, Write
from atoll.errors import BoundExceeded, InvalidOperation, RegionUnreachable
from atoll.ownership.escrow import Escrow
from atoll.replication.messages import WriteReply

from ..virtual_time import in_virtual_time


class Stock:
    """Rights of region "a" and its peers over some counters."""

    def __init__(self, **held: dict[str, int]) -> None:
        self.held = {key: Counter(rights) for key, rights in held.items()}
        self.seen: dict[str, dict[str, int]] = {}
        self.cut: set[str] = set()
        self.asked: list[tuple[str, str]] = []
        self.escrow = Escrow(
            lambda: Origin("a"),
            self.holders,
            self.ask,
            self.covered,
            lambda: asyncio.get_running_loop().time(),
            timeout_s=3.0,
        )

    async def holders(self, collection: str, key: str, field: str) -> dict[str, int]:
        return self.seen.get(key, dict(self.held[key] - Counter(a=10**9)))

    async def ask(self, peer: str, write: Write, timeout_s: float) -> WriteReply:
        (transfer,) = write.mutations
        assert isinstance(transfer, Transfer)
        self.asked.append((peer, transfer.key))
        await asyncio.sleep(0.1)
        if peer in self.cut:
            raise RegionUnreachable("cut off")
        spare = self.held[transfer.key][peer]
        amount = min(spare, max(transfer.wanted, spare // 2))
        self.held[transfer.key][peer] -= amount
        self.held[transfer.key][transfer.target] += amount
        return WriteReply(Receipt(peer, 1 if amount else 0, 0, ()), {})

    async def covered(self, vector: dict[str, int]) -> None:
        await asyncio.sleep(0.1)

    def selling(self, **wanted: int) -> Callable[[], Awaitable[Receipt]]:
        async def commit() -> Receipt:
            await asyncio.sleep(0)
            for key, amount in wanted.items():
                here, total = self.held[key]["a"], self.held[key].total()
                if here < amount:
                    details = {"left_here": here, "left_in_all": total, "wanted": amount, "field": "f"}
                    raise BoundExceeded("short", collection="stock", key=key, **details)
            for key, amount in wanted.items():
                self.held[key]["a"] -= amount
            return Receipt("a", 1, 0, ())

        return commit

    async def sell(self, **wanted: int) -> Receipt:
        return await self.escrow.write(self.selling(**wanted))


@in_virtual_time
async def test_what_is_held_here_is_sold_without_asking() -> None:
    stock = Stock(s={"a": 3, "b": 3})
    await stock.sell(s=3)
    assert stock.asked == []


@in_virtual_time
async def test_whoever_holds_most_is_asked_first() -> None:
    stock = Stock(s={"a": 1, "b": 3, "c": 9})
    await stock.sell(s=5)
    assert stock.asked == [("c", "s")]
    assert stock.escrow.requests == 1


@in_virtual_time
async def test_rights_are_gathered_from_several_peers() -> None:
    stock = Stock(s={"a": 3, "b": 3, "c": 3})
    await stock.sell(s=9)
    assert stock.held["s"].total() == 0
    assert {peer for peer, _ in stock.asked} == {"b", "c"}


@in_virtual_time
async def test_more_than_all_is_refused_without_asking() -> None:
    stock = Stock(s={"a": 1, "b": 1})
    with pytest.raises(BoundExceeded):
        await stock.sell(s=3)
    assert stock.asked == []


@in_virtual_time
async def test_a_peer_out_of_reach_is_asked_once() -> None:
    stock = Stock(s={"a": 0, "b": 9, "c": 4})
    stock.cut = {"b"}
    await stock.sell(s=3)
    assert stock.asked == [("b", "s"), ("c", "s")]
    with pytest.raises(BoundExceeded):
        await stock.sell(s=9)


@in_virtual_time
async def test_cut_off_from_all_it_says_what_is_left() -> None:
    stock = Stock(s={"a": 1, "b": 5, "c": 5})
    stock.cut = {"b", "c"}
    with pytest.raises(BoundExceeded) as raised:
        await stock.sell(s=2)
    assert raised.value.details["left_here"] == 1


@in_virtual_time
async def test_those_who_run_short_together_ask_once() -> None:
    stock = Stock(s={"a": 0, "b": 100})
    await asyncio.gather(*(stock.sell(s=1) for _ in range(20)))
    assert len(stock.asked) == 1
    assert stock.held["s"].total() == 80


@in_virtual_time
async def test_many_buyers_never_buy_more_than_there_is() -> None:
    stock = Stock(s={"a": 5, "b": 10, "c": 7})
    answers = await asyncio.gather(*(stock.sell(s=3) for _ in range(20)), return_exceptions=True)
    sold = sum(isinstance(answer, Receipt) for answer in answers)
    assert sold == 7
    assert stock.held["s"].total() == 22 - 21
    assert all(isinstance(answer, Receipt | BoundExceeded) for answer in answers)


@in_virtual_time
async def test_a_peer_that_spent_out_of_one_counter_is_asked_for_another() -> None:
    stock = Stock(s={"a": 0, "b": 0, "c": 3}, t={"a": 0, "b": 3, "c": 0})
    stock.seen["s"] = {"b": 9, "c": 3}  # the news of b's sales is not here yet
    await stock.sell(s=1, t=3)
    assert stock.asked == [("b", "s"), ("c", "s"), ("b", "t")]


@in_virtual_time
async def test_it_gives_up_in_time() -> None:
    stock = Stock(s={"a": 0, "b": 9})

    async def never(peer: str, write: Write, timeout_s: float) -> WriteReply:
        await asyncio.Event().wait()
        raise AssertionError

    stock.escrow._ask = never
    asyncio.get_running_loop().call_later(60, lambda: None)
    with pytest.raises(BoundExceeded):
        await stock.sell(s=1)
    assert asyncio.get_running_loop().time() == pytest.approx(3.0)


@in_virtual_time
async def test_other_refusals_pass_through() -> None:
    async def commit() -> Receipt:
        raise InvalidOperation("no")

    with pytest.raises(InvalidOperation):
        await Stock().escrow.write(commit)
