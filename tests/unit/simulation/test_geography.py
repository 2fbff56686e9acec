from __future__ import annotations

from itertools import combinations

import pytest

from atoll.ids import region_number
from atoll.simulation.geography import PLACES, one_way_s, round_trip_ms


def test_there_is_a_round_trip_between_any_two_places() -> None:
    assert len(PLACES) == len(set(PLACES)) == 30
    for one, other in combinations(PLACES, 2):
        assert 5 <= round_trip_ms(one, other) == round_trip_ms(other, one) <= 400


@pytest.mark.parametrize(
    ("one", "other", "milliseconds"),
    [("frankfurt", "tokyo", 236), ("phoenix", "frankfurt", 142), ("auckland", "sydney", 28)],
)
def test_round_trips_are_those_published(one: str, other: str, milliseconds: int) -> None:
    assert round_trip_ms(one, other) == milliseconds


def test_one_way_is_half_of_it_in_every_direction() -> None:
    ways = one_way_s(PLACES[:3])
    assert len(ways) == 6
    assert ways["tokyo", "frankfurt"] == ways["frankfurt", "tokyo"] == pytest.approx(0.118)


def test_all_places_fit_into_one_deployment() -> None:
    assert {region_number(PLACES, place) for place in PLACES} == set(range(30))
