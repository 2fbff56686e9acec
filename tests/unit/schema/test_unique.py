"""Which fields may be unique."""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from pydantic import BaseModel

from atoll.errors import DeclarationError
from atoll.schema import Collection, Counter, compile_collection, field, home_region
from atoll.schema.collection import policy_of
from atoll.schema.compiled import CollectionSchema


class Colour(Enum):
    RED = "red"


class Inner(BaseModel):
    code: str = field(unique=True)


def declared(annotation: Any, default: Any = None, **options: Any) -> CollectionSchema:
    namespace: dict[str, Any] = {"__annotations__": {"it": annotation}, "__module__": __name__}
    if default is not None:
        namespace["it"] = default
    model = type(Collection)("Thing", (Collection,), namespace, **{"consistency": "strong", **options})
    return compile_collection(model)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "kind",
    [str, int, bool, date, UUID, Colour, Literal["a", "b"], str | None, int | str, Annotated[str, "x"]],
)
def test_single_values_may_be_unique(kind: Any) -> None:
    assert declared(kind, field(unique=True)).unique == ("it",)
    assert declared(Annotated[kind, field(unique=True)]).unique == ("it",)
    assert declared(kind, field()).unique == declared(kind).unique == ()


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        (list[str], "single value"),
        (dict[str, int], "single value"),
        (Any, "single value"),
        (tuple[int, int], "single value"),
        (float, "may be written differently"),
        (Decimal, "may be written differently"),
        (datetime, "may be written differently"),
        (Counter, "mergeable"),
    ],
)
def test_what_cannot_be_compared_is_refused(kind: Any, says: str) -> None:
    with pytest.raises(DeclarationError, match=says):
        declared(kind, field(unique=True))


@pytest.mark.parametrize(
    "kind",
    [
        Inner,
        Inner | None,
        list[Inner],
        dict[str, Inner],
        list[Annotated[str, field(unique=True)]],
        Annotated[str, field(unique=True)] | None,
    ],
)
def test_a_field_inside_a_type_cannot_be_unique(kind: Any) -> None:
    with pytest.raises(DeclarationError, match="stands inside its type"):
        declared(kind)


@pytest.mark.parametrize("default", [field("x", unique=True), field(default_factory=str, unique=True)])
def test_a_default_would_be_the_value_of_many(default: Any) -> None:
    with pytest.raises(DeclarationError, match="make the unique field required, or None"):
        declared(str, default)


@pytest.mark.parametrize("options", [{"fallback": "eventual"}, {"placement": home_region("it")}])
def test_a_strong_collection_keeps_it_by_a_majority_only(options: dict[str, Any]) -> None:
    with pytest.raises(DeclarationError, match="cannot keep it unique"):
        declared(str, field(unique=True), **options)


def test_duplicates_of_asynchronous_collections_are_cleared_or_wait() -> None:
    def waiting(kind: Any, default: Any) -> frozenset[str]:
        return declared(kind, default, consistency="eventual").manual

    assert waiting(str, field(unique=True)) == {"it"}
    assert waiting(str | None, field(None, unique=True)) == set()
    assert waiting(str | None, field(None, unique=True, duplicates="manual")) == {"it"}


@pytest.mark.parametrize(
    ("default", "consistency", "says"),
    [
        (field(unique=True, duplicates="clear"), "eventual", "needs a field that may be None"),
        (field(unique=True, duplicates="other"), "eventual", "is unknown"),  # type: ignore[arg-type]
        (field(unique=True, duplicates="manual"), "strong", "has no duplicates"),
    ],
)
def test_a_strategy_that_does_not_fit_is_refused(default: Any, consistency: str, says: str) -> None:
    with pytest.raises(DeclarationError, match=says):
        declared(str, default, consistency=consistency)


def test_a_subclass_inherits_it() -> None:
    class _Base(Collection, consistency="strong"):
        email: str = field(unique=True, max_length=50)

    class Person(_Base):
        name: str

    assert compile_collection(Person).unique == ("email",)
    assert policy_of(Person).by_quorum


def test_the_description_says_so_and_that_of_others_is_what_it_was() -> None:
    assert declared(str, field(unique=True)).describe()["unique"] == ["it", ["it"]]
    assert "unique" not in declared(str).describe()
