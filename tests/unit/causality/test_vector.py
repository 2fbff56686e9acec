from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from atoll.causality.types import Dot
from atoll.causality.vector import concurrent_with, covers, descends, merge, missing

regions = st.sampled_from(["frankfurt", "sydney", "tokyo", "virginia"])
vectors = st.dictionaries(regions, st.integers(0, 5))


def seen(vector: dict[str, int]) -> set[Dot]:
    """The model: the set of entries that a vector stands for."""
    return {Dot(region, seq) for region, last in vector.items() for seq in range(1, last + 1)}


@given(vectors, regions, st.integers(1, 7))
def test_covers_is_membership(vector: dict[str, int], region: str, seq: int) -> None:
    assert covers(vector, region, seq) == (Dot(region, seq) in seen(vector))


@given(vectors, vectors)
def test_descends_is_inclusion(a: dict[str, int], b: dict[str, int]) -> None:
    assert descends(a, b) == (seen(a) >= seen(b))


@given(vectors)
def test_vector_descends_from_itself_and_from_nothing(a: dict[str, int]) -> None:
    assert descends(a, a)
    assert descends(a, {})


@given(vectors, vectors)
def test_concurrent_vectors_each_saw_something_alone(a: dict[str, int], b: dict[str, int]) -> None:
    assert concurrent_with(a, b) == bool(seen(a) - seen(b) and seen(b) - seen(a))


@given(vectors, vectors)
def test_merge_is_union_and_changes_neither(a: dict[str, int], b: dict[str, int]) -> None:
    a_before, b_before = dict(a), dict(b)
    merged = merge(a, b)
    assert seen(merged) == seen(a) | seen(b)
    assert (a, b) == (a_before, b_before)
    assert merged is not a
    assert merged is not b


@given(vectors, vectors, vectors)
def test_merge_is_a_semilattice(a: dict[str, int], b: dict[str, int], c: dict[str, int]) -> None:
    assert seen(merge(a, b)) == seen(merge(b, a))
    assert seen(merge(merge(a, b), c)) == seen(merge(a, merge(b, c)))
    assert merge(a, a) == a


@given(vectors, vectors)
def test_missing_is_what_merging_would_add(have: dict[str, int], wanted: dict[str, int]) -> None:
    lacking = missing(have, wanted)
    assert seen(merge(have, lacking)) == seen(merge(have, wanted))
    assert (not lacking) == descends(have, wanted)
    assert all(not covers(have, region, seq) for region, seq in lacking.items())
