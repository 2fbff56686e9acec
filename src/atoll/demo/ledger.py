"""The shop's own books: what its regions acknowledged. `proof` compares them with what the regions hold."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Collision:
    """Writes to one document from several regions at once, all acknowledged."""

    collection: str
    key: str
    field: str
    """Which field competes; empty for the whole document."""
    values: tuple[Any, ...]
    """What was written, one value for each region; None for a deletion."""
    kind: str
    """The kind of conflict that it must be filed as."""
    surely: bool
    """All were acknowledged before news of the first could reach the others: they were concurrent."""


@dataclass(slots=True)
class Ledger:
    """Everything that was acknowledged to the shop's clients."""

    given: dict[str, int] = field(default_factory=dict)
    """sku → stock at the opening."""
    orders: dict[str, dict[str, Any]] = field(default_factory=dict)
    """key → document."""
    sold: Counter[str] = field(default_factory=Counter)
    """sku → units taken from stock."""
    views: Counter[str] = field(default_factory=Counter)
    """sku → page views."""
    notes: dict[str, list[str]] = field(default_factory=dict)
    """key → pieces of text that were put in."""
    items: dict[str, set[str]] = field(default_factory=dict)
    """cart → items that were put in, from any region."""
    wallets: dict[str, int] = field(default_factory=dict)
    """wallet → cents at the opening."""
    deliveries: dict[str, str] = field(default_factory=dict)
    """saga → wallet that it is paid from."""
    killed_ms: int = 0
    """When a region was seen to be gone (unix milliseconds)."""
    collisions: list[Collision] = field(default_factory=list)
    sold_out: Counter[str] = field(default_factory=Counter)
    """sku → lines refused because nothing was left anywhere."""
    out_of_reach: int = 0
    """Lines refused because what was left belonged to regions that could not be asked."""
    acknowledged: int = 0
    """Writes."""
    retries: int = 0
    pressed_twice: int = 0
    """Writes that were sent again on purpose after they had been acknowledged."""
    replayed: int = 0
    """Retried writes that had happened, and were answered from memory instead of happening twice."""
    unanswered: list[str] = field(default_factory=list)
    """Writes without an answer: they may have happened."""
    surprises: list[str] = field(default_factory=list)
    """Answers that no client of the shop should ever get."""
    sessions_checked: int = 0
    """Orders looked up in another region right after they were placed."""
    sessions_late: int = 0
    """Of these, answered with "not yet here" instead of an old state."""
    sessions_broken: list[str] = field(default_factory=list)
    """Of these, answered with an old state: there must be none."""
    resolved_by_hand: int = 0
    forwarded: int = 0
    """Orders placed in another region than their home."""
    baskets: int = 0
    baskets_left: int = 0
    """Baskets that the shop's closing hour overtook."""
    sales: Counter[str] = field(default_factory=Counter)
    """region → lines sold."""
    latencies_ms: dict[str, deque[float]] = field(default_factory=dict)
    """region → the last writes' round trips from its own clients."""

    def order(self, key: str, document: Mapping[str, Any]) -> None:
        self.orders[key] = dict(document)

    def took_ms(self, region: str, milliseconds: float) -> None:
        self.latencies_ms.setdefault(region, deque(maxlen=5000)).append(milliseconds)

    def summary(self) -> dict[str, Any]:
        """For the report."""
        return {
            "writes_acknowledged": self.acknowledged,
            "orders": len(self.orders),
            "baskets": self.baskets,
            "baskets_left": self.baskets_left,
            "units_sold": sum(self.sold.values()),
            "page_views": sum(self.views.values()),
            "lines_sold_out": sum(self.sold_out.values()),
            "skus_sold_out": len(self.sold_out),
            "lines_out_of_reach": self.out_of_reach,
            "orders_forwarded": self.forwarded,
            "retries": self.retries,
            "pressed_twice": self.pressed_twice,
            "replayed": self.replayed,
            "collisions": len(self.collisions),
            "deliveries": len(self.deliveries),
            "resolved_by_hand": self.resolved_by_hand,
            "session_reads": self.sessions_checked,
            "session_reads_late": self.sessions_late,
            "lines_sold": dict(self.sales),
            "write_p50_ms": self._latencies_ms(0.5),
            "write_p99_ms": self._latencies_ms(0.99),
        }

    def _latencies_ms(self, part: float) -> dict[str, float]:
        return {name: round(percentile(each, part), 2) for name, each in sorted(self.latencies_ms.items())}


def percentile(values: Iterable[float], part: float) -> float:
    """Nearest rank; 0 of nothing."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else 0.0
