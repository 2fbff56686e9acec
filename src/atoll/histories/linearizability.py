"""Are registers linearizable? Each operation on a key takes effect at once, between its call and its return.

A history is linearizable if it is for each key alone (Herlihy and Wing, 1990), so each key is searched by itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from atoll.errors import InvalidHistory
from atoll.histories.failing_part import failing_part
from atoll.histories.history import Event, Operation, Verdict, operations_of, text_of
from atoll.histories.search import NOTHING, BudgetExceeded, Call, search

BUDGET = 4_000_000
"""Configurations that are looked at for one key. It bounds time and memory."""
_SHOWN = 20


@dataclass(frozen=True)
class Unplaced:
    """A key whose operations have no order that explains them."""

    key: str | int | None
    operation: Operation
    """The first, in the order of returns, that has no place."""
    held: list[Any] | None
    """What it could have read instead; None if that is anything that was there before `part`."""
    part: list[Operation]
    """Operations that have no order by themselves, whatever the register held before them; as few as were found."""

    def __str__(self) -> str:
        held = "anything but that" if self.held is None else " or ".join(map(text_of, self.held)) or "nothing"
        shown = [f"  {each}" for each in self.part[-_SHOWN:]]
        if len(self.part) > _SHOWN:
            shown.insert(0, f"  … {len(self.part) - _SHOWN} more, and then")
        return "\n".join(
            [
                f"key {text_of(self.key)} is not linearizable: no order has a place for",
                f"  {self.operation}",
                f"since the register could hold {held}. What contradicts it:",
                *shown,
            ]
        )


@dataclass
class Linearizability:
    """What the check of registers found."""

    failures: list[Unplaced] = field(default_factory=list)
    unknown: list[str | int | None] = field(default_factory=list)
    """Keys whose search exceeded the budget."""
    examined: int = 0
    """Configurations that were looked at."""

    @property
    def verdict(self) -> Verdict:
        if self.failures:
            return "invalid"
        return "unknown" if self.unknown else "valid"

    def __str__(self) -> str:
        exceeded = [f"key {text_of(each)}: the budget was exceeded" for each in self.unknown]
        return "\n".join([self.verdict, *map(str, self.failures), *exceeded])


def check_registers(events: Sequence[Event], *, initial: Any = None, budget: int = BUDGET) -> Linearizability:
    """Check every key of a history of `read`, `write` and `cas`.

    `value` is what is read or written, and `[old, new]` for `cas`. `initial` is what each key holds at first.
    Raises InvalidHistory for other operations.
    """
    by_key: dict[tuple[bool, str | int | None], list[Operation]] = {}
    for each in operations_of(events):
        by_key.setdefault((isinstance(each.key, int), each.key), []).append(each)
    found = Linearizability()
    for (_, key), operations in by_key.items():
        register = _Register(operations, initial)
        try:
            stuck, examined = search(register.calls, [register.initial], budget)
        except BudgetExceeded:
            found.unknown.append(key)
            continue
        found.examined += examined
        if stuck is not None:
            found.failures.append(register.failure(key, stuck))
    return found


class _Register:
    """The operations of one key as calls, with a number for each value."""

    def __init__(self, operations: Iterable[Operation], initial: Any) -> None:
        self._numbers: dict[str, int] = {}
        self._values: list[Any] = []
        self.initial = self._number(initial)
        happened = [each for each in operations if each.outcome != "fail"]
        calls = [(self._call(each), each) for each in happened]
        needed = {call.need for call, _ in calls}
        # Without an outcome, a read says nothing, and a write that nobody needs explains nothing.
        kept = [
            (call, each) for call, each in calls if call.end < math.inf or call.makes in needed - {NOTHING}
        ]
        self.calls = [call for call, _ in kept]
        self._operations = [each for _, each in kept]

    def failure(self, key: str | int | None, stuck: int) -> Unplaced:
        part = failing_part(self.calls, self.initial, stuck)
        held = None
        if part.held is not None:
            held = [self._values[each] for each in part.held]
        return Unplaced(
            key, self._operations[part.unplaced], held, [self._operations[each] for each in part.calls]
        )

    def _number(self, value: Any) -> int:
        number = self._numbers.setdefault(text_of(value), len(self._values))
        if number == len(self._values):
            self._values.append(value)
        return number

    def _call(self, operation: Operation) -> Call:
        end = math.inf if operation.end is None else operation.end
        match operation.f, operation.invoked:
            case "read", _:
                need = NOTHING if operation.end is None else self._number(operation.value)
                return Call(need, NOTHING, operation.start, end)
            case "write", value:
                return Call(NOTHING, self._number(value), operation.start, end)
            case "cas", [old, new]:
                need, makes = self._number(old), self._number(new)
                return Call(need, NOTHING if need == makes else makes, operation.start, end)
        raise InvalidHistory(f"{operation} is none of read, write and cas [old, new]")
