from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import IntEnum
from typing import Annotated, Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, PlainSerializer, field_validator, model_validator

from atoll.errors import (
    DeclarationError,
    InvalidDocument,
    InvalidOperation,
    MalformedRequest,
    RequestError,
    TooLarge,
    UnknownField,
)
from atoll.schema import Collection, Counter, Limits, ListOf, MapOf, SetOf, compile_collection


class Address(BaseModel):
    city: str
    height: float | None = None


class Order(Collection):
    sku: str
    quantity: int = 1
    price: float = 0
    paid: bool = False
    at: datetime | None = None
    cost: Decimal = Decimal(0)
    ref: UUID | None = None
    to: Address | None = None
    extra: Any = None


class Mixed(Collection):
    title: str
    n: Counter
    items: SetOf[str]
    scores: MapOf[int]
    log: ListOf[Any]


ORDER = compile_collection(Order)
MIXED = compile_collection(Mixed)


def test_canonical_text_is_compact_complete_and_in_declared_order() -> None:
    assert (
        ORDER.canonical(b' { "quantity": 2,\n "sku": "\\u00e9" } ')
        == (
            '{"sku":"é","quantity":2,"price":0.0,"paid":false,"at":null,"cost":"0",'
            '"ref":null,"to":null,"extra":null}'
        ).encode()
    )


def test_canonical_text_stays_as_it_is() -> None:
    once = ORDER.canonical(b'{"sku":"a","price":1e300,"to":{"city":"x"},"at":"2026-01-01T00:00:00+02:00"}')
    assert ORDER.canonical(once) == once


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_any_bytes_get_a_request_error_or_a_document(body: bytes) -> None:
    try:
        text = ORDER.canonical(body)
    except RequestError:
        return
    assert json.loads(text)["sku"] is not None


@given(
    st.recursive(
        st.none() | st.integers() | st.floats() | st.text(),
        lambda x: st.lists(x) | st.dictionaries(st.text(), x),
    )
)
def test_free_content_comes_back_or_is_refused(value: Any) -> None:
    try:
        document = ORDER.parse_object({"sku": "a", "extra": value})
    except InvalidDocument:
        return
    assert document["extra"] == value


@pytest.mark.parametrize(
    ("body", "kind", "reason"),
    [
        (b"", MalformedRequest, "line 1 column 0"),
        (b'{"sku":', MalformedRequest, "EOF"),
        (b'{"sku":"\xff"}', MalformedRequest, "unicode"),
        (b'{"sku":"\\ud800"}', MalformedRequest, "hex escape"),
        (b"[]", InvalidDocument, "JSON object"),
        (b"null", InvalidDocument, "JSON object"),
        (b"{}", InvalidDocument, "sku: required"),
        (b'{"sku":1}', InvalidDocument, "sku: must be a valid string"),
        (b'{"sku":"a","quantity":"1"}', InvalidDocument, "quantity: must be a valid integer"),
        (b'{"sku":"a","quantity":1.0}', InvalidDocument, "quantity"),
        (b'{"sku":"a","quantity":true}', InvalidDocument, "quantity"),
        (b'{"sku":"a","quantity":9223372036854775808}', InvalidDocument, "64 bits"),
        (b'{"sku":"a","price":NaN}', InvalidDocument, "finite"),
        (b'{"sku":"a","price":1e999}', InvalidDocument, "finite"),
        (b'{"sku":"a","cost":"Infinity"}', InvalidDocument, "cost"),
        (b'{"sku":"a","extra":[Infinity]}', InvalidDocument, "Infinity"),
        (b'{"sku":"a","extra":1e999}', InvalidDocument, "Infinity"),
        (b'{"sku":"a","extra":' + b"[" * 64 + b"]" * 64 + b"}", InvalidDocument, "deeper than 64"),
        (b'{"sku":"a","extra":' + b"[" * 9999, InvalidDocument, "nested too deeply"),
        (b'{"sku":"a","extra":' + b"1" * 9999 + b"}", InvalidDocument, "too many digits"),
        (b'{"sku":"a","at":"yesterday"}', InvalidDocument, "at: must be a valid datetime"),
        (b'{"sku":"a","to":{"city":"x","street":"y"}}', InvalidDocument, "to.street"),
        (b'{"sku":"a","to":{"city":"x","height":NaN}}', InvalidDocument, "finite"),
        (b'{"sku":"a","to":{"city":"x","height":1e999}}', InvalidDocument, "finite"),
        (b'{"sku":"a","to":{"city":"x","height":"1"}}', InvalidDocument, "to.height"),
        (b'{"sku":"a","key":"k"}', InvalidDocument, "URL"),
        (b'{"sku":"a","qantity":1}', UnknownField, "did you mean quantity"),
    ],
)
def test_bad_document_gets_a_clear_error(body: bytes, kind: type[RequestError], reason: str) -> None:
    with pytest.raises(kind, match=reason):
        ORDER.canonical(body)


