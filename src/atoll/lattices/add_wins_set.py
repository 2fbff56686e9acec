"""Add-wins set: of a concurrent addition and removal of one element, the addition stays.

Delta AWORSet of Almeida, Shoker and Baquero, "Delta state replicated data types", 2018, section 7: no
tombstones. An addition has a dot (region, n); what the causal context covers and the entries lack is removed.
Here n is dense per set and region, so the context is a version vector, plus a cloud for what came early.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from atoll.errors import HostileEntry, InvalidOperation
from atoll.lattices import encoding
from atoll.lattices.base import Actor, Lattice
from atoll.lattices.encoding import SEQUENCE_MAX, Origin, Sequence
from atoll.lattices.json_values import canonical_texts, order_of, parse_canonical, parse_texts

Entries = dict[str, dict[int, str]]
"""Region → n → canonical text of the element which that addition added; no empty inner dicts."""
_PLAINLY_ORDERED: list[set[type]] = [{str}, {int}]  # the common sets, for which Python's order is the same


class _Index:
    """What a state's elements are found by; kept up to date with each small change, so that none is linear."""

    __slots__ = ("dots", "keys", "kind", "texts")

    def __init__(self, state: SetState) -> None:
        self.dots: dict[str, set[tuple[str, int]]] = {}
        """element → its additions, (region, n)."""
        self.keys: list[Any] = []
        """The elements' sort keys, in order. Of a set of one common type its values: Python's order is the same."""
        self.kind: type | None = None
        self.texts: list[str] = []
        """In the order of `keys`."""
        for region, additions in state.entries.items():
            for n, text in additions.items():
                self.dots.setdefault(text, set()).add((region, n))
        self._arrange()

    def remove(self, text: str, dot: tuple[str, int]) -> None:
        dots = self.dots[text]
        dots.discard(dot)
        if not dots:
            del self.dots[text]
            at = bisect_left(self.keys, self._key(text))
            del self.keys[at], self.texts[at]

    def add(self, text: str, dot: tuple[str, int]) -> None:
        dots = self.dots.setdefault(text, set())
        dots.add(dot)
        if len(dots) > 1:
            return
        (value,) = parse_texts([text])
        if self.kind is not None and value.__class__ is not self.kind:
            self._arrange()
            return
        key = self._key(text)
        at = bisect_left(self.keys, key)
        self.keys.insert(at, key)
        self.texts.insert(at, text)

    def _arrange(self) -> None:
        texts = list(self.dots)
        values = parse_texts(texts)
        kinds = {value.__class__ for value in values}
        self.kind = next(iter(kinds)) if kinds in _PLAINLY_ORDERED else None
        keys = (
            values if self.kind is not None else [order_of(t, v) for t, v in zip(texts, values, strict=True)]
        )
        order = sorted(range(len(keys)), key=keys.__getitem__)
        self.keys = [keys[at] for at in order]
        self.texts = [texts[at] for at in order]

    def _key(self, text: str) -> Any:
        (value,) = parse_texts([text])
        return value if self.kind is not None else order_of(text, value)


@dataclass(frozen=True, slots=True)
class SetState:
    """`seen` and `cloud` are the causal context, always compact: no dot of `cloud` is or extends `seen`.

    `spare` holds at most one index of this state. `merge` moves it to the next state.
    """

    entries: Entries
    seen: dict[str, int]
    cloud: dict[str, frozenset[int]]
    spare: list[_Index] = field(default_factory=list, compare=False, repr=False)

    def covers(self, region: str, n: int) -> bool:
        """Whether the addition (region, n) is known here, be its element still present or not."""
        return n <= self.seen.get(region, 0) or n in self.cloud.get(region, ())

    def highest(self, region: str) -> int:
        """The last n of the region's additions that are known here."""
        return max(self.seen.get(region, 0), max(self.cloud.get(region, ()), default=0))


