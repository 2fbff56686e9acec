"""What every mergeable field type offers: a join-semilattice with deltas.

`merge` is commutative, associative and idempotent, and a delta is a state (Almeida, Shoker and Baquero,
"Delta state replicated data types", 2018). So replication, repair and bootstrap are one function.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, ClassVar, Protocol, TypeVar, runtime_checkable

import msgspec

from atoll.causality.origin import Origin, region_of
from atoll.causality.types import RegionName
from atoll.lattices import encoding
from atoll.membership.heirs import NOBODY, Heirs

State = TypeVar("State")


@dataclass(frozen=True, slots=True)
class Actor:
    """Who performs an operation."""

    origin: Origin
    """Under which its region numbers at present."""
    regions: tuple[RegionName, ...]
    """All regions of the deployment, sorted; a bounded counter splits its rights among them."""
    former: tuple[Origin, ...] = ()
    """Origins of the same region that write nothing any more, and of which everything is here: it has their rights."""
    heirs: Heirs = NOBODY
    """Who has the rights of regions that have left."""
    inherits: bool = False
    """Whether the region may spend what it has inherited."""

    def holds(self, origin: str) -> bool:
        """Whether the actor may spend the rights of an origin."""
        if self.heirs.heir_of(origin) is None:
            return origin == self.origin or origin in self.former
        holder, clear = self.heirs.holder_of(origin)
        return self.inherits and clear and holder == region_of(self.origin)


class Lattice(Protocol[State]):
    """One field type. Instances hold only the field's declaration, so they can be shared."""

    kind: ClassVar[str]
    """`counter`, `bounded_counter`, `set`, `list` or `text`."""
    operators: ClassVar[frozenset[str]]
    """The patch operators that it takes, such as `$inc`."""

    def empty(self) -> State:
        """The bottom: merging it changes nothing."""

    def merge(self, state: State, delta: State) -> State:
        """The least upper bound; returns a new state (or `state` itself) and changes neither."""

    def gathered(self, deltas: Sequence[State]) -> State:
        """All of one writer's deltas, at least one, as one."""
        return reduce(self.merge, deltas)

    def value(self, state: State) -> Any:
        """What a reader sees, as plain JSON data."""

    def text(self, state: State) -> bytes:
        """`value` as JSON text."""
        return msgspec.json.encode(self.value(state))

    def difference(self, state: State, target: Any, actor: Actor) -> State | None:
        """The delta after which `value` shows `target`; None when it already does.

        Raises BoundExceeded where the target cannot be reached with what this region holds.
        """

    def operate(self, state: State, operator: str, argument: Any, actor: Actor) -> State | None:
        """The delta of one patch operator; None when it changes nothing.

        Raises InvalidOperation for an operator or argument that does not fit, BoundExceeded.
        """

    def encode(self, state: State) -> bytes:
        """For the journal and the disk; `decode(encode(s))` merges and shows exactly as `s`."""
        return encoding.encode(state)

    def decode(self, data: bytes) -> State:
        """Raises HostileEntry for bytes that no `encode` wrote, bounded in time and memory."""

    def written_by(self, delta: State, region: str) -> bool:
        """Whether the region changed only its own part in this delta, just decoded.

        A delta in another's name could collide with what that region writes itself, and regions could differ.
        """

    def restore(self, data: bytes) -> State:
        """`decode` for bytes of this region's own store: without checks that earlier calls made."""
        return self.decode(data)

    def followed(self, state: State) -> bool:
        """Whether another edit of this very object takes little time, however large it is."""
        return True

    def canonical(self, state: State) -> bytes:
        """Equal for every region that has seen the same operations, in whatever order: for digests."""
        return self.encode(state)


@runtime_checkable
class Escrowed(Lattice[State], Protocol[State]):
    """A field type whose regions hold rights, and hand them to each other."""

    def rights(self, state: State, region: str, heirs: Heirs = NOBODY) -> int:
        """What the region may spend by itself, as far as is known here."""

    def spent(self, state: State, region: str) -> int:
        """What the region has spent so far, as far as is known here: it only grows."""

    def left(self, state: State) -> int:
        """The rights of all regions together."""

    def spendable(self, state: State, actor: Actor) -> int:
        """What the actor may spend by itself."""

    def transfer(self, state: State, actor: Actor, target: str, amount: int) -> State:
        """The delta that moves rights to an origin. Raises BoundExceeded where the actor holds fewer."""
