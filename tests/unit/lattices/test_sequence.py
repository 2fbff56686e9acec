from __future__ import annotations

import random
from functools import reduce
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.errors import DeclarationError, HostileEntry, InvalidOperation
from atoll.lattices import yjs
from atoll.lattices.base import Actor
from atoll.lattices.resets import split
from atoll.lattices.sequence import ListLattice, TextLattice
from atoll.lattices.update_format import structs_of

from .harness import CASES

REGIONS = ("frankfurt", "tokyo")
FRANKFURT, TOKYO = (Actor(region, REGIONS) for region in REGIONS)

note = TextLattice()
todo = ListLattice()


def after(lattice: Any, *deltas: Any) -> Any:
    return reduce(lattice.merge, [delta for delta in deltas if delta is not None], lattice.empty())


def after_on(lattice: Any, state: Any, *deltas: Any) -> Any:
    return reduce(lattice.merge, deltas, state)


def text(content: str) -> Any:
    return after(note, note.difference(note.empty(), content, TOKYO))


def items(*elements: Any) -> Any:
    return after(todo, todo.operate(todo.empty(), "$add", list(elements), TOKYO))


def splice(at: int, remove: int, insert: Any) -> dict[str, Any]:
    return {"at": at, "remove": remove, "insert": insert}


def test_concurrent_edits_of_a_text_both_survive() -> None:
    seen = text("The fox jumps.")
    one = note.difference(seen, "The quick fox jumps.", FRANKFURT)
    other = note.difference(seen, "The fox jumps over the dog.", TOKYO)
    assert note.value(after(note, seen, one, other)) == "The quick fox jumps over the dog."


def test_concurrent_insertions_at_one_place_stay_whole() -> None:
    seen = text("[]")
    one = note.operate(seen, "$splice", splice(1, 0, "aaa"), FRANKFURT)
    other = note.operate(seen, "$splice", splice(1, 0, "bbb"), TOKYO)
    assert note.value(after(note, seen, one, other)) in {"[aaabbb]", "[bbbaaa]"}


@pytest.mark.parametrize("before", ["", "é", "日本", "😀", "👩‍👩‍👧", "\0"])
def test_positions_count_code_points(before: str) -> None:
    seen = text(before + "abc")
    delta = note.operate(seen, "$splice", splice(len(before) + 1, 1, "😀"), FRANKFURT)
    assert note.value(after(note, seen, delta)) == before + "a😀c"


@given(old=st.text(max_size=40), new=st.text(max_size=40))
def test_any_text_can_be_written_over_any_other(old: str, new: str) -> None:
    seen = text(old)
    assert note.value(after(note, seen, note.difference(seen, new, FRANKFURT))) == new


def test_append_goes_to_the_end_as_seen() -> None:
    seen = text("log:")
    assert note.value(after(note, seen, note.operate(seen, "$append", " é", TOKYO))) == "log: é"


@pytest.mark.parametrize(
    "argument",
    [
        splice(-1, 0, "x"),
        splice(2, 2, "x"),
        splice(4, 0, "x"),
        splice(0, -1, "x"),
        splice(0, 0, 1),
        splice(0, 0, "\ud800"),
        {"at": True},
        {"remove": 1},
        {"at": 0, "size": 1},
        "x",
    ],
)
def test_splices_that_do_not_fit_are_refused(argument: Any) -> None:
    with pytest.raises(InvalidOperation):
        note.operate(text("abc"), "$splice", argument, TOKYO)


def test_list_keeps_order_and_equal_elements() -> None:
    state = items("b", "a", "b", 1, 1.0, True, None, {"k": [2**63 - 1]})
    shown = todo.value(todo.decode(todo.encode(state)))
    assert list(map(repr, shown)) == [
        "'b'", "'a'", "'b'", "1", "1.0", "True", "None", "{'k': [9223372036854775807]}",
    ]  # fmt: skip


def test_remove_takes_the_first_of_equal_elements() -> None:
    seen = items("a", "b", "a", "b", "a")
    assert todo.value(after(todo, seen, todo.operate(seen, "$remove", ["a", "a", "z"], TOKYO))) == [
        "b",
        "b",
        "a",
    ]


def test_concurrent_edits_of_a_list_all_survive() -> None:
    seen = items("milk", "bread", "eggs")
    one = todo.difference(seen, ["milk", "rye bread", "eggs"], FRANKFURT)
    other = todo.operate(seen, "$add", ["tea"], TOKYO)
    third = todo.operate(seen, "$splice", splice(0, 1, ["oat milk"]), Actor("virginia", REGIONS))
    assert todo.value(after(todo, seen, one, other, third)) == ["oat milk", "rye bread", "eggs", "tea"]


def test_nothing_to_change_is_no_delta() -> None:
    assert note.difference(text("same"), "same", TOKYO) is None
    assert note.operate(text("same"), "$append", "", TOKYO) is None
    assert todo.operate(items("a"), "$remove", ["b"], TOKYO) is None
    assert todo.operate(items("a"), "$splice", {"at": 1}, TOKYO) is None


