"""Where documents of a collection are written: which region owns a key."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from atoll.errors import DeclarationError

REGION_NAME = re.compile(r"[a-z][a-z0-9_-]{0,31}")


@runtime_checkable
class Placement(Protocol):
    """Decides who may write a document. Pure: every region must come to the same answer."""

    def owner(self, key: str, document: Mapping[str, Any] | None) -> str | None:
        """The one region that writes the document; None when any may, or when only its content could tell."""

    def regions(self) -> tuple[str, ...]:
        """Names of regions that the declaration mentions, sorted: the deployment must have them all."""


@dataclass(frozen=True, slots=True)
class Everywhere:
    """Replicated: every region writes every document."""

    def owner(self, key: str, document: Mapping[str, Any] | None) -> str | None:
        return None

    def regions(self) -> tuple[str, ...]:
        return ()


@dataclass(frozen=True, slots=True)
class HomeRegion:
    """Sharded: the document's own field names the region that writes it."""

    field: str

    def owner(self, key: str, document: Mapping[str, Any] | None) -> str | None:
        return None if document is None else document.get(self.field)

    def regions(self) -> tuple[str, ...]:
        return ()


@dataclass(frozen=True, slots=True)
class KeyRanges:
    """Sharded by key: each range starts at a key, ends before the next one's, and belongs to a region.

    `ranges` are (first key, region), sorted by key in code point order, the first one starting at "".
    """

    ranges: tuple[tuple[str, str], ...]

    def owner(self, key: str, document: Mapping[str, Any] | None) -> str | None:
        return self.ranges[bisect_right(self.ranges, key, key=lambda item: item[0]) - 1][1]

    def regions(self) -> tuple[str, ...]:
        return tuple(sorted({region for _, region in self.ranges}))


@dataclass(frozen=True, slots=True)
class Tenants:
    """Sharded by tenant: the part of the key before `separator` names the tenant, a mapping its region.

    `mapping` are (tenant, region), sorted. Other tenants, and keys without a separator, are the `default`
    region's, or with None every region's.
    """

    mapping: tuple[tuple[str, str], ...]
    separator: str = "/"
    default: str | None = None

    def owner(self, key: str, document: Mapping[str, Any] | None) -> str | None:
        tenant, found, _ = key.partition(self.separator)
        if found:
            at = bisect_right(self.mapping, tenant, key=lambda item: item[0]) - 1
            if at >= 0 and self.mapping[at][0] == tenant:
                return self.mapping[at][1]
        return self.default

    def regions(self) -> tuple[str, ...]:
        return tuple(
            sorted({region for _, region in self.mapping} | ({self.default} if self.default else set()))
        )


def home_region(field: str) -> HomeRegion:
    """Each document is written by the region that its field `field` (a plain string) names."""
    if not isinstance(field, str) or not field.isidentifier():
        raise DeclarationError(f'home_region takes the name of a field, such as "region", not {field!r}')
    return HomeRegion(field)


def key_ranges(starts: Mapping[str, str]) -> KeyRanges:
    """Map each range's first key to its region: `key_ranges({"": "tokyo", "m": "frankfurt"})`.

    Raises DeclarationError if keys before the first range have no region, or a region's name is invalid.
    """
    if "" not in starts:
        raise DeclarationError(
            f"key_ranges leaves the keys before {min(starts, default='the first range')!r} without a region;"
            ' add a range that starts at ""'
        )
    for region in starts.values():
        _check_region(region, "key_ranges")
    return KeyRanges(tuple(sorted(starts.items())))


def tenants(mapping: Mapping[str, str], separator: str = "/", default: str | None = None) -> Tenants:
    """Keys such as `acme/order-1` are written by the region that `mapping` gives for `acme`.

    Raises DeclarationError for a tenant that no key could name, or a region's name that is no name.
    """
    if not separator:
        raise DeclarationError('tenants needs a separator that ends the tenant\'s name, such as "/"')
    if not mapping:
        raise DeclarationError("tenants maps no tenant; give at least one, or drop the placement")
    for tenant, region in mapping.items():
        if not tenant or separator in tenant:
            raise DeclarationError(
                f"no key can name the tenant {tenant!r}: it is empty or contains the separator {separator!r}"
            )
        _check_region(region, "tenants")
    if default is not None:
        _check_region(default, "tenants")
    return Tenants(tuple(sorted(mapping.items())), separator, default)


def _check_region(region: str, where: str) -> None:
    if not isinstance(region, str) or not REGION_NAME.fullmatch(region):
        raise DeclarationError(
            f"{where}: {region!r} is not a region's name; use a small letter, then small letters,"
            " digits, - and _"
        )
