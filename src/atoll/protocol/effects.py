"""The house form of a protocol: a pure step, `(state, event, now) → (state, effects)`.

A step does no input and output. It asks for it by effects, and hears of each outcome by an event. So an effect that
depends on durable state is asked for only at the event which says that the state is durable. `region.driver` performs
the effects. Times are seconds of the event loop's clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from atoll.errors import AtollError

# -- effects: what a step asks for ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class WakeAt:
    """Send `Woken` at this time. A later `WakeAt` of the same protocol takes its place."""

    at_s: float


@dataclass(frozen=True, slots=True)
class ReviewLinks:
    """Links are to ask for other origins than before. Done at once."""


@dataclass(frozen=True, slots=True)
class RefreshPosition:
    """Read the region's position from the store: another node may have moved it. Ends in `Refreshed`."""


@dataclass(frozen=True, slots=True)
class AwaitCovered:
    """Wait until the region has seen the vector. Ends in `Covered`."""

    vector: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class CompareHistories:
    """Ask connected peers whether they know other entries under this region's numbers. Ends in `Compared`."""


@dataclass(frozen=True, slots=True)
class RaiseCounters:
    """Make counters at least so high, in this order. Ends in `CountersRaised`, once all are durable."""

    counters: Mapping[str, int]


Effect = WakeAt | ReviewLinks | RefreshPosition | AwaitCovered | CompareHistories | RaiseCounters

State = TypeVar("State")
Next = tuple[State, tuple[Effect, ...]]
"""What a step returns: the state that follows, and what is to be done."""


# -- outcomes: what a step hears of it ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Woken:
    """The time of the last `WakeAt` has come."""


@dataclass(frozen=True, slots=True)
class Refreshed:
    """The region's position as the store has it, or later."""

    vector: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Covered:
    """The region has seen the vector of the last `AwaitCovered`."""


@dataclass(frozen=True, slots=True)
class Compared:
    """What is wrong with the region's history; empty for nothing."""

    fault: str


@dataclass(frozen=True, slots=True)
class CountersRead:
    """Durable counters: those that a protocol reads when it is opened."""

    counters: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class CountersRaised:
    """They are durable."""

    counters: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Failed:
    """An effect came to nothing."""

    effect: Effect
    error: AtollError


Outcome = Woken | Refreshed | Covered | Compared | CountersRead | CountersRaised | Failed