def test_delta_is_small_beside_its_text() -> None:
    seen = text("lorem ipsum " * 1000)
    for n in range(20):
        seen = after(note, seen, note.operate(seen, "$splice", splice(n * 30, 2, "x"), FRANKFURT))
    assert len(note.encode(note.operate(seen, "$splice", splice(9, 0, "x"), TOKYO))) < 40


def test_deleted_text_is_not_kept() -> None:
    seen = text("password: hunter2")
    cleared = after(note, seen, note.difference(seen, "password: ", FRANKFURT))
    assert b"hunter" not in note.encode(cleared)


def test_one_region_s_deltas_continue_each_other() -> None:
    state, deltas = note.empty(), []
    for letter in "abcd":
        deltas.append(note.decode(note.encode(note.operate(state, "$append", letter, TOKYO))))
        state = note.restore(note.encode(note.merge(state, deltas[-1])))
    assert {note.value(after(note, *order)) for order in permutations(deltas)} == {"abcd"}


def test_deletion_that_arrives_before_its_text_waits() -> None:
    first = note.operate(note.empty(), "$append", "ab", TOKYO)
    second = note.operate(after(note, first), "$append", "cd", TOKYO)
    cut = note.operate(after(note, first, second), "$splice", splice(1, 2, ""), FRANKFURT)
    early = note.restore(note.encode(after(note, first, cut)))
    assert note.value(note.merge(early, second)) == "ad"


def test_what_comes_behind_a_gap_waits_beside_a_reset_too() -> None:
    """In whatever order it is merged: the library lets a gap count as something to stand beside."""
    case = CASES["text"]
    replaced = {"at": 0, "remove": 1, "insert": "\n"}
    steps = [
        (0, "$append", "aaa"),
        (1, "$append", "aaa"),
        (0, "=", ""),
        (1, "$splice", replaced),
        (1, "=", "a\n"),
    ]
    one, other, emptied, _, behind = case.run(steps)
    joined = [
        case.lattice.merge(case.joined(order[:at]), case.joined(order[at:]))
        for order in permutations((one, other, emptied, behind))
        for at in (2, 4)
    ]
    assert len({case.seen(state) for state in joined}) == 1


def test_long_histories_are_folded() -> None:
    state = note.empty()
    for _ in range(600):
        state = note.merge(state, note.operate(state, "$append", "x", TOKYO))
    assert len(state.updates) < 260
    assert note.value(state) == "x" * 600


@pytest.mark.parametrize("lattice", [note, todo], ids=["text", "list"])
def test_a_sequence_that_is_emptied_does_not_grow(lattice: Any) -> None:
    """Written, edited in its middle, and emptied, again and again."""
    rng, words = random.Random(1), ["some", "words", "to", "be", "edited"]
    whole, nothing, few = (" ".join(words), "", "xy") if lattice is note else (words, [], ["x"])
    state, sizes, wire = lattice.empty(), [], 0
    for _ in range(50):
        state = after_on(lattice, state, lattice.difference(state, whole, FRANKFURT))
        for _ in range(20):
            at = rng.randint(0, len(lattice.value(state)))
            delta = lattice.operate(state, "$splice", splice(at, 0, few), rng.choice([FRANKFURT, TOKYO]))
            state = after_on(lattice, state, delta)
        emptied = lattice.difference(state, nothing, rng.choice([FRANKFURT, TOKYO]))
        wire = max(wire, len(lattice.encode(emptied)))
        state = after_on(lattice, state, emptied)
        assert lattice.value(state) == nothing
        sizes.append(len(lattice.encode(state)))
        state = lattice.restore(lattice.encode(state))
    assert wire < 40
    assert max(sizes) <= 80


def test_what_was_emptied_is_not_kept_while_others_write_on() -> None:
    seen = text("password: hunter2")
    cleared = note.difference(seen, "", FRANKFURT)
    more = note.operate(seen, "$splice", splice(8, 0, " of mine"), TOKYO)
    fixed = note.operate(after(note, seen, more), "$splice", splice(12, 0, "g"), TOKYO)
    states = [after(note, *order) for order in permutations([seen, cleared, more, fixed])]
    assert {note.value(state) for state in states} == {" of gmine"}
    assert all(b"hunter" not in note.encode(state) for state in states)
    assert len({note.canonical(state) for state in states}) == 1
    rest = note.difference(states[0], "", FRANKFURT)
    assert len(note.encode(note.merge(states[0], rest))) <= 80


