from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field, computed_field, field_serializer, field_validator

from atoll.errors import DeclarationError
from atoll.schema import BoundedCounter, Collection, Counter, home_region
from atoll.schema.collection import RESERVED_NAMES, collection_name, is_base, policy_of


def declare(bases: tuple[type, ...] = (Collection,), /, **given: Any) -> type[Collection]:
    """A class `Bad` with a field for each `name=annotation` or `name=(annotation, default)`."""
    options = given.pop("options", {})
    namespace: dict[str, Any] = {"__annotations__": {}, "__module__": __name__}
    for name, value in given.items():
        namespace["__annotations__"][name], *default = value if isinstance(value, tuple) else (value,)
        if default:
            namespace[name] = default[0]
    return type(Collection)("Bad", bases, namespace, **options)  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("class_name", "name"),
    [
        ("PageView", "page_view"),
        ("Cart", "cart"),
        ("SKUItem", "sku_item"),
        ("V2Doc", "v2_doc"),
        ("HTTPLog2", "http_log2"),
    ],
)
def test_name_is_snake_case(class_name: str, name: str) -> None:
    assert collection_name(type(Collection)(class_name, (Collection,), {"__module__": __name__})) == name  # type: ignore[arg-type]


def test_name_can_be_given() -> None:
    assert collection_name(declare(a=str, options={"name": "things"})) == "things"


@pytest.mark.parametrize("name", ["", "Things", "a-b", "1a", "a" * 64, 3])
def test_name_must_fit_a_url_and_a_table(name: Any) -> None:
    with pytest.raises(DeclarationError, match="cannot be a collection's name"):
        declare(a=str, options={"name": name})


@pytest.mark.parametrize("name", sorted(RESERVED_NAMES))
def test_a_name_of_a_call_is_refused(name: str) -> None:
    with pytest.raises(DeclarationError, match=f'name="{name}_documents"'):
        declare(a=str, options={"name": name})
    assert collection_name(declare(a=str, options={"name": f"{name}_documents"}))


def test_a_class_called_like_a_call_is_refused() -> None:
    with pytest.raises(DeclarationError, match="rename the class"):

        class Batch(Collection):
            size: int


def test_subclass_inherits_options_but_not_the_name() -> None:
    class _Timed(Collection, consistency="causal", resolve="merge"):
        at: int

    class Post(_Timed, resolve="fww"):
        body: str

    assert is_base(_Timed)
    assert (policy_of(Post).consistency, policy_of(Post).resolve) == ("causal", "fww")
    assert collection_name(Post) == "post"
    assert list(Post.model_fields) == ["key", "at", "body"]


class Color:
    """JSON does not know it."""


class Nested(BaseModel):
    tags: set[str]


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"key": int}, "has its key"),
        ({"a": Color}, "JSON cannot represent"),
        ({"a": Callable[[], int]}, "JSON cannot represent"),
        ({"a": set[str]}, "has no order"),
        ({"a": list[frozenset[int]]}, "has no order"),
        ({"a": Nested}, "has no order"),
        ({"a": (float, float("nan"))}, "default nan does not fit"),
        ({"a": (int, "x")}, "default 'x' does not fit"),
        ({"a": (BoundedCounter, -1)}, "below its bound"),
        ({"a": (int, Field(alias="b"))}, "two names"),
        ({"a": (int, Field(0, exclude=True))}, "exclude=True"),
        ({"_a": int}, "never stored"),
        ({"a" * 65: int}, "at most 64"),
        ({"a": int, "options": {"placement": home_region("region")}}, "names no field"),
        ({"region": int, "options": {"placement": home_region("region")}}, "plain string"),
        ({"a": int, "options": {"consistency": "strong", "fallback": "escrow"}}, "there is none"),
        (
            {"a": int, "n": Counter, "options": {"consistency": "strong", "fallback": "eventual"}},
            "n would be merged",
        ),
        ({"a": int, "options": {"consistancy": "strong"}}, "did you mean"),
    ],
)
def test_contradiction_is_refused_where_it_is_declared(given: dict[str, Any], reason: str) -> None:
    with pytest.raises(DeclarationError, match=reason) as caught:
        declare(**given)
    assert caught.value.message.startswith("Bad")


def test_looser_configuration_is_refused() -> None:
    with pytest.raises(DeclarationError, match="model_config sets extra"):

        class Bad(Collection):
            model_config = ConfigDict(extra="allow")


def test_forward_reference_is_refused() -> None:
    with pytest.raises(DeclarationError, match="declare it before Bad"):

        class Bad(Collection):
            later: NotYetDeclared  # type: ignore[name-defined]  # noqa: F821


def test_only_the_fields_own_form_is_stored() -> None:
    with pytest.raises(DeclarationError, match="computed_field"):

        class Area(Collection):
            a: int

            @computed_field  # type: ignore[prop-decorator]
            @property
            def twice(self) -> int:
                return 2 * self.a

    with pytest.raises(DeclarationError, match="field_serializer"):

        class Shout(Collection):
            a: str

            @field_serializer("a")
            def loud(self, value: str) -> str:
                return value.upper()


def test_field_validator_cannot_see_the_key() -> None:
    with pytest.raises(DeclarationError, match="cannot see the key"):

        class Bad(Collection):
            @field_validator("key")
            @classmethod
            def short(cls, value: str) -> str:
                return value[:3]


def test_instances_are_strict_like_documents() -> None:
    class Plain(Collection):
        n: int

    with pytest.raises(ValueError, match="valid integer"):
        Plain(key="x", n="1")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="not permitted"):
        Plain(key="x", n=1, m=2)  # type: ignore[call-arg]
