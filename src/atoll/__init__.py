"""Atoll makes every region writable: active-active, multi-region data."""

from __future__ import annotations

from atoll.errors import AtollError
from atoll.schema import (
    Add,
    Append,
    Bound,
    BoundedCounter,
    Collection,
    Counter,
    Decrement,
    Increment,
    ListOf,
    MapOf,
    Remove,
    SetOf,
    Splice,
    Text,
    home_region,
    key_ranges,
    tenants,
)

__version__ = "0.1.0"

__all__ = [
    "Add",
    "Append",
    "AtollError",
    "Bound",
    "BoundedCounter",
    "Collection",
    "Counter",
    "Decrement",
    "Increment",
    "ListOf",
    "MapOf",
    "Remove",
    "SetOf",
    "Splice",
    "Text",
    "home_region",
    "key_ranges",
    "tenants",
]
