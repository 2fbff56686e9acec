"""How far this node's clock may be off: the kernel's own bound, and what peers' clocks say.

`kernel_uncertainty_ms` does input and output and is called by drivers only. `OffsetEstimator` is pure.
"""

from __future__ import annotations

import ctypes
import sys
from collections import deque
from collections.abc import Iterable, Sequence
from functools import cache
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


@cache
def _library() -> ctypes.CDLL:
    """The process itself, which has the C library's functions."""
    return ctypes.CDLL(None, use_errno=True)


def kernel_uncertainty_ms() -> int | None:
    """The kernel's bound on the clock's error, rounded up to whole milliseconds.

    None where there is no such bound: on a clock that no time service disciplines, and outside Linux.
    Reading it needs no privilege.
    """
    if not sys.platform.startswith("linux"):
        return None
    timex = _Timex(modes=0)  # no mode: read only
    try:
        state = _library().adjtimex(ctypes.byref(timex))
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


class ClockBound(NamedTuple):
    """The time minus what this node's clock shows: not below `low` and not above `high`, in milliseconds."""

    low: int
    high: int
    agreed: bool = True
    """Whether most of the clocks that were compared can be right at once."""
    assumed: bool = False
    """Whether it rests on the configured bound: no time service proves as much."""

    @property
    def error_ms(self) -> int:
        """How far off the clock may be, in either direction."""
        return max(-self.low, self.high)

    def interval(self, now_ms: int) -> Interval:
        """Where the time lies when the clock reads `now_ms`, which is rounded down."""
        return Interval(now_ms + self.low, now_ms + self.high + 1)


UNBOUNDED_MS = 60_000
"""How far off a clock counts as being of which nothing is known."""
_Range = tuple[int, int]


