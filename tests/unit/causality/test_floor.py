from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from atoll.causality.floor import floors_of, fold, lacking, origins_in, raised_by
from atoll.causality.origin import (
    Origin,
    by_region,
    incarnation_of,
    is_floor,
    of_region,
    origin_of,
    region_of,
)
from atoll.causality.types import Dot, RegionName, Seq, Stamp
from atoll.causality.vector import covers, descends, folds, merge
from atoll.commit.contexts import Contexts, outdated
from atoll.commit.identity import Identity
from atoll.documents.entry import Entry

REGIONS = tuple(map(RegionName, ("a", "b", "c")))


def test_a_floor_is_no_origin() -> None:
    assert is_floor("tokyo~")
    assert not is_floor("tokyo~5")
    assert region_of("tokyo~") == "tokyo"
    assert of_region({"tokyo": 2, "tokyo~": 5, "tokyo~5": 1}, "tokyo") == {"tokyo": 2, "tokyo~5": 1}
    assert by_region({"tokyo": 2, "tokyo~": 5, "tokyo~5": 1}) == {"tokyo": 3}


def test_a_floor_covers_the_incarnations_below_it() -> None:
    vector = {"tokyo~": 5, "tokyo~5": 3, "oregon": 2}
    assert covers(vector, "tokyo", 99)
    assert covers(vector, "tokyo~4", 99)
    assert not covers(vector, "tokyo~5", 4)
    assert not covers(vector, "tokyo~6", 1)
    assert not covers(vector, "oregon", 3)
    assert not covers(vector, "tokyo2", 1)
    assert not covers(vector, "tokyo~", 6)


def test_what_a_client_claims_beyond_is_not_folded_away() -> None:
    here = {"tokyo": 7, "tokyo~": 5, "tokyo~5": 1}
    assert fold({"tokyo": 7, "tokyo~": 5, "tokyo~5": 1}, here) == {"tokyo~": 5, "tokyo~5": 1}
    assert fold({"tokyo": 8, "tokyo~": 5, "tokyo~3": 1}, here) == {"tokyo": 8, "tokyo~": 5, "tokyo~3": 1}


def test_nothing_is_numbered_below_the_floor() -> None:
    assert outdated({"tokyo": 3, "tokyo~": 5}, Origin("tokyo")) is not None
    assert outdated({"tokyo": 3, "tokyo~": 5}, Origin("tokyo~5")) is None
    assert outdated({"tokyo": 3}, Origin("tokyo")) is None


class Written(NamedTuple):
    """An entry, and all that its writer had seen, written out."""

    dot: Dot
    context: dict[str, int]
    seen: frozenset[Dot]


class Model:
    """Regions that write, tell each other, and lose their disks. Each knows its position, and which entries it has."""

    def __init__(self) -> None:
        self.origins = {name: origin_of(name, 0) for name in REGIONS}
        self.positions: dict[str, dict[str, int]] = {name: {} for name in REGIONS}
        self.journals: dict[str, list[Written]] = {name: [] for name in REGIONS}

    def has(self, name: str) -> frozenset[Dot]:
        return frozenset(written.dot for written in self.journals[name])

    def settled(self, name: str) -> bool:
        """Whether it has whatever anybody has of its former incarnations."""
        held = frozenset[Dot]().union(*map(self.has, REGIONS))
        return {dot for dot in held if region_of(dot.origin) == name} <= self.has(name)

    def write(self, name: str) -> None:
        origin, position = self.origins[name], self.positions[name]
        floor = incarnation_of(origin) if self.settled(name) else 0
        contexts = Contexts(Identity(origin, REGIONS, 0, 0, floor=floor), position)
        context = contexts.next(position, origin)
        seq = Seq(position.get(origin, 0) + 1)
        assert context[origin] == seq - 1
        named = {each for each in context if folds(position, each) and each != origin}
        assert not named, "what was folded before is left out"
        self._append(name, Written(Dot(origin, seq), context, self.has(name)))
        position |= contexts.raised(_entry(origin, seq, context))

    def tell(self, source: str, name: str, of: Collection[str] = REGIONS, most: int = 99) -> None:
        """Entries of some regions come in the order of the source's journal, each in its turn."""
        for written in self.journals[source]:
            position, (origin, seq) = self.positions[name], written.dot
            if seq != position.get(origin, 0) + 1 or region_of(origin) not in of or most <= 0:
                continue
            most -= 1
            floors = raised_by(position, written.context)
            assert (floors is not None) == (written.seen <= self.has(name)), "as if nothing was folded"
            if floors is not None:
                position |= floors
                self._append(name, written)

    def lose(self, name: str) -> None:
        number = incarnation_of(self.origins[name]) + 1
        self.origins[name], self.positions[name], self.journals[name] = origin_of(name, number), {}, []

    def _append(self, name: str, written: Written) -> None:
        self.journals[name].append(written)
        self.positions[name][written.dot.origin] = written.dot.seq


