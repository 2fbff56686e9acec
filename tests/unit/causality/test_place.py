from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.causality.place import Place, horizon, place_of, since

PLACES = st.builds(
    Place,
    stamp=st.integers(0, (1 << 63) - 1),
    origin=st.from_regex(r"[a-z][a-z0-9_-]{0,8}", fullmatch=True),
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


KEYS = st.lists(
    st.builds(
        Place,
        stamp=st.integers(0, 50).map(lambda ms: ms << 16),
        origin=st.sampled_from("ab"),
        seq=st.integers(1, 3),
        number=st.just(0),
    ),
    max_size=8,
).map(lambda places: {place.key for place in places})


def kept(keys: set[str], age_ms: int, most: int) -> set[str]:
    return {key for key in keys if key >= horizon(sorted(keys), age_ms, most)}


@given(KEYS, KEYS, st.integers(0, 40), st.integers(1, 6))
def test_what_is_kept_does_not_depend_on_when(one: set[str], other: set[str], age_ms: int, most: int) -> None:
    early = kept(kept(one, age_ms, most) | kept(other, age_ms, most), age_ms, most)
    assert early == kept(one | other, age_ms, most)
    assert len(early) <= most


@given(KEYS, st.integers(0, 40), st.integers(1, 6))
def test_the_newest_are_kept(keys: set[str], age_ms: int, most: int) -> None:
    found = kept(keys, age_ms, most)
    assert bool(found) == bool(keys)
    assert found == set(sorted(keys)[len(keys) - len(found) :])
