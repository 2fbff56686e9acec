"""The saga that the simulator runs: both kinds of steps, before its pivot and after it, a timer, and a signal."""

from __future__ import annotations

from typing import Any

from atoll.schema.collection import Collection
from atoll.schema.fields import Counter
from atoll.schema.saga import Retry, Saga, step
from atoll.simulation.outside import outside

SHARED = "all"
"""The trail that every journey leaves."""
APPROVED = "approved"
OTHER = "-other"
"""Ends the key of a journey's second purse."""


class Trail(Collection):
    """What journeys have done: one document for each, and one for all."""

    left: Counter
    take: Counter
    give: Counter
    hold: Counter
    drop: Counter
    accept: Counter
    revoke: Counter
    send: Counter


class Purse(Collection, consistency="strong"):
    """The same, of what a majority of regions decides: two documents for each journey, which tell the same."""

    move: int = 0
    unmove: int = 0


class Journey(Saga):
    """Counts in its own document what its steps have done, and calls outside."""

    amount: int
    refused: str = ""
    """The call that is refused each time; empty for none."""
    noted: str = ""

    @step(compensate="give", retry=Retry(3, 0.1, 2.0, 1.0))
    async def take(self, tx: Any) -> None:
        self._count(tx, "take", -self.amount)

    async def give(self, tx: Any) -> None:
        self._count(tx, "give", self.amount)

    @step(effect=True, compensate="refund", retry=Retry(3, 0.1, 2.0, 1.0), timeout_s=4.0)
    async def charge(self, key: str) -> None:
        await self._act("charge", key)
        self.noted = key

    async def refund(self, key: str) -> None:
        await self._act("refund", key)

    @step(transaction=True, compensate="unmove", retry=Retry(3, 0.1, 2.0, 1.0))
    async def move(self, tx: Any) -> None:
        await self._write(tx, "move")

    async def unmove(self, tx: Any) -> None:
        await self._write(tx, "unmove")

    @step(compensate="drop", wait_s=0.4)
    async def hold(self, tx: Any) -> None:
        self._count(tx, "hold")

    async def drop(self, tx: Any) -> None:
        self._count(tx, "drop")

    @step(compensate="revoke", signal=APPROVED, within_s=3.0)
    async def accept(self, tx: Any, signal: Any) -> None:
        self._count(tx, "accept")

    async def revoke(self, tx: Any) -> None:
        self._count(tx, "revoke")

    @step(effect=True, compensate="cancel", retry=Retry(3, 0.1, 2.0, 1.0), timeout_s=4.0)
    async def book(self, key: str) -> None:
        await self._act("book", key)

    async def cancel(self, key: str) -> None:
        await self._act("cancel", key)

    @step(retry=Retry(None, 0.1, 2.0, 1.0))
    async def send(self, tx: Any) -> None:
        self._count(tx, "send")

    @step(effect=True, retry=Retry(None, 0.1, 2.0, 1.0))
    async def tell(self, key: str) -> None:
        await self._act("tell", key)

    pivot = "book"

    def _count(self, tx: Any, what: str, left: int = 0) -> None:
        tx.patch(Trail, self.key, {"$inc": {what: 1}})
        if left:
            tx.patch(Trail, SHARED, {"$inc": {"left": left}})

    async def _act(self, what: str, key: str) -> None:
        await outside().act(what, self.key, key, refused=self.refused == what)

    async def _write(self, tx: Any, what: str) -> None:
        for key in (self.key, f"{self.key}{OTHER}"):
            found = await tx.get(Purse, key) or Purse(key=key)
            tx.update(Purse, key, **{what: getattr(found, what) + 1})
