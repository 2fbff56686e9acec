"""Hybrid logical clock: physical milliseconds that never go back and always exceed what was seen.

Kulkarni, Demirbas, Madappa, Avva and Leone, "Logical Physical Clocks", OPODIS 2014. Their pair (l, c) is
packed into one integer, so stamps are compared, stored and sent as integers.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from atoll.causality.types import Stamp
from atoll.errors import ClockAhead

COUNTER_BITS = 16
_COUNTER_MASK = (1 << COUNTER_BITS) - 1
_UNIX_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def pack(ms: int, counter: int = 0) -> Stamp:
    """The stamp of unix time `ms` and `counter`; a counter past 65,535 carries into the milliseconds."""
    return Stamp((ms << COUNTER_BITS) + counter)


def stamp_ms(stamp: Stamp) -> int:
    """The unix milliseconds of a stamp."""
    return stamp >> COUNTER_BITS


def stamp_counter(stamp: Stamp) -> int:
    """The logical part of a stamp, 0 to 65,535."""
    return stamp & _COUNTER_MASK


def format_stamp(stamp: Stamp) -> str:
    """`2026-11-03T09:15:00.123Z`, with `#counter` behind it unless that is zero.

    A stamp outside the years 1 to 9999 comes from a hostile peer and is shown as milliseconds, `<ms>ms`.
    """
    ms, counter = stamp_ms(stamp), stamp_counter(stamp)
    suffix = f"#{counter}" if counter else ""
    try:
        moment = _UNIX_EPOCH + timedelta(milliseconds=ms)
    except OverflowError:
        return f"{ms}ms{suffix}"
    return f"{moment.replace(tzinfo=None).isoformat(timespec='milliseconds')}Z{suffix}"


class HybridLogicalClock:
    """One node's clock; used by one thread at a time.

    `physical` gives unix milliseconds and may step in either direction. `last` is the highest stamp that
    an earlier run made durable. A remote stamp further ahead of `physical` than `max_offset_ms` is refused.
    """

    __slots__ = ("last", "max_offset_ms", "physical")

    def __init__(self, physical: Callable[[], int], last: int = 0, max_offset_ms: int = 500) -> None:
        self.physical = physical
        self.last = Stamp(last)
        """The highest stamp given out or seen."""
        self.max_offset_ms = max_offset_ms

    def now(self) -> Stamp:
        """A stamp greater than every stamp given out or seen before."""
        stamp = self.physical() << COUNTER_BITS
        if stamp <= self.last:
            # Stepped back, or the same millisecond again: a full counter carries into the next one.
            stamp = self.last + 1
        self.last = Stamp(stamp)
        return self.last

    def update(self, remote: Stamp) -> Stamp:
        """Take note of a peer's stamp, so that `now` exceeds it; returns the highest stamp seen.

        Raises ClockAhead, and changes nothing, for a stamp beyond the bound. One that this clock has
        already passed does no harm, and is taken even when the physical clock has since stepped back.
        """
        if remote > self.last:
            self.check(remote)
            self.last = remote
        return self.last

    def check(self, remote: Stamp) -> None:
        """Raise ClockAhead when `remote` lies further ahead of the physical clock than `max_offset_ms`."""
        physical_ms = self.physical()
        ahead_ms = stamp_ms(remote) - physical_ms
        if ahead_ms > self.max_offset_ms:
            raise ClockAhead(
                f"the stamp {format_stamp(remote)} is {ahead_ms} ms ahead of this node's clock, which reads "
                f"{format_stamp(pack(physical_ms))}; at most {self.max_offset_ms} ms are allowed: "
                "synchronise the sender's clock, or this node's if it is the slow one",
                remote_ms=stamp_ms(remote),
                physical_ms=physical_ms,
                ahead_ms=ahead_ms,
                max_offset_ms=self.max_offset_ms,
            )

    def lead_ms(self) -> int:
        """How far stamps run ahead of the physical clock, 0 when they do not: the size of a step back.

        Past the peers' `max_offset_ms` they refuse this node's entries, so it should stop taking writes.
        """
        return max(0, stamp_ms(self.last) - self.physical())