def _entry(origin: Origin, seq: Seq, context: dict[str, int]) -> Entry:
    return Entry(origin, seq, Stamp(1), 0, context, ())


def stands_for(position: Mapping[str, int]) -> set[Dot]:
    return {Dot(Origin(o), Seq(n)) for o, last in origins_in(position).items() for n in range(1, last + 1)}


name_of = st.sampled_from(REGIONS)
pairs = st.sampled_from([(one, other) for one in REGIONS for other in REGIONS if one != other])
parts = st.sampled_from([("a",), REGIONS])
tells = st.builds(lambda pair, of, most: ("tell", *pair, of, most), pairs, parts, st.sampled_from([1, 99]))
steps = st.one_of(
    st.tuples(st.just("write"), st.one_of(st.just(REGIONS[0]), name_of)),
    tells,
    tells,
    st.tuples(st.just("lose"), st.sampled_from(REGIONS[:2])),
)


@settings(max_examples=600)
@given(st.lists(steps, min_size=5, max_size=30))
def test_a_history_with_floors_is_the_one_without(taken: list[tuple[Any, ...]]) -> None:
    model = Model()
    for verb, *rest in taken:
        getattr(model, verb)(*rest)
    everywhere = [written for name in REGIONS for written in model.journals[name]]
    dots = frozenset(written.dot for written in everywhere)
    for name in REGIONS:
        position = model.positions[name]
        assert stands_for(position) == model.has(name), "a position says all that is here"
        for dot in dots:
            assert covers(fold(position), *dot) == (dot in model.has(name))
        for written in everywhere:
            assert (raised_by(position, written.context) is not None) == (written.seen <= model.has(name))
            assert bool(lacking(written.context, position)) != (model.has(name) <= written.seen)
        for other in REGIONS:
            includes = model.has(name) >= model.has(other)
            assert descends(position, fold(model.positions[other])) == includes
            both = merge(fold(position), fold(model.positions[other]))
            for dot in dots:
                assert covers(both, *dot) == (dot in model.has(name) | model.has(other))
            assert not lacking(both, position)
    for written in everywhere:
        for dot in dots:
            assert covers(written.context, *dot) == (dot in written.seen)


def test_contexts_do_not_grow_with_lost_disks() -> None:
    model = Model()
    for _ in range(8):
        for name in REGIONS:
            model.write(name)
        for source in REGIONS:
            for name in REGIONS:
                model.tell(source, name)
        model.lose(REGIONS[0])
        for source in REGIONS[1:]:
            model.tell(source, REGIONS[0])
            model.tell(source, REGIONS[0])
    model.write(REGIONS[0])
    model.tell(REGIONS[0], REGIONS[1])
    for name in REGIONS[:2]:
        model.write(name)
        context = model.journals[name][-1].context
        assert floors_of(context) == {"a~": 8}
        assert origins_in(context).keys() == {"a~8", "b", "c"}
