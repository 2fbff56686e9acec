"""Workloads that count: inventory, orders, accounts, page views, purses, identifiers."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Awaitable
from typing import Any

from atoll.demo.findings import Findings

from ..cluster import REGIONS
from .workload import Workload, World, documents

_SKUS = 6
_ACCOUNTS = 6


class Inventory(Workload):
    """Decrements of bounded counters everywhere: never below zero, never more sold than given."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._given: Counter[str] = Counter()
        self._sold: Counter[str] = Counter()
        self._selling: list[str] = []

    def tasks(self) -> list[Awaitable[None]]:
        repeat = self.world.repeat
        return [*(repeat(self._sell, 0.12) for _ in range(4)), repeat(self._look, 0.2)]

    async def _sell(self) -> None:
        random, caller = self.world.random, self.world.caller
        self._selling = [sku for sku in self._selling if self._sold[sku] < self._given[sku]]
        if len(self._selling) < _SKUS:
            await self._stock()
            return
        sku = random.choice(self._selling)
        if random.random() < 0.04:
            units = random.randint(5, 30)
            self._given[sku] += units  # before it is there: an upper bound at any moment
            await caller.write(
                "stock", caller.region(), "PATCH", f"/v1/inventory/{sku}", {"$inc": {"stock": units}}
            )
            return
        units = random.randint(1, 4)
        body = {"$inc": {"stock": -units}}
        answer = await caller.write("stock", caller.region(), "PATCH", f"/v1/inventory/{sku}", body)
        if answer.done:
            self._sold[sku] += units
            told = f"{sku}: {self._sold[sku]} sold, {self._given[sku]} given"
            self.world.history.check("never oversold", self._sold[sku] <= self._given[sku], told)
            self._in_bounds(sku, answer.body["value"]["stock"], answer.region)

    async def _stock(self) -> None:
        caller = self.world.caller
        sku, units = f"sku-{len(self._given)}", self.world.random.randint(40, 400)
        self._given[sku] = units
        self._selling.append(sku)
        await caller.write("stock", caller.region(), "PUT", f"/v1/inventory/{sku}", {"stock": units})

    async def _look(self) -> None:
        if self._selling:
            sku, region = self.world.random.choice(self._selling), self.world.caller.region()
            answer = await self.world.caller.read(region, f"/v1/inventory/{sku}?consistency=eventual")
            if answer is not None and answer.done:
                self._in_bounds(sku, answer.body["value"]["stock"], region)

    def _in_bounds(self, sku: str, stock: int, region: str) -> None:
        given = self._given[sku]
        self.world.history.check(
            "stock within bounds", 0 <= stock <= given, f"{sku} {stock} in {region} of {given}"
        )

    def wrong(self, found: Findings) -> list[str]:
        shown = documents(found, "inventory")
        return [
            f"{sku}: {given} given, {self._sold[sku]} sold, {shown.get(sku)} left in {found.region}"
            for sku, given in self._given.items()
            if shown.get(sku, {}).get("stock") != given - self._sold[sku]
        ]


class Orders(Workload):
    """Placed anywhere, written by their home region, looked up elsewhere at once with the session's token."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._placed: dict[str, dict[str, Any]] = {}
        self._number = 0

    def tasks(self) -> list[Awaitable[None]]:
        return [self.world.repeat(self._place, 0.15) for _ in range(3)]

    async def _place(self) -> None:
        caller, random = self.world.caller, self.world.random
        self._number += 1
        key = f"order-{self._number}"
        order = {
            "region": random.choice(REGIONS),
            "sku": f"sku-{random.randrange(9)}",
            "quantity": self._number,
        }
        answer = await caller.write("orders", caller.region(), "PUT", f"/v1/order/{key}", order)
        if not answer.done:
            self.world.history.odd[f"an order is answered {answer.status} {answer.problem}"] += 1
            return
        self._placed[key] = order
        region = caller.region()
        seen = await caller.read(region, f"/v1/order/{key}", token=answer.token)
        if seen is not None:
            kept = seen.done and seen.body["value"] == order
            told = f"{key}, placed through {answer.region}, is {seen.status} {seen.body} in {region}"
            self.world.history.check("read your writes", kept, told)

    def wrong(self, found: Findings) -> list[str]:
        shown = documents(found, "order")
        return [
            f"order {key} was acknowledged as {self._placed.get(key)} and is {shown.get(key)} in {found.region}"
            for key in sorted(self._placed.keys() | shown.keys())
            if shown.get(key) != self._placed.get(key)
        ]


class Accounts(Workload):
    """Read, add one, write if unchanged: one order of all writes, so each success is one more."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._successes: Counter[str] = Counter()

    def tasks(self) -> list[Awaitable[None]]:
        return [self.world.repeat(self._add, 0.2) for _ in range(3)]

    async def prepare(self) -> None:
        for number in range(_ACCOUNTS):
            path = f"/v1/account/account-{number}"
            await self.world.caller.write("accounts", "tokyo", "PUT", path, {"balance": 0})

    async def _add(self) -> None:
        caller = self.world.caller
        key = f"account-{self.world.random.randrange(_ACCOUNTS)}"
        seen = await caller.read(caller.region(), f"/v1/account/{key}")
        if seen is not None and seen.done:
            balance = seen.body["value"]["balance"] + 1
            if await self._guarded(key, balance, seen.body["version"]):
                self._successes[key] += 1

    async def _guarded(self, key: str, balance: int, version: str) -> bool:
        """As a batch, which carries the condition in its body."""
        caller = self.world.caller
        put = {"collection": "account", "key": key, "value": {"balance": balance}, "if_match": version}
        answer = await caller.write(
            "accounts", caller.region(), "POST", "/v1/batch", {"writes": [{"put": put}]}
        )
        return answer.done

    def wrong(self, found: Findings) -> list[str]:
        shown = documents(found, "account")
        return [
            f"{key}: {self._successes[key]} successes, {document['balance']} in {found.region}"
            for key, document in shown.items()
            if document["balance"] != self._successes[key]
        ]


