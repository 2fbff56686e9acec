from __future__ import annotations

from bench.rounds import FULL, QUICK, interleaved, middle


def test_sides_take_turns() -> None:
    order: list[str] = []
    said: list[str] = []
    ours, theirs = interleaved(
        2, said.append, "commit", lambda: order.append("ours"), lambda: order.append("theirs")
    )
    assert order == ["ours", "theirs", "ours", "theirs"]
    assert len(ours) == len(theirs) == 2
    assert said[0] == "commit: Atoll, round 1 of 2"


def test_the_middle_is_a_median_of_one_figure() -> None:
    assert middle([(3, "a"), (1, "b"), (50, "c")], lambda pair: pair[0]) == 3


def test_every_figure_is_a_median_of_three() -> None:
    assert FULL.rounds == QUICK.rounds == 3
