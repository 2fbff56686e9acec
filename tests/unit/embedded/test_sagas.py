"""`db.sagas` of a region in this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import atoll
from atoll import BoundedCounter, Collection, Decrement, Increment, Saga, step
from atoll.embedded import EmbeddedDatabase
from atoll.errors import Conflict, IdempotencyKeyReused, InvalidOperation, NotFound


class Inventory(Collection, consistency="strong", fallback="escrow"):
    stock: BoundedCounter = 0


class Account(Collection, consistency="strong"):
    balance: int = 0


class Order(Collection):
    sku: str
    paid: int = 0


class Checkout(Saga):
    sku: str
    total: int = 5

    @step(compensate="release")
    async def reserve(self, tx: Any) -> None:
        tx.update(Inventory, self.sku, stock=Decrement(1))

    async def release(self, tx: Any) -> None:
        tx.update(Inventory, self.sku, stock=Increment(1))

    @step(effect=True, compensate="refund")
    async def charge(self, key: str, db: Any) -> None:
        account = await db.get(Account, "ann")
        if account.balance < self.total:
            raise atoll.Abort("ann has not enough")
        await db.update(Account, "ann", balance=account.balance - self.total)

    async def refund(self, key: str, db: Any) -> None:
        await db.delete(Account, "ann")

    @step(signal="packed")
    async def ship(self, tx: Any, signal: Any) -> None:
        tx.put(Order(key=self.key, sku=self.sku), create=True)
        tx.patch(Order, self.key, {"$set": {"paid": signal["paid"]}})

    pivot = "charge"


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[EmbeddedDatabase]:
    async with atoll.open([Inventory, Account, Order, Checkout], data=tmp_path) as opened:
        await opened.put(Inventory(key="tea", stock=3))
        await opened.put(Account(key="ann", balance=7))
        yield opened


async def test_a_saga_is_started_and_signalled(db: EmbeddedDatabase) -> None:
    begun = await db.sagas.start(Checkout(key="1", sku="tea"))
    assert (begun.saga, begun.key, begun.over) == ("checkout", "1", False)
    found = await db.sagas.signal(Checkout, "1", "packed", {"paid": 5})
    while not found.over:
        again = await db.sagas.get(Checkout, "1", wait_s=1)
        assert again is not None
        found = again
    assert (found.status, found.value) == ("completed", Checkout(key="1", sku="tea"))
    assert [(each.step, each.outcome) for each in found.done] == [
        ("reserve", "done"), ("charge", "done"), ("ship", "done"),
    ]  # fmt: skip
    assert await db.get(Order, "1") == Order(key="1", sku="tea", paid=5)
    account = await db.get(Account, "ann")
    assert account is not None
    assert account.balance == 2


async def test_what_was_refused_is_undone(db: EmbeddedDatabase) -> None:
    found = await db.sagas.start(Checkout(key="1", sku="tea", total=8), wait_s=60)
    assert (found.status, found.cause, found.error) == ("compensated", "refused", "ann has not enough")
    inventory = await db.get(Inventory, "tea")
    assert inventory is not None
    assert inventory.stock == 3


async def test_sagas_are_listed(db: EmbeddedDatabase) -> None:
    for key in "123":
        await db.sagas.start(Checkout(key=key, sku="tea", total=8), wait_s=60)
    await db.sagas.start(Checkout(key="4", sku="tea"))
    assert [each.key async for each in db.sagas.list(limit=2)] == list("1234")
    ended = [each async for each in db.sagas.list(Checkout, status="compensated")]
    assert [each.value for each in ended] == [Checkout(key=key, sku="tea", total=8) for key in "123"]
    assert [each.value async for each in db.sagas.list("nobody")] == []


async def test_a_session_sees_what_its_saga_has_done(db: EmbeddedDatabase) -> None:
    session = db.session()
    await session.sagas.start(Checkout(key="1", sku="tea"))
    await session.sagas.signal(Checkout, "1", "packed", {"paid": 5})
    found = await session.sagas.get(Checkout, "1", wait_s=30)
    assert found is not None
    assert found.over
    assert await session.get(Order, "1") is not None


async def test_what_cannot_be_raises(db: EmbeddedDatabase) -> None:
    assert await db.sagas.get(Checkout, "1") is None
    with pytest.raises(NotFound):
        await db.sagas.retry(Checkout, "1")
    with pytest.raises(InvalidOperation, match="'Order' is not a saga"):
        await db.sagas.get(Order, "1")  # type: ignore[type-var]
    await db.sagas.start(Checkout(key="1", sku="tea"))
    with pytest.raises(IdempotencyKeyReused):
        await db.sagas.start(Checkout(key="1", sku="milk"))
    with pytest.raises(Conflict, match="only what a saga is stuck at"):
        await db.sagas.skip(Checkout, "1")
    with pytest.raises(InvalidOperation, match="waits for packed"):
        await db.sagas.signal(Checkout, "1", "paked")


async def test_an_order_after_the_pivot_is_refused(db: EmbeddedDatabase) -> None:
    await db.sagas.start(Checkout(key="1", sku="tea"))
    async with asyncio.timeout(60):
        while (found := await db.sagas.get(Checkout, "1", wait_s=0.1)) is not None:
            if found.status == "waiting":
                break
    with pytest.raises(Conflict, match="has passed its pivot 'charge'"):
        await db.sagas.abort(Checkout, "1", reason="too late")
