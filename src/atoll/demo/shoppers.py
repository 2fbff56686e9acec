"""The workload: households' baskets, replayed in their own regions, each at its (compressed) moment."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, field
from random import Random
from typing import Any

from atoll.demo.http_client import HttpClient, Unanswered
from atoll.demo.ledger import Ledger
from atoll.demo.purchases import Line, Sample, assign_region
from atoll.demo.topology import REGIONS

LINES_PER_S = 120
"""Each is three writes; leaves half of two cores for the regions' own replication."""
_SHOPPERS = 12
_TRAVELLERS = 4
_TRAVELLING = 0.03
_LOOKING_ELSEWHERE = 0.08
_IMPATIENT = 0.02
"""Customers who press the button twice: the second request must not count."""
_NIGHTS = 0.3
"""How much of the ebb and flow of days and nights is kept; whole nights would look like outages."""
_SOLD_OUT_SKUS = 40
"""The most popular products get too little stock on purpose."""


@dataclass(frozen=True, slots=True)
class Basket:
    """One visit. `via` is where it is paid; `region` is the household's home, where its orders belong."""

    lines: tuple[Line, ...]
    region: str
    via: str
    due: float
    """When, as a part of the opening hours."""
    looks_elsewhere: bool
    """Afterwards the customer opens the order in another region."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be bought, and what is in stock for it."""

    baskets: tuple[Basket, ...]
    stock: dict[str, int]
    titles: dict[str, str]

    @property
    def lines(self) -> int:
        return sum(len(basket.lines) for basket in self.baskets)

    def queues(self) -> list[list[Basket]]:
        """A queue for each shopper. A household keeps to one, so that its session is one line of events."""
        queues: dict[tuple[str, int], list[Basket]] = {}
        for basket in self.baskets:
            travels = basket.via != basket.region
            household = basket.lines[0].household
            lane = -1 - household % _TRAVELLERS if travels else household % _SHOPPERS
            queues.setdefault((basket.via, lane), []).append(basket)
        return list(queues.values())


