from __future__ import annotations

import pytest
from bench.recovery_simulated import KINDS, Outcome, figures_of, happen


@pytest.mark.parametrize("slug", ["process", "power", "node"])
def test_a_failure_that_leaves_the_disk_loses_nothing(slug: str) -> None:
    found = happen(slug, "test")
    assert found.acknowledged > 100
    assert found.lost == 0


def test_a_lost_disk_takes_with_it_what_had_not_left() -> None:
    found = happen("disk", "test")
    assert 0 < found.lost < 20
    assert 0.0 < found.at_risk_s < 0.5


def test_a_cut_link_is_gone_round_and_a_cut_region_waits() -> None:
    assert happen("link", "test").unseen_s < 4.0
    cut_off = happen("region", "test")
    assert cut_off.unseen_s > 5.0
    assert cut_off.silent_s < 0.1


def test_a_failure_comes_out_as_it_did_before() -> None:
    assert happen("process", "again") == happen("process", "again")


def test_figures_are_the_worst_of_all_failures_and_the_sum_of_what_was_lost() -> None:
    one = Outcome(1.0, 0.5, 0.2, 3.0, 100, 1, 0.03)
    other = Outcome(2.0, 0.1, 0.3, 1.0, 50, 2, 0.04)
    figures = figures_of(KINDS["disk"], [one, other])
    assert [figure.value for figure in figures] == [2.0, 0.5, 0.3, 3.0, 40.0, 3.0]
    assert figures[0].peer == "median 1.50 of 2 failures"
    assert figures[-1].peer == "of 150"
    assert figures_of(KINDS["process"], [one])[-1].met is False
