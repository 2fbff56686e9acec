"""Atoll makes every region writable: active-active, multi-region data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from atoll.config.version import VERSION
from atoll.errors import AtollError
from atoll.schema import (
    Abort,
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
    Ref,
    Remove,
    Retry,
    Saga,
    SetOf,
    Splice,
    Text,
    field,
    home_region,
    key_ranges,
    step,
    tenants,
)

if TYPE_CHECKING:
    from atoll.client import ClientOptions, connect, connect_sync
    from atoll.embedded import open

__version__ = VERSION

__all__ = [
    "Abort",
    "Add",
    "Append",
    "AtollError",
    "Bound",
    "BoundedCounter",
    "ClientOptions",
    "Collection",
    "Counter",
    "Decrement",
    "Increment",
    "ListOf",
    "MapOf",
    "Ref",
    "Remove",
    "Retry",
    "Saga",
    "SetOf",
    "Splice",
    "Text",
    "connect",
    "connect_sync",
    "field",
    "home_region",
    "key_ranges",
    "open",
    "step",
    "tenants",
]


def __getattr__(name: str) -> Any:
    """Clients and the embedded region bring HTTP with them: loaded by those who use them."""
    if name in ("ClientOptions", "connect", "connect_sync"):
        from atoll import client

        return getattr(client, name)
    if name == "open":
        from atoll import embedded

        return embedded.open
    raise AttributeError(f"module 'atoll' has no attribute {name!r}")
