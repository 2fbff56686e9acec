"""The smallest part of a failing history, for a person who wants to know why."""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from typing import NamedTuple

from atoll.histories.search import NOTHING, BudgetExceeded, Call, search

_OTHER = -2
"""A value that no call needs or makes."""
_BUDGET = 200_000
_FIRST_EVENTS = 16
_WEAKENED_CALLS = 400
_EVENTS_BEFORE = 64
_VALUES = 50


class FailingPart(NamedTuple):
    """Numbers of calls that no order explains, whatever the register held before them."""

    unplaced: int
    """The call that returns last. Without its return there is an order."""
    calls: list[int]
    held: list[int] | None
    """What the call could have read instead; None if that is anything from before."""


Part = dict[int, Call]
"""number → call"""


class _Window(NamedTuple):
    """The history between two of its events."""

    calls: Sequence[Call]
    events: Sequence[int]
    initial: int

    def part(self, first: int, last: int) -> Part:
        """The calls between two events. What is cut off at either side may take effect at any time or never."""
        begins, ends = self.events[first], self.events[last]
        found: Part = {}
        for number, call in enumerate(self.calls):
            if call.start <= ends and call.end >= begins:
                whole = begins <= call.start and call.end <= ends
                each = call if whole else call._replace(end=math.inf)
                if whole or each.makes != NOTHING:
                    found[number] = each
        return found

    def fails(self, part: Part, first: int) -> bool:
        """Whether it certainly has no order, for any value that the register may have held before it."""
        initial = {self.initial} if first == 0 else {_OTHER, *(each.need for each in part.values())}
        try:
            return search(list(part.values()), sorted(initial - {NOTHING}), _BUDGET).stuck is not None
        except BudgetExceeded:
            return False


def failing_part(calls: Sequence[Call], initial: int, stuck: int) -> FailingPart:
    """`stuck` is what `search` answered. It looks ahead, so the contradiction may come later."""
    returns = [int(each.end) for each in calls if each.end < math.inf]
    window = _Window(calls, sorted([each.start for each in calls] + returns), initial)
    newest = len(window.events) - 1
    middle = window.events.index(int(calls[stuck].end))
    first, last, radius = middle, middle, _FIRST_EVENTS
    while first > 0 or last < newest:
        first, last, radius = max(0, middle - radius), min(newest, middle + radius), radius * 2
        if window.fails(window.part(first, last), first):
            break
    last = bisect.bisect_left(
        range(last), True, lo=middle, key=lambda each: window.fails(window.part(first, each), first)
    )
    first = bisect.bisect_left(
        range(last), True, lo=first, key=lambda each: not window.fails(window.part(each + 1, last), each + 1)
    )
    unplaced = next(number for number, each in enumerate(calls) if each.end == window.events[last])
    part = _weakened(window, window.part(first, last), first, unplaced)
    # Some more of what came before says better what the register could hold.
    first = max(0, first - _EVENTS_BEFORE)
    return FailingPart(unplaced, sorted(part), _held(window, window.part(first, last), first, unplaced))


def _weakened(window: _Window, part: Part, first: int, unplaced: int) -> Part:
    """Without the returns that the contradiction does not need, and without calls that then explain nothing."""
    if len(part) > _WEAKENED_CALLS:
        return part
    for number in [each for each, call in part.items() if call.end < math.inf and each != unplaced]:
        weaker = {each: call for each, call in part.items() if each != number}
        if part[number].makes != NOTHING:
            weaker[number] = part[number]._replace(end=math.inf)
        if window.fails(weaker, first):
            part = weaker
    needed = {call.need for call in part.values() if call.end < math.inf}
    while more := {
        call.need for call in part.values() if call.makes in needed and call.need not in needed | {NOTHING}
    }:
        needed |= more
    return {each: call for each, call in part.items() if call.end < math.inf or call.makes in needed}


def _held(window: _Window, part: Part, first: int, unplaced: int) -> list[int] | None:
    call = part[unplaced]
    values = {each.makes for each in part.values()} | ({window.initial} if first == 0 else {_OTHER})
    values -= {NOTHING, call.need}
    held = [
        value
        for value in sorted(values)[:_VALUES]
        if not window.fails({**part, unplaced: call._replace(need=value, makes=NOTHING)}, first)
    ]
    return None if _OTHER in held else held
