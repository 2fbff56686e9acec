from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import pytest
from pydantic import ValidationError

from atoll.errors import DeclarationError
from atoll.schema import (
    Bound,
    BoundedCounter,
    Collection,
    Counter,
    ListOf,
    MapOf,
    SetOf,
    Text,
    compile_collection,
)


class Everything(Collection):
    views: Counter
    stock: BoundedCounter
    overdraft: Annotated[BoundedCounter, Bound(minimum=-5, split="creator")] = 0
    items: SetOf[str]
    steps: ListOf[dict[str, int]]
    scores: MapOf[float]
    body: Text


def test_mergeable_fields_have_implicit_defaults() -> None:
    made = Everything(key="x")
    assert (made.views, made.stock, made.overdraft, made.body) == (0, 0, 0, "")
    assert (made.items, made.steps, made.scores) == (set(), [], {})


def test_defaults_are_not_shared_between_instances() -> None:
    Everything(key="x").items.add("a")
    assert Everything(key="y").items == set()


def test_each_field_has_its_lattice_and_a_map_has_none() -> None:
    schema = compile_collection(Everything)
    assert {name: lattice.kind for name, lattice in schema.lattices.items()} == {
        "views": "counter",
        "stock": "bounded_counter",
        "overdraft": "bounded_counter",
        "items": "set",
        "steps": "list",
        "body": "text",
    }
    assert schema.maps == ("scores",)
    assert schema.plain == ()


def test_outer_bound_replaces_inner_one() -> None:
    lattice = compile_collection(Everything).lattices["overdraft"]
    assert (lattice.minimum, lattice.split) == (-5, "creator")
    assert Everything(key="x", overdraft=-5).overdraft == -5
    with pytest.raises(ValidationError):
        Everything(key="x", overdraft=-6)


def test_bounded_counter_starts_at_its_bound_or_above() -> None:
    with pytest.raises(ValidationError):
        Everything(key="x", stock=-1)


def test_set_is_a_sorted_list_in_json() -> None:
    class Tags(Collection):
        numbers: SetOf[int]
        times: SetOf[datetime]

    schema = compile_collection(Tags)
    made = Tags(key="x", numbers={10, 9, -1}, times={datetime(2026, 1, day, tzinfo=UTC) for day in (2, 1)})
    assert schema.document_of(made) == {
        "numbers": [-1, 9, 10],
        "times": ["2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"],
    }


def test_set_takes_a_list_from_python() -> None:
    assert Everything(key="x", items=["a", "b", "a"]).items == {"a", "b"}  # type: ignore[arg-type]


def test_elements_of_a_set_are_single_values() -> None:
    with pytest.raises(DeclarationError, match=r"single values"):

        class Bad(Collection):
            items: SetOf[list[str]]


def test_mergeable_field_cannot_be_optional() -> None:
    with pytest.raises(DeclarationError, match=r"Bad\.n: a counter inside another type"):

        class Bad(Collection):
            n: Counter | None


def test_elements_are_checked_by_themselves() -> None:
    schema = compile_collection(Everything)
    assert schema.validate_element("items", "a") == "a"
    assert schema.validate_element("steps", {"a": 1}) == {"a": 1}
    assert schema.validate_map_value("scores", 1) == 1.0