class _Sample(NamedTuple):
    low: int
    high: int
    received_ms: int
    bound_ms: int | None
    """How far the peer's clock was off at most, by its kernel; None where nothing told."""

    def widened(self, now_ms: int, drift_ppm: int, by_ms: int = 0) -> _Range:
        wider_ms = by_ms - (-abs(now_ms - self.received_ms) * drift_ppm // 1_000_000)
        return self.low - wider_ms, self.high + wider_ms


class OffsetEstimator:
    """What exchanges of messages with peers say of this node's clock.

    One exchange bounds a peer's offset by its round trip, however unequal the two ways are. Of the last
    `window` exchanges the one with the tightest bound counts, as in NTP's clock filter (RFC 5905, section
    10). A bound widens by `drift_ppm` of its age.

    `agreement` takes the peers' clocks for exact: it says how well the clocks agree. `bound` adds how far each
    clock may be off itself, so that it holds the true time. Without a bound from its kernel a clock counts as
    within `max_offset_ms`; with `require_proof` it counts for nothing.
    """

    def __init__(
        self,
        *,
        max_offset_ms: int = 500,
        window: int = 8,
        drift_ppm: int = 200,
        slack_ms: int = 0,
        require_proof: bool = False,
    ) -> None:
        """`slack_ms`: by so much this node's clock may have been set without a call of `stepped`."""
        self._max_offset_ms = max_offset_ms
        self._window = window
        self._drift_ppm = drift_ppm
        self._slack_ms = slack_ms
        self._require_proof = require_proof
        self._samples: dict[str, deque[_Sample]] = {}

    def add(
        self, peer: str, sent_ms: int, remote_ms: int, received_ms: int, bound_ms: int | None = None
    ) -> None:
        """Note one exchange: sent and received by this node's clock, answered at `remote_ms` by the peer's.

        `bound_ms` is what the peer's kernel says of its clock. An exchange during which this node's clock stepped
        back says nothing and is left out.
        """
        if received_ms < sent_ms:
            return
        if bound_ms is not None:
            bound_ms = max(0, bound_ms)
        # The peer read its clock between the two; a millisecond more each way, as readings are rounded down.
        sample = _Sample(remote_ms - received_ms - 1, remote_ms - sent_ms + 1, received_ms, bound_ms)
        samples = self._samples.setdefault(peer, deque(maxlen=self._window))
        if samples:
            low, high = self._best(samples, received_ms)
            if sample.low > high or sample.high < low:
                samples.clear()  # one of the clocks has stepped: what was measured before holds no more
        samples.append(sample)

    def stepped(self, ms: int) -> None:
        """This node's own clock was set forward by so much: what was measured moves with it."""
        for peer, samples in self._samples.items():
            moved = (
                each._replace(low=each.low - ms, high=each.high - ms, received_ms=each.received_ms + ms)
                for each in samples
            )
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

    def agreement(self, now_ms: int, kernel_ms: int | None = None) -> Interval:
        """What most clocks say, when this node's clock reads `now_ms` and the kernel bounds its error.

        A minority that runs away does not move it. `distance_ms(now_ms)` says how far off this node is. If no
        majority shares anything, it covers all clocks.
        """
        own_ms = self._max_offset_ms if kernel_ms is None else kernel_ms
        peers = [self._best(self._samples[peer], now_ms) for peer in sorted(self._samples)]
        low, high, _ = _shared((-own_ms, own_ms), peers)
        return Interval(now_ms + low, now_ms + high)

    def bound(self, now_ms: int, kernel_ms: int | None = None) -> ClockBound:
        """Where the true time lies, when this node's clock reads `now_ms` and the kernel bounds its error.

        It holds the time while this node's own bound holds, and those of most clocks that were compared.
        """
        proven = self._proven(now_ms, kernel_ms)
        if self._require_proof or (proven.agreed and proven.error_ms <= self._max_offset_ms):
            return proven
        peers = [
            min((self._true(each, self._within(each.bound_ms), now_ms) for each in samples), key=_width)
            for samples in self._samples.values()
        ]
        own_ms = self._within(kernel_ms)
        return ClockBound(*_shared((-own_ms, own_ms), peers), assumed=True)

    def _proven(self, now_ms: int, kernel_ms: int | None) -> ClockBound:
        """By kernels alone."""
        peers = []
        for samples in self._samples.values():
            proofs = [
                self._true(each, each.bound_ms, now_ms) for each in samples if each.bound_ms is not None
            ]
            if proofs:
                peers.append(min(proofs, key=_width))
        if kernel_ms is None and not peers:
            return ClockBound(-UNBOUNDED_MS, UNBOUNDED_MS, agreed=False)
        return ClockBound(*_shared(None if kernel_ms is None else (-kernel_ms, kernel_ms), peers))

    def _true(self, sample: _Sample, bound_ms: int, now_ms: int) -> _Range:
        """The time minus this node's clock, by an exchange with a peer whose clock is within `bound_ms`."""
        return sample.widened(now_ms, self._drift_ppm, bound_ms + self._slack_ms)

    def _within(self, kernel_ms: int | None) -> int:
        """How far off a clock counts as being that its kernel bounds, or does not."""
        return self._max_offset_ms if kernel_ms is None else min(kernel_ms, self._max_offset_ms)

    def _best(self, samples: Iterable[_Sample], now_ms: int) -> _Range:
        return min((sample.widened(now_ms, self._drift_ppm) for sample in samples), key=_width)


def _width(bound: _Range) -> int:
    return bound[1] - bound[0]


def _shared(own: _Range | None, peers: Sequence[_Range]) -> tuple[int, int, bool]:
    """The own bound, as far as a majority of all bounds shares it; and whether a majority shares anything.

    The algorithm is Marzullo's ("Maintaining the time in a distributed system", 1984). If the own bound and the
    majority's are disjoint, it is the majority's. If no majority shares anything, it covers all.
    """
    bounds = [*([] if own is None else [own]), *peers]
    ends = [end for bound in bounds for end in bound]
    # The points that a majority shares form ranges that begin and end where bounds do.
    shared = [end for end in ends if 2 * sum(low <= end <= high for low, high in bounds) > len(bounds)]
    low, high = min(shared or ends), max(shared or ends)
    if own is not None and shared and low <= own[1] and high >= own[0]:
        low, high = max(low, own[0]), min(high, own[1])
    return low, high, bool(shared)
