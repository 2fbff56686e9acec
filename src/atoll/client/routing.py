"""Which region a call goes to: the nearest that works."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from random import Random

from atoll.client.options import ClientOptions

_MOST_UNSETTLED = 4096


@dataclass(slots=True)
class _Suspicion:
    failures: int
    ask_at_s: float


class Router:
    """Remembers which regions are down. Times are in seconds of the caller's monotonic clock.

    A region that failed comes last until its health answers 200, so no call waits for it. If all have failed,
    all are tried. Threads may share it: every change is a single step under the interpreter's lock.
    """

    def __init__(self, regions: tuple[str, ...], options: ClientOptions, random: Random) -> None:
        """`regions`: the most wanted first."""
        self._preference = regions
        self._order = regions
        self._options = options
        self._random = random
        self._suspicions: dict[str, _Suspicion] = {}
        self._ask_current_at_s = -inf
        self._unsettled: OrderedDict[str, str] = OrderedDict()

    def order(self) -> tuple[str, ...]:
        """All regions, the one to try first in front."""
        return self._order

    def rank(self, round_trips_s: Mapping[str, float]) -> None:
        """Prefer regions by measured round trip, those without one last."""
        known = self._preference
        self._preference = tuple(sorted(known, key=lambda region: round_trips_s.get(region, inf)))
        self._sort()

    def failed(self, region: str, now_s: float) -> None:
        """A call could not be served there. Calls that were under way together count as one failure."""
        suspicion = self._suspicions.get(region)
        if suspicion is None or now_s >= suspicion.ask_at_s:
            self.unwell(region, now_s)

    def unwell(self, region: str, now_s: float) -> None:
        """The region, asked for its health, gave none or says that it should not be used."""
        before = self._suspicions.get(region)
        failures = 1 if before is None else before.failures + 1
        longest = min(self._options.suspend_max_s, self._options.suspend_s * 2.0 ** min(failures - 1, 30))
        # Spread, or all clients would come back in the same moment.
        self._suspicions[region] = _Suspicion(failures, now_s + longest * self._random.uniform(0.75, 1.25))
        self._sort()

    def well(self, region: str) -> None:
        """The region says that it should be used: nothing else ends a suspicion."""
        if self._suspicions.pop(region, None) is not None:
            self._sort()

    def to_ask(self, now_s: float) -> str | None:
        """A region whose health should be asked now, at most one caller per interval; None for none."""
        for region, suspicion in tuple(self._suspicions.items()):
            if now_s >= suspicion.ask_at_s:
                suspicion.ask_at_s = now_s + self._options.suspend_max_s  # until the answer says otherwise
                return region
        if now_s < self._ask_current_at_s or len(self._preference) == 1:
            return None
        fresh = self._ask_current_at_s == -inf
        self._ask_current_at_s = now_s + self._options.health_interval_s
        return None if fresh or self._order[0] in self._suspicions else self._order[0]

    def hold(self, idempotency_key: str, region: str) -> None:
        """This write may have happened in `region`, which alone can tell: later attempts belong there."""
        self._unsettled[idempotency_key] = region
        while len(self._unsettled) > _MOST_UNSETTLED:
            self._unsettled.popitem(last=False)

    def held(self, idempotency_key: str) -> str | None:
        return self._unsettled.get(idempotency_key)

    def settle(self, idempotency_key: str) -> None:
        self._unsettled.pop(idempotency_key, None)

    def _sort(self) -> None:
        self._order = tuple(sorted(self._preference, key=self._suspicions.__contains__))
