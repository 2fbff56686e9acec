from __future__ import annotations

import pytest
from bench.figures import Figure
from bench.soak import PARTITION_S, Sample, calm, curves_of, figures_of, slope, victim_at


def sample(at_s: float, *, cut: bool = False, resident_mb: float = 100.0, lag_s: float = 0.1) -> Sample:
    return Sample(at_s, cut, resident_mb, at_s / 10, lag_s, 0, int(at_s * 100))


def named(figures: list[Figure], part: str) -> Figure:
    (found,) = (figure for figure in figures if part in figure.measure)
    return found


def test_every_minute_another_region_is_cut_off() -> None:
    cut = [victim_at(second, 3) for second in range(240)]
    assert [cut[second] for second in (30, 90, 150, 210)] == [0, 1, 2, 0]
    assert sum(victim is not None for victim in cut) == 4 * PARTITION_S
    assert cut[29] is None
    assert cut[40] is None


def test_slopes_are_those_of_the_nearest_line() -> None:
    assert slope([sample(at, resident_mb=100 + 2 * at) for at in range(10)], "resident_mb") == pytest.approx(
        2
    )
    assert slope([sample(3), sample(3)], "lag_s") == 0.0


def test_samples_during_and_after_a_partition_are_not_calm() -> None:
    samples = [sample(at, cut=30 <= at < 40) for at in range(100)]
    assert [each.at_s for each in calm(samples)] == [*range(30), *range(59, 100)]


def test_memory_that_grows_misses_its_goal() -> None:
    flat = [sample(at) for at in range(200)]
    growing = [sample(at, resident_mb=100 + at / 5) for at in range(200)]
    assert named(figures_of(flat, {200: 9}, 1000, True), "memory").met is True
    assert named(figures_of(growing, {200: 9}, 1000, True), "memory").met is False


def test_refusals_and_differences_are_told() -> None:
    figures = figures_of([sample(at) for at in range(100)], {200: 9, 503: 2}, 1000, False)
    assert named(figures, "not taken").value == 2
    assert named(figures, "equal").met is False
    assert named(figures, "all regions together").value == pytest.approx(100)


def test_a_partitions_lag_does_not_count() -> None:
    samples = [sample(at, cut=30 <= at < 40, lag_s=9.0 if 30 <= at < 45 else 0.1) for at in range(70)]
    lag = named(figures_of(samples, {200: 9}, 1000, True), "lag away")
    assert lag.value == pytest.approx(0.1)


def test_curves_go_through_all_samples() -> None:
    curves = {curve.slug: curve for curve in curves_of([sample(0), sample(1, lag_s=2)])}
    assert curves["soak-lag"].lines["s"] == [(0, 0.1), (1, 2.0)]