def test_problems_are_listed_by_field() -> None:
    with pytest.raises(InvalidDocument) as caught:
        ORDER.canonical(b'{"quantity":"x","to":{}}')
    assert [item["field"] for item in caught.value.details["problems"]] == ["sku", "quantity", "to.city"]


def test_unknown_field_is_named() -> None:
    with pytest.raises(UnknownField) as caught:
        ORDER.canonical(b'{"skuu":"a"}')
    assert caught.value.details == {"collection": "order", "field": "skuu", "close": ["sku"]}


def test_large_document_is_refused_before_it_is_read() -> None:
    small = compile_collection(Order, Limits(document_bytes=20))
    with pytest.raises(TooLarge):
        small.canonical(b"not JSON at all, but long")


def test_duplicate_members_are_refused() -> None:
    with pytest.raises(MalformedRequest, match="'sku' is given twice"):
        ORDER.parse(b'{"sku":"a","sku":"b"}')


def test_json_forms_of_richer_types_are_read() -> None:
    ref = "6fa459ea-ee8a-3ca4-894e-db77e160355e"
    document = ORDER.parse(f'{{"sku":"a","at":"2026-01-01T00:00:00Z","cost":"1.10","ref":"{ref}"}}'.encode())
    assert (document["at"], document["cost"], document["ref"]) == ("2026-01-01T00:00:00Z", "1.10", ref)


def test_missing_mergeable_field_has_its_default() -> None:
    assert MIXED.parse(b'{"title":"t","items":["b","a","b"]}') == {
        "title": "t",
        "n": 0,
        "items": ["a", "b"],
        "scores": {},
        "log": [],
    }


def test_model_and_stored_text_are_inverse() -> None:
    order = Order(key='k"1', sku="a", at=datetime(2026, 1, 1, tzinfo=UTC), to=Address(city="x"))
    text = ORDER.from_model(order)
    assert b"key" not in text
    assert ORDER.canonical(text) == text
    assert ORDER.to_model('k"1', text) == order
    assert type(ORDER.to_model("k", text)) is Order


def test_document_without_fields_is_read() -> None:
    class Empty(Collection): ...

    schema = compile_collection(Empty)
    assert schema.canonical(b"{}") == b"{}"
    assert schema.to_model("k", b"{}") == Empty(key="k")


def test_reader_leaves_out_what_a_newer_schema_added() -> None:
    made = ORDER.to_model("k", b'{"sku":"a","color":"red","quantity":3}')
    assert (made.sku, made.quantity) == ("a", 3)  # type: ignore[attr-defined]


@pytest.mark.parametrize("value", ["x", 2**70, None])
def test_what_was_assigned_against_the_declaration_is_refused(value: Any) -> None:
    order = Order(key="k", sku="a")
    order.quantity = value
    with pytest.raises(InvalidDocument):
        ORDER.from_model(order)


def test_surrogates_in_python_strings_are_refused() -> None:
    with pytest.raises(InvalidDocument):
        ORDER.document_of(Order.model_construct(key="k", sku="\ud800"))
    with pytest.raises(RequestError):
        ORDER.parse_object({"sku": "\ud800"})