class Views(Workload):
    """Counters, up and down, from everywhere."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._sum: Counter[str] = Counter()

    def tasks(self) -> list[Awaitable[None]]:
        return [self.world.repeat(self._count, 0.15) for _ in range(3)]

    async def _count(self) -> None:
        caller, random = self.world.caller, self.world.random
        key, by = f"views-{random.randrange(12)}", random.choice((1, 1, 2, 5, -1))
        path = f"/v1/views/{key}"
        if (await caller.write("counters", caller.region(), "PATCH", path, {"$inc": {"seen": by}})).done:
            self._sum[key] += by

    def wrong(self, found: Findings) -> list[str]:
        shown = documents(found, "views")
        return [
            f"{key}: {total} acknowledged, {shown.get(key)} in {found.region}"
            for key, total in self._sum.items()
            if shown.get(key, {}).get("seen") != total
        ]


class Purses(Workload):
    """Batches over several documents: in no region, at no moment, is half of one to be seen."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._legs: set[int] = set()
        self._recent: deque[int] = deque(maxlen=40)
        self._number = 0

    def tasks(self) -> list[Awaitable[None]]:
        repeat = self.world.repeat
        return [*(repeat(self._move, 0.2) for _ in range(3)), *(repeat(self._look, 0.25) for _ in range(2))]

    async def _move(self) -> None:
        caller, random = self.world.caller, self.world.random
        self._number += 1
        number, amount = self._number, random.randint(1, 50)
        one, other = random.sample(range(12), 2)
        self._recent.append(number)
        moves = [(f"purse-{one}", -amount), (f"purse-{other}", amount)]
        writes: list[dict[str, Any]] = [
            {"patch": {"collection": "purse", "key": key, "operators": {"$inc": {"amount": by}}}}
            for key, by in moves
        ]
        writes += [
            {"put": {"collection": "leg", "key": f"leg-{number}-{side}", "value": {"number": number}}}
            for side in "ab"
        ]
        if (await caller.write("batches", caller.region(), "POST", "/v1/batch", {"writes": writes})).done:
            self._legs.add(number)

    async def _look(self) -> None:
        caller, history = self.world.caller, self.world.history
        region = caller.region()
        purses = await caller.read(region, "/v1/purse?limit=100&consistency=eventual")
        if purses is not None:
            amounts = {item["key"]: item["value"]["amount"] for item in purses.body["items"]}
            history.check("batches are atomic", sum(amounts.values()) == 0, f"purses in {region}: {amounts}")
        if self._recent:
            number = self.world.random.choice(self._recent)
            legs = await caller.read(region, f"/v1/leg?prefix=leg-{number}-&consistency=eventual")
            if legs is not None:
                count = len(legs.body["items"])
                history.check("batches are atomic", count in (0, 2), f"{count} legs of {number} in {region}")

    def wrong(self, found: Findings) -> list[str]:
        total = sum(document["amount"] for document in documents(found, "purse").values())
        wrong = [f"purses add up to {total} in {found.region}"] if total else []
        legs = Counter(document["number"] for document in documents(found, "leg").values())
        return wrong + [
            f"{legs[number]} legs of {number} in {found.region}, acknowledged: {number in self._legs}"
            for number in sorted(self._legs | legs.keys())
            if legs[number] != 2 * (number in self._legs)
        ]


class Identifiers(Workload):
    """Snowflakes never collide, whatever the clocks do."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._given: dict[str, str] = {}

    def tasks(self) -> list[Awaitable[None]]:
        return [self.world.repeat(self._take, 0.4)]

    async def _take(self) -> None:
        caller = self.world.caller
        kind = self.world.random.choice(("snowflake", "ulid", "prefixed"))
        answer = await caller.write(
            "identifiers", caller.region(), "POST", f"/v1/ids/{kind}?count=20", counts=False
        )
        for each in answer.body["ids"] if answer.done else ():
            told = f"{each} was given by {self._given.get(each)} and by {answer.region}"
            self.world.history.check("identifiers differ", each not in self._given, told)
            self._given[each] = answer.region

    def wrong(self, found: Findings) -> list[str]:
        return []
