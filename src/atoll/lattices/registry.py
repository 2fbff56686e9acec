"""The field types by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from atoll.lattices.add_wins_set import SetLattice
from atoll.lattices.base import Lattice
from atoll.lattices.bounded_counter import BoundedCounterLattice
from atoll.lattices.counter import CounterLattice
from atoll.lattices.sequence import ListLattice, TextLattice

LATTICES: Mapping[str, Callable[..., Lattice[Any]]] = {
    lattice.kind: lattice
    for lattice in (CounterLattice, BoundedCounterLattice, SetLattice, ListLattice, TextLattice)
}
