"""Is there an order of the calls of one register that explains all of them? Wing and Gong's search, as Lowe refined it.

J. M. Wing, C. Gong, "Testing and verifying concurrent objects", 1993. G. Lowe, "Testing for linearizability", 2017.

- *Just in time*: a call is put in its place when it returns, or when a call that returns needs it before itself.
- *Memory*: all configurations that explain the history so far are kept, each once, and nothing else is.

A configuration is the register's value and, for each pending call, one of three conditions:

- *open*: it has no place yet, and must get one before it returns;
- *free*: it may have had its place, unseen; a write may still get one;
- *used*: it has had its place, and was seen or may be.

What makes it quick is what is particular to registers:

- A read is placed as soon as the register holds its value: no other call notices. So is a write of that value.
- A write makes every pending write free: it could stand just before, where nobody can see it.
- What makes a value that nobody needs any more is as good as free once it is used.
- Of calls that do the same, the one that returns first is used first.
- A configuration is dropped for another of the same value if all calls in which they differ are free in that other.
- A configuration is dropped if a call needs a value that can no longer be made. This looks ahead in the history.
"""

from __future__ import annotations

import bisect
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

NOTHING = -1


class Call(NamedTuple):
    """A read needs a value, a write makes one, a compare-and-set needs one and makes another.

    Values are numbers. A compare-and-set that changes nothing is a read.
    """

    need: int
    makes: int
    start: int
    end: float
    """Infinite if it may take effect at any time, or never."""


class BudgetExceeded(Exception):
    """So many configurations were looked at that the search gave up."""


class Answer(NamedTuple):
    """`stuck` is the number of a call that no order has a place for, or None if there is an order."""

    stuck: int | None
    examined: int
    """Configurations that were looked at."""


Configuration = tuple[int, int, int]
"""The register's value, the used calls and the free ones as bits."""


class _Configurations:
    """None is dominated by another of the same value, whatever the bits in `ignored`."""

    def __init__(self, ignored: int) -> None:
        self._heeded = ~ignored
        self.of_value: dict[int, dict[tuple[int, int], None]] = {}

    def add(self, configuration: Configuration) -> bool:
        """Whether it was neither there nor dominated."""
        if self.covers(configuration):
            return False
        value, used, free = configuration
        present = self.of_value.setdefault(value, {})
        dominating = ~free & self._heeded
        for each in [each for each in present if not ((used ^ each[0]) | (free ^ each[1])) & dominating]:
            del present[each]
        present[used, free] = None
        return True

    def covers(self, configuration: Configuration) -> bool:
        value, used, free = configuration
        present = self.of_value.get(value)
        if not present:
            return False
        if (used, free) in present:
            return True
        heeded = self._heeded
        return any(
            not ((used ^ its_used) | (free ^ its_free)) & ~its_free & heeded for its_used, its_free in present
        )

    def __iter__(self) -> Iterator[Configuration]:
        for value, present in self.of_value.items():
            for used, free in present:
                yield value, used, free


_WIDTHS = (16, 64, math.inf)


def search(calls: Sequence[Call], initial: Iterable[int], budget: int) -> Answer:
    """Search with few configurations at a time, and with more if that finds no order. Raises BudgetExceeded."""
    examined, initial = 0, list(initial)
    for width in _WIDTHS:
        found = _Search(calls, initial, budget - examined, width)
        stuck = found.run()
        examined += found.examined
        if stuck is None or not found.narrowed:
            break
    return Answer(stuck, examined)


