from __future__ import annotations

import pytest
from bench.scaling.page import filled, tables

RESULTS = {"memory": {"3": {"kb_per_region": 1500, "kb_per_peer": 75.5}}}


def test_a_table_replaces_what_stood_between_its_markers() -> None:
    page = "before\n<!-- scale:memory -->\nold\nolder\n<!-- end -->\nafter\n"
    table = (
        "| regions | one region, kB | of it for each peer, kB |\n| ---: | ---: | ---: |\n| 3 | 1,500 | 75.5 |"
    )
    assert filled(page, RESULTS) == f"before\n<!-- scale:memory -->\n{table}\n<!-- end -->\nafter\n"


def test_filling_twice_changes_nothing() -> None:
    page = filled("<!-- scale:memory -->\n<!-- end -->\n", RESULTS)
    assert filled(page, RESULTS) == page


def test_a_marker_without_figures_is_an_error() -> None:
    with pytest.raises(KeyError):
        filled("<!-- scale:idle -->\n<!-- end -->\n", RESULTS)


def test_only_what_was_measured_is_shown() -> None:
    assert list(tables(RESULTS)) == ["memory"]
