"""docs/scale.md shows what bench/results/scale.json holds, and the command that wrote it still gives much the same."""

from __future__ import annotations

import json
from typing import Any

import pytest
from bench.scale import EXPERIMENTS, LATEST, REGIONS, SECTIONS
from bench.scaling import sizes
from bench.scaling.page import PAGE, filled, tables

from atoll.simulation.geography import PLACES

RESULTS: dict[str, Any] = json.loads(LATEST.read_text("utf-8"))


def test_the_page_has_every_table_as_it_was_measured() -> None:
    page = PAGE.read_text("utf-8")
    assert filled(page, RESULTS) == page
    assert {name for name in SECTIONS if f"<!-- scale:{name} -->" not in page} == set()
    assert tables(RESULTS).keys() == set(SECTIONS)


def test_every_size_was_measured() -> None:
    assert RESULTS["regions"] == list(REGIONS)
    for name in set(SECTIONS) - {"batching"}:
        assert list(RESULTS[name]) == [str(count) for count in REGIONS]


@pytest.mark.parametrize("count", REGIONS)
def test_sizes_are_what_the_formats_give_today(count: int) -> None:
    assert sizes.measure(PLACES[:count]) == RESULTS["sizes"][str(count)]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_comes_to_much_the_same_again(name: str) -> None:
    """A protocol that changes a little may do so without twenty minutes of measuring; one that changes much may not."""
    assert EXPERIMENTS[name](3, RESULTS["seed"]) == pytest.approx(RESULTS[name]["3"], rel=0.2, abs=1.0)
