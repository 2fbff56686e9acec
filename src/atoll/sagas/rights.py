"""Which region runs the sagas that a region has started: a lease, decided by a majority of regions.

Each region's sagas have a right, a strong document. Whoever holds it renews it while there are sagas to run, and runs
them until a lease after its last renewal *began*. Another region takes the right over if it did not change for longer
than a lease, counted from the *end* of a read. So the first one has stopped by then. Neither needs a clock that is
right; they need clocks that run about equally fast.

A right that was taken over leaves doubts: its former holder may have gone on, and nobody may know yet. They last
until all that the former holder had is here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import inf
from typing import NamedTuple

import msgspec

_SLOWEST = 1.25
"""Of two regions, the faster one's clock runs at most so much faster."""
_RENEWED = 1 / 3
"""A lease is renewed once so much of it is over."""
_ASKED = 0.5
"""Whoever waits for a right looks at it this often, in leases."""


class Right(msgspec.Struct, frozen=True):
    """The value of the document."""

    holder: str
    epoch: int
    """Grows with each holder."""
    beat: int = 0
    """Grows with each renewal."""
    wanted: str = ""
    """The region that wants it back, as its sagas were started there."""
    after: dict[str, int] = {}
    """What the holder has to have before it runs any: the position of whoever gave the right up."""
    doubts: tuple[str, ...] = ()
    """Former holders that may have gone on without anyone knowing."""


@dataclass(frozen=True, slots=True)
class Watch:
    """What a region knows of one right."""

    region: str
    """Whose knowledge it is."""
    home: str
    """Whose sagas it is about."""
    lease_s: float
    right: Right | None = None
    version: str | None = None
    """Of the document, by a read of a majority; None while that is to be read."""
    read: bool = False
    """Whether it was ever read."""
    same_since_s: float = inf
    """When a majority was read first that held this value."""
    asked_s: float = -inf
    """When it was read last."""
    until_s: float = -inf
    """It was renewed up to here by this region."""
    ready: bool = False
    """Whether what comes with the right is here."""
    pending: bool = False
    """Whether an effect is under way."""
    yielding: bool = False

    @property
    def holds(self) -> bool:
        """Whether it is this region's, in time or not."""
        return self.right is not None and self.right.holder == self.region

    def may_run(self, now_s: float) -> bool:
        """Whether this region may run the sagas now."""
        return self.holds and self.ready and not self.yielding and now_s < self.until_s


class Tick(NamedTuple):
    """Time has passed."""

    busy: bool
    """Whether there are sagas of the home to run, as far as is known here."""
    local: tuple[int, int] | None = None
    """Epoch and beat, as this region's own copy of the document shows them."""
    runs: bool = True
    """Whether this node of the region runs sagas. Others have nothing to stop, and give nothing up."""


class Found(NamedTuple):
    """A majority was read."""

    right: Right | None
    version: str | None


class Written(NamedTuple):
    """The right is this from now on."""

    right: Right
    version: str
    began_s: float
    """When it was proposed."""


class Refused(NamedTuple):
    """Another region has written it, or may have."""


class Covered(NamedTuple):
    """All that came with this right is here."""

    epoch: int
    cleared: tuple[str, ...] = ()
    """Former holders whose whole position is here."""


class Yielded(NamedTuple):
    """Nothing runs any more, and this is the position that has to be known before it goes on."""

    after: Mapping[str, int]


Event = Tick | Found | Written | Refused | Covered | Yielded


class Read(NamedTuple):
    """Ask a majority."""


class Write(NamedTuple):
    """Propose it in the place of a version; None where there is none yet."""

    right: Right
    version: str | None


class Cover(NamedTuple):
    """Get what comes with the right: what a majority of regions holds, or what it names itself."""

    right: Right


class Yield(NamedTuple):
    """Stop running, for whoever wants it back."""


Effect = Read | Write | Cover | Yield
Next = tuple[Watch, tuple[Effect, ...]]


