"""Snowflakes: 63-bit integers that sort by time and say where and when they were made.

    41 bits  milliseconds since 2024-01-01T00:00:00Z, until September 2093
     5 bits  region
     5 bits  machine: the node within its region
    12 bits  sequence within the millisecond

The layout is Twitter's (2010), with its data centre as the region. Two generators with different region or
machine cannot collide. One generator never uses a (millisecond, sequence) twice, because its milliseconds
never go back, whatever the clock does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from atoll.errors import ClockUnsafe, ConfigError, InvalidOperation

EPOCH_MS = 1_704_067_200_000
"""2024-01-01T00:00:00Z in unix milliseconds."""
MAX_LEAD_MS = 1000
HOLD_MS = 1000

_SEQUENCE_BITS = 12
_NODE_BITS = 5
_MACHINE_SHIFT = _SEQUENCE_BITS
_REGION_SHIFT = _MACHINE_SHIFT + _NODE_BITS
_TIME_SHIFT = _REGION_SHIFT + _NODE_BITS
_MAX_SEQUENCE = (1 << _SEQUENCE_BITS) - 1
_MAX_NODE = (1 << _NODE_BITS) - 1
_MAX_MS = (1 << 41) - 1
_MAX_DIGITS = 19
_UNIX_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class SnowflakeParts:
    """What a snowflake says about itself."""

    unix_ms: int
    region: int
    machine: int
    sequence: int

    @property
    def time(self) -> datetime:
        """When it was made, by its generator's clock, in UTC."""
        return _moment(self.unix_ms)


class SnowflakeGenerator:
    """Gives out snowflakes in rising order; belongs to one event loop.

    `clock` gives unix milliseconds and may step in either direction. After a step back the generator stays
    at the millisecond it had reached. If the 4,096 of a millisecond are used up, it borrows the next
    one, at most `max_lead_ms` ahead of the elapsed time. Beyond that it raises ClockUnsafe.

    A generator that starts again must not repeat its earlier run. `hold`, if given, is awaited with a unix
    millisecond before any id up to it is used, and must be durable on return. The next run passes the highest
    one as `last_ms`. It is called about once in `HOLD_MS` of use. Without it, a restart is safe as long
    as the clock is past where the earlier run ended.
    """

    def __init__(
        self,
        region: int,
        machine: int,
        clock: Callable[[], int],
        last_ms: int = 0,
        *,
        max_lead_ms: int = MAX_LEAD_MS,
        hold: Callable[[int], Awaitable[None]] | None = None,
    ) -> None:
        _require_node("region", region)
        _require_node("machine", machine)
        self._node = region << _REGION_SHIFT | machine << _MACHINE_SHIFT
        self._clock = clock
        self._hold = hold
        self._max_lead_ms = max_lead_ms
        # All milliseconds inside are since EPOCH_MS. An earlier run may have used all of its last one.
        self._ms = self._held_ms = max(0, last_ms - EPOCH_MS)
        self._sequence = _MAX_SEQUENCE
        self._read_ms = max(0, clock() - EPOCH_MS)
        self._pace_ms = max(self._ms, self._read_ms)
        self._turn = asyncio.Lock()

    @property
    def last_ms(self) -> int:
        """The unix millisecond of the newest id."""
        return self._ms + EPOCH_MS

    async def take(self, count: int) -> list[int]:
        """`count` ids in rising order, each greater than all before.

        Raises ClockUnsafe if more than 4,096 per millisecond were requested for longer than `max_lead_ms`. Also raises
        it if the clock is outside 2024 to 2093. The ids made until then are lost.
        """
        async with self._turn:
            return [await self._make() for _ in range(count)]

    async def _make(self) -> int:
        now_ms = self._read()
        ms, sequence = self._ms, self._sequence + 1
        if now_ms > ms:
            ms, sequence = now_ms, 0
        elif sequence > _MAX_SEQUENCE:
            ms, sequence = ms + 1, 0
            if ms > self._pace_ms + self._max_lead_ms:
                raise ClockUnsafe(
                    f"snowflakes have run {self._max_lead_ms} ms ahead of the clock, which reads "
                    f"{_moment(now_ms + EPOCH_MS).isoformat()}: ask for at most 4,096 per millisecond, or "
                    "check that the clock moves",
                    lead_ms=ms - now_ms,
                    max_lead_ms=self._max_lead_ms,
                )
        if ms > _MAX_MS:
            raise ClockUnsafe(
                f"the clock reads {now_ms + EPOCH_MS} ms, and snowflakes end at {_MAX_MS + EPOCH_MS} ms "
                "(September 2093), where their 41 bits run out: set the clock, or use ulid or uuid7",
                unix_ms=ms + EPOCH_MS,
            )
        if self._hold is not None and ms > self._held_ms:
            held_ms = min(ms + HOLD_MS, _MAX_MS)
            await self._hold(held_ms + EPOCH_MS)
            self._held_ms = held_ms
        self._ms, self._sequence = ms, sequence
        return ms << _TIME_SHIFT | self._node | sequence

    def _read(self) -> int:
        """The clock since the epoch; also moves the pace, which borrowing is measured against.

        At first the pace is the highest reading. After a step back it advances as fast as the clock does. So a
        step back of a day does not stop the generator for a day.
        """
        now_ms = max(0, self._clock() - EPOCH_MS)
        if now_ms == 0 and self._ms == 0:
            raise ClockUnsafe(
                "the clock is not past 2024-01-01T00:00:00Z, where snowflakes begin: set the clock"
            )
        if now_ms > self._read_ms and now_ms <= _MAX_MS:
            self._pace_ms += now_ms - self._read_ms
        self._read_ms = now_ms
        return now_ms