@pytest.mark.parametrize("lattice", [note, todo], ids=["text", "list"])
@given(seed=st.integers(0, 2**32))
def test_words_outlive_emptyings_that_had_not_seen_them(lattice: Any, seed: int) -> None:
    """Regions write words between others' words, empty the sequence, and hear of each other."""
    rng = random.Random(seed)
    actors = [
        Actor(region, ("frankfurt", "tokyo", "virginia")) for region in ("frankfurt", "tokyo", "virginia")
    ]
    states: list[Any] = [lattice.empty() for _ in actors]
    heard: list[list[int]] = [[] for _ in actors]
    seen: list[set[str]] = [set() for _ in actors]
    deltas: list[bytes] = []
    effects: list[tuple[str, set[str]]] = []
    for number in range(rng.randint(2, 30)):
        at = rng.randrange(3)
        if rng.random() < 0.3:
            other = rng.randrange(3)
            for index in heard[other][: rng.randint(0, len(heard[other]))]:
                if index not in heard[at]:
                    states[at] = lattice.merge(states[at], lattice.decode(deltas[index]))
                    heard[at].append(index)
                    seen[at].add(effects[index][0])
            continue
        shown = lattice.value(states[at])
        word = "" if rng.random() < 0.25 else f"{rng.choice('aé😀')}{number:02}"
        if word:
            argument = splice(3 * rng.randint(0, len(shown) // 3), 0, word if lattice is note else list(word))
        else:
            argument = splice(0, len(shown), word if lattice is note else [])
        delta = lattice.operate(states[at], "$splice", argument, actors[at])
        if delta is None:
            continue
        effects.append((word, set() if word else set(seen[at])))
        seen[at].add(word)
        heard[at].append(len(deltas))
        deltas.append(lattice.encode(delta))
        states[at] = lattice.merge(states[at], delta)
        if rng.random() < 0.3:
            states[at] = lattice.restore(lattice.encode(states[at]))
        again = after(
            lattice, *(lattice.decode(deltas[index]) for index in rng.sample(heard[at], len(heard[at])))
        )
        assert lattice.canonical(again) == lattice.canonical(states[at])
    gone = set().union(*(covered for _, covered in effects), {""})
    order = rng.sample(deltas, len(deltas))
    final = after(lattice, *map(lattice.decode, order))
    for state in (states[0], states[1]):
        assert lattice.canonical(after_on(lattice, state, *map(lattice.decode, order))) == lattice.canonical(
            final
        )
    shown = "".join(lattice.value(final))
    assert sorted(shown[at : at + 3] for at in range(0, len(shown), 3)) == sorted(
        {w for w, _ in effects} - gone
    )


@given(seed=st.integers(0, 2**32))
def test_a_text_that_was_emptied_meanwhile_is_edited_on(seed: int) -> None:
    """Encoded after each edit, and hearing of others, it holds what it would without having been encoded."""
    rng = random.Random(seed)
    seen = text("seed")
    written = note.operate(seen, "$splice", splice(2, 0, "0123456789"), TOKYO)
    assert written is not None
    deltas = [note.encode(each) for each in (seen, written, note.difference(seen, "", FRANKFURT))]
    state, never = (after(note, *map(note.decode, deltas)) for _ in range(2))
    assert state.apart
    for number in range(rng.randint(1, 12)):
        shown = note.value(state)
        at = rng.randint(0, len(shown))
        gone = rng.choice([0, 0, rng.randint(0, len(shown) - at)])
        delta = note.operate(
            state, "$splice", splice(at, gone, f"<{number}>"), rng.choice([TOKYO, FRANKFURT])
        )
        assert delta is not None
        wire = note.encode(delta)
        state = note.merge(state, delta if rng.random() < 0.7 else note.decode(wire))
        never = note.merge(never, note.decode(wire))
        left = note.encode(state)
        assert note.canonical(state) == note.canonical(note.restore(left)) == note.canonical(never)
        kept = structs_of(split(left)[1])[0]
        assert sum(len(each.content) for each in kept) == len(note.value(state))


def test_an_insertion_into_a_text_that_was_emptied_costs_what_it_inserts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = text("seed")
    written = note.operate(seen, "$splice", splice(2, 0, "of all"), TOKYO)
    state = after(note, seen, written, note.difference(seen, "", FRANKFURT))
    monkeypatch.setattr(yjs, "beyond", None)
    for number in range(3):
        state = note.merge(state, note.operate(state, "$splice", splice(number, 0, "x"), TOKYO))
        assert len(state.updates) <= 2
        note.encode(state)
    assert note.value(state) == "xxxof all"


def test_a_reset_that_no_region_writes_is_refused() -> None:
    one, two = b"\x01\x05", b"\x02\x05"
    assert note.value(note.decode(b"\0\0\x02" + one + two + b"\0\0")) == ""
    for header in (
        b"\0",
        b"\x02" + one + one,
        b"\x02" + two + one,
        b"\x01\x01\0",
        b"\x01\x01\xff\xff\xff\xff\x7f",
    ):
        with pytest.raises(HostileEntry):
            note.decode(b"\0\0" + header + b"\0\0")


def test_a_text_is_no_list() -> None:
    with pytest.raises(HostileEntry):
        todo.decode(note.encode(text("abc")))
    with pytest.raises(HostileEntry):
        note.decode(todo.encode(items("abc")))


def test_regions_whose_client_ids_clash_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Constant:
        def __init__(self, *_: object, **__: object) -> None: ...

        def digest(self) -> bytes:
            return b"same"

    monkeypatch.setattr(yjs, "blake2b", Constant)
    with pytest.raises(DeclarationError, match="rename"):
        note.operate(note.empty(), "$append", "a", Actor("osaka", ("osaka", "kyoto")))
