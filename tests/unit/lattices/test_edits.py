from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.lattices import edits
from atoll.lattices.edits import Edit, list_edits, text_edits

texts = st.text(st.sampled_from("ab é日\n"), max_size=40)


def applied(old: Sequence[Any], new: Sequence[Any], changes: list[Edit]) -> list[Any]:
    result = list(old)
    for start, end, first, last in reversed(changes):
        result[start:end] = new[first:last]
    return result


def assert_ascending_and_apart(changes: list[Edit]) -> None:
    assert all(before.end <= after.start for before, after in pairwise(changes))
    assert all(edit.end > edit.start or edit.last > edit.first for edit in changes)


@given(old=texts, new=texts)
def test_edits_of_a_text_lead_to_the_other(old: str, new: str) -> None:
    changes = text_edits(old, new)
    assert "".join(applied(old, new, changes)) == new
    assert_ascending_and_apart(changes)


@given(old=st.lists(st.sampled_from("abc")), new=st.lists(st.sampled_from("abc")))
def test_edits_of_a_list_are_as_few_as_can_be(old: list[str], new: list[str]) -> None:
    changes = list_edits(old, new)
    assert applied(old, new, changes) == new
    removed = sum(edit.end - edit.start for edit in changes)
    blocks = SequenceMatcher(None, old, new, autojunk=False).get_matching_blocks()
    assert removed <= len(old) - sum(block.size for block in blocks)


@given(old=texts, new=texts, limit=st.integers(0, 3))
def test_edits_cut_short_lead_there_too(old: str, new: str, limit: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(edits, "MAX_EDITS", limit)
        assert "".join(applied(old, new, text_edits(old, new))) == new


def test_changed_letters_of_a_word_are_all_that_changes() -> None:
    assert text_edits("the color red", "the colour red") == [Edit(8, 8, 8, 9)]


def test_a_new_word_borrows_no_letters() -> None:
    assert text_edits("a cat sat", "a dog sat") == [Edit(2, 5, 2, 5)]


def test_edits_at_both_ends_leave_the_middle() -> None:
    middle = " same words" * 500
    assert text_edits("one" + middle + " two", "1" + middle + " 2") == [
        Edit(0, 3, 0, 1),
        Edit(5504, 5507, 5502, 5503),
    ]


def test_work_on_texts_that_share_nothing_is_bounded() -> None:
    old, new = "ab " * 50_000, "ba " * 50_000
    assert "".join(applied(old, new, text_edits(old, new))) == new
