"""ULIDs and UUIDs of version 7: a millisecond, then randomness; rising within a process.

python-ulid keeps the order within a millisecond, by counting up from its first randomness (the ULID
specification's monotonicity; RFC 9562, section 6.2, method 2).
"""

from __future__ import annotations

from collections.abc import Callable

from ulid import ULID, ULIDGenerator


class SortableIds:
    """Rising ULIDs and rising UUIDv7s; used by one thread at a time.

    `clock` gives unix milliseconds, `random(n)` gives n bytes. After a step back of the clock the ids stay
    at the highest millisecond reached, so that their order holds.
    """

    def __init__(self, clock: Callable[[], int], random: Callable[[int], bytes]) -> None:
        self._clock = clock
        self._ms = 0
        # One generator for each kind: the cut to UUIDv7 drops six bits, which must not tell two ids apart.
        self._ulids = ULIDGenerator(clock=self._rising_ms, randomness=lambda _: random(10))
        self._uuids = ULIDGenerator(clock=self._rising_ms, randomness=lambda _: random(10))

    def ulid(self) -> str:
        """One ULID: 26 characters of Crockford's base 32."""
        return str(self._next(self._ulids))

    def uuid7(self) -> str:
        """One UUID of version 7 in RFC 9562's layout: 36 characters."""
        return str(self._next(self._uuids).to_uuid7(compliant=True))

    def _rising_ms(self) -> int:
        self._ms = max(self._ms, self._clock())
        return self._ms

    def _next(self, generator: ULIDGenerator) -> ULID:
        try:
            return generator.generate()
        except ValueError:
            # The randomness began at its very end and has no successor: go on in the next millisecond.
            self._ms += 1
            return generator.generate()
