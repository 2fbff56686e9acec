from __future__ import annotations

from pathlib import Path
from time import perf_counter

import pytest
from bench import replication
from bench.peers import NotMeasured
from bench.replication import _NAMES, BATCH, atoll_pair, rate


class Told:
    """A pair in memory, which may lose documents on their way."""

    label, durability = "memory", "none"

    def __init__(self, lost: int = -1) -> None:
        self.there: set[int] = set()
        self.lost = lost
        self.done: list[object] = []

    def write_singly(self, first: int, count: int) -> float:
        started = perf_counter()
        self.done.append(("singly", first, count))
        self.there |= {number for number in range(first, first + count) if number != self.lost}
        return started

    def write_batches(self, first: int, count: int) -> float:
        return self.write_singly(first, count)

    def shows(self, number: int) -> bool:
        return number in self.there

    def count(self) -> int:
        return len(self.there)

    def cut(self, cut: bool) -> None:
        self.done.append(cut)

    def lag_ms(self, samples: int, first: int) -> list[float]:
        return [1.0] * samples


def test_a_backlog_is_written_while_the_link_is_cut() -> None:
    pair = Told()
    rate(pair, _NAMES[2], 10, 0, lambda _: None)
    assert pair.done == [True, ("singly", 0, 10), False]


def test_what_gets_lost_on_the_way_is_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replication, "_COUNT_S", 0.05)
    with pytest.raises(NotMeasured, match="holds 9 of 10 documents"):
        rate(Told(lost=3), _NAMES[1], 10, 0, lambda _: None)


def test_a_failing_writer_is_not_waited_for() -> None:
    class Failing(Told):
        def write_singly(self, first: int, count: int) -> float:
            raise NotMeasured("no connection")

    with pytest.raises(NotMeasured, match="no connection"):
        rate(Failing(), _NAMES[1], 10, 0, lambda _: None)


def test_two_regions_are_a_pair(tmp_path: Path) -> None:
    with atoll_pair(tmp_path) as pair:
        for index, name in enumerate(_NAMES):
            assert rate(pair, name, 2 * BATCH, index * 2 * BATCH, lambda _: None) > 0
        assert pair.count() == 6 * BATCH
        assert len(pair.lag_ms(2, 10 * BATCH)) == 2
