from __future__ import annotations

import pytest

from atoll.errors import DeclarationError
from atoll.lattices.bounded_counter import BoundedCounterLattice
from atoll.lattices.registry import LATTICES, lattice_for


def test_every_kind_is_found_by_the_name_that_it_gives_itself() -> None:
    assert [lattice_for(kind).kind for kind in LATTICES] == list(LATTICES)


def test_options_reach_the_lattice() -> None:
    assert lattice_for("bounded_counter", minimum=3, split="creator") == BoundedCounterLattice(3, "creator")


@pytest.mark.parametrize(("kind", "options"), [("tree", {}), ("counter", {"minimum": 1})])
def test_unknown_kinds_and_options_are_refused(kind: str, options: dict[str, int]) -> None:
    with pytest.raises(DeclarationError, match=kind):
        lattice_for(kind, **options)
