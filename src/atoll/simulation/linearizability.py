"""Whether what clients saw of one register could have happened one after the other, each between call and return.

The search is that of Wing and Gong, "Testing and verifying concurrent objects", 1993. Its memory is that of Lowe,
"Testing for linearizability", 2017. So a set of ordered operations is looked at once for each state that it led to.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple


class Operation(NamedTuple):
    """One call of a client. A write of which nobody knows whether it happened never returns."""

    write: bool
    value: Any
    called_s: float
    returned_s: float = math.inf

    @property
    def certain(self) -> bool:
        return self.returned_s < math.inf


def linearizable(history: Sequence[Operation], initial: Any = None) -> bool:
    """Whether there is an order of the certain operations, and of some uncertain ones, that explains every read."""
    read = {each.value for each in history if not each.write}
    # An uncertain write that nobody read may be put last; it explains nothing.
    operations = sorted(
        (each for each in history if each.certain or (each.write and each.value in read)),
        key=lambda each: (each.called_s, each.returned_s),
    )
    certain = sum(1 << number for number, each in enumerate(operations) if each.certain)
    looked_at = {(0, initial)}
    open_ones = [(0, initial)]
    while open_ones:
        done, state = open_ones.pop()
        if done & certain == certain:
            return True
        for number in _next(operations, done):
            each = operations[number]
            if each.write or each.value == state:
                step = (done | 1 << number, each.value if each.write else state)
                if step not in looked_at:
                    looked_at.add(step)
                    open_ones.append(step)
    return False


def _next(operations: Sequence[Operation], done: int) -> list[int]:
    """Those that may come next: called before any other that is left has returned."""
    first_return_s = math.inf
    found: list[int] = []
    for number, each in enumerate(operations):
        if each.called_s > first_return_s:
            break  # they are in the order of their calls
        if not done >> number & 1:
            found.append(number)
            first_return_s = min(first_return_s, each.returned_s)
    return [number for number in found if operations[number].called_s <= first_return_s]
