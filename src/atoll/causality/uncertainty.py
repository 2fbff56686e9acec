"""How far this node's clock may be off: the kernel's own bound, and what peers' clocks say.

`kernel_uncertainty_ms` does input and output and is called by drivers only. `OffsetEstimator` is pure.
"""

from __future__ import annotations

import ctypes
import sys
from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

_STA_UNSYNC = 0x0040
_TIME_ERROR = 5


class _Timex(ctypes.Structure):
    """The head of `struct timex` (adjtimex(2)), with room for the rest of it."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_byte * 512),
    )


def kernel_uncertainty_ms() -> int | None:
    """The kernel's bound on the clock's error, rounded up to whole milliseconds.

    None where there is no such bound: on a clock that no time service disciplines, and outside Linux.
    Reading it needs no privilege.
    """
    if not sys.platform.startswith("linux"):
        return None
    timex = _Timex(modes=0)  # no mode: read only
    try:
        state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(timex))
    except (OSError, AttributeError):
        return None
    if state in (-1, _TIME_ERROR) or timex.status & _STA_UNSYNC:
        return None
    return -(-int(timex.maxerror) // 1000)


class Interval(NamedTuple):
    """Bounds on a time, in unix milliseconds, both included."""

    earliest: int
    latest: int

    @property
    def uncertainty_ms(self) -> int:
        """Half the width, rounded up."""
        return (self.latest - self.earliest + 1) // 2

    def distance_ms(self, ms: int) -> int:
        """How far `ms` lies outside; 0 inside."""
        return max(0, self.earliest - ms, ms - self.latest)


class Offset(NamedTuple):
    """A peer's clock minus this node's: within `error_ms` of `offset_ms`."""

    offset_ms: int
    error_ms: int
    round_trip_ms: int


class _Sample(NamedTuple):
    low: int
    high: int
    received_ms: int

    def widened(self, now_ms: int, drift_ppm: int) -> tuple[int, int]:
        drift_ms = -(-abs(now_ms - self.received_ms) * drift_ppm // 1_000_000)
        return self.low - drift_ms, self.high + drift_ms


class OffsetEstimator:
    """The offsets of peers' clocks from exchanges of messages, and the interval they leave for the time.

    One exchange bounds a peer's offset by its round trip, however unequal the two ways are. Of the last
    `window` exchanges the one with the tightest bound counts, as in NTP's clock filter (RFC 5905, section
    10). A bound widens by `drift_ppm` of its age. Without a bound from the kernel this node's own clock
    counts as within `max_offset_ms`.
    """

    def __init__(self, *, max_offset_ms: int = 500, window: int = 8, drift_ppm: int = 200) -> None:
        self._max_offset_ms = max_offset_ms
        self._window = window
        self._drift_ppm = drift_ppm
        self._samples: dict[str, deque[_Sample]] = {}

    def add(self, peer: str, sent_ms: int, remote_ms: int, received_ms: int) -> None:
        """Note one exchange: sent and received by this node's clock, answered at `remote_ms` by the peer's.

        An exchange during which this node's clock stepped back says nothing and is left out.
        """
        if received_ms < sent_ms:
            return
        # The peer read its clock between the two; a millisecond more each way, as readings are rounded down.
        sample = _Sample(remote_ms - received_ms - 1, remote_ms - sent_ms + 1, received_ms)
        samples = self._samples.setdefault(peer, deque(maxlen=self._window))
        if samples:
            low, high = self._best(samples, received_ms)
            if sample.low > high or sample.high < low:
                samples.clear()  # one of the clocks has stepped: what was measured before holds no more
        samples.append(sample)

    def stepped(self, ms: int) -> None:
        """This node's own clock was set forward by so much: what was measured moves with it."""
        for peer, samples in self._samples.items():
            moved = (_Sample(s.low - ms, s.high - ms, s.received_ms + ms) for s in samples)
            self._samples[peer] = deque(moved, maxlen=self._window)

    def forget(self, peer: str) -> None:
        """Drop what was measured against a peer that left."""
        self._samples.pop(peer, None)

    def offset(self, peer: str, now_ms: int) -> Offset | None:
        """The peer's offset as known at `now_ms` by this node's clock; None before the first exchange."""
        samples = self._samples.get(peer)
        if not samples:
            return None
        low, high = self._best(samples, now_ms)
        shortest = min(sample.high - sample.low - 2 for sample in samples)
        return Offset((low + high) // 2, (high - low + 1) // 2, shortest)

    def ahead_ms(self, now_ms: int) -> int:
        """How far this node's clock is surely ahead of each peer's that was measured; 0 where it is not."""
        most = [self._best(samples, now_ms)[1] for samples in self._samples.values()]
        return max(0, -max(most, default=0))

    def interval(self, now_ms: int, kernel_ms: int | None = None) -> Interval:
        """Where the time lies, when this node's clock reads `now_ms` and the kernel bounds its error.

        It is the intersection of this node's own bound with what a majority of clocks share, its own included.
        The algorithm is Marzullo's ("Maintaining the time in a distributed system", 1984). It contains the true
        time while the kernel and most clocks keep their bounds. A minority that runs away does not move it. If the own
        bound and the majority's are disjoint, it is the majority's, and `distance_ms(now_ms)` says how far off this
        node is. If no majority shares anything, it covers all clocks.
        """
        own_ms = self._max_offset_ms if kernel_ms is None else kernel_ms
        bounds = [(-own_ms, own_ms)]
        bounds += [self._best(self._samples[peer], now_ms) for peer in sorted(self._samples)]
        ends = [end for bound in bounds for end in bound]
        # The points that a majority shares form ranges that begin and end where bounds do.
        shared = [end for end in ends if 2 * sum(low <= end <= high for low, high in bounds) > len(bounds)]
        low, high = min(shared or ends), max(shared or ends)
        if shared and low <= own_ms and high >= -own_ms:
            low, high = max(low, -own_ms), min(high, own_ms)
        return Interval(now_ms + low, now_ms + high)

    def _best(self, samples: Iterable[_Sample], now_ms: int) -> tuple[int, int]:
        widened = (sample.widened(now_ms, self._drift_ppm) for sample in samples)
        return min(widened, key=lambda bound: bound[1] - bound[0])
