"""The collection of `bench.record`, and accounts, decided by a majority of regions."""

from __future__ import annotations

from atoll import Collection, Counter


class Record(Collection, consistency="strong"):
    """One kilobyte of plain fields."""

    title: str
    stock: int
    text: str


class Account(Collection, consistency="strong"):
    balance: Counter
