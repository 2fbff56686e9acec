"""Workloads over mergeable fields, and over documents that regions write against each other."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Awaitable
from typing import Any

from atoll.demo.findings import Findings

from ..cluster import REGIONS
from .workload import Workload, World, documents

_EDITS = 50
"""Of one document; then a new one is begun, so that none grows for ever."""


class Merged(Workload):
    """Sets, maps, lists and texts: every element that was put in is there once, every removed one gone."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._items: dict[str, set[str]] = defaultdict(set)
        self._removed: dict[str, set[str]] = defaultdict(set)
        self._labels: dict[str, dict[str, int]] = defaultdict(dict)
        self._chunks: dict[str, list[str]] = defaultdict(list)
        self._lines: dict[str, list[str]] = defaultdict(list)
        self._number = 0

    def tasks(self) -> list[Awaitable[None]]:
        repeat = self.world.repeat
        return [*(repeat(self._fill, 0.15) for _ in range(3)), *(repeat(self._edit, 0.2) for _ in range(3))]

    def _next(self, kind: str) -> tuple[int, str]:
        self._number += 1
        return self._number, f"{kind}-{self._number // (6 * _EDITS)}-{self.world.random.randrange(3)}"

    async def _fill(self) -> None:
        caller, random = self.world.caller, self.world.random
        number, key = self._next("cart")
        path, item = f"/v1/cart/{key}", f"item-{number}"
        operators: dict[str, Any] = {"$add": {"items": [item]}, "$set": {f"labels.l{number}": number}}
        if random.random() < 0.3:
            operators["$set"]["note"] = f"note {number}"
        answer = await caller.write("sets and maps", caller.region(), "PATCH", path, operators)
        if not answer.done:
            return
        self._labels[key][f"l{number}"] = number
        # Only where it was added is it sure that the removal has seen it.
        if random.random() < 0.3:
            self._removed[key].add(item)
            remove = {"$remove": {"items": [item]}}
            gone = await caller.write("sets and maps", answer.region, "PATCH", path, remove)
            if gone.region != answer.region:
                self._removed[key].discard(item)
                return
        else:
            self._items[key].add(item)

    async def _edit(self) -> None:
        caller = self.world.caller
        number, key = self._next("note")
        chunk = f"<{number}>"
        if self.world.random.random() < 0.5:
            operators: dict[str, Any] = {"$append": {"body": chunk}}
            chunks = self._chunks
        else:
            operators, chunks = {"$add": {"lines": [chunk]}}, self._lines
        if (
            await caller.write("texts and lists", caller.region(), "PATCH", f"/v1/note/{key}", operators)
        ).done:
            chunks[key].append(chunk)

    def wrong(self, found: Findings) -> list[str]:
        carts, notes = documents(found, "cart"), documents(found, "note")
        wrong = []
        for key in sorted(self._labels):
            cart = carts.get(key, {"items": [], "labels": {}})
            items = set(cart["items"])
            wrong += [f"cart {key} in {found.region} lacks {item}" for item in self._items[key] - items]
            wrong += [f"cart {key} in {found.region} still has {item}" for item in self._removed[key] & items]
            if cart["labels"] != self._labels[key]:
                wrong.append(
                    f"cart {key} in {found.region} has {cart['labels']}, written {self._labels[key]}"
                )
        for field, written in (("body", self._chunks), ("lines", self._lines)):
            for key, chunks in written.items():
                there = notes.get(key, {}).get(field, "")
                counts = Counter({chunk: there.count(chunk) for chunk in chunks})
                wrong += [
                    f"note {key}.{field} in {found.region} has {chunk} {count} times"
                    for chunk, count in counts.items()
                    if count != 1
                ]
        return wrong


class Contested(Workload):
    """Regions write the same documents at once, under every strategy; what is shown was written by someone."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._written: dict[tuple[str, str], set[str]] = defaultdict(set)
        self._number = 0

    def tasks(self) -> list[Awaitable[None]]:
        return [self.world.repeat(self._clash, 0.2) for _ in range(3)]

    async def _clash(self) -> None:
        """One region writes, or several do at once. Documents are few at a time, and soon left as they are."""
        random = self.world.random
        collection, field = random.choice(_FIELDS)
        key = f"{collection}-{self._number // 100}-{random.randrange(3)}"
        regions = random.sample(REGIONS, random.choice((1, 2, 3)))
        await asyncio.gather(*(self._write(region, collection, key, field) for region in regions))

    async def _write(self, region: str, collection: str, key: str, field: str) -> None:
        caller = self.world.caller
        self._number += 1
        path = f"/v1/{collection}/{key}"
        if self.world.random.random() < 0.08:
            await caller.write("contested", region, "DELETE", path)
            return
        value = f"v{self._number}"
        self._written[collection, key].add(
            value
        )  # before it is sent: it may be read before it is acknowledged
        await caller.write("contested", region, "PUT", path, {field: value})

    def wrong(self, found: Findings) -> list[str]:
        wrong = []
        for collection, field in _FIELDS:
            for key, document in documents(found, collection).items():
                forked = set(document[field].split("+")) - self._written[collection, key]
                if forked:
                    wrong.append(
                        f"{collection}/{key} in {found.region} shows {document}; nobody wrote {forked}"
                    )
        return wrong


_FIELDS = (("profile", "name"), ("claim", "owner"), ("page", "title"), ("chain", "text"))
