from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import NamedTuple

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from atoll.causality import uncertainty
from atoll.causality.uncertainty import ClockBound, Interval, OffsetEstimator, kernel_uncertainty_ms

NOW_MS = 1_793_696_400_000
there = st.integers(0, 300)
skews = st.integers(-2_000, 2_000)


class Exchange:
    """Messages between this node, whose clock is right, and a peer whose clock is off by `skew_ms`."""

    def __init__(self, estimator: OffsetEstimator) -> None:
        self.estimator = estimator
        self.now_ms = NOW_MS

    def with_peer(
        self, peer: str, skew_ms: int, there_ms: int = 10, back_ms: int = 10, kernel_ms: int | None = None
    ) -> None:
        sent_ms = self.now_ms
        self.now_ms += there_ms + back_ms
        self.estimator.add(peer, sent_ms, sent_ms + there_ms + skew_ms, self.now_ms, kernel_ms)


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
    assert estimator.agreement(NOW_MS, kernel_ms=3) == (NOW_MS - 3, NOW_MS + 3)
    assert estimator.agreement(NOW_MS) == (NOW_MS - 250, NOW_MS + 250)


@given(st.integers(-10_000, 10_000), st.sampled_from([5, None]))
def test_one_clock_that_runs_away_does_not_move_the_interval(skew_ms: int, kernel_ms: int | None) -> None:
    exchange = Exchange(OffsetEstimator())
    exchange.with_peer("frankfurt", 0)
    exchange.with_peer("tokyo", skew_ms)
    now_ms = exchange.now_ms
    interval = exchange.estimator.agreement(now_ms, kernel_ms)
    assert interval.distance_ms(now_ms) == 0
    assert interval.uncertainty_ms <= (kernel_ms or 500)


@given(st.lists(skews, max_size=2), there, st.integers(0, 50))
def test_interval_holds_the_time_beside_a_minority_of_bad_clocks(
    bad_ms: list[int], there_ms: int, kernel_ms: int
) -> None:
    exchange = Exchange(OffsetEstimator())
    for index, skew_ms in enumerate([0, 0, *bad_ms]):
        exchange.with_peer(f"peer-{index}", skew_ms, there_ms)
    interval = exchange.estimator.agreement(exchange.now_ms, kernel_ms)
    assert interval.distance_ms(exchange.now_ms) == 0
    assert interval.uncertainty_ms <= kernel_ms


def test_agreement_with_peers_narrows_an_unknown_bound() -> None:
    exchange = Exchange(OffsetEstimator(max_offset_ms=500))
    for peer in ("frankfurt", "tokyo"):
        exchange.with_peer(peer, 0)
    assert exchange.estimator.agreement(exchange.now_ms).uncertainty_ms <= 12


def test_own_clock_that_runs_away_lies_outside() -> None:
    exchange = Exchange(OffsetEstimator())
    exchange.with_peer("frankfurt", -3_000)
    exchange.with_peer("tokyo", -3_000)
    interval = exchange.estimator.agreement(exchange.now_ms, kernel_ms=5)
    assert 2_900 < interval.distance_ms(exchange.now_ms) <= 3_000


def test_clocks_without_a_majority_are_all_covered() -> None:
    exchange = Exchange(OffsetEstimator())
    exchange.with_peer("tokyo", 3_000)
    interval = exchange.estimator.agreement(exchange.now_ms, kernel_ms=5)
    assert interval.earliest == exchange.now_ms - 5
    assert interval.latest >= exchange.now_ms + 3_000


@given(st.dictionaries(st.sampled_from("abcdef"), st.tuples(there, there)), st.integers(0, 50))
def test_interval_of_good_clocks_holds_the_time(ways: dict[str, tuple[int, int]], kernel_ms: int) -> None:
    exchange = Exchange(OffsetEstimator())
    for peer, (there_ms, back_ms) in ways.items():
        exchange.with_peer(peer, 0, there_ms, back_ms)
    interval = exchange.estimator.agreement(exchange.now_ms, kernel_ms)
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
    monkeypatch.setattr(uncertainty, "_library", Library)
    assert kernel_uncertainty_ms() == expected


def test_kernel_without_adjtimex_bounds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uncertainty, "_library", object)
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


class Known(NamedTuple):
    """A clock, how far it is ahead of the time, and what its kernel says."""

    ahead_ms: int
    kernel_ms: int | None


MOST_MS = 500
honest = st.one_of(
    st.builds(Known, st.integers(-MOST_MS, MOST_MS), st.none()),
    st.integers(0, 900).flatmap(
        lambda kernel_ms: st.builds(
            Known, st.integers(-min(kernel_ms, MOST_MS), min(kernel_ms, MOST_MS)), st.just(kernel_ms)
        )
    ),
)
lying = st.builds(Known, st.integers(-5_000, 5_000), st.one_of(st.none(), st.integers(0, 900)))


