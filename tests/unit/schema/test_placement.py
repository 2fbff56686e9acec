from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.errors import DeclarationError
from atoll.schema import Everywhere, Placement, home_region, key_ranges, tenants


def test_everywhere_has_no_owner() -> None:
    assert Everywhere().owner("k", {"region": "tokyo"}) is None


def test_home_region_is_read_from_the_document() -> None:
    placement = home_region("region")
    assert placement.owner("k", {"region": "tokyo"}) == "tokyo"
    assert placement.owner("k", None) is None
    assert placement.owner("k", {}) is None


@pytest.mark.parametrize(
    ("key", "owner"),
    [("", "tokyo"), ("lzz", "tokyo"), ("m", "frankfurt"), ("z", "virginia"), ("é", "virginia")],
)
def test_key_range_starts_at_its_key(key: str, owner: str) -> None:
    placement = key_ranges({"m": "frankfurt", "": "tokyo", "z": "virginia"})
    assert placement.owner(key, None) == owner


@given(st.dictionaries(st.text(max_size=3), st.sampled_from(["a", "b", "c"])), st.text(max_size=4))
def test_key_belongs_to_the_last_range_that_starts_before_it(starts: dict[str, str], key: str) -> None:
    starts = {"": "z"} | starts
    assert key_ranges(starts).owner(key, None) == starts[max(start for start in starts if start <= key)]


def test_key_ranges_leave_no_key_out() -> None:
    with pytest.raises(DeclarationError, match="before 'm' without a region"):
        key_ranges({"m": "frankfurt"})


def test_tenant_is_the_part_before_the_separator() -> None:
    placement = tenants({"acme": "tokyo", "zorg": "frankfurt"})
    assert placement.owner("acme/order-1/2", None) == "tokyo"
    assert placement.owner("zorg/", None) == "frankfurt"


@pytest.mark.parametrize("key", ["acme", "acmf/1", "ac/1", "zz/1", "/1"])
def test_other_tenants_are_the_default_regions(key: str) -> None:
    assert tenants({"acme": "tokyo"}, default="virginia").owner(key, None) == "virginia"
    assert tenants({"acme": "tokyo"}).owner(key, None) is None


@pytest.mark.parametrize(
    ("mapping", "separator", "reason"),
    [
        ({"a/b": "tokyo"}, "/", "no key can name"),
        ({}, "/", "maps no tenant"),
        ({"a": "tokyo"}, "", "separator"),
    ],
)
def test_tenants_that_cannot_be_are_refused(mapping: dict[str, str], separator: str, reason: str) -> None:
    with pytest.raises(DeclarationError, match=reason):
        tenants(mapping, separator)


@pytest.mark.parametrize("region", ["Tokyo", "", "1a", "a" * 33, "a b"])
def test_region_names_are_checked(region: str) -> None:
    with pytest.raises(DeclarationError, match="not a region's name"):
        key_ranges({"": region})


def test_placements_mention_their_regions() -> None:
    assert key_ranges({"": "tokyo", "m": "frankfurt", "x": "tokyo"}).regions() == ("frankfurt", "tokyo")
    assert tenants({"a": "tokyo"}, default="virginia").regions() == ("tokyo", "virginia")
    assert home_region("region").regions() == ()


def test_all_are_placements() -> None:
    for placement in (Everywhere(), home_region("r"), key_ranges({"": "a"}), tenants({"a": "b"})):
        assert isinstance(placement, Placement)
        assert hash(placement) is not None