class _Search:
    """One search that keeps the most promising configurations up to a width. `narrowed` if it dropped any."""

    def __init__(self, calls: Sequence[Call], initial: Iterable[int], budget: int, width: float) -> None:
        self._calls = calls
        self._budget = budget
        self._width = width
        self.narrowed = False
        self.examined = 0
        self._configurations: list[Configuration] = [(value, 0, 0) for value in initial]
        self._bits: dict[int, int] = {}
        self._unused_bits: list[int] = []
        # Masks of pending calls.
        self._certain = self._writes = 0
        self._reading: defaultdict[int, int] = defaultdict(int)
        self._needing: defaultdict[int, int] = defaultdict(int)
        self._making: defaultdict[int, int] = defaultdict(int)
        self._alike: dict[tuple[int, int], list[tuple[float, int]]] = {}
        # How many later calls must have a value, may use it, and make it.
        self._must_later: defaultdict[int, int] = defaultdict(int)
        self._may_later: defaultdict[int, int] = defaultdict(int)
        self._made_later: defaultdict[int, int] = defaultdict(int)
        for call in calls:
            self._count_later(call, 1)

    def run(self) -> int | None:
        """The number of a call that no configuration has a place for, or None. Raises BudgetExceeded."""
        events: list[tuple[float, int]] = [(call.start, number) for number, call in enumerate(self._calls)]
        events += [(call.end, number) for number, call in enumerate(self._calls) if call.end < math.inf]
        for _, number in sorted(events):
            if number in self._bits:
                self._configurations = self._returned(number)
                if not self._configurations:
                    return number
            else:
                self._called(number)
            self._look_at(len(self._configurations))
        return None

    def _look_at(self, count: int) -> None:
        self.examined += count
        if self.examined > self._budget:
            raise BudgetExceeded

    def _count_later(self, call: Call, by: int) -> None:
        if call.need != NOTHING:
            self._may_later[call.need] += by
            self._must_later[call.need] += by * (call.end < math.inf)
        if call.makes != NOTHING:
            self._made_later[call.makes] += by

    def _called(self, number: int) -> None:
        call = self._calls[number]
        self._count_later(call, -1)
        certain = call.end < math.inf
        if certain or self._of_use(call):
            bit = self._add(number)
            if not certain:
                self._configurations = [
                    (value, used, free | bit) for value, used, free in self._configurations
                ]
            elif NOTHING in (call.need, call.makes):
                unseen = call.need if call.makes == NOTHING else call.makes
                self._configurations = [
                    (value, used, free | bit if value == unseen else free)
                    for value, used, free in self._configurations
                ]
        if call.need != NOTHING and not self._may_later[call.need]:
            self._configurations = [self._freed(each, call.need) for each in self._configurations]

    def _of_use(self, call: Call) -> bool:
        return bool(self._may_later[call.makes] or self._needing[call.makes])

    def _add(self, number: int) -> int:
        call = self._calls[number]
        bit = self._unused_bits.pop() if self._unused_bits else 1 << len(self._bits)
        self._bits[number] = bit
        if call.end < math.inf:
            self._certain |= bit
        if call.need == NOTHING:
            self._writes |= bit
        else:
            self._needing[call.need] |= bit
            if call.makes == NOTHING:
                self._reading[call.need] |= bit
        if call.makes != NOTHING:
            self._making[call.makes] |= bit
            bisect.insort(self._alike.setdefault((call.need, call.makes), []), (call.end, number))
        return bit

    def _remove(self, number: int) -> int:
        call, bit = self._calls[number], self._bits.pop(number)
        self._unused_bits.append(bit)
        self._certain &= ~bit
        self._writes &= ~bit
        self._needing[call.need] &= ~bit
        self._reading[call.need] &= ~bit
        self._making[call.makes] &= ~bit
        if call.makes != NOTHING:
            alike = self._alike[call.need, call.makes]
            alike.remove((call.end, number))
            if not alike:
                del self._alike[call.need, call.makes]
        return bit

    def _returned(self, number: int) -> list[Configuration]:
        """The configurations in which the call has its place."""
        call, bit = self._calls[number], self._bits[number]
        placed, seen = self._no_configurations(), self._no_configurations()
        open_ones: list[Configuration] = []
        for each in self._configurations:
            value, used, free = each
            if not (used | free) & bit:
                open_ones.append(each)
            elif free & bit and call.need == NOTHING and self._wanted(each, call.makes, later=True):
                # It may have had its place unseen. Or it gets one now, and is seen from now on.
                open_ones.append(each)
                if value == call.makes or not self._lost(each, call.makes, without=bit):
                    placed.add(each)
            else:
                placed.add(each)
        while open_ones:
            each = open_ones.pop()
            for following, has_place in self._steps(each, number):
                self._look_at(1)
                if has_place:
                    placed.add(following)
                elif not placed.covers(following) and seen.add(following):
                    open_ones.append(following)
        gone = self._remove(number) | self._retire(call.need)
        kept = self._no_configurations()
        for value, used, free in placed:
            kept.add((value, used & ~gone, free & ~gone))
        return self._narrow(list(kept))

    def _no_configurations(self) -> _Configurations:
        """A narrow search does not heed which of the calls without an outcome were used: mostly there are others."""
        uncertain = sum(self._bits.values()) & ~self._certain
        if self._width == math.inf or not uncertain:
            return _Configurations(0)
        self.narrowed = True
        return _Configurations(uncertain)

    def _narrow(self, configurations: list[Configuration]) -> list[Configuration]:
        """Keep those that have placed the most calls, and used the fewest of those that need no place."""
        if len(configurations) > self._width:
            self.narrowed = True
            configurations.sort(
                key=lambda each: (
                    (each[1] & ~self._certain).bit_count()
                    - 2 * ((each[1] | each[2]) & self._certain).bit_count()
                )
            )
            del configurations[int(self._width) :]
        return configurations

    def _retire(self, value: int) -> int:
        """Forget calls without an outcome that make what nobody needs any more; their bits."""
        gone, unneeded = 0, [value]
        while unneeded:
            value = unneeded.pop()
            if value == NOTHING or self._may_later[value] or self._needing[value] or not self._making[value]:
                continue
            for number, bit in list(self._bits.items()):
                call = self._calls[number]
                if call.makes == value and not bit & self._certain:
                    gone |= self._remove(number)
                    unneeded.append(call.need)
        return gone

    def _steps(self, configuration: Configuration, goal: int) -> Iterator[tuple[Configuration, bool]]:
        """Each configuration after one more call, and whether the goal has its place in it."""
        value, used, free = configuration
        wanted = self._calls[goal]
        # Writing the value anew helps if it makes another write free.
        unplaced = self._writes & ~(used | free)
        for (need, makes), alike in self._alike.items():
            if need not in (NOTHING, value):
                continue
            for _, number in alike:
                bit = self._bits[number]
                # A certain compare-and-set that is free was used before, for a value that nobody needs any more.
                if used & bit or (need != NOTHING and free & self._certain & bit):
                    continue
                is_goal = number == goal
                must = need != NOTHING and not free & bit
                if is_goal or must or ((makes != value or unplaced) and self._wanted(configuration, makes)):
                    following = self._after(configuration, number)
                    if following is not None:
                        yield following, is_goal or (wanted.makes == NOTHING and wanted.need == makes)
                break

    def _after(self, configuration: Configuration, number: int) -> Configuration | None:
        """The configuration once this call has its place; None if another call can then never get one."""
        value, used, free = configuration
        call, bit = self._calls[number], self._bits[number]
        used |= bit
        if call.need == NOTHING:
            free |= self._writes
        free = (free | self._reading[call.makes] | self._making[call.makes] & self._writes) & ~used
        following = call.makes, used, free
        if call.makes != value and self._lost(following, value):
            return None
        if call.need != NOTHING:
            following = self._freed(following, call.need)
        return self._freed(following, call.makes)

    def _wanted(self, configuration: Configuration, value: int, *, later: bool = False) -> bool:
        """Whether a pending call could use the value, or, if `later`, one that is not yet called."""
        _, used, free = configuration
        if later and self._may_later[value]:
            return True
        return bool(self._needing[value] & ~used & ~(free & self._certain))

    def _lost(self, configuration: Configuration, value: int, *, without: int = 0) -> bool:
        """Whether a call must have the value, and nothing makes it any more."""
        _, used, free = configuration
        if self._made_later[value] or self._making[value] & ~used & ~without:
            return False
        return bool(self._must_later[value] or self._needing[value] & ~(used | free))

    def _freed(self, configuration: Configuration, value: int) -> Configuration:
        """Calls that made a value are free once nobody needs it any more."""
        if self._wanted(configuration, value, later=True):
            return configuration
        held, used, free = configuration
        made = self._making[value] & used
        return held, used & ~made, free | made
