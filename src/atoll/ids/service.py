"""All kinds of identifiers under one roof: what `POST /v1/ids/{kind}` and `atoll.open` ask."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from typing import Protocol

from atoll.errors import InvalidOperation
from atoll.ids.prefixed import RangeAllocator
from atoll.ids.snowflake import SnowflakeGenerator
from atoll.ids.sortable import SortableIds

MAX_COUNT = 10_000
KINDS = ("uuid4", "uuid7", "ulid", "snowflake", "prefixed")


class Counters(Protocol):
    """The region's durable numbers, as `store.port.Store` has them."""

    async def counter(self, name: str) -> int: ...

    async def raise_counter(self, name: str, value: int) -> None: ...

    async def advance_counter(self, name: str, by: int) -> int: ...


class IdService:
    """One node's identifiers; belongs to one event loop.

    `clock` gives unix milliseconds, `random(n)` n bytes that cannot be guessed (`os.urandom` in production).
    `region_number` and `machine` (0 to 31 each) must differ between any two nodes of the deployment that run at
    once. The region's counters `ids` and `snowflake_ms` keep prefixed ids and snowflakes from coming twice.
    """

    __slots__ = ("_clock", "_counters", "_makers", "_node", "_snowflakes")

    def __init__(
        self,
        region: str,
        *,
        region_number: int,
        machine: int,
        clock: Callable[[], int],
        random: Callable[[int], bytes],
        counters: Counters,
    ) -> None:
        sortable = SortableIds(clock, random)
        self._clock = clock
        self._counters = counters
        self._node = (region_number, machine)
        self._snowflakes: SnowflakeGenerator | None = None
        self._makers: dict[str, Callable[[int], list[str] | Awaitable[list[str]]]] = {
            "uuid4": lambda count: [str(uuid.UUID(bytes=random(16), version=4)) for _ in range(count)],
            "uuid7": lambda count: [sortable.uuid7() for _ in range(count)],
            "ulid": lambda count: [sortable.ulid() for _ in range(count)],
            "snowflake": self._snowflake,
            "prefixed": RangeAllocator(region, self._reserve).take,
        }

    async def generate(self, kind: str, count: int = 1) -> list[str]:
        """`count` new identifiers; all kinds but uuid4 in rising order.

        Raises InvalidOperation for an unknown kind and for a count outside 1 to 10,000, ClockUnsafe when
        the clock lets no snowflake be made, and what the durable counter raises.
        """
        make = self._makers.get(kind)
        if make is None:
            raise InvalidOperation(
                f"no identifiers of kind {kind[:40]!r}: the kinds are {', '.join(KINDS)}", allowed=list(KINDS)
            )
        if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= MAX_COUNT:
            raise InvalidOperation(
                f"count is {str(count)[:40]}: ask for 1 to {MAX_COUNT} identifiers at a time",
                minimum=1,
                maximum=MAX_COUNT,
            )
        made = make(count)
        return made if isinstance(made, list) else await made

    async def _reserve(self, count: int) -> int:
        return await self._counters.advance_counter("ids", count) - count + 1

    async def _snowflake(self, count: int) -> list[str]:
        if self._snowflakes is None:
            last_ms = await self._counters.counter("snowflake_ms")
            if self._snowflakes is None:  # nobody else was faster
                self._snowflakes = SnowflakeGenerator(*self._node, self._clock, last_ms, hold=self._hold)
        # In decimal digits: as JSON numbers they would lose their last digits in many clients.
        return [str(number) for number in await self._snowflakes.take(count)]

    async def _hold(self, until_ms: int) -> None:
        await self._counters.raise_counter("snowflake_ms", until_ms)
