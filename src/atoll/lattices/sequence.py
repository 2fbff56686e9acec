"""Texts and lists that several regions edit at once, on Yjs.

Positions count Unicode code points in texts, elements in lists. An element is kept as its canonical
JSON text, because Yjs itself has one kind of number, in which 2 and 2.0 are the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from atoll.errors import InvalidOperation
from atoll.lattices import encoding, yjs
from atoll.lattices.base import Actor, Lattice
from atoll.lattices.edits import Edit, list_edits, removals, text_edits
from atoll.lattices.json_values import (
    canonical_texts,
    check_integer,
    check_text,
    parse_canonical,
    parse_texts,
)
from atoll.lattices.update_format import ANY, STRING
from atoll.lattices.yjs import Opened, SequenceState

_ONE_BY_ONE = 16
"""Elements. The library inserts more of them slowly: it walks past all others each time."""
_parse_array = msgspec.json.Decoder(list[str]).decode


class _SequenceLattice(Lattice[SequenceState]):
    """What texts and lists have in common."""

    def empty(self) -> SequenceState:
        return SequenceState()

    def merge(self, state: SequenceState, delta: SequenceState) -> SequenceState:
        return yjs.join(state, delta)

    def gathered(self, deltas: Sequence[SequenceState]) -> SequenceState:
        return yjs.gathered(deltas)

    def encode(self, state: SequenceState) -> bytes:
        return yjs.encode(state)

    def followed(self, state: SequenceState) -> bool:
        return not state.apart

    def written_by(self, delta: SequenceState, region: str) -> bool:
        return yjs.inserted_by(delta, region)

    def restore(self, data: bytes) -> SequenceState:
        return yjs.restore(data)


@dataclass(frozen=True, slots=True)
class TextLattice(_SequenceLattice):
    """A string of Unicode characters. Concurrent insertions both stay, each in one piece."""

    kind = "text"
    operators = frozenset({"$append", "$splice"})

    def value(self, state: SequenceState) -> str:
        return _text(yjs.read(state))

    def difference(self, state: SequenceState, target: Any, actor: Actor) -> SequenceState | None:
        """Only the words that changed are replaced, so that edits elsewhere in the text live on."""
        new = check_text(target, "text")
        return _change_text(state, actor, lambda old: (text_edits(old, new), new))

    def operate(
        self, state: SequenceState, operator: str, argument: Any, actor: Actor
    ) -> SequenceState | None:
        return _change_text(state, actor, lambda old: _planned_text(old, operator, argument))

    def decode(self, data: bytes) -> SequenceState:
        return yjs.decode(data, STRING, _check_insertion)

    def canonical(self, state: SequenceState) -> bytes:
        return encoding.encode((*yjs.identity(state), self.value(state)))


@dataclass(frozen=True, slots=True)
class ListLattice(_SequenceLattice):
    """A list of JSON values, equal ones allowed. Concurrent insertions at one place all stay."""

    kind = "list"
    operators = frozenset({"$add", "$remove", "$splice"})

    def value(self, state: SequenceState) -> list[Any]:
        return parse_texts(_elements(yjs.read(state)))

    def text(self, state: SequenceState) -> bytes:
        return f"[{','.join(_elements(yjs.read(state)))}]".encode()

    def difference(self, state: SequenceState, target: Any, actor: Actor) -> SequenceState | None:
        """Only the elements that changed are replaced, so that edits elsewhere in the list live on."""
        new = canonical_texts(target, "list")
        return _change_list(state, actor, lambda old: (list_edits(old, new), new))

    def operate(
        self, state: SequenceState, operator: str, argument: Any, actor: Actor
    ) -> SequenceState | None:
        return _change_list(state, actor, lambda old: _planned_list(old, operator, argument))

    def decode(self, data: bytes) -> SequenceState:
        return yjs.decode(data, ANY, _check_element)

    def canonical(self, state: SequenceState) -> bytes:
        return encoding.encode((*yjs.identity(state), _elements(yjs.read(state))))


def _change_text(
    state: SequenceState, actor: Actor, plan: Callable[[str], tuple[list[Edit], str]]
) -> SequenceState | None:
    old = _text(yjs.read_for(state, actor))
    edits, new = plan(old)

    def edit(opened: Opened) -> None:
        shown = _text(opened)
        opened.shown = None
        with opened.document.transaction():
            text = yjs.text_of(opened)
            for start, end, first, last in reversed(edits):  # from the end, so that earlier positions hold
                at = _byte_offset(old, start)
                if shown and end > start:
                    del text[at : _byte_offset(old, end)]
                if last > first:
                    text.insert(at, new[first:last])
                shown = shown[:start] + new[first:last] + shown[end:]
        opened.shown = shown

    return yjs.change(state, actor, edit, anew=_nothing_stays(edits, len(old)))


def _nothing_stays(edits: list[Edit], length: int) -> bool:
    return len(edits) == 1 and edits[0][:2] == (0, length) and edits[0] != (0, 0, 0, 0)


def _change_list(
    state: SequenceState, actor: Actor, plan: Callable[[list[str]], tuple[list[Edit], list[str]]]
) -> SequenceState | None:
    old = _elements(yjs.read_for(state, actor))
    edits, new = plan(old)
    anew = _nothing_stays(edits, len(old))

    def edit(opened: Opened) -> None:
        shown = _elements(opened)
        opened.shown = None
        with opened.document.transaction():
            array = yjs.array_of(opened)
            for start, end, first, last in reversed(edits):
                if shown and end > start:
                    del array[start:end]
                if last > first:
                    array[start:start] = new[first:last]
                shown[start:end] = new[first:last]
        opened.shown = shown

    def edit_runs(opened: Opened) -> list[list[str]]:
        array, runs = yjs.array_of(opened), []
        length = len(array)
        with opened.document.transaction():
            for start, end, first, last in reversed(edits):
                if length and end > start:
                    del array[start:end]
                if last > first:
                    array.insert(start, "")
                    runs.append(new[first:last])
        return runs

    if any(last - first > _ONE_BY_ONE for _, _, first, last in edits):
        return yjs.change_runs(state, actor, edit_runs, anew=anew)
    return yjs.change(state, actor, edit, anew=anew)


def _planned_text(old: str, operator: str, argument: Any) -> tuple[list[Edit], str]:
    match operator:
        case "$append":
            new = check_text(argument, operator)
            return [Edit(len(old), len(old), 0, len(new))], new
        case "$splice":
            at, remove, insert = _splice(argument, len(old), "")
            new = check_text(insert, "$splice insert")
            return [Edit(at, at + remove, 0, len(new))], new
        case _:
            raise InvalidOperation(f"a text does not take {operator}; use $append or $splice")


def _planned_list(old: list[str], operator: str, argument: Any) -> tuple[list[Edit], list[str]]:
    match operator:
        case "$add":
            new = canonical_texts(argument, operator)
            return [Edit(len(old), len(old), 0, len(new))], new
        case "$remove":
            wanted = Counter(canonical_texts(argument, operator))
            return removals(old, sorted(_positions(old, wanted)))
        case "$splice":
            at, remove, insert = _splice(argument, len(old), [])
            new = canonical_texts(insert, "$splice insert")
            return [Edit(at, at + remove, 0, len(new))], new
        case _:
            raise InvalidOperation(f"a list does not take {operator}; use $add, $remove or $splice")


def _splice(argument: Any, length: int, nothing: Any) -> tuple[int, int, Any]:
    """`at`, `remove` and `insert` of a splice that fits a sequence of this length."""
    if not isinstance(argument, dict) or "at" not in argument or argument.keys() - {"at", "remove", "insert"}:
        raise InvalidOperation("$splice takes {at, remove, insert}: a position, a count, and what to insert")
    at = check_integer(argument["at"], "$splice at")
    remove = check_integer(argument.get("remove", 0), "$splice remove")
    if at < 0 or remove < 0 or at + remove > length:
        raise InvalidOperation(f"$splice of {remove} at {at} is outside the present length, {length}")
    return at, remove, argument.get("insert", nothing)


def _positions(old: list[str], wanted: Counter[str]) -> Iterator[int]:
    """Where the first of the wanted elements are, as many of each as are wanted."""
    if len(wanted) > _ONE_BY_ONE:
        for position, text in enumerate(old):
            if wanted[text] > 0:
                wanted[text] -= 1
                yield position
        return
    for text, count in wanted.items():  # to look for each alone is quicker while they are few
        yield from _first(old, text, count)


def _first(old: list[str], text: str, count: int) -> Iterator[int]:
    position = -1
    for _ in range(count):
        try:
            position = old.index(text, position + 1)
        except ValueError:
            return
        yield position


def _text(opened: Opened) -> str:
    if opened.shown is None:
        opened.shown = str(yjs.text_of(opened))
    shown: str = opened.shown
    return shown


def _elements(opened: Opened) -> list[str]:
    """Canonical texts, in order; not to be changed."""
    if opened.shown is None:
        opened.shown = _parse_array(str(yjs.array_of(opened)))
    shown: list[str] = opened.shown
    return shown


def _check_insertion(text: str) -> None:
    if not text:
        raise ValueError("an insertion is empty")


def _check_element(text: str) -> None:
    parse_canonical([text])


def _byte_offset(text: str, position: int) -> int:
    """Where Yjs, which counts UTF-8 bytes here, has this code point."""
    return position if text.isascii() else len(text[:position].encode())
