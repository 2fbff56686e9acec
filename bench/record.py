"""The collection that is measured: the fields of `bench.documents`, resolved as a collection is by default."""

from __future__ import annotations

from atoll import Collection


class Record(Collection):
    """One kilobyte of plain fields."""

    title: str
    stock: int
    text: str
