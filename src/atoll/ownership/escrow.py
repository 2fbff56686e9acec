"""Rights for bounded counters: spend what is held here, and ask peers when it runs short."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from math import inf
from typing import TypeVar

from atoll.causality.origin import Origin
from atoll.documents.mutation import Mutation, Transfer, Write
from atoll.errors import AtollError, BoundExceeded, Shortage
from atoll.replication.messages import WriteReply

T = TypeVar("T")
Ask = Callable[[str, Write, float], Awaitable[WriteReply]]
Address = tuple[str, str, str]
"""(collection, key, field)"""
_SHORT_S = 10.0
"""A region whose rights did not suffice of late hands none over ahead of need: it gathers them itself."""
_MOST_SHORT = 10_000


class Escrow:
    """Retries a write that ran short after peers have handed over rights."""

    def __init__(
        self,
        origin: Callable[[], Origin],
        holders: Callable[[str, str, str], Awaitable[dict[str, int]]],
        ask: Ask,
        covered: Callable[[dict[str, int]], Awaitable[None]],
        now_s: Callable[[], float],
        *,
        timeout_s: float,
    ) -> None:
        """`holders(collection, key, field)`: peer → rights that it seems to hold, as seen from here."""
        self.requests = 0
        """Times that a peer was asked for rights, since a write ran short."""
        self.ahead = 0
        """Times that a peer handed over rights ahead of need."""
        self._origin = origin
        self._holders = holders
        self._ask = ask
        self._covered = covered
        self._now_s = now_s
        self._timeout_s = timeout_s
        self._asking: dict[Address, asyncio.Lock] = {}
        self._short_s: dict[Address, float] = {}
        """When rights did not suffice last."""

    async def write(self, commit: Callable[[], Awaitable[T]]) -> T:
        """Raises BoundExceeded when not enough is left in the regions that can be reached."""
        deadline = self._now_s() + self._timeout_s
        tried: set[tuple[Address, str]] = set()
        while True:
            try:
                return await commit()
            except BoundExceeded as error:
                shortage = error.shortage
                if shortage is None or shortage.left_in_all < shortage.wanted:
                    raise
                address = (shortage.collection, shortage.key, shortage.field)
                self._ran_short(address)
                lock = self._asking.setdefault(address, asyncio.Lock())
                waited = lock.locked()
                try:
                    async with asyncio.timeout(max(0.0, deadline - self._now_s())), lock:
                        # The holder of the lock may have obtained enough for all waiting writers.
                        if not waited and not await self._obtain(address, shortage, tried):
                            raise
                except TimeoutError:
                    raise error from None
                finally:
                    if not lock.locked():
                        self._asking.pop(address, None)

    def keeps(self, mutations: Iterable[Mutation]) -> bool:
        """Whether a peer asks, ahead of its need, for rights that are short here."""
        since_s = self._now_s() - _SHORT_S
        return any(
            isinstance(each, Transfer)
            and each.ahead
            and self._short_s.get((each.collection, each.key, each.field), -inf) > since_s
            for each in mutations
        )

    def _ran_short(self, address: Address) -> None:
        now_s = self._now_s()
        if len(self._short_s) >= _MOST_SHORT:
            self._short_s = {each: at_s for each, at_s in self._short_s.items() if now_s - at_s < _SHORT_S}
        if len(self._short_s) < _MOST_SHORT:
            self._short_s[address] = now_s

    async def ask_ahead(self, address: Address, peer: str, amount: int) -> None:
        """Ask a peer for rights that no write waits for yet. Raises what asking it raises."""
        wanted = Transfer(*address, self._origin(), amount, ahead=True)
        reply = await self._ask(peer, Write((wanted,)), self._timeout_s)
        self.ahead += bool(reply.receipt.seq)

    async def _obtain(self, address: Address, shortage: Shortage, tried: set[tuple[Address, str]]) -> bool:
        """Ask the peers that seem to hold most, one after the other, until one hands something over."""
        collection, key, field = address
        holders = await self._holders(collection, key, field)
        for peer in sorted(holders, key=lambda name: (-holders[name], name)):
            if (address, peer) in tried or holders[peer] <= 0:
                continue
            self.requests += 1
            wanted = Transfer(collection, key, field, self._origin(), shortage.wanted - shortage.left_here)
            try:
                reply = await self._ask(peer, Write((wanted,)), self._timeout_s)
            except AtollError:
                tried.add((address, peer))
                continue  # cut off: the next one may help
            if reply.receipt.seq:
                await self._covered({reply.receipt.origin: reply.receipt.seq})
                return True
            tried.add((address, peer))  # spent out
        return False
