"""How fast regions spend a bounded counter, and which rights had better move before they run short.

Every region sees what each has spent, since that is in the counter's state. So all measure the same demand, without a
message. A region asks for its share of what is left as soon as its own rights last for `HORIZON_S` at most. Shares are
in proportion to demand.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

AVERAGED_S: Final = 10.0
"""Demand is an average over about so long; what is older weighs less and less."""
HORIZON_S: Final = 10.0
"""Rights that last for longer are enough."""
_AT_REST: Final = 0.05
"""A region that spends nothing weighs as if it had this part of all demand. So it keeps rights to sell when cut off."""
_WORTH: Final = 0.25
"""What is asked for is at least this part of what is held: small differences come and go."""


class Holdings(NamedTuple):
    """What a counter's state says: all by region."""

    rights: Mapping[str, int]
    spent: Mapping[str, int]
    left: int
    """Rights of all regions together, of those that have left, too."""


@dataclass(slots=True)
class Demand:
    """Of one counter, as one region sees it."""

    holdings: Holdings
    at_s: float
    """When it was looked at last."""
    _recent: dict[str, float] = field(default_factory=dict)
    """Region → what it spent of late, older spending weighing less."""
    _spending: set[str] = field(default_factory=set)
    """Those that had spent some when it was looked at last."""

    def look(self, holdings: Holdings, now_s: float) -> None:
        """Take notice of the counter's present state."""
        faded, before = self._faded(now_s), self.holdings.spent
        self._spending = {
            region for region, spent in holdings.spent.items() if spent > before.get(region, spent)
        }
        self._recent = {
            region: self._recent.get(region, 0.0) * faded + max(0, spent - before.get(region, spent))
            for region, spent in holdings.spent.items()
        }
        self.holdings, self.at_s = holdings, now_s

    def per_s(self, region: str, now_s: float) -> float:
        """How fast a region spends at present, in units a second."""
        return self._recent.get(region, 0.0) * self._faded(now_s) / AVERAGED_S

    def lasts_s(self, region: str, now_s: float) -> float | None:
        """How long the region's rights last; None while it spends nothing."""
        rate = self.per_s(region, now_s)
        return self.holdings.rights.get(region, 0) / rate if rate > 0 else None

    def wanted(self, region: str, peers: Collection[str], now_s: float) -> tuple[str, int] | None:
        """Of which of the peers the region should ask for how many rights; None while it has enough.

        Only a region that has just spent some asks: others may be gathering what is left.
        """
        if region not in self._spending:
            return None
        rights = self.holdings.rights
        held, lasts_s = rights.get(region, 0), self.lasts_s(region, now_s)
        if lasts_s is None or lasts_s > HORIZON_S:
            return None
        shares = self._shares(now_s)
        spare = {peer: rights.get(peer, 0) - shares.get(peer, 0.0) for peer in peers}
        peer = max(sorted(spare), key=lambda name: spare[name], default=None)
        if peer is None:
            return None
        amount = math.floor(min(spare[peer], shares[region] - held))
        return (peer, amount) if amount >= max(1, held * _WORTH) else None

    def _shares(self, now_s: float) -> dict[str, float]:
        """Region → what of all that members hold it should hold."""
        rights = self.holdings.rights
        rates = {region: self.per_s(region, now_s) for region in rights}
        at_rest = sum(rates.values()) * _AT_REST
        weights = {region: rate + at_rest for region, rate in rates.items()}
        return {
            region: sum(rights.values()) * weight / sum(weights.values())
            for region, weight in weights.items()
        }

    def _faded(self, now_s: float) -> float:
        return math.exp(-max(0.0, now_s - self.at_s) / AVERAGED_S)
