from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.documents import strategies
from atoll.documents.register import Operation, Register, Version, canonical_order, merge
from atoll.documents.strategies import Fold, ResolverFailed, kind_of, within_uncertainty

INSERT, UPDATE, DELETE = Operation.INSERT, Operation.UPDATE, Operation.DELETE


def version(
    region: str, ms: int, value: Any = 0, operation: int = UPDATE, uncertainty_ms: int = 5
) -> Version:
    text = None if operation == DELETE else msgspec.json.encode(value)
    return Version(region, 1, ms << 16, uncertainty_ms, operation, {}, text)


def register(*versions: Version) -> Register:
    return tuple(sorted(versions, key=canonical_order))


EARLY, LATE = version("b", 10, {"n": 1}), version("a", 20, {"n": 2})
GONE = version("c", 15, operation=DELETE)
ALL: list[Callable[[Register], Fold]] = [
    strategies.last_write_wins,
    strategies.first_write_wins,
    strategies.update_wins,
    strategies.delete_wins,
    strategies.deep_merge,
    strategies.manual,
]


@pytest.mark.parametrize(
    ("strategy", "winner"),
    [
        (strategies.last_write_wins, LATE),
        (strategies.first_write_wins, EARLY),
        (strategies.update_wins, LATE),
        (strategies.delete_wins, GONE),
        (strategies.manual, LATE),
    ],
)
def test_each_strategy_has_its_winner(strategy: Callable[[Register], Fold], winner: Version) -> None:
    fold = strategy(register(EARLY, GONE, LATE))
    assert fold.winner is winner
    assert fold.value == winner.value
    assert fold.reason


def test_a_region_s_name_breaks_a_tie() -> None:
    tied = register(version("a", 10, "a"), version("b", 10, "b"))
    assert strategies.last_write_wins(tied).winner.origin == "b"
    assert strategies.first_write_wins(tied).winner.origin == "a"


def test_objects_are_merged_member_by_member() -> None:
    one = version("a", 1, {"x": 1, "deep": {"l": 1, "both": 1}, "list": [1]})
    two = version("b", 2, {"y": 2, "deep": {"r": 2, "both": 2}, "list": [2]})
    fold = strategies.deep_merge(register(one, two))
    assert fold.value is not None
    expected = {"x": 1, "y": 2, "deep": {"l": 1, "r": 2, "both": 2}, "list": [2]}
    assert msgspec.json.decode(fold.value) == expected
    assert fold.outcome == "merged"


@pytest.mark.parametrize("value", [7, "seven", [7], None])
def test_what_is_no_object_is_the_later_write_s(value: Any) -> None:
    fold = strategies.deep_merge(register(version("a", 1, {"x": 1}), version("b", 2, value)))
    assert (fold.value, fold.outcome) == (msgspec.json.encode(value), "picked")


values = st.recursive(
    st.integers(0, 3), lambda inner: st.dictionaries(st.sampled_from("xyz"), inner, max_size=3), max_leaves=6
)
versions = st.builds(
    version, st.sampled_from("abcdef"), st.integers(0, 3), values, st.sampled_from([0, 1, 2])
)


@given(st.lists(versions, min_size=1, max_size=5, unique_by=lambda v: v.origin), st.randoms())
def test_the_order_of_arrival_changes_nothing(arrived: list[Version], random: Any) -> None:
    def joined(order: Sequence[Version]) -> Register:
        state: Register = ()
        for each in order:
            state = merge(state, (each,))
        return state

    shuffled = random.sample(arrived, len(arrived))
    for strategy in ALL:
        assert strategy(joined(arrived)) == strategy(joined(shuffled))


def test_a_custom_function_sees_the_canonical_order() -> None:
    seen: list[Sequence[bytes | None]] = []

    def resolver(found: Sequence[bytes | None]) -> bytes | None:
        seen.append(found)
        return b'{"n":3}'

    fold = strategies.custom(register(LATE, GONE, EARLY), resolver)
    assert seen == [[EARLY.value, None, LATE.value]]
    assert (fold.value, fold.winner, fold.outcome) == (b'{"n":3}', LATE, "merged")


def test_a_custom_choice_is_the_chosen_one_s() -> None:
    fold = strategies.custom(register(EARLY, LATE), lambda found: found[0])
    assert (fold.winner, fold.outcome) == (EARLY, "picked")


def test_a_custom_function_that_fails_leaves_it_to_a_person() -> None:
    def resolver(found: Sequence[bytes | None]) -> bytes | None:
        raise ResolverFailed("it raised")

    fold = strategies.custom(register(EARLY, LATE), resolver)
    assert (fold.outcome, fold.value) == ("manual", LATE.value)
    assert "it raised" in fold.reason


@pytest.mark.parametrize(
    ("losing", "winning", "kind"),
    [
        (INSERT, INSERT, "insert_exists"),
        (UPDATE, UPDATE, "update_origin_differs"),
        (INSERT, UPDATE, "update_origin_differs"),
        (UPDATE, DELETE, "update_deleted"),
        (INSERT, DELETE, "update_deleted"),
        (DELETE, UPDATE, "delete_origin_differs"),
        (DELETE, DELETE, "delete_origin_differs"),
    ],
)
def test_kinds_have_the_field_s_names(losing: int, winning: int, kind: str) -> None:
    assert kind_of(version("a", 1, operation=losing), version("b", 2, operation=winning)) == kind


@pytest.mark.parametrize(("apart_ms", "uncertain"), [(0, True), (12, True), (13, False)])
def test_an_order_within_both_clocks_errors_is_uncertain(apart_ms: int, uncertain: bool) -> None:
    one, other = version("a", 100, uncertainty_ms=5), version("b", 100 + apart_ms, uncertainty_ms=7)
    assert within_uncertainty(one, other) is within_uncertainty(other, one) is uncertain


def test_a_higher_rank_wins_whatever_its_stamp() -> None:
    def ranked(ms: int, epoch: int, revision: int) -> Version:
        return version("a", ms, {"epoch": epoch, "revision": revision})

    late, of_epoch, of_revision = ranked(30, 1, 2), ranked(10, 2, 1), ranked(20, 1, 9)
    assert strategies.highest_rank((of_epoch, of_revision, late)).winner is of_epoch
    assert strategies.highest_rank((of_revision, late)).winner is of_revision
    assert strategies.highest_rank((late, version("b", 90, operation=DELETE))).winner is late
