from __future__ import annotations

import pytest

from atoll.region.freshness import Freshness
from atoll.replication.wire import Heartbeat


@pytest.fixture
def freshness() -> Freshness:
    return Freshness("a")


def said(region: str, now_ms: int, vector: dict[str, int], fresh: dict[str, int] | None = None) -> Heartbeat:
    return Heartbeat(region, now_ms, vector, fresh or {})


def test_nothing_is_known_of_who_was_never_heard(freshness: Freshness) -> None:
    assert freshness.lag_s("b", 5_000) is None


def test_a_peer_with_nothing_new_is_as_fresh_as_its_word(freshness: Freshness) -> None:
    freshness.heard(said("b", 1_000, {"b": 3}), {"b": 3})
    assert freshness.lag_s("b", 3_500) == 2.5


def test_a_promise_counts_once_its_entries_are_here(freshness: Freshness) -> None:
    freshness.heard(said("b", 1_000, {"b": 3}), {"b": 3})
    freshness.heard(said("b", 2_000, {"b": 5}), {"b": 3})
    freshness.moved({"b": 4})
    assert freshness.lag_s("b", 3_000) == 2.0
    freshness.moved({"b": 5})
    assert freshness.lag_s("b", 3_000) == 1.0


def test_a_relay_s_word_counts_for_those_it_relays(freshness: Freshness) -> None:
    freshness.heard(said("b", 2_000, {"b": 1, "c": 7}, {"c": 1_500}), {"b": 1, "c": 7})
    assert freshness.as_of() == {"b": 2_000, "c": 1_500}


def test_old_news_makes_nothing_staler(freshness: Freshness) -> None:
    freshness.heard(said("b", 2_000, {"b": 1}), {"b": 1})
    freshness.heard(said("b", 1_000, {"b": 1}), {"b": 1})
    assert freshness.lag_s("b", 2_000) == 0.0


def test_what_is_said_of_this_region_itself_is_ignored(freshness: Freshness) -> None:
    freshness.heard(said("b", 2_000, {"a": 9}, {"a": 9_999}), {})
    assert "a" not in freshness.as_of()


def test_a_peer_s_fast_clock_gives_no_negative_lag(freshness: Freshness) -> None:
    freshness.heard(said("b", 9_000, {}), {})
    assert freshness.lag_s("b", 5_000) == 0.0


def test_promises_that_pile_up_are_bounded(freshness: Freshness) -> None:
    for seq in range(1, 500):
        freshness.heard(said("b", seq * 10, {"b": seq}), {"b": 0})
    freshness.moved({"b": 499})
    assert freshness.lag_s("b", 4_990) == 0.0
