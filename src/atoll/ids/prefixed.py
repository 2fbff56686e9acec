"""Prefixed ids such as `tokyo-000123`: short, readable, numbered within their region.

The region's name keeps regions apart; within a region, nodes take blocks of numbers from one durable
counter. What a node had left of its block when it stopped is never given out: gaps, but no duplicates.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from atoll.errors import InvalidOperation, StoreCorrupt

BLOCK = 1000
WIDTH = 6

_PREFIXED = re.compile(r"([a-z][a-z0-9_-]{0,31})-([0-9]{6,18})", re.ASCII)


Reserve = Callable[[int], Awaitable[int]]
"""Of the region's durable counter, shared by all of its nodes: take the next `count` numbers, and return the first.

Durable on return, not idempotent: no later call, in any process, returns any of them again.
"""


class PrefixedId(NamedTuple):
    """An id's two parts."""

    region: str
    number: int

    def __str__(self) -> str:
        return f"{self.region}-{self.number:0{WIDTH}}"


class RangeAllocator:
    """Gives out a region's prefixed ids from blocks of numbers; belongs to one event loop."""

    def __init__(self, region: str, reserve: Reserve, block: int = BLOCK) -> None:
        self._region = region
        self._reserve = reserve
        self._block = block
        self._next = self._end = 0
        self._turn = asyncio.Lock()

    async def take(self, count: int) -> list[str]:
        """`count` ids with rising numbers; none is used up when `reserve` raises.

        Raises what `reserve` raises, and StoreCorrupt when the counter gives a number that was given out before.
        """
        async with self._turn:
            numbers = list(range(self._next, min(self._end, self._next + count)))
            lacking = count - len(numbers)
            if lacking:
                await self._refill(lacking)
                numbers += range(self._next, self._next + lacking)
            self._next = numbers[-1] + 1 if numbers else self._next
        return [str(PrefixedId(self._region, number)) for number in numbers]

    async def _refill(self, lacking: int) -> None:
        size = max(self._block, lacking)
        first = await self._reserve(size)
        if first < self._end:
            raise StoreCorrupt(
                f"the counter of {self._region}'s prefixed ids gave {first} after {self._end - 1}: its store "
                "lost writes or was restored under a running node; restart the node on an intact store",
                first=first,
                last=self._end - 1,
            )
        self._next, self._end = first, first + size


def parse_prefixed(text: str) -> PrefixedId:
    """The region and number of a prefixed id; raises InvalidOperation for any other text."""
    match = _PREFIXED.fullmatch(text)
    if match is None:
        raise InvalidOperation(f"{text[:60]!r} is not a prefixed id, such as tokyo-000123")
    found = PrefixedId(match[1], int(match[2]))
    if str(found) != text:
        raise InvalidOperation(f"{text[:60]!r} is not the canonical form of {found}")
    return found