_Wire = tuple[
    dict[Origin, Sequence],
    dict[Origin, list[Sequence]],
    dict[Origin, tuple[list[Sequence], list[str]]],
]
_decoder = msgspec.msgpack.Decoder(_Wire)
_EMPTY = SetState({}, {}, {})
_FEW = 10_000
"""More changes than these are not followed one by one: the index is then built anew, when it is needed."""


@dataclass(frozen=True, slots=True)
class SetLattice(Lattice[SetState]):
    """A set of JSON values, told apart by their canonical text; shown as a list in one order."""

    kind = "set"
    operators = frozenset({"$add", "$remove"})

    def empty(self) -> SetState:
        return _EMPTY

    def merge(self, state: SetState, delta: SetState) -> SetState:
        entries: Entries = {}
        for region in state.entries.keys() | delta.entries.keys():
            kept = _survivors(region, state, delta)
            if kept:
                entries[region] = kept
        merged = SetState(entries, *_join_contexts(state, delta))
        if state.spare and _context_size(delta) <= _FEW:
            merged.spare.append(_followed(state.spare.pop(), state, delta, merged))
        return merged

    def value(self, state: SetState) -> list[Any]:
        return parse_texts(_index(state).texts)

    def text(self, state: SetState) -> bytes:
        return f"[{','.join(_index(state).texts)}]".encode()

    def difference(self, state: SetState, target: Any, actor: Actor) -> SetState | None:
        wanted = _texts(target, "set")
        present = _index(state).dots
        return _change(
            state, [text for text in wanted if text not in present], present.keys() - wanted.keys(), actor
        )

    def operate(self, state: SetState, operator: str, argument: Any, actor: Actor) -> SetState | None:
        """Adding what is present is not idle: it outlives a concurrent removal elsewhere."""
        match operator:
            case "$add":
                return _change(state, _texts(argument, operator), (), actor)
            case "$remove":
                return _change(state, (), _texts(argument, operator), actor)
            case _:
                raise InvalidOperation(f"a set does not take {operator}; use $add or $remove with a list")

    def encode(self, state: SetState) -> bytes:
        cloud = {region: sorted(numbers) for region, numbers in state.cloud.items()}
        entries = {
            region: (numbers := sorted(additions), _in_order(additions, numbers))
            for region, additions in state.entries.items()
        }
        return encoding.encode((state.seen, cloud, entries))

    def decode(self, data: bytes) -> SetState:
        state = self.restore(data)
        for region, additions in state.entries.items():
            if not all(state.covers(region, n) for n in additions):
                raise HostileEntry("set state is malformed: an addition is outside its context", kind="set")
            try:
                parse_canonical(list(additions.values()))
            except (ValueError, RecursionError) as error:
                raise HostileEntry(f"set state holds a malformed element: {error}", kind="set") from None
        return state

    def written_by(self, delta: SetState, region: str) -> bool:
        return delta.entries.keys() <= {region}

    def restore(self, data: bytes) -> SetState:
        seen, early, listed = encoding.decode(_decoder, data, "set")
        entries = {}
        for region, (numbers, texts) in listed.items():
            entries[region] = dict(zip(numbers, texts, strict=False))
            if not len(entries[region]) == len(numbers) == len(texts) > 0:
                raise HostileEntry(
                    "set state is malformed: additions and elements do not pair up", kind="set"
                )
        return SetState(entries, *_compact(seen, {r: frozenset(numbers) for r, numbers in early.items()}))


def _texts(argument: Any, where: str) -> dict[str, None]:
    """Canonical texts of a list's elements, each once, in their order."""
    return dict.fromkeys(canonical_texts(argument, where))


def _in_order(additions: dict[int, str], numbers: list[int]) -> list[str]:
    """Their texts by ascending n: nearly always the order in which they came."""
    return list(additions.values()) if numbers == list(additions) else [additions[n] for n in numbers]


