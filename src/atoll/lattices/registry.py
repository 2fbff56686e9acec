"""The field types by name, for schemas and for readers of a journal without one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from atoll.errors import DeclarationError
from atoll.lattices.add_wins_set import SetLattice
from atoll.lattices.base import Lattice
from atoll.lattices.bounded_counter import BoundedCounterLattice
from atoll.lattices.counter import CounterLattice
from atoll.lattices.sequence import ListLattice, TextLattice

LATTICES: dict[str, Callable[..., Lattice[Any]]] = {
    "counter": CounterLattice,
    "bounded_counter": BoundedCounterLattice,
    "set": SetLattice,
    "list": ListLattice,
    "text": TextLattice,
}


def lattice_for(kind: str, **options: Any) -> Lattice[Any]:
    """The lattice of a kind, declared with `options` (`minimum` and `split` of a bounded counter)."""
    try:
        return LATTICES[kind](**options)
    except KeyError:
        raise DeclarationError(
            f"no field type is called {kind!r}; the types are {', '.join(LATTICES)}"
        ) from None
    except TypeError as error:
        raise DeclarationError(f"{kind} does not take {options}: {error}") from None
