"""All kinds of identifiers under one roof: what `POST /v1/ids/{kind}` and `atoll.open` ask."""

from __future__ import annotations

import uuid
from collections.abc import Callable

from atoll.errors import InvalidOperation
from atoll.ids.prefixed import RangeAllocator, Reserve
from atoll.ids.snowflake import SnowflakeGenerator
from atoll.ids.sortable import SortableIds

MAX_COUNT = 10_000
KINDS = ("uuid4", "uuid7", "ulid", "snowflake", "prefixed")


class IdService:
    """One node's identifiers; used by one thread at a time.

    `clock` gives unix milliseconds, `random(n)` n bytes that cannot be guessed (`os.urandom` in production),
    `reserve` takes numbers from the region's durable counter. `region_number` and `machine` (0 to 31 each)
    must differ between any two nodes of the deployment that run at once. `snowflake_last_ms` and
    `snowflake_hold` carry snowflakes over a restart: see `SnowflakeGenerator`.
    """

    __slots__ = ("_makers",)

    def __init__(
        self,
        region: str,
        *,
        region_number: int,
        machine: int,
        clock: Callable[[], int],
        random: Callable[[int], bytes],
        reserve: Reserve,
        snowflake_last_ms: int = 0,
        snowflake_hold: Callable[[int], None] | None = None,
    ) -> None:
        sortable = SortableIds(clock, random)
        snowflakes = SnowflakeGenerator(region_number, machine, clock, snowflake_last_ms, hold=snowflake_hold)
        self._makers: dict[str, Callable[[int], list[str]]] = {
            "uuid4": lambda count: [str(uuid.UUID(bytes=random(16), version=4)) for _ in range(count)],
            "uuid7": lambda count: [sortable.uuid7() for _ in range(count)],
            "ulid": lambda count: [sortable.ulid() for _ in range(count)],
            # In decimal digits: as JSON numbers they would lose their last digits in many clients.
            "snowflake": lambda count: [str(number) for number in snowflakes.take(count)],
            "prefixed": RangeAllocator(region, reserve).take,
        }

    def generate(self, kind: str, count: int = 1) -> list[str]:
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
        return make(count)