def test_model_of_another_collection_is_refused() -> None:
    with pytest.raises(InvalidDocument, match="no Order"):
        ORDER.from_model(Mixed(key="k", title="t"))


def test_single_field_is_checked_as_in_a_document() -> None:
    assert ORDER.validate_field("price", 1) == 1.0
    assert ORDER.validate_field("at", "2026-01-01T00:00:00Z") == "2026-01-01T00:00:00Z"
    assert ORDER.validate_field("to", {"city": "x"}) == {"city": "x", "height": None}
    with pytest.raises(InvalidDocument, match=r"Order\.quantity: must be a valid integer"):
        ORDER.validate_field("quantity", "1")
    with pytest.raises(UnknownField, match="did you mean sku"):
        ORDER.validate_field("skuu", "1")


@pytest.mark.parametrize("value", [float("nan"), {1, 2}, 2**70, "\ud800", object()])
def test_field_takes_no_value_that_json_cannot_say(value: Any) -> None:
    with pytest.raises(InvalidDocument):
        ORDER.validate_field("extra", value)


def test_cyclic_value_is_refused() -> None:
    cycle: list[Any] = []
    cycle.append(cycle)
    with pytest.raises(InvalidDocument):
        ORDER.validate_field("extra", cycle)


def test_constraints_hold_for_single_fields() -> None:
    class Limited(Collection):
        age: int = Field(ge=0)

    with pytest.raises(InvalidDocument, match="greater than or equal to 0"):
        compile_collection(Limited).validate_field("age", -1)


def test_unset_leaves_the_default_unless_required() -> None:
    assert ORDER.default_of("price") == 0.0
    assert ORDER.default_of("cost") == "0"
    assert MIXED.default_of("items") == []
    with pytest.raises(InvalidOperation, match=r"Order\.sku is required"):
        ORDER.default_of("sku")
    with pytest.raises(UnknownField):
        ORDER.default_of("nothing")


def test_elements_belong_to_sets_lists_and_maps() -> None:
    assert MIXED.validate_element("log", {"any": [1]}) == {"any": [1]}
    assert MIXED.validate_map_value("scores", 3) == 3
    with pytest.raises(InvalidDocument):
        MIXED.validate_map_value("scores", "3")
    with pytest.raises(InvalidOperation, match="no elements"):
        MIXED.validate_element("title", "x")
    with pytest.raises(UnknownField):
        MIXED.validate_element("nothing", "x")


def test_validators_of_the_team_hold_and_see_the_key() -> None:
    class Slug(Collection):
        title: str

        @field_validator("title")
        @classmethod
        def trimmed(cls, value: str) -> str:
            return value.strip()

        @model_validator(mode="after")
        def key_is_title(self) -> Slug:
            if self.key != self.title:
                raise ValueError("the key is the title")
            return self

    schema = compile_collection(Slug)
    assert schema.has_rules
    assert not ORDER.has_rules
    assert schema.canonical(b'{"title":" a "}', "a") == b'{"title":"a"}'
    with pytest.raises(InvalidDocument, match="the key is the title"):
        schema.canonical(b'{"title":"a"}', "b")


def test_failing_validator_of_the_team_refuses_the_document() -> None:
    class Broken(Collection):
        n: int

        @field_validator("n")
        @classmethod
        def share(cls, value: int) -> int:
            return value * value // value

    with pytest.raises(InvalidDocument, match="raised ZeroDivisionError"):
        compile_collection(Broken).canonical(b'{"n":0}')


def test_json_schema_leaves_the_key_out() -> None:
    schema = ORDER.json_schema()
    assert list(schema["properties"])[:2] == ["sku", "quantity"]
    assert schema["required"] == ["sku"]
    assert schema["additionalProperties"] is False


