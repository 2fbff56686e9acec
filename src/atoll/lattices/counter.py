"""PN-counter: increments and decrements of any region add up.

Shapiro, Preguiça, Baquero and Zawirski, "A comprehensive study of convergent and commutative replicated data
types", 2011, specification 7.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from atoll.errors import InvalidOperation
from atoll.lattices import encoding
from atoll.lattices.base import Actor, Lattice
from atoll.lattices.encoding import TOTAL_MAX, Origin, Total
from atoll.lattices.json_values import INT_MAX, INT_MIN, check_integer

CounterState = dict[str, tuple[int, int]]
"""Region → (sum of its increments, sum of its decrements); only that region moves its own pair."""

_decoder = msgspec.msgpack.Decoder(dict[Origin, tuple[Total, Total]])


@dataclass(frozen=True, slots=True)
class CounterLattice(Lattice[CounterState]):
    """An integer of 64 bits. Sums past them, which only concurrent regions can reach, show as the limit."""

    kind = "counter"
    operators = frozenset({"$inc"})

    def empty(self) -> CounterState:
        return {}

    def merge(self, state: CounterState, delta: CounterState) -> CounterState:
        merged = dict(state)
        for region, (up, down) in delta.items():
            known = merged.get(region)
            merged[region] = (up, down) if known is None else (max(known[0], up), max(known[1], down))
        return merged

    def value(self, state: CounterState) -> int:
        return max(INT_MIN, min(INT_MAX, _sum(state)))

    def difference(self, state: CounterState, target: Any, actor: Actor) -> CounterState | None:
        return self._add(state, check_integer(target, "counter") - _sum(state), actor)

    def operate(self, state: CounterState, operator: str, argument: Any, actor: Actor) -> CounterState | None:
        if operator != "$inc":
            raise InvalidOperation(f"a counter does not take {operator}; use $inc with an integer")
        return self._add(state, check_integer(argument, "$inc"), actor)

    def decode(self, data: bytes) -> CounterState:
        return encoding.decode(_decoder, data, "counter")

    def written_by(self, delta: CounterState, region: str) -> bool:
        return delta.keys() <= {region}

    def canonical(self, state: CounterState) -> bytes:
        return encoding.encode({region: pair for region, pair in state.items() if pair != (0, 0)})

    def _add(self, state: CounterState, amount: int, actor: Actor) -> CounterState | None:
        if amount == 0:
            return None
        total = _sum(state)
        if total + amount > INT_MAX if amount > 0 else total + amount < INT_MIN:
            raise InvalidOperation(f"the counter would exceed 64 bits: {total} + {amount}")
        up, down = state.get(actor.origin, (0, 0))
        up, down = (up + amount, down) if amount > 0 else (up, down - amount)
        if up > TOTAL_MAX or down > TOTAL_MAX:
            raise InvalidOperation(
                f"all that {actor.origin} ever added to or took from this counter would pass 2^64; "
                "continue in a new document"
            )
        return {actor.origin: (up, down)}


def _sum(state: CounterState) -> int:
    total = 0
    for up, down in state.values():
        total += up - down
    return total