def bounded(
    own: Known, peers: Sequence[tuple[Known, int, int]], *, age_ms: int = 0, require_proof: bool = False
) -> ClockBound:
    """What a node comes to that has exchanged a message with each peer, `age_ms` ago."""
    exchange = Exchange(OffsetEstimator(max_offset_ms=MOST_MS, require_proof=require_proof))
    for index, (peer, there_ms, back_ms) in enumerate(peers):
        ahead_ms = peer.ahead_ms - own.ahead_ms
        exchange.with_peer(f"peer-{index}", ahead_ms, there_ms, back_ms, kernel_ms=peer.kernel_ms)
    return exchange.estimator.bound(exchange.now_ms + age_ms, own.kernel_ms)


@given(
    honest, st.lists(st.tuples(honest, there, there), max_size=5), st.integers(0, 3_600_000), st.booleans()
)
def test_bound_of_honest_clocks_holds_the_time(
    own: Known, peers: list[tuple[Known, int, int]], age_ms: int, require_proof: bool
) -> None:
    bound = bounded(own, peers, age_ms=age_ms, require_proof=require_proof)
    assert bound.low <= -own.ahead_ms <= bound.high
    assert bound.agreed or require_proof
    if not require_proof:
        assert bound.error_ms <= MOST_MS


@given(
    honest,
    st.lists(st.tuples(honest, there, there), min_size=2, max_size=2),
    st.lists(st.tuples(lying, there, there), max_size=2),
)
def test_bound_holds_the_time_beside_a_minority_of_bad_clocks(
    own: Known, good: list[tuple[Known, int, int]], bad: list[tuple[Known, int, int]]
) -> None:
    proven = [each for each, *_ in [*good, *bad, (own, 0, 0)] if each.kernel_ms is not None]
    assume(2 * len([each for each, *_ in bad if each.kernel_ms is not None]) < max(1, len(proven)))
    bound = bounded(own, [*good, *bad])
    assert bound.low <= -own.ahead_ms <= bound.high


@given(honest, st.lists(st.tuples(honest, there, there), max_size=3), st.integers(0, 999))
def test_interval_of_a_bound_holds_the_time(
    own: Known, peers: list[tuple[Known, int, int]], fraction: int
) -> None:
    bound = bounded(own, peers)
    time_ms = NOW_MS + fraction / 1000
    interval = bound.interval(math.floor(time_ms + own.ahead_ms))
    assert interval.earliest <= time_ms <= interval.latest


def test_clock_that_nothing_bounds_counts_as_within_the_configured_bound() -> None:
    assert bounded(Known(0, None), []) == ClockBound(-500, 500, agreed=True, assumed=True)
    assert bounded(Known(0, 20), []) == ClockBound(-20, 20)


def test_kernel_that_bounds_less_tightly_than_the_configuration_proves_nothing() -> None:
    assert bounded(Known(0, 900), []) == ClockBound(-500, 500, assumed=True)
    assert bounded(Known(0, 900), [], require_proof=True) == ClockBound(-900, 900)


def test_kernels_of_peers_prove_a_clock_that_its_own_does_not() -> None:
    bound = bounded(Known(0, None), [(Known(0, 5), 10, 10)])
    assert not bound.assumed
    assert bound.error_ms == 10 + 1 + 5


def test_without_any_proof_nothing_is_known_where_it_is_required() -> None:
    bound = bounded(Known(0, None), [(Known(0, None), 10, 10)], require_proof=True)
    assert not bound.agreed


def test_clock_that_most_others_contradict_is_out_of_bounds() -> None:
    bound = bounded(Known(2_000, None), [(Known(0, None), 10, 10), (Known(0, None), 10, 10)])
    assert bound.agreed
    assert 1_500 <= bound.error_ms - 500 <= 2_100


def test_two_clocks_that_contradict_each_other_agree_on_nothing() -> None:
    assert not bounded(Known(2_000, None), [(Known(0, None), 10, 10)]).agreed
    assert not bounded(Known(2_000, 20), [(Known(0, 20), 10, 10)]).agreed
    assert bounded(Known(2_000, 20), [(Known(0, None), 10, 10)]).agreed


@given(st.integers(-3_000, 3_000))
def test_bound_moves_with_a_step_of_the_own_clock(step_ms: int) -> None:
    exchange = Exchange(OffsetEstimator(require_proof=True))
    exchange.with_peer("tokyo", 0, kernel_ms=3)
    before = exchange.estimator.bound(exchange.now_ms)
    exchange.estimator.stepped(step_ms)
    after = exchange.estimator.bound(exchange.now_ms + step_ms)
    assert (after.low, after.high) == (before.low - step_ms, before.high - step_ms)


def test_slack_widens_what_peers_prove() -> None:
    exchange = Exchange(OffsetEstimator(slack_ms=15))
    exchange.with_peer("tokyo", 0, 10, 10, kernel_ms=3)
    assert exchange.estimator.bound(exchange.now_ms).error_ms == 10 + 1 + 3 + 15
    assert exchange.estimator.bound(exchange.now_ms, 3).error_ms == 3


def test_kernel_that_claims_less_than_nothing_narrows_nothing() -> None:
    assert bounded(Known(0, None), [(Known(0, -8), 10, 10)]) == bounded(
        Known(0, None), [(Known(0, 0), 10, 10)]
    )
