from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.causality.place import Place, place_of, since

PLACES = st.builds(
    Place,
    stamp=st.integers(0, (1 << 63) - 1),
    region=st.from_regex(r"[a-z][a-z0-9_-]{0,8}", fullmatch=True),
    seq=st.integers(1, (1 << 53) - 1),
    number=st.integers(0, (1 << 16) - 1),
)


@given(st.lists(PLACES, min_size=2, max_size=4))
def test_keys_sort_as_places_do(places: list[Place]) -> None:
    assert sorted(places) == [place_of(key) for key in sorted(place.key for place in places)]


@given(PLACES, st.integers(0, 1 << 44))
def test_since_lies_between_two_milliseconds(place: Place, ms: int) -> None:
    assert (place.key > since(ms)) == (place.stamp >> 16 >= ms)


@pytest.mark.parametrize(
    "key", ["", "k", "0" * 16, f"{'g' * 16} a {'0' * 14} 0000", f"{'0' * 16} a {'0' * 14} 00000"]
)
def test_other_keys_are_no_places(key: str) -> None:
    assert place_of(key) is None