def step(watch: Watch, event: Event, now_s: float) -> Next:
    match event:
        case Tick():
            return _tick(watch, event, now_s)
        case Found(right, version):
            return _found(watch, right, version, now_s), ()
        case Written():
            return _written(watch, event, now_s)
        case Refused():
            return replace(watch, version=None, same_since_s=inf, pending=False, yielding=False), ()
        case Covered(epoch, cleared):
            if watch.right is None or watch.right.epoch != epoch:
                return watch, ()
            doubts = tuple(each for each in watch.right.doubts if each not in cleared)
            return replace(watch, ready=True, right=msgspec.structs.replace(watch.right, doubts=doubts)), ()
        case Yielded(after):
            return _yielded(watch, after)


def _tick(watch: Watch, tick: Tick, now_s: float) -> Next:
    busy, local, runs = tick
    if watch.pending:
        return watch, ()
    right = watch.right
    if right is not None and local is not None and local > (right.epoch, right.beat):
        watch = replace(watch, version=None, same_since_s=inf)  # it is another one by now
    if not watch.read or (watch.version is None and right is not None):
        return _asking(watch, now_s) if busy or watch.holds or not watch.read else (watch, ())
    if right is None:
        founding = busy and watch.home == watch.region
        return _writing(watch, Right(watch.region, 1)) if founding else (watch, ())
    if right.holder == watch.region:
        return _hold(watch, right, busy=busy, runs=runs, now_s=now_s)
    if watch.home == watch.region and right.wanted != watch.region:
        wish = msgspec.structs.replace(right, wanted=watch.region, beat=right.beat + 1)
        return _writing(watch, wish) if busy else (watch, ())
    if not busy:
        return watch, ()
    if now_s - watch.same_since_s >= watch.lease_s * _SLOWEST:
        doubts = tuple(dict.fromkeys((*right.doubts, right.holder)))
        return _writing(watch, Right(watch.region, right.epoch + 1, 0, right.wanted, {}, doubts))
    if now_s - watch.asked_s >= watch.lease_s * _ASKED:
        return _asking(watch, now_s)
    return watch, ()


def _hold(watch: Watch, right: Right, *, busy: bool, runs: bool, now_s: float) -> Next:
    if runs and right.wanted not in ("", watch.region) and not watch.yielding and watch.ready:
        return replace(watch, yielding=True, pending=True), (Yield(),)
    if busy and watch.until_s - now_s < watch.lease_s * (1 - _RENEWED):
        wanted = "" if right.wanted == watch.region else right.wanted
        return _writing(watch, msgspec.structs.replace(right, beat=right.beat + 1, wanted=wanted))
    return watch, ()


def _written(watch: Watch, event: Written, now_s: float) -> Next:
    right, before = event.right, watch.right
    watch = replace(
        watch, right=right, version=event.version, read=True, same_since_s=now_s, asked_s=now_s, pending=False
    )
    if right.holder != watch.region:
        return replace(watch, until_s=-inf, ready=False, yielding=False), ()
    watch = replace(watch, until_s=event.began_s + watch.lease_s)
    ready = _same_holder(before, right) and watch.ready
    # What was not covered at first may be now: a store that failed meanwhile has ended the attempt.
    return replace(watch, ready=ready), () if ready and not right.doubts else (Cover(right),)


def _found(watch: Watch, right: Right | None, version: str | None, now_s: float) -> Watch:
    same = watch.read and watch.right == right and watch.same_since_s < inf
    if not _same_holder(watch.right, right):
        watch = replace(watch, until_s=-inf, ready=False, yielding=False)
    since_s = watch.same_since_s if same else now_s
    return replace(
        watch, right=right, version=version, read=True, same_since_s=since_s, asked_s=now_s, pending=False
    )


def _same_holder(one: Right | None, other: Right | None) -> bool:
    return one is not None and other is not None and (one.holder, one.epoch) == (other.holder, other.epoch)


def _yielded(watch: Watch, after: Mapping[str, int]) -> Next:
    right = watch.right
    if right is None or not watch.holds:
        return replace(watch, pending=False, yielding=False), ()
    doubts = tuple(each for each in right.doubts if each != right.wanted)
    given = Right(right.wanted, right.epoch + 1, 0, "", dict(after), doubts)
    # It may be another's from here on, whatever is answered: only a renewal lets this region run again.
    return _writing(replace(watch, until_s=-inf), given)


def _asking(watch: Watch, now_s: float) -> Next:
    return replace(watch, pending=True, asked_s=now_s), (Read(),)


def _writing(watch: Watch, right: Right) -> Next:
    return replace(watch, pending=True), (Write(right, watch.version),)
