"""The shop's traffic: four weeks of grocery baskets that lie inside the package.

`data/ATTRIBUTION.md` says where they come from (a published data set, simulated after real shopping
patterns) and `scripts/make_sample.py` how they were cut out. Many households buy the same few hundred
products, so regions that serve different households contend for the same stock.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import blake2b
from importlib.resources import files
from itertools import groupby
from operator import attrgetter
from typing import NamedTuple, TypeVar

import msgspec
import zstandard

from atoll.errors import ConfigError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Product:
    """Something on the shelf. `brand` is `National` or `Private` (the shop's own)."""

    id: int
    name: str
    category: str
    brand: str


@dataclass(frozen=True, slots=True)
class Household:
    """A customer. `demographics` maps a column (`age`, `income`, …) to its bracket as text; often empty."""

    id: int
    demographics: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Line:
    """One product in one basket."""

    household: int
    basket: int
    product: int
    quantity: int
    """Units, at least 1."""
    price_cents: int
    """Paid for the whole line, not for one unit; at least 1."""
    at_ms: int
    """Unix milliseconds; the same for every line of a basket. The source names no zone: taken as UTC."""


@dataclass(frozen=True, slots=True)
class Sample:
    """The whole extract. `lines` run in time order, a basket's lines side by side."""

    lines: tuple[Line, ...]
    products: Mapping[int, Product]
    households: Mapping[int, Household]

    def baskets(self) -> Iterator[tuple[Line, ...]]:
        """Each basket's lines, in the order in which the baskets were paid."""
        for _, lines in groupby(self.lines, key=attrgetter("basket")):
            yield tuple(lines)


class _LineRow(NamedTuple):
    product: int
    quantity: int
    cents: int


class _BasketRow(msgspec.Struct, frozen=True):
    id: int
    household: int
    at: datetime
    lines: list[_LineRow]


def load_sample() -> Sample:
    """Read the extract that ships with Atoll (about a tenth of a second).

    Raises ConfigError for files that are missing from this installation or damaged.
    """
    return Sample(
        lines=tuple(_lines(_read("baskets.jsonl.zst", _BasketRow))),
        products={product.id: product for product in _read("products.jsonl.zst", Product)},
        households={household.id: household for household in _read("households.jsonl.zst", Household)},
    )


def assign_region(household_id: int, regions: Sequence[str]) -> str:
    """The region where a household shops: the same in every run, about an equal share for each region.

    Rendezvous hashing (Thaler and Ravishankar, 1998): the order of `regions` does not matter. A region
    that joins or leaves moves only its own share of households. Raises ConfigError without any region.
    """
    if not regions:
        raise ConfigError("no region to assign households to: name at least one region in atoll.toml")

    def weight(region: str) -> tuple[bytes, str]:
        return blake2b(f"{household_id}@{region}".encode(), digest_size=8).digest(), region

    return max(regions, key=weight)


def _lines(baskets: Iterable[_BasketRow]) -> Iterator[Line]:
    for basket in baskets:
        at_ms = int(basket.at.replace(tzinfo=UTC).timestamp()) * 1000
        for row in basket.lines:
            yield Line(basket.household, basket.id, row.product, row.quantity, row.cents, at_ms)


def _read(name: str, row: type[T]) -> list[T]:
    try:
        packed = files("atoll").joinpath("demo", "data", name).read_bytes()
        text = zstandard.ZstdDecompressor().decompress(packed)
        return msgspec.json.Decoder(row).decode_lines(text)
    except (OSError, zstandard.ZstdError, msgspec.MsgspecError) as error:
        raise ConfigError(
            f"the demo's purchases cannot be read ({name}: {error}): install Atoll again",
            file=name,
        ) from error
