from __future__ import annotations

import ctypes
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.causality.uncertainty import Interval, OffsetEstimator, kernel_uncertainty_ms

NOW_MS = 1_793_696_400_000
there = st.integers(0, 300)
skews = st.integers(-2_000, 2_000)


class Exchange:
    """Messages between this node, whose clock is right, and a peer whose clock is off by `skew_ms`."""

    def __init__(self, estimator: OffsetEstimator) -> None:
        self.estimator = estimator
        self.now_ms = NOW_MS

    def with_peer(self, peer: str, skew_ms: int, there_ms: int = 10, back_ms: int = 10) -> None:
        sent_ms = self.now_ms
        self.now_ms += there_ms + back_ms
        self.estimator.add(peer, sent_ms, sent_ms + there_ms + skew_ms, self.now_ms)


@given(skews, st.lists(st.tuples(there, there), min_size=1, max_size=20))
def test_offset_lies_within_its_error(skew_ms: int, ways: list[tuple[int, int]]) -> None:
    exchange = Exchange(OffsetEstimator())
    for there_ms, back_ms in ways:
        exchange.with_peer("tokyo", skew_ms, there_ms, back_ms)
    offset = exchange.estimator.offset("tokyo", exchange.now_ms)
    assert offset is not None
    assert abs(offset.offset_ms - skew_ms) <= offset.error_ms


def test_quickest_exchange_counts() -> None:
    exchange = Exchange(OffsetEstimator(drift_ppm=0))
    for back_ms in (400, 4, 900):
        exchange.with_peer("tokyo", 70, 4, back_ms)
    assert exchange.estimator.offset("tokyo", exchange.now_ms) == (70, 5, 8)


def test_bound_widens_with_age() -> None:
    exchange = Exchange(OffsetEstimator(drift_ppm=200))
    exchange.with_peer("tokyo", 0)
    later = exchange.estimator.offset("tokyo", exchange.now_ms + 1_000_000)
    assert later is not None
    assert later.error_ms == 11 + 200