def parse_snowflake(snowflake: int | str) -> SnowflakeParts:
    """What a snowflake (an integer or its decimal digits) says; raises InvalidOperation for anything else."""
    number = snowflake
    if isinstance(number, str) and number.isascii() and number.isdigit() and len(number) <= _MAX_DIGITS:
        number = int(number)
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < 1 << 63:
        raise InvalidOperation(
            f"{str(snowflake)[:40]!r} is not a snowflake: they are integers from 0 to 2**63-1"
        )
    return SnowflakeParts(
        unix_ms=(number >> _TIME_SHIFT) + EPOCH_MS,
        region=number >> _REGION_SHIFT & _MAX_NODE,
        machine=number >> _MACHINE_SHIFT & _MAX_NODE,
        sequence=number & _MAX_SEQUENCE,
    )


def region_number(regions: Collection[str], region: str, explicit: Mapping[str, int] | None = None) -> int:
    """The region's five bits: its `explicit` number if it has one, else by its place among the other names.

    All nodes must use the same answer, and the places shift when a region is added: a deployment that
    grows gives its regions explicit numbers. Raises ConfigError for more than 32 regions, for a number
    outside 0 to 31 or given twice, and for an unknown region.
    """
    explicit = explicit or {}
    names = sorted(set(regions))
    if len(names) > _MAX_NODE + 1:
        raise ConfigError(f"the deployment has {len(names)} regions; snowflakes support {_MAX_NODE + 1}")
    if strangers := sorted({region, *explicit} - set(names)):
        raise ConfigError(f"no region {', '.join(strangers)} in the deployment: it has {', '.join(names)}")
    numbers: dict[int, str] = {}
    for name in sorted(explicit):
        _require_node(f"{name}'s number", explicit[name])
        if (other := numbers.setdefault(explicit[name], name)) != name:
            raise ConfigError(
                f"the regions {other} and {name} both have the number {explicit[name]}: change one"
            )
    free = (number for number in range(_MAX_NODE + 1) if number not in numbers)
    places = {name: explicit[name] if name in explicit else next(free) for name in names}
    return places[region]


def _require_node(what: str, number: int) -> None:
    if not 0 <= number <= _MAX_NODE:
        raise ConfigError(f"{what} is {number}; snowflakes support 0 to {_MAX_NODE}")


def _moment(unix_ms: int) -> datetime:
    return _UNIX_EPOCH + timedelta(milliseconds=unix_ms)
