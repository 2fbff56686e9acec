from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from atoll.client import ClientOptions
from atoll.client.routing import Router

NAMES = ("tokyo", "frankfurt", "virginia")


def router(*names: str) -> Router:
    return Router(names or NAMES, ClientOptions(suspend_s=1.0, suspend_max_s=8.0), Random(1))


def test_preferred_region_comes_first() -> None:
    assert router().order() == NAMES


def test_failed_region_comes_last_and_keeps_its_rank_among_the_failed() -> None:
    regions = router()
    regions.failed("tokyo", 0.0)
    assert regions.order() == ("frankfurt", "virginia", "tokyo")
    regions.failed("frankfurt", 0.0)
    assert regions.order() == ("virginia", "tokyo", "frankfurt")


def test_health_of_a_failed_region_is_asked_once_its_time_has_come() -> None:
    regions = router()
    regions.failed("tokyo", 0.0)
    assert regions.to_ask(0.5) is None
    assert regions.to_ask(2.0) == "tokyo"
    assert regions.to_ask(2.0) is None
    regions.well("tokyo")
    assert regions.order() == NAMES


def test_suspicion_lasts_longer_each_time_up_to_a_bound() -> None:
    regions = router()
    now_s, waits = 0.0, []
    regions.failed("tokyo", now_s)
    for _ in range(8):
        asked_s = next(
            now_s + step / 10 for step in range(200) if regions.to_ask(now_s + step / 10) == "tokyo"
        )
        waits.append(asked_s - now_s)
        now_s = asked_s
        regions.unwell("tokyo", now_s)
    assert waits[0] < 1.5
    assert 6.0 <= waits[-1] <= 10.1


def test_calls_failing_together_count_as_one_failure() -> None:
    regions = router()
    for _ in range(50):
        regions.failed("tokyo", 0.0)
    assert regions.to_ask(1.3) == "tokyo"


def test_region_in_use_is_asked_now_and_then() -> None:
    regions = router()
    assert regions.to_ask(0.0) is None
    assert regions.to_ask(4.9) is None
    assert regions.to_ask(5.1) == "tokyo"
    assert regions.to_ask(5.2) is None


def test_only_region_is_never_asked() -> None:
    regions = router("tokyo")
    assert [regions.to_ask(now_s) for now_s in (0.0, 10.0, 20.0)] == [None] * 3


def test_measured_round_trips_decide_the_order() -> None:
    regions = router()
    regions.rank({"virginia": 0.09, "frankfurt": 0.2})
    assert regions.order() == ("virginia", "frankfurt", "tokyo")


def test_held_writes_are_remembered_within_a_bound() -> None:
    regions = router()
    for number in range(5000):
        regions.hold(f"key-{number}", "tokyo")
    assert regions.held("key-4999") == "tokyo"
    assert regions.held("key-0") is None
    regions.settle("key-4999")
    assert regions.held("key-4999") is None


@given(
    st.lists(st.tuples(st.sampled_from(["failed", "unwell", "well"]), st.sampled_from(NAMES)), max_size=30)
)
def test_order_always_holds_every_region_once(happened: list[tuple[str, str]]) -> None:
    regions = router()
    for now_s, (what, name) in enumerate(happened):
        regions.well(name) if what == "well" else getattr(regions, what)(name, float(now_s))
        assert sorted(regions.order()) == sorted(NAMES)
