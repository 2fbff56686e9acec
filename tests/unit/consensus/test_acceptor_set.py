from __future__ import annotations

import pytest

from atoll.consensus.acceptor_set import AcceptorSet, decoded, encoded, of_document, wanted

THREE = AcceptorSet(7, ("a", "b", "c"))


def test_a_change_is_one_region_and_then_settled() -> None:
    grown = THREE.having("d", 2)
    assert grown == AcceptorSet(8, ("a", "b", "c", "d"), ("a", "b", "c"), ("d", 2))
    assert not grown.settled
    assert grown.all_moved() == AcceptorSet(9, ("a", "b", "c", "d"))
    assert THREE.without("b") == AcceptorSet(8, ("a", "c"), ("a", "b", "c"))
    assert decoded(encoded(grown)) == grown


@pytest.mark.parametrize(
    ("changed", "moved", "enough"),
    [
        (THREE.having("d", 0), "a", False),
        (THREE.having("d", 0), "ad", False),
        (THREE.having("d", 0), "ab", True),
        (THREE.without("c"), "a", False),
        (THREE.without("c"), "ac", False),
        (THREE.without("c"), "ab", True),
        (AcceptorSet(1, ("a", "b")).without("b"), "a", False),
        (AcceptorSet(1, ("a", "b")).without("b"), "ab", True),
        (AcceptorSet(1, ("a", "b", "c", "d")).without("d"), "ab", False),
        (AcceptorSet(1, ("a", "b", "c", "d")).without("d"), "abc", True),
        (AcceptorSet(1, ("a",)).having("b", 0), "a", True),
    ],
)
def test_a_majority_of_the_former_set_has_to_move(changed: AcceptorSet, moved: str, enough: bool) -> None:
    assert changed.enough_moved(moved) is enough


def test_the_files_of_a_majority_say_what_is_wanted() -> None:
    files = {"a": "abcd", "b": "abcd", "c": "abc", "d": "abcd"}
    assert wanted(THREE, files, "d", 3) == THREE.having("d", 3)
    assert wanted(THREE, {**files, "b": "abc"}, "d", 3) is None
    assert wanted(THREE, files, "a", 0) is None  # d adds itself, once it is there
    assert wanted(THREE, {"a": "ab", "b": "ab", "c": "abc"}, "a", 0) == THREE.without("c")
    assert wanted(THREE, {"a": "ab", "c": "abc"}, "a", 0) is None


def test_who_comes_goes_before_who_leaves() -> None:
    files = {"a": "abd", "b": "abd", "c": "abc", "d": "abd"}
    assert wanted(THREE, files, "d", 0) == THREE.having("d", 0)
    assert wanted(THREE, files, "a", 0) is None
    del files["d"]  # it is not there yet: nobody waits for it
    assert wanted(THREE, files, "a", 0) == THREE.without("c")


def test_a_region_that_alone_decides_does_not_remove_itself() -> None:
    assert wanted(AcceptorSet(1, ("a",)), {"a": "b"}, "a", 0) is None


def test_outcomes_and_sets_are_no_documents() -> None:
    assert of_document("account/k")
    assert not of_document(THREE.register)
    assert not of_document("=/t")