def test_window_forgets_old_exchanges() -> None:
    exchange = Exchange(OffsetEstimator(window=2))
    for round_trip in (2, 40, 60):
        exchange.with_peer("tokyo", 0, round_trip // 2, round_trip // 2)
    offset = exchange.estimator.offset("tokyo", exchange.now_ms)
    assert offset is not None
    assert offset.round_trip_ms == 40


def test_step_of_a_clock_discards_what_was_measured_before() -> None:
    exchange = Exchange(OffsetEstimator())
    exchange.with_peer("tokyo", 0, 1, 1)
    exchange.with_peer("tokyo", 5_000, 50, 50)
    offset = exchange.estimator.offset("tokyo", exchange.now_ms)
    assert offset is not None
    assert abs(offset.offset_ms - 5_000) <= offset.error_ms


def test_exchange_across_a_step_back_is_left_out() -> None:
    estimator = OffsetEstimator()
    estimator.add("tokyo", NOW_MS, NOW_MS, NOW_MS - 1)
    assert estimator.offset("tokyo", NOW_MS) is None


def test_forgotten_peer_has_no_offset() -> None:
    exchange = Exchange(OffsetEstimator())
    exchange.with_peer("tokyo", 0)
    exchange.estimator.forget("tokyo")
    assert exchange.estimator.offset("tokyo", NOW_MS) is None


def test_alone_the_bound_is_the_kernels_or_the_configured_one() -> None:
    estimator = OffsetEstimator(max_offset_ms=250)
    assert estimator.interval(NOW_MS, kernel_ms=3) == (NOW_MS - 3, NOW_MS + 3)
    assert estimator.interval(NOW_MS) == (NOW_MS - 250, NOW_MS + 250)


@given(st.integers(-10_000, 10_000), st.sampled_from([5, None]))
def test_one_clock_that_runs_away_does_not_move_the_interval(skew_ms: int, kernel_ms: int | None) -> None:
    exchange = Exchange(OffsetEstimator())
    exchange.with_peer("frankfurt", 0)
    exchange.with_peer("tokyo", skew_ms)
    now_ms = exchange.now_ms
    interval = exchange.estimator.interval(now_ms, kernel_ms)
    assert interval.distance_ms(now_ms) == 0
    assert interval.uncertainty_ms <= (kernel_ms or 500)


@given(st.lists(skews, max_size=2), there, st.integers(0, 50))
def test_interval_holds_the_time_beside_a_minority_of_bad_clocks(
    bad_ms: list[int], there_ms: int, kernel_ms: int
) -> None:
    exchange = Exchange(OffsetEstimator())
    for index, skew_ms in enumerate([0, 0, *bad_ms]):
        exchange.with_peer(f"peer-{index}", skew_ms, there_ms)
    interval = exchange.estimator.interval(exchange.now_ms, kernel_ms)
    assert interval.distance_ms(exchange.now_ms) == 0
    assert interval.uncertainty_ms <= kernel_ms


def test_agreement_with_peers_narrows_an_unknown_bound() -> None:
    exchange = Exchange(OffsetEstimator(max_offset_ms=500))
    for peer in ("frankfurt", "tokyo"):
        exchange.with_peer(peer, 0)
    assert exchange.estimator.interval(exchange.now_ms).uncertainty_ms <= 12


def test_own_clock_that_runs_away_lies_outside() -> None:
    exchange = Exchange(OffsetEstimator())
    exchange.with_peer("frankfurt", -3_000)
    exchange.with_peer("tokyo", -3_000)
    interval = exchange.estimator.interval(exchange.now_ms, kernel_ms=5)
    assert 2_900 < interval.distance_ms(exchange.now_ms) <= 3_000


def test_clocks_without_a_majority_are_all_covered() -> None:
    exchange = Exchange(OffsetEstimator())
    exchange.with_peer("tokyo", 3_000)
    interval = exchange.estimator.interval(exchange.now_ms, kernel_ms=5)
    assert interval.earliest == exchange.now_ms - 5
    assert interval.latest >= exchange.now_ms + 3_000


@given(st.dictionaries(st.sampled_from("abcdef"), st.tuples(there, there)), st.integers(0, 50))
def test_interval_of_good_clocks_holds_the_time(ways: dict[str, tuple[int, int]], kernel_ms: int) -> None:
    exchange = Exchange(OffsetEstimator())
    for peer, (there_ms, back_ms) in ways.items():
        exchange.with_peer(peer, 0, there_ms, back_ms)
    interval = exchange.estimator.interval(exchange.now_ms, kernel_ms)
    assert interval.earliest <= exchange.now_ms <= interval.latest


def test_interval_measures_distance_and_width() -> None:
    interval = Interval(10, 15)
    assert interval.uncertainty_ms == 3
    assert [interval.distance_ms(ms) for ms in (7, 10, 15, 16)] == [3, 0, 0, 1]


def test_kernel_bound_is_milliseconds_or_unknown() -> None:
    bound_ms = kernel_uncertainty_ms()
    assert bound_ms is None or bound_ms >= 0


@pytest.mark.parametrize(
    ("state", "status", "expected"), [(0, 0, 13), (0, 0x40, None), (5, 0, None), (-1, 0, None)]
)
def test_kernel_bound_is_rounded_up_and_only_for_a_disciplined_clock(
    monkeypatch: pytest.MonkeyPatch, state: int, status: int, expected: int | None
) -> None:
    class Library:
        def adjtimex(self, reference: object) -> int:
            timex = reference._obj  # type: ignore[attr-defined]
            timex.maxerror, timex.status = 12_001, status
            return state

    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: Library())
    assert kernel_uncertainty_ms() == expected


def test_kernel_without_adjtimex_bounds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: object())
    assert kernel_uncertainty_ms() is None
    monkeypatch.setattr(sys, "platform", "darwin")
    assert kernel_uncertainty_ms() is None


@given(st.lists(skews, max_size=3), there, there)
def test_a_clock_is_ahead_by_no_more_than_of_the_nearest(
    skews_ms: list[int], there_ms: int, back_ms: int
) -> None:
    exchange = Exchange(OffsetEstimator())
    for index, skew_ms in enumerate(skews_ms):
        exchange.with_peer(f"peer-{index}", skew_ms, there_ms, back_ms)
    ahead_ms = max(0, -max(skews_ms, default=0))
    found_ms = exchange.estimator.ahead_ms(exchange.now_ms)
    assert ahead_ms - (there_ms + back_ms) - 5 <= found_ms <= ahead_ms
