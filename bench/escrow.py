"""Sales from rights that the region holds, against an ordinary write of the same document.

Both change one of the same documents by a patch: `stock` is a bounded counter, and `note` a plain field.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import count
from pathlib import Path
from time import perf_counter
from typing import Any

from atoll.documents.mutation import Write, patch_of
from atoll.region.region import Region
from atoll.schema.application import application_of
from atoll.schema.collection import Collection
from atoll.schema.fields import BoundedCounter
from bench.figures import Figure, Goal
from bench.regions import acquaint, fresh_copy, region_in, run
from bench.rounds import Say, Scale, interleaved, middle

WRITERS = 64
_PRODUCTS = 1000
_STOCKED = 3_000_000
"""Of each product: a third of it may be sold here."""
_SALE = {"$inc": {"stock": -1}}


class Product(Collection, consistency="strong", fallback="escrow"):
    note: str = ""
    stock: BoundedCounter = 0


class Item(Collection):
    note: str = ""
    stock: int = 0


_APPLICATION = application_of(Product, Item, name="bench")
Operators = Callable[[int], dict[str, Any]]


def _sale(number: int) -> dict[str, Any]:
    return _SALE


def _remark(number: int) -> dict[str, Any]:
    return {"$set": {"note": f"sold by {number}"}}


def measure(scale: Scale, folder: Path, say: Say) -> list[Figure]:
    prepared = folder / "escrow"
    run(_prepare(prepared))

    def rate(collection: str, operators: Operators, writers: int) -> Callable[[], float]:
        return lambda: run(_rate(fresh_copy(prepared), collection, operators, writers, scale.seconds))

    figures = []
    for writers, caller in ((WRITERS, f"{WRITERS} at once"), (1, "one at a time")):
        for peer, collection in (("the same document", "product"), ("a document of plain fields", "item")):
            ours, theirs = interleaved(
                scale.rounds,
                say,
                "escrow",
                rate("product", _sale, writers),
                rate(collection, _remark, writers),
            )
            figures.append(
                Figure(
                    name="escrow",
                    measure=f"sales from rights in hand, {caller}",
                    unit="rows/s",
                    value=middle(ours, float),
                    peer=f"ordinary patches of {peer}",
                    peer_value=middle(theirs, float),
                    goal=Goal("ratio", at_least=0.8),
                    details={"atoll_rounds": ours, "peer_rounds": theirs},
                )
            )
    return figures


async def _prepare(folder: Path) -> None:
    async with region_in(folder, application=_APPLICATION) as region:
        await acquaint(region, [peer for peer in region.regions if peer != region.name])
        for collection, stocked in (("product", _STOCKED), ("item", 0)):
            for number in range(_PRODUCTS):
                await _patch(region, collection, number, {"$set": {"stock": stocked}})


async def _rate(folder: Path, collection: str, operators: Operators, writers: int, seconds: float) -> float:
    """Durable patches a second, each acknowledged before its writer's next."""
    async with region_in(folder, application=_APPLICATION) as region:
        numbers, started, written = count(), perf_counter(), 0

        async def writer() -> None:
            nonlocal written
            while not written or perf_counter() - started < seconds:
                number = next(numbers)
                await _patch(region, collection, number % _PRODUCTS, operators(number))
                written += 1

        await asyncio.gather(*(writer() for _ in range(writers)))
        return written / (perf_counter() - started)


async def _patch(region: Region, collection: str, number: int, operators: dict[str, Any]) -> None:
    patch = patch_of(region.rules[collection], f"p{number}", operators)
    await region.write(Write((patch,)))
