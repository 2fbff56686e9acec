"""Where nodes of a region wait that have lost a transaction to others: PostgreSQL's advisory lock, simulated."""

from __future__ import annotations

import asyncio
from collections import deque

from atoll.testing.virtual_time import Life

_TAKEN_AWAY_S = 2.0
"""A node that is paused while it has the lock loses it to whoever has waited so long."""


class TransactionQueue:
    """One node has it at a time; nothing but speed leans on that."""

    def __init__(self) -> None:
        self._holder: Life | None = None
        self._waiting: deque[tuple[Life, asyncio.Future[None]]] = deque()

    async def take(self, life: Life) -> None:
        """Wait until it is this node's."""
        while self.is_taken(life):
            moved: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append((life, moved))
            try:
                async with asyncio.timeout(_TAKEN_AWAY_S):
                    await moved
            except TimeoutError:
                self._holder = None
            finally:
                self._waiting = deque(each for each in self._waiting if each[1] is not moved)
        self._holder = life

    def is_taken(self, life: Life) -> bool:
        """Whether another node has it."""
        holder = self._holder
        return holder is not None and holder is not life and not holder.over

    def give(self, life: Life) -> None:
        """Its transaction is over, or its process is: the next one may go on."""
        if self._holder is life:
            self._holder = None
        if self._holder is None:
            for waiting, moved in self._waiting:
                if not moved.done() and not waiting.over:
                    moved.set_result(None)
                    return
