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


@dataclass(frozen=True, slots=True)
class RenewLinks:
    """Open every link anew; peers drop what they received of this region and have not stored. Done at once."""


@dataclass(frozen=True, slots=True)
class Rewind:
    """Go back to the position that the database is at. Ends in `Rewound`."""


@dataclass(frozen=True, slots=True)
class ReadHistory:
    """Read which history the region has taken up. Ends in `HistoryRead`."""


@dataclass(frozen=True, slots=True)
class TakeUp:
    """Record the history as taken up; counters of identifiers leap past `clock_ms`. Ends in `TakenUp`."""

    history: str
    clock_ms: int


@dataclass(frozen=True, slots=True)
class Trust:
    """Let local writes into this history of the database, and into no other. Done at once."""

    history: str


@dataclass(frozen=True, slots=True)
class ReadHolders:
    """Read who holds which lease. Ends in `HoldersRead`."""


@dataclass(frozen=True, slots=True)
class Lease:
    """Hold these for so many seconds, unless other nodes do. Ends in `Leased`."""

    names: tuple[str, ...]
    for_s: float


@dataclass(frozen=True, slots=True)
class GiveBack:
    """Hold these leases no longer. Ends in `GivenBack`."""

    names: tuple[str, ...]


Waited = (
    RefreshPosition
    | Rewind
    | AwaitCovered
    | CompareHistories
    | RaiseCounters
    | ReadHistory
    | TakeUp
    | ReadHolders
    | Lease
    | GiveBack
)
"""They end in an outcome, or in `Failed`."""
Effect = WakeAt | ReviewLinks | RenewLinks | Trust | Waited

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
class Rewound:
    """The region stands where its database does, whose clock had come so far (unix milliseconds)."""

    clock_ms: int


@dataclass(frozen=True, slots=True)
class HistoryRead:
    """The history that the region last took up, and its own position."""

    taken_up: str
    own: int


@dataclass(frozen=True, slots=True)
class TakenUp:
    """The history is recorded; the region's own position is this."""

    own: int


@dataclass(frozen=True, slots=True)
class HoldersRead:
    """lease → the node that holds it."""

    holders: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Leased:
    """Of what was asked for, this node holds so much."""

    asked: tuple[str, ...]
    held: frozenset[str]


@dataclass(frozen=True, slots=True)
class GivenBack:
    """Other nodes may hold these."""

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Failed:
    """An effect came to nothing."""

    effect: Effect
    error: AtollError


Outcome = (
    Woken
    | Refreshed
    | Rewound
    | Covered
    | Compared
    | CountersRead
    | CountersRaised
    | HistoryRead
    | TakenUp
    | HoldersRead
    | Leased
    | GivenBack
    | Failed
)
