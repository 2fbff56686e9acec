"""All kinds of identifiers under one roof: what `POST /v1/ids/{kind}` and `atoll.open` ask."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from typing import Protocol

from atoll.errors import Indefinite, InvalidOperation, Overloaded, SerializationConflict
from atoll.ids.prefixed import RangeAllocator
from atoll.ids.snowflake import SnowflakeGenerator
from atoll.ids.sortable import SortableIds

MAX_COUNT = 10_000
MOST_MACHINES = 32
KINDS = ("uuid4", "uuid7", "ulid", "snowflake", "prefixed")


class Counters(Protocol):
    """The region's durable numbers, as `store.port.Store` has them."""

    async def counter(self, name: str) -> int: ...

    async def advance_counter(self, name: str, by: int) -> int: ...


class IdService:
    """One node's identifiers; belongs to one event loop.

    `clock` gives unix milliseconds, `random(n)` n bytes that cannot be guessed (`os.urandom` in production).
    `region_number` (0 to 31) differs between any two regions. `claim(name)` leases a name to this node, or says that
    another node has it. The node so claims its number (0 to 31) within the region, and keeps it while it runs.
    Two nodes can hold one number nevertheless, if a node was paused for longer than its lease. They detect it by the
    number's counter before either assigns an identifier, and take other numbers. The counters also prevent repeated
    identifiers after a restart.
    """

    def __init__(
        self,
        region: str,
        *,
        region_number: int,
        claim: Callable[[str], Awaitable[bool]],
        clock: Callable[[], int],
        random: Callable[[int], bytes],
        counters: Counters,
    ) -> None:
        sortable = SortableIds(clock, random)
        self._clock = clock
        self._counters = counters
        self._region_number = region_number
        self._claim = claim
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

        Raises InvalidOperation for an unknown kind or a count outside 1 to 10,000. Raises ClockUnsafe if the
        clock allows no snowflake, Overloaded if all nodes' numbers are in use, and what the durable counter raises.
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
        generator = self._snowflakes
        if generator is None:
            hold = _Hold(self._counters, await _free_number(self._claim))
            last_ms = await hold.open()
            generator = SnowflakeGenerator(self._region_number, hold.machine, self._clock, last_ms, hold=hold)
            if self._snowflakes is None:  # nobody else was faster
                self._snowflakes = generator
            generator = self._snowflakes
        try:
            made = await generator.take(count)
        except (SerializationConflict, Indefinite):
            if self._snowflakes is generator:
                self._snowflakes = None
            raise
        # In decimal digits: as JSON numbers they would lose their last digits in many clients.
        return [str(number) for number in made]


async def _free_number(claim: Callable[[str], Awaitable[bool]]) -> int:
    for number in range(MOST_MACHINES):
        if await claim(f"machine {number}"):
            return number
    raise Overloaded(f"snowflakes support {MOST_MACHINES} nodes in a region, and all numbers are in use")


class _Hold:
    """The right to give out identifiers up to a time, under one number, by a counter that every holder moves.

    A node that moves it and finds an unexpected value knows that another node uses it too. So will that node.
    """

    def __init__(self, counters: Counters, machine: int) -> None:
        self.machine = machine
        self._counters = counters
        self._counter = f"snowflake_ms {machine}" if machine else "snowflake_ms"
        self._held_ms: int | None = None

    async def open(self) -> int:
        self._held_ms = await self._counters.counter(self._counter)
        return self._held_ms

    async def __call__(self, until_ms: int) -> None:
        """Durable on return. Raises SerializationConflict and Indefinite.

        After either of them every later call raises SerializationConflict.
        """
        before_ms, self._held_ms = self._held_ms, None
        if before_ms is not None:
            found_ms = await self._counters.advance_counter(self._counter, until_ms - before_ms)
            if found_ms == until_ms:
                self._held_ms = until_ms
                return
        raise SerializationConflict(
            "another node of this region uses this node's number for identifiers; try again"
        )
