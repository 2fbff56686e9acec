"""Collections that differ in how they resolve conflicts; the fields are those of `bench.documents`."""

from __future__ import annotations

from typing import Any

from atoll import Collection


def longest(versions: list[Any]) -> Any:
    """A team's own function: the version with the most text, of equal ones the greatest."""
    return max(
        (v for v in versions if v is not None), key=lambda v: (len(v["text"]), v["text"]), default=None
    )


class Lww(Collection, resolve="lww"):
    title: str
    stock: int
    text: str


class Fww(Collection, resolve="fww"):
    title: str
    stock: int
    text: str


class Merge(Collection, resolve="merge"):
    title: str
    stock: int
    text: str


class Own(Collection, resolve=longest):
    title: str
    stock: int
    text: str


class Manual(Collection, resolve="manual"):
    title: str
    stock: int
    text: str