def test_canonical_text_does_not_depend_on_the_hash_seed() -> None:
    program = (
        "from atoll.schema import *\n"
        "class C(Collection):\n    s: SetOf[str]\n"
        "a = application_of(C)\n"
        "print(a.collection('c').from_model(C(key='k', s=set('qwertyuiop'))), a.fingerprint())"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program], env={"PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1


class Flat(Collection):
    """Nothing but scalars: integers are looked at in the model, the text is not read again."""

    count: int
    perhaps: int | None = None
    note: str = ""


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1, 10**40])
@pytest.mark.parametrize("field", ["count", "perhaps"])
def test_flat_documents_hold_no_integer_beyond_64_bits(field: str, number: int) -> None:
    body = json.dumps({"count": 1, field: number}).encode()
    with pytest.raises(InvalidDocument, match="beyond 64 bits"):
        compile_collection(Flat).canonical(body)


@given(st.integers(-(2**63), 2**63 - 1), st.none() | st.integers(-(2**63), 2**63 - 1), st.text(max_size=60))
def test_flat_documents_take_every_integer_of_64_bits(count: int, perhaps: int | None, note: str) -> None:
    body = json.dumps({"count": count, "perhaps": perhaps, "note": note}).encode()
    assert json.loads(compile_collection(Flat).canonical(body)) == json.loads(body)


def _deep(value: int) -> Any:
    return [_deep(value - 1)] if value else []


def test_a_serializer_whose_text_cannot_be_read_is_refused() -> None:
    with pytest.raises(DeclarationError, match="which is not allowed"):

        class DeepType(Collection):
            n: Annotated[int, PlainSerializer(_deep)]


@pytest.mark.parametrize("key", ['say "hi"', "back\\slash", "naïve", "plain/key", "\x7f"])
def test_any_key_survives_the_way_into_a_model(key: str) -> None:
    assert compile_collection(Flat).to_model(key, b'{"count":1}').key == key


class Exact(Collection):
    text: str
    number: int = 0
    share: float = 0.0
    flag: bool | None = None
    cost: Decimal = Decimal("0.10")
    day: date | None = None
    ref: UUID | None = None


EXACT = compile_collection(Exact)


@given(
    st.builds(
        Exact,
        key=st.text(st.characters(codec="utf-8", exclude_categories=("Cc",)), min_size=1, max_size=9),
        text=st.text(st.characters(codec="utf-8")),
        number=st.integers(-(2**63), 2**63 - 1),
        share=st.floats(allow_nan=False, allow_infinity=False) | st.integers(-9, 9),
        flag=st.none() | st.booleans(),
        cost=st.decimals(allow_nan=False, allow_infinity=False),
        day=st.none() | st.dates(),
        ref=st.none() | st.uuids(),
    )
)
def test_single_values_are_stored_as_by_their_text(instance: Exact) -> None:
    text, stored = EXACT.form_of(instance)
    assert text == EXACT.from_model(instance)
    assert stored == EXACT.to_model(instance.key, text)
    assert stored is not None
    assert stored is not instance
    assert type(stored) is Exact


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("number", 2**63),
        ("number", IntEnum("Big", {"A": 2**70}).A),
        ("share", float("nan")),
        ("share", float("inf")),
        ("flag", 1),
        ("text", "\ud800"),
        ("text", None),
        ("cost", Decimal("NaN")),
        ("day", "no day"),
    ],
)
def test_what_a_single_value_may_not_be_is_refused_in_either_way(field: str, value: Any) -> None:
    instance = Exact(key="k", text="t")
    instance.__dict__[field] = value
    with pytest.raises(InvalidDocument):
        EXACT.from_model(instance)
    with pytest.raises(InvalidDocument):
        EXACT.form_of(instance)


def test_what_fits_by_its_text_alone_has_no_quick_form() -> None:
    instance = Exact(key="k", text="t")
    instance.__dict__["day"] = "2026-01-01"
    assert EXACT.form_of(instance) == (EXACT.from_model(instance), None)
    assert ORDER.form_of(Order(key="k", sku="a"))[1] is None


def test_a_document_past_the_limit_has_no_quick_form() -> None:
    small = compile_collection(Exact, Limits(document_bytes=200))
    with pytest.raises(TooLarge):
        small.form_of(Exact(key="k", text="t" * 200))
