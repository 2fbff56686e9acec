"""The collection of `bench.record`, decided by a majority of regions."""

from __future__ import annotations

from atoll import Collection


class Record(Collection, consistency="strong"):
    """One kilobyte of plain fields."""

    title: str
    stock: int
    text: str
