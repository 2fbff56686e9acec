from __future__ import annotations

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from atoll.ownership.demand import AVERAGED_S, Demand, Holdings

REGIONS = ("a", "b", "c")


def holdings(rights: Mapping[str, int], spent: Mapping[str, int] = {}) -> Holdings:
    return Holdings(dict(rights), {name: spent.get(name, 0) for name in REGIONS}, sum(rights.values()))


def selling(rights: Mapping[str, int], **per_s: float) -> Demand:
    """After these regions have sold so much a second for a while, and now hold so much."""
    demand = Demand(holdings(rights), 0.0)
    for second in range(1, 61):
        demand.look(holdings(rights, {name: int(rate * second) for name, rate in per_s.items()}), second)
    return demand


def test_what_was_spent_before_is_no_demand() -> None:
    demand = Demand(holdings({"a": 5}, {"a": 1_000_000}), 0.0)
    demand.look(holdings({"a": 5}, {"a": 1_000_000}), 1.0)
    assert demand.per_s("a", 1.0) == 0
    assert demand.lasts_s("a", 1.0) is None


def test_demand_is_how_much_is_spent_in_a_second_and_fades() -> None:
    demand = selling({"a": 600}, a=20)
    assert 18 < demand.per_s("a", 60.0) < 22
    assert demand.per_s("b", 60.0) == 0
    lasts_s = demand.lasts_s("a", 60.0)
    assert lasts_s is not None
    assert 27 < lasts_s < 33
    assert demand.per_s("a", 60.0 + 5 * AVERAGED_S) < 0.2


def test_one_large_sale_after_a_long_rest_is_demand() -> None:
    demand = Demand(holdings({"a": 100}), 0.0)
    demand.look(holdings({"a": 50}, {"a": 50}), 10_000.0)
    assert demand.per_s("a", 10_000.0) == 50 / AVERAGED_S


def test_rights_are_asked_for_before_they_run_out() -> None:
    """From whoever has most to spare, and as much as the demand is worth."""
    wanted = selling({"a": 50, "b": 300, "c": 400}, a=10).wanted("a", ("b", "c"), 60.0)
    assert wanted is not None
    peer, amount = wanted
    assert peer == "c"
    assert 300 < amount < 400


def test_nothing_is_asked_for_while_there_is_enough() -> None:
    assert selling({"a": 1000, "b": 5000, "c": 0}, a=10).wanted("a", ("b", "c"), 60.0) is None
    assert selling({"a": 0, "b": 5000, "c": 0}).wanted("a", ("b", "c"), 60.0) is None


def test_only_peers_that_can_be_reached_are_asked() -> None:
    demand = selling({"a": 5, "b": 100, "c": 400}, a=10)
    assert (demand.wanted("a", ("b",), 60.0) or ("", 0))[0] == "b"
    assert demand.wanted("a", (), 60.0) is None


def test_a_region_that_sells_as_fast_keeps_its_rights() -> None:
    """Both run short: to send rights to and fro would help nobody."""
    assert selling({"a": 45, "b": 55, "c": 0}, a=10, b=10).wanted("a", ("b", "c"), 60.0) is None


def test_a_region_at_rest_keeps_some() -> None:
    asked = selling({"a": 0, "b": 1000, "c": 0}, a=100).wanted("a", ("b",), 60.0)
    assert asked is not None
    assert 850 < asked[1] < 970


counts = st.integers(0, 10_000)
by_region = st.fixed_dictionaries(dict.fromkeys(REGIONS, counts))


@given(by_region, by_region, st.floats(0.001, 1e6))
def test_never_more_is_asked_for_than_a_peer_holds(
    rights: dict[str, int], spent: dict[str, int], after_s: float
) -> None:
    demand = Demand(holdings(rights), 0.0)
    demand.look(holdings(rights, spent), after_s)
    for region in REGIONS:
        peers = [peer for peer in REGIONS if peer != region]
        wanted = demand.wanted(region, peers, after_s)
        if wanted is not None:
            peer, amount = wanted
            assert peer in peers
            assert 0 < amount <= rights[peer]


@given(by_region, by_region)
def test_two_regions_never_ask_each_other(rights: dict[str, int], spent: dict[str, int]) -> None:
    """Seeing the same, one has more than its share, or the other has."""
    demand = Demand(holdings(rights), 0.0)
    demand.look(holdings(rights, spent), 1.0)
    asked = {
        region: demand.wanted(region, [peer for peer in REGIONS if peer != region], 1.0) for region in REGIONS
    }
    for region, wanted in asked.items():
        if wanted is not None:
            back = asked[wanted[0]]
            assert back is None or back[0] != region


def test_a_region_that_has_stopped_selling_asks_for_nothing() -> None:
    """Another one may be gathering what is left."""
    demand = selling({"a": 50, "b": 300, "c": 400}, a=10)
    demand.look(holdings({"a": 0, "b": 350, "c": 400}, {"a": 600}), 61.0)
    assert demand.per_s("a", 61.0) > 0
    assert demand.wanted("a", ("b", "c"), 61.0) is None
