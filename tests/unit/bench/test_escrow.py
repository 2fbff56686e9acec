from __future__ import annotations

from pathlib import Path

from bench.escrow import measure
from bench.rounds import Scale


def test_sales_are_held_against_ordinary_writes(tmp_path: Path) -> None:
    figures = measure(Scale(rounds=1, seconds=0.2), tmp_path, lambda said: None)
    assert len({(each.measure, each.peer) for each in figures}) == len(figures) == 4
    assert all(each.value and each.peer_value for each in figures)
