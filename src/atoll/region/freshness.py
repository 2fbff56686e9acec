"""How far behind its origins a region is, by what the peers say of themselves."""

from __future__ import annotations

from collections.abc import Mapping

from atoll.replication.wire import Heartbeat


class Freshness:
    """Remembers for each origin up to which moment of *its* clock this region has everything of it.

    A heartbeat says: at this moment my journal stood at seq n. Once n is here, everything until that moment
    is. Peers pass on the same of the origins that they relay.
    """

    def __init__(self, own: str) -> None:
        self._own = own
        self._as_of: dict[str, int] = {}
        self._promised: dict[str, list[tuple[int, int]]] = {}

    def heard(self, heartbeat: Heartbeat, vector: Mapping[str, int]) -> None:
        moments = {**heartbeat.fresh, heartbeat.region: heartbeat.now_ms}
        for origin, moment in moments.items():
            if origin == self._own:
                continue
            seq = heartbeat.vector.get(origin, 0)
            if vector.get(origin, 0) >= seq:
                self._as_of[origin] = max(moment, self._as_of.get(origin, 0))
            else:
                promised = self._promised.setdefault(origin, [])
                promised.append((seq, moment))
                del promised[:-64]

    def moved(self, vector: Mapping[str, int]) -> None:
        """Entries were applied: some promises may be kept now."""
        for origin, promised in self._promised.items():
            here = vector.get(origin, 0)
            kept = [moment for seq, moment in promised if seq <= here]
            if kept:
                self._as_of[origin] = max(*kept, self._as_of.get(origin, 0))
                self._promised[origin] = [(seq, moment) for seq, moment in promised if seq > here]

    def forget(self) -> None:
        """The region has lost some of what it had."""
        self._as_of.clear()
        self._promised.clear()

    def as_of(self) -> dict[str, int]:
        """origin → unix milliseconds of its clock as of which everything is here."""
        return dict(self._as_of)

    def lag_s(self, origin: str, now_ms: int) -> float | None:
        """Seconds since that moment; None when nothing was ever heard of the origin."""
        moment = self._as_of.get(origin)
        return None if moment is None else max(0.0, (now_ms - moment) / 1000)
