"""One property harness for all field types: regions that edit apart, and deltas that arrive in any order.

A state must be a pure function of the set of operations that it has seen.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from typing import Any

from hypothesis import strategies as st

from atoll.errors import BoundExceeded, InvalidOperation
from atoll.lattices.add_wins_set import SetLattice
from atoll.lattices.base import Actor, Lattice
from atoll.lattices.bounded_counter import BoundedCounterLattice
from atoll.lattices.counter import CounterLattice
from atoll.lattices.json_values import canonical_text, order_of, parse_texts
from atoll.lattices.sequence import ListLattice, TextLattice

REGIONS = ("frankfurt", "tokyo", "virginia")
ACTORS = tuple(Actor(region, REGIONS) for region in REGIONS)

small = st.integers(-9, 9)
scalars = (
    st.none()
    | st.booleans()
    | small
    | st.sampled_from([1.0, -0.0, 1e22, 2**63 - 1, -(2**63), "", "1", "é😀"])
)
elements = (
    scalars | st.lists(scalars, max_size=2) | st.dictionaries(st.sampled_from("ab"), scalars, max_size=2)
)
lists = st.lists(elements, max_size=4)
texts = st.text(st.sampled_from("ab \n\0é日😀\U0010ffff"), max_size=8)


def splices(inserts: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.fixed_dictionaries({"at": st.integers(0, 12), "remove": st.integers(0, 4), "insert": inserts})


@dataclass(frozen=True)
class Case:
    """A field type and what people do to it."""

    lattice: Lattice[Any]
    targets: st.SearchStrategy[Any]
    arguments: dict[str, st.SearchStrategy[Any]]

    def steps(self) -> st.SearchStrategy[list[tuple[Any, ...]]]:
        """(region, operator, argument), (region, "=", target) or (region, "pull", from region)."""
        region = st.integers(0, len(REGIONS) - 1)
        operations = [st.tuples(region, st.just(name), given) for name, given in self.arguments.items()]
        written = st.tuples(region, st.just("="), self.targets)
        pulled = st.tuples(region, st.just("pull"), region)
        return st.lists(st.one_of(*operations, written, pulled), max_size=12)

    def deltas(self) -> st.SearchStrategy[list[Any]]:
        """The deltas of a history, in the order of their origin, each as a peer decodes it."""
        return self.steps().map(self.run)

    def run(self, steps: Iterable[tuple[Any, ...]]) -> list[Any]:
        lattice = self.lattice
        states = [lattice.empty() for _ in REGIONS]
        deltas = []
        for region, name, argument in steps:
            if name == "pull":
                states[region] = lattice.merge(states[region], states[argument])
                continue
            try:
                if name == "=":
                    delta = lattice.difference(states[region], argument, ACTORS[region])
                else:
                    delta = lattice.operate(states[region], name, argument, ACTORS[region])
            except (BoundExceeded, InvalidOperation):
                continue
            if delta is not None:
                deltas.append(lattice.decode(lattice.encode(delta)))
                states[region] = lattice.merge(states[region], delta)
                if name == "=":
                    assert self.shows(lattice.value(states[region]), argument)
        return deltas

    def shows(self, value: Any, target: Any) -> bool:
        if self.lattice.kind == "set":
            return list(map(canonical_text, value)) == sorted(
                set(map(canonical_text, target)), key=value_order
            )
        return canonical_text(value) == canonical_text(target)

    def joined(self, deltas: Iterable[Any]) -> Any:
        return reduce(self.lattice.merge, deltas, self.lattice.empty())

    def seen(self, state: Any) -> tuple[bytes, str]:
        """All that tells a state: bytes for digests, and what a reader sees."""
        return self.lattice.canonical(state), canonical_text(self.lattice.value(state))


def value_order(text: str) -> Any:
    return order_of(text, parse_texts([text])[0])


CASES = {
    "counter": Case(CounterLattice(), small, {"$inc": small | st.integers(-(2**63), 2**63 - 1)}),
    "bounded counter": Case(BoundedCounterLattice(), st.integers(0, 20), {"$inc": small}),
    "bounded counter, creator": Case(
        BoundedCounterLattice(minimum=-5, split="creator"), st.integers(-5, 9), {"$inc": small}
    ),
    "set": Case(SetLattice(), lists, {"$add": lists, "$remove": lists}),
    "list": Case(ListLattice(), lists, {"$add": lists, "$remove": lists, "$splice": splices(lists)}),
    "text": Case(TextLattice(), texts, {"$append": texts, "$splice": splices(texts)}),
}
