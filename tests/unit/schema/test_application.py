from __future__ import annotations

import pytest
from pydantic import BaseModel

from atoll.errors import DeclarationError, UnknownCollection
from atoll.schema import Collection, Counter, application_of, key_ranges


class Place(BaseModel):
    city: str


class Shop(Collection):
    place: Place


class PageView(Collection, placement=key_ranges({"": "tokyo"})):
    views: Counter


APPLICATION = application_of(Shop, PageView)


def test_collections_are_found_by_name_and_by_class() -> None:
    assert APPLICATION.collection("page_view").model is PageView
    assert APPLICATION.schema_of(Shop) is APPLICATION.collection("shop")


def test_unknown_collection_names_what_was_meant() -> None:
    with pytest.raises(UnknownCollection, match="did you mean page_view") as caught:
        APPLICATION.collection("pageview")
    assert caught.value.details["close"] == ["page_view"]


def test_two_collections_cannot_have_one_name() -> None:
    class Other(Collection, name="shop"):
        a: int

    with pytest.raises(DeclarationError, match="Shop and Other are both called 'shop'"):
        application_of(Shop, Other)


def test_shared_base_is_no_collection() -> None:
    class _Base(Collection):
        a: int

    with pytest.raises(DeclarationError, match="inherit"):
        application_of(_Base)


def test_mentioned_regions_are_collected() -> None:
    assert APPLICATION.regions() == ("tokyo",)


def test_json_schemas_hold_nested_types_beside_their_collection() -> None:
    schemas = APPLICATION.json_schemas()
    assert set(schemas) == {"shop", "shop.Place", "page_view"}
    assert schemas["shop"]["properties"]["place"] == {"$ref": "#/components/schemas/shop.Place"}


def test_fingerprint_ignores_order_and_prose() -> None:
    documented = type(Collection)(
        "Shop",
        (Collection,),
        {"__annotations__": {"place": Place}, "__doc__": "Now documented.", "__module__": __name__},
    )
    assert application_of(PageView, documented).fingerprint() == APPLICATION.fingerprint()  # type: ignore[arg-type]


def test_fingerprint_changes_with_fields_and_policy() -> None:
    wider = type(Collection)(
        "PageView", (PageView,), {"__annotations__": {"title": str}, "__module__": __name__}
    )
    other = type(Collection)("PageView", (PageView,), {"__module__": __name__}, resolve="fww")
    prints = {application_of(model).fingerprint() for model in (PageView, wider, other)}  # type: ignore[arg-type]
    assert len(prints) == 3
