"""Which fields may refer, and to what."""

from __future__ import annotations

from typing import Annotated, Any

import pytest
from pydantic import BaseModel

from atoll import Saga, step
from atoll.errors import DeclarationError
from atoll.region.shapes import shapes_of
from atoll.schema import (
    BoundedCounter,
    Collection,
    ListOf,
    MapOf,
    Ref,
    SetOf,
    application_of,
    compile_collection,
    field,
)
from atoll.schema.compiled import CollectionSchema
from atoll.schema.references import Referring


class Account(Collection):
    name: str = ""


class Order(Collection):
    owner: Ref[Account]
    payer: Ref[Account] | None = field(None, on_delete="cascade")
    note: str = ""


class Folder(Collection):
    parent: Ref["Folder"] | None = field(None, on_delete="cascade")  # noqa: UP037 — a test of names
    owner: Annotated[Ref[Account], "as it is"] = field(on_delete="dangling")


class _Named(Collection):
    owner: Ref[Account]


class Inner(BaseModel):
    owner: Ref[Account]


class Vault(Collection, consistency="strong"):
    gold: int = 0


class Tentative(Collection, consistency="strong", fallback="eventual"):
    gold: int = 0


class Stock(Collection):
    left: BoundedCounter = 0


def declared(annotation: Any, default: Any = None, **options: Any) -> type[Collection]:
    namespace: dict[str, Any] = {"__annotations__": {"it": annotation}, "__module__": __name__}
    if default is not None:
        namespace["it"] = default
    model = type(Collection)("Thing", (Collection,), namespace, **options)
    assert issubclass(model, Collection)
    return model


def compiled(annotation: Any, default: Any = None, **options: Any) -> CollectionSchema:
    return compile_collection(declared(annotation, default, **options))


def test_a_reference_is_a_key_with_a_target_and_a_policy() -> None:
    application = application_of(Account, Order, Folder)
    assert application.collections["order"].references == (
        Referring("owner", "account", "restrict"),
        Referring("payer", "account", "cascade"),
    )
    assert application.collections["folder"].references == (
        Referring("parent", "folder", "cascade"),
        Referring("owner", "account", "dangling"),
    )
    order = application.collections["order"]
    assert order.parse(b'{"owner": "ann"}') == {"owner": "ann", "payer": None, "note": ""}
    assert Order(key="1", owner="ann").owner == "ann"


def test_a_target_may_be_named_by_class_or_collection() -> None:
    class LongName(Collection):
        text: str = ""

    for name in ("LongName", "long_name"):
        thing = declared(Ref[name])  # type: ignore[valid-type]
        found = application_of(thing, LongName).collections["thing"]
        assert found.references == (Referring("it", "long_name", "restrict"),)


def test_a_subclass_inherits_it() -> None:
    class Bill(_Named):
        text: str = ""

    assert compile_collection(Bill).references == (Referring("owner", "account", "restrict"),)


def test_references_are_indexed() -> None:
    shapes = {each.collection: each.indexes for each in shapes_of(application_of(Account, Order))}
    assert shapes == {"account": (), "order": ("owner", "payer")}


def test_the_description_says_so_and_that_of_others_is_what_it_was() -> None:
    application = application_of(Account, Order)
    assert application.collections["order"].describe()["references"][0] == ["owner", "account", "restrict"]
    assert "references" not in application.collections["account"].describe()
    one, other = (
        application_of(Account, declared(Ref[Account], field(on_delete=policy))).fingerprint()
        for policy in ("restrict", "dangling")
    )
    assert one != other


def test_the_json_schema_names_the_target() -> None:
    properties = application_of(Account, Order).json_schemas()["order"]["properties"]
    assert properties["owner"]["x-reference"] == "account"
    assert properties["owner"]["type"] == "string"


@pytest.mark.parametrize(
    "kind",
    [
        list[Ref[Account]],
        dict[str, Ref[Account]],
        SetOf[Ref[Account]],
        ListOf[Ref[Account]],
        MapOf[Ref[Account]],
        Ref[Account] | int,
        Inner,
        Inner | None,
        list[Inner],
    ],
)
def test_a_reference_inside_a_type_is_refused(kind: Any) -> None:
    with pytest.raises(DeclarationError, match=r"Thing\.it: a reference inside another type"):
        declared(kind)


@pytest.mark.parametrize(
    ("kind", "default", "says"),
    [
        (str, field(on_delete="cascade"), "says what becomes of a reference"),
        (Ref[int], field(), "names no collection"),
        (Ref[Account], field(on_delete="set_null"), "is unknown"),  # type: ignore[arg-type]
    ],
)
def test_what_has_no_sense_is_refused(kind: Any, default: Any, says: str) -> None:
    with pytest.raises(DeclarationError, match=says):
        declared(kind, default)


@pytest.mark.parametrize(
    ("options", "target", "policy", "says"),
    [
        ({}, "Acount", "restrict", "refers to 'Acount', which is not among the collections"),
        ({}, _Named, "restrict", "only a base class"),
        ({"consistency": "strong"}, Account, "restrict", "make Account strong"),
        ({}, Vault, "restrict", "make Thing strong"),
        ({}, Tentative, "restrict", "without a majority"),
        ({"consistency": "strong", "fallback": "eventual"}, Vault, "restrict", "without a majority"),
        ({}, Stock, "restrict", "bounded counter of Stock"),
    ],
)
def test_targets_that_do_not_fit_are_refused(
    options: dict[str, Any], target: Any, policy: Any, says: str
) -> None:
    with pytest.raises(DeclarationError, match=says):
        application_of(
            Account, Vault, Tentative, Stock, declared(Ref[target], field(on_delete=policy), **options)
        )


def test_a_cascade_reaches_a_bounded_counter() -> None:
    application_of(Stock, declared(Ref[Stock], field(on_delete="cascade")))


def test_what_is_kept_cannot_be_deleted_by_a_cascade() -> None:
    class Line(Collection):
        order: Ref[Order]

    with pytest.raises(DeclarationError, match=r'Line\.order: on_delete="restrict" keeps Order'):
        application_of(Account, Order, Line)


def test_a_circle_of_cascades_is_refused() -> None:
    class One(Collection):
        other: Ref["Two"] | None = field(None, on_delete="cascade")  # noqa: UP037

    class Two(Collection):
        other: Ref[One] | None = field(None, on_delete="cascade")

    with pytest.raises(DeclarationError, match=r"goes in a circle \(One → Two → One\)"):
        application_of(One, Two)


def test_a_saga_cannot_refer() -> None:
    with pytest.raises(DeclarationError, match=r"Trip\.owner: what a saga knows is not checked"):

        class Trip(Saga):
            owner: Ref[Account]

            @step
            def go(self) -> None: ...
