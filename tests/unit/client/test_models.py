from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import pytest
from pydantic import BaseModel

from atoll import errors
from atoll.client.batch import Patch
from atoll.client.calls import Calls
from atoll.schema import Add, Append, Collection, Decrement, Increment, ListOf, Remove, SetOf, Splice, Text
from atoll.schema.models import jsonable, model_of, operators_of, schema_of

from .world import Inventory


class Address(BaseModel):
    street: str


class Customer(Collection):
    name: str | None = None
    since: datetime | None = None
    credit: Decimal = Decimal(0)
    address: Address | None = None
    tags: SetOf[str]
    log: ListOf[datetime]
    note: Text


SCHEMA = schema_of(Customer)
NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


def test_values_are_set() -> None:
    changes = {"since": NOON, "credit": Decimal("1.50"), "address": Address(street="s"), "tags": {"b", "a"}}
    assert operators_of(SCHEMA, changes) == {
        "$set": {
            "since": "2026-11-23T12:00:00Z",
            "credit": "1.50",
            "address": {"street": "s"},
            "tags": ["a", "b"],
        }
    }


def test_none_is_a_value() -> None:
    assert operators_of(SCHEMA, {"name": None}) == {"$set": {"name": None}}


@pytest.mark.parametrize("value", [float("nan"), [float("-inf")], {"a": {"b": float("inf")}}, "\ud800"])
def test_what_json_cannot_say_is_refused_and_not_null(value: object) -> None:
    calls = Calls(None)
    for asked in (
        lambda: calls.patch(Customer, "ann", None, {"$set": {"name": value}}),
        lambda: calls.batch([Patch(Customer, "ann", {"$set": {"name": value}})]),
        lambda: calls.page(Customer, "", [("name", "eq", value)], 10, None),
        lambda: calls.resolve("c", {"name": value}),
    ):
        with pytest.raises(errors.InvalidDocument):
            asked()


def test_a_lone_surrogate_is_refused_in_a_query() -> None:
    calls = Calls(None)
    for asked in (
        lambda: calls.page(Customer, "\ud800", [], 10, None),
        lambda: calls.conflicts({"key": "\ud800"}, None),
    ):
        with pytest.raises(errors.InvalidOperation, match="surrogate"):
            asked()


def test_operations_become_their_operators() -> None:
    assert operators_of(schema_of(Inventory), {"stock": Decrement(2)}) == {"$inc": {"stock": -2}}
    assert operators_of(schema_of(Inventory), {"stock": Increment()}) == {"$inc": {"stock": 1}}
    assert operators_of(SCHEMA, {"tags": Remove("a"), "note": Append("!"), "log": Add(NOON)}) == {
        "$remove": {"tags": ["a"]},
        "$append": {"note": "!"},
        "$add": {"log": ["2026-11-23T12:00:00Z"]},
    }
    assert operators_of(SCHEMA, {"note": Splice(1, 2, "x")})["$splice"]["note"]["at"] == 1


def test_misspelt_field_is_told() -> None:
    with pytest.raises(errors.UnknownField, match="did you mean stock"):
        operators_of(schema_of(Inventory), {"stok": 1})
    with pytest.raises(errors.UnknownField):
        operators_of(schema_of(Inventory), {"stok": Increment()})


@pytest.mark.parametrize(
    "changes", [{"name": 1}, {"credit": float("nan")}, {"address": object()}, {"name": "\ud800"}]
)
def test_value_that_does_not_fit_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(errors.InvalidDocument):
        operators_of(SCHEMA, changes)


def test_update_without_changes_is_refused() -> None:
    with pytest.raises(errors.InvalidOperation):
        operators_of(SCHEMA, {})


@pytest.mark.parametrize("what", [Collection, dict, "inventory", Address])
def test_only_collections_are_taken(what: type[Collection]) -> None:
    with pytest.raises(errors.InvalidOperation, match="not a collection"):
        schema_of(what)


def test_cyclic_value_is_refused() -> None:
    cycle: list[object] = []
    cycle.append(cycle)
    with pytest.raises(errors.InvalidDocument):
        jsonable(cycle, "here")


def test_fields_of_a_later_declaration_are_left_out() -> None:
    assert model_of(Inventory, "k", b'{"stock":1,"added_later":2}') == Inventory(key="k", stock=1)