def plan(sample: Sample, regions: Sequence[str], *, lines: int, random: Random) -> Plan:
    """A stretch of the sample of about `lines` lines, beginning at a random moment that leaves room for it."""
    taken = list(_stretch(sample, lines, random))
    first_ms, last_ms = taken[0][0].at_ms, taken[-1][0].at_ms
    baskets = []
    for place, basket in enumerate(taken):
        home = assign_region(basket[0].household, regions)
        others = [region for region in regions if region != home]
        via = random.choice(others) if random.random() < _TRAVELLING else home
        moment = (basket[0].at_ms - first_ms) / max(1, last_ms - first_ms)
        due = _NIGHTS * moment + (1 - _NIGHTS) * place / len(taken)
        baskets.append(Basket(basket, home, via, due, random.random() < _LOOKING_ELSEWHERE))
    wanted: Counter[str] = Counter()
    for basket in taken:
        for line in basket:
            wanted[str(line.product)] += line.quantity
    scarce = {sku for sku, _ in wanted.most_common(_SOLD_OUT_SKUS)}
    stock = {sku: max(3, units // 2) if sku in scarce else units * 2 + 12 for sku, units in wanted.items()}
    return Plan(tuple(baskets), stock, {sku: sample.products[int(sku)].name for sku in wanted})


def _stretch(sample: Sample, lines: int, random: Random) -> Iterator[tuple[Line, ...]]:
    skipped = random.randrange(max(1, len(sample.lines) - lines))
    taken = 0
    for basket in sample.baskets():
        skipped -= len(basket)
        if skipped >= 0:
            continue
        yield basket
        taken += len(basket)
        if taken >= lines:
            return


@dataclass(frozen=True, slots=True)
class Shoppers:
    """Everyone who buys. `run` returns when the last basket is paid or overtaken by the closing hour."""

    client: HttpClient
    ledger: Ledger
    plan: Plan
    _: KW_ONLY
    alive: Callable[[str], bool]
    random: Random
    _sessions: dict[int, str] = field(default_factory=dict)
    """household → what it has seen"""

    async def run(self, seconds: float) -> None:
        opening = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for queue in self.plan.queues():
                group.create_task(self._shop(queue, opening, seconds))

    async def _shop(self, queue: list[Basket], opening: float, seconds: float) -> None:
        for basket in queue:
            await asyncio.sleep(max(0.0, opening + basket.due * seconds - time.monotonic()))
            if time.monotonic() > opening + seconds + 1.0:
                self.ledger.baskets_left += 1
                continue
            try:
                await self._buy(basket)
                self.ledger.baskets += 1
            except Unanswered:
                self.ledger.baskets_left += 1

    async def _buy(self, basket: Basket) -> None:
        last: tuple[str, dict[str, Any]] | None = None
        for number, line in enumerate(basket.lines):
            name = f"{line.basket}-{number}"
            await self._view(basket.via, line, name)
            if await self._take(basket.via, line, name):
                last = (name, await self._order(basket, line, name))
        if last is not None and basket.looks_elsewhere:
            await self._look_elsewhere(basket, *last)

    async def _view(self, region: str, line: Line, name: str) -> None:
        path, body = f"/v1/page_view/{line.product}", {"$inc": {"views": 1}}
        answer = await self.client.write(region, "PATCH", path, body, idempotency_key=f"view-{name}")
        if answer.status == 200:
            self.ledger.views[str(line.product)] += 1

    async def _take(self, region: str, line: Line, name: str) -> bool:
        """Take the line's units from the worldwide stock; False when the shop cannot sell them."""
        path, body = f"/v1/inventory/{line.product}", {"$inc": {"stock": -line.quantity}}
        answer = await self.client.write(region, "PATCH", path, body, idempotency_key=f"take-{name}")
        if answer.status == 200:
            self.ledger.sold[str(line.product)] += line.quantity
            if self.random.random() < _IMPATIENT:
                self.ledger.pressed_twice += 1
                await self.client.write(region, "PATCH", path, body, idempotency_key=f"take-{name}")
            return True
        if answer.body.get("left_in_all", 0) >= line.quantity:
            self.ledger.out_of_reach += 1
        else:
            self.ledger.sold_out[str(line.product)] += 1
        return False

    async def _order(self, basket: Basket, line: Line, name: str) -> dict[str, Any]:
        document = {
            "region": basket.region,
            "household": line.household,
            "basket": line.basket,
            "sku": str(line.product),
            "quantity": line.quantity,
            "price_cents": line.price_cents,
            "at": line.at_ms,
        }
        answer = await self.client.write(
            basket.via,
            "PUT",
            f"/v1/order/{name}",
            document,
            idempotency_key=f"order-{name}",
            session=self._sessions.get(line.household),
        )
        if answer.status == 200:
            ledger = self.ledger
            ledger.order(name, document)
            ledger.sales[basket.region] += 1
            ledger.forwarded += basket.via != basket.region
            if answer.session is not None:
                self._sessions[line.household] = answer.session
        else:
            self.ledger.surprises.append(f"order {name} was refused: {answer.status} {answer.body}")
        return document

    async def _look_elsewhere(self, basket: Basket, name: str, document: dict[str, Any]) -> None:
        """Read your writes, in a region that may not have them yet: an old answer would break the promise."""
        others = [region for region in REGIONS if region != basket.via and self.alive(region)]
        if not others:
            return
        region = self.random.choice(others)
        try:
            answer = await self.client.read(
                region, f"/v1/order/{name}?max_wait=2", session=self._sessions.get(basket.lines[0].household)
            )
        except Unanswered:
            return
        ledger = self.ledger
        ledger.sessions_checked += 1
        if answer.status == 503:
            ledger.sessions_late += 1
        elif answer.status != 200 or answer.body["value"] != document:
            ledger.sessions_broken.append(f"order/{name}, read in {region}: {answer.status} {answer.body}")
