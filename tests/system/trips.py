"""Sagas whose world outside is a file: a line for each call, written in one piece."""

import asyncio
import os
import time
from pathlib import Path

from atoll import Collection, Counter, Increment, Saga, step

OUTSIDE = Path(__file__).with_name("outside.log")


async def act(what: str, key: str, takes_s: float = 0.1) -> None:
    with OUTSIDE.open("a") as log:
        log.write(f"{time.monotonic()} {os.getpid()} {what} {key}\n")
    await asyncio.sleep(takes_s)


class Booking(Collection):
    by: str


class Visits(Collection):
    count: Counter


class Trip(Saga):
    """Another region may go on with it wherever it is."""

    @step(effect=True, compensate="stay")
    async def fly(self, key: str) -> None:
        await act("fly", key)

    async def stay(self, key: str) -> None:
        await act("stay", key)

    @step(repeatable=True)
    async def book(self, tx: object) -> None:
        tx.put(Booking(key=self.key, by="trip"))

    @step(effect=True)
    async def sleep(self, key: str) -> None:
        await act("sleep", key, takes_s=0.4)


class Visit(Saga):
    """No other region may count once more what its home may have counted."""

    @step(effect=True)
    async def ring(self, key: str) -> None:
        await act("ring", key)

    @step
    async def count(self, tx: object) -> None:
        tx.update(Visits, "all", count=Increment(1))

    @step(effect=True)
    async def leave(self, key: str) -> None:
        await act("leave", key)
