"""How far behind the others a region is, by what the peers say of themselves."""

from __future__ import annotations

from collections.abc import Mapping

from atoll.causality.origin import of_region
from atoll.causality.vector import descends
from atoll.replication.wire import Heartbeat


class Freshness:
    """Remembers for each region up to which moment of *its* clock this one has everything of it.

    A heartbeat says: at this moment my journal stood there. Once that is here, everything until the moment is. Peers
    pass on the same of the regions that they relay.
    """

    def __init__(self, own: str) -> None:
        self._own = own
        self._as_of: dict[str, int] = {}
        self._promised: dict[str, list[tuple[Mapping[str, int], int]]] = {}

    def heard(self, heartbeat: Heartbeat, vector: Mapping[str, int]) -> None:
        moments = {**heartbeat.fresh, heartbeat.region: heartbeat.now_ms}
        for region, moment in moments.items():
            if region == self._own:
                continue
            stood = of_region(heartbeat.vector, region)
            if descends(vector, stood):
                self._as_of[region] = max(moment, self._as_of.get(region, 0))
            else:
                promised = self._promised.setdefault(region, [])
                promised.append((stood, moment))
                del promised[:-64]

    def moved(self, vector: Mapping[str, int]) -> None:
        """Entries were applied: some promises may be kept now."""
        for region, promised in self._promised.items():
            kept = [moment for stood, moment in promised if descends(vector, stood)]
            if kept:
                self._as_of[region] = max(*kept, self._as_of.get(region, 0))
                self._promised[region] = [each for each in promised if not descends(vector, each[0])]

    def forget(self) -> None:
        """The region has lost some of what it had."""
        self._as_of.clear()
        self._promised.clear()

    def as_of(self) -> dict[str, int]:
        """region → unix milliseconds of its clock as of which everything is here."""
        return dict(self._as_of)

    def lag_s(self, region: str, now_ms: int) -> float | None:
        """Seconds since that moment; None when nothing was ever heard of the region."""
        moment = self._as_of.get(region)
        return None if moment is None else max(0.0, (now_ms - moment) / 1000)
