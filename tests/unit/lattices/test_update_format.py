from __future__ import annotations

from typing import Any

import pytest
from pycrdt import Array, Doc, Map, Text

from atoll.errors import HostileEntry
from atoll.lattices.sequence import ListLattice, TextLattice
from atoll.lattices.update_format import ANY, Cursor, check_update

note, todo = TextLattice(), ListLattice()
ONE_STRUCT = b"\1\1\7\0"
HUGE = b"\xff\xff\xff\x7f"


def exported(name: str, content: Any) -> bytes:
    document: Doc[Any] = Doc(client_id=7)
    document[name] = content
    return document.get_update()


@pytest.mark.parametrize(
    "data",
    [
        HUGE,
        b"\1" + HUGE + b"\7\0",
        ONE_STRUCT + b"\x08\1\0" + HUGE,
        ONE_STRUCT + b"\x08\1\0\1\x76" + HUGE,
        ONE_STRUCT + b"\x08\1\0\1" + b"\x75\1" * 1_000_000 + b"\x7e\0",
        b"\0" + HUGE,
        b"\xff" * 100_000,
    ],
    ids=["clients", "structs", "elements", "object", "nested", "deletions", "number"],
)
def test_counts_and_nesting_that_the_library_would_follow_are_refused(data: bytes) -> None:
    with pytest.raises(HostileEntry):
        todo.decode(data)


@pytest.mark.parametrize(
    "elements", [[1], [{"a": 1}], [["1"]], [None], ["not JSON"], ["1 "], [b"1"]], ids=repr
)
def test_elements_that_lists_do_not_write_are_refused(elements: list[Any]) -> None:
    with pytest.raises(HostileEntry):
        todo.decode(exported("", Array(elements)))


@pytest.mark.parametrize("kind", [Array, Map, Text])
def test_nested_sequences_are_refused(kind: Any) -> None:
    with pytest.raises(HostileEntry, match="is not allowed here"):
        todo.decode(exported("", Array([kind()])))


def test_a_sequence_of_another_name_is_refused() -> None:
    with pytest.raises(HostileEntry, match="not in the one sequence"):
        note.decode(exported("other", Text("abc")))


def test_embedded_objects_are_refused() -> None:
    document: Doc[Any] = Doc()
    document[""] = text = Text("abc")
    text.insert_embed(1, {"image": "x"})
    with pytest.raises(HostileEntry, match="is not allowed here"):
        note.decode(document.get_update())


@pytest.mark.parametrize("data", [b"", b"\0", b"\0\0\0", ONE_STRUCT + b"\x04\1\0\2\xff\xff\0"])
def test_bytes_that_are_no_update_are_refused(data: bytes) -> None:
    with pytest.raises(HostileEntry):
        note.decode(data)


def test_other_yjs_texts_are_let_in() -> None:
    assert note.value(note.decode(exported("", Text("abc 日本 😀")))) == "abc 日本 😀"


def test_every_string_is_shown_to_the_check() -> None:
    seen: list[str] = []
    check_update(exported("", Array(["1", "2"])), ANY, seen.append)
    assert seen == ["1", "2"]


def test_numbers_are_read_as_written() -> None:
    assert Cursor(b"\x7f").number() == 127
    assert Cursor(b"\x80\x01").number() == 128
    assert Cursor(b"\xff\xff\xff\xff\xff\xff\xff\x0f").number() == 2**53 - 1