def _index(state: SetState) -> _Index:
    if not state.spare:
        state.spare.append(_Index(state))
    return state.spare[0]


def _followed(index: _Index, state: SetState, delta: SetState, merged: SetState) -> _Index:
    """The index of `state` as that of `merged`: they differ only in what the delta knows of."""
    for region in delta.seen.keys() | delta.cloud.keys():
        before, after = state.entries.get(region, {}), merged.entries.get(region, {})
        for n in _context_of(delta, region):
            old, new = before.get(n), after.get(n)
            if old != new:
                if old is not None:
                    index.remove(old, (region, n))
                if new is not None:
                    index.add(new, (region, n))
    return index


def _context_size(state: SetState) -> int:
    return sum(state.seen.values()) + sum(map(len, state.cloud.values()))


def _change(state: SetState, add: Iterable[str], remove: Iterable[str], actor: Actor) -> SetState | None:
    """One delta: a new dot for each addition, and in the context every dot that it replaces or removes."""
    present = _index(state).dots
    n = state.highest(actor.origin)
    additions: dict[int, str] = {}
    context: dict[str, set[int]] = {}
    for text in add:
        n += 1
        if n > SEQUENCE_MAX:
            raise InvalidOperation(
                f"{actor.origin} has no more dots for this set; continue in a new document"
            )
        additions[n] = text
        context.setdefault(actor.origin, set()).add(n)
    for text in (*additions.values(), *remove):
        for region, old in present.get(text, ()):
            context.setdefault(region, set()).add(old)
    if not context:
        return None
    entries: Entries = {actor.origin: additions} if additions else {}
    return SetState(entries, *_compact({}, {region: frozenset(ns) for region, ns in context.items()}))


def _survivors(region: str, a: SetState, b: SetState) -> dict[int, str]:
    """One region's additions that both sides hold, or that one holds and the other has not seen."""
    mine, theirs = a.entries.get(region, {}), b.entries.get(region, {})
    if not theirs and region not in b.seen and region not in b.cloud:
        return mine
    if len(mine) < len(theirs):
        a, b, mine, theirs = b, a, theirs, mine
    # A delta's context names few dots: then visit those, not every element of a large set.
    if b.seen.get(region, 0) + len(b.cloud.get(region, ())) < len(mine):
        kept = dict(mine)
        for n in _context_of(b, region):
            if n not in theirs:
                kept.pop(n, None)
    else:
        kept = {n: text for n, text in mine.items() if n in theirs or not b.covers(region, n)}
    for n, text in theirs.items():
        if n in mine:
            kept[n] = max(mine[n], text)  # equal, unless a region lost its memory and numbered twice
        elif not a.covers(region, n):
            kept[n] = text
    return kept


def _context_of(state: SetState, region: str) -> Iterator[int]:
    yield from range(1, state.seen.get(region, 0) + 1)
    yield from state.cloud.get(region, ())


def _join_contexts(a: SetState, b: SetState) -> tuple[dict[str, int], dict[str, frozenset[int]]]:
    seen = dict(a.seen)
    for region, n in b.seen.items():
        seen[region] = max(seen.get(region, 0), n)
    cloud = dict(a.cloud)
    for region, numbers in b.cloud.items():
        cloud[region] = cloud.get(region, frozenset()) | numbers
    return _compact(seen, cloud) if cloud else (seen, cloud)


def _compact(
    seen: dict[str, int], cloud: Mapping[str, frozenset[int]]
) -> tuple[dict[str, int], dict[str, frozenset[int]]]:
    """Move to the vector what the cloud holds without a gap."""
    rest: dict[str, frozenset[int]] = {}
    for region, numbers in cloud.items():
        top = seen.get(region, 0)
        while top + 1 in numbers:
            top += 1
        if top:
            seen[region] = top
        later = frozenset(n for n in numbers if n > top)
        if later:
            rest[region] = later
    return seen, rest
