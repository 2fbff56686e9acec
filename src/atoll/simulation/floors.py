"""What floors stand for, by the history alone: see `atoll.causality.floor`.

A floor stands for what its region had of its former incarnations when it raised it. The checkers go by contexts in
which that is written out. So they see what the regions would have done if nothing was ever folded.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce

from atoll.causality.floor import floors_of, origins_in
from atoll.causality.origin import incarnation_of, of_region, region_of
from atoll.causality.types import Dot
from atoll.causality.vector import VersionVector, merge, missing
from atoll.documents.entry import Entry
from atoll.simulation.failures import Verdict

STANDS_FOR = "a floor stands for what is there"
LEAVES_OUT = "an entry leaves out what its region has folded"
IS_OVER = "nothing is still to come of what is folded"


class Floors:
    """Of all regions."""

    def __init__(self, verdict: Verdict) -> None:
        self._stand_for: dict[tuple[str, int], VersionVector] = {}
        self._raised_by: dict[tuple[str, int], Dot] = {}
        self._verdict = verdict

    def spelt_context(self, region: str, vector: Mapping[str, int], entry: Entry) -> VersionVector:
        """The context of an entry that a region takes, which has `vector` so far; floors and what they stand for."""
        for key, number in floors_of(entry.context).items():
            if (key, number) not in self._stand_for:
                if not region == region_of(key) == region_of(entry.origin):
                    self._verdict.safety(STANDS_FOR, f"{entry.dot} raises {key} to {number} in {region}")
                self._stand_for[key, number] = _below(vector, region_of(key), number)
                self._raised_by[key, number] = entry.dot
        return self.spelt_out(entry.context)

    def spelt_out(self, vector: Mapping[str, int]) -> VersionVector:
        """A vector that may be folded, with what its floors stand for."""
        stand_for = (self._stand_for.get(floor, {}) for floor in floors_of(vector).items())
        return reduce(merge, stand_for, dict(vector))

    def check_written(self, entry: Entry, vector: Mapping[str, int]) -> None:
        """An entry is new; its writer had `vector` so far."""
        if left_out := missing(entry.context, floors_of(vector)):
            self._verdict.safety(LEAVES_OUT, f"{entry.dot} has seen less than the floors {left_out}")
        for key, number in floors_of(vector).items():
            named = _below(entry.context, region_of(key), number).keys() - {entry.origin}
            if named:
                self._verdict.safety(LEAVES_OUT, f"{entry.dot} names {sorted(named)}, below {key} {number}")

    def check_position(self, region: str, vector: Mapping[str, int]) -> None:
        """A region has taken a position."""
        for key, number in floors_of(vector).items():
            if lacking := missing(vector, self._stand_for.get((key, number), {})):
                self._verdict.safety(
                    STANDS_FOR, f"{region} has the floor {number} of {key}, and lacks {lacking}"
                )
        for (key, number), dot in self._raised_by.items():
            if vector.get(dot.origin, 0) >= dot.seq and vector.get(key, 0) < number:
                self._verdict.safety(STANDS_FOR, f"{region} has {dot}, without the floor {number} of {key}")

    def check_over(self, newest: Mapping[str, int]) -> None:
        """At the end, when regions hold `newest`."""
        for (key, number), ends in sorted(self._stand_for.items()):
            if later := missing(ends, _below(newest, region_of(key), number)):
                self._verdict.safety(
                    IS_OVER, f"{later} came after {key} was {number}, which stands for {ends}"
                )


def _below(vector: Mapping[str, int], region: str, number: int) -> VersionVector:
    """What a vector says of a region's incarnations below a number."""
    own = of_region(origins_in(vector), region)
    return {origin: seq for origin, seq in own.items() if seq and incarnation_of(origin) < number}
