from __future__ import annotations

from typing import get_args

from atoll.lattices.registry import LATTICES
from atoll.schema.fields import Kind


def test_every_kind_that_a_field_may_have_is_found_by_its_name() -> None:
    assert {*LATTICES, "map"} == {*get_args(Kind)}
    assert [LATTICES[kind]().kind for kind in LATTICES] == list(LATTICES)
