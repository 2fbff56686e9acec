from __future__ import annotations

from typing import Any

import pytest

from atoll.documents.mutation import MAX_STEPS, Patch, Put, Step, Write, patch_of, put_fields, put_of
from atoll.errors import (
    InvalidDocument,
    InvalidOperation,
    MalformedRequest,
    RequestError,
    TooLarge,
    UnknownField,
)

from ..commit.replica import rules_of
from ..commit.shop import SHOP

RULES = rules_of(SHOP)


@pytest.mark.parametrize(
    ("collection", "body", "kind", "says"),
    [
        ("profile", b"", MalformedRequest, "JSON"),
        ("profile", b"{", MalformedRequest, "JSON"),
        ("profile", b"\xff\xfe", MalformedRequest, "JSON"),
        ("profile", b"[]", RequestError, "object"),
        ("profile", b"null", RequestError, "object"),
        ("profile", b"{}", InvalidDocument, "name"),
        ("profile", b'{"name":3}', InvalidDocument, "name"),
        ("profile", b'{"name":"A","age":"4"}', InvalidDocument, "age"),
        ("profile", b'{"name":"A","age":9223372036854775808}', RequestError, "age|64 bits"),
        ("profile", b'{"name":"A","nmae":"A"}', UnknownField, "nmae"),
        ("profile", b'{"name":"A","key":"k"}', RequestError, "key"),
        ("profile", b'{"name":"' + b"x" * (1 << 20) + b'"}', TooLarge, "1048576"),
        ("cart", b'{"items":"x"}', InvalidDocument, "items"),
        ("cart", b'{"items":[1]}', InvalidDocument, "items"),
        ("cart", b'{"labels":{"a":"b"}}', InvalidDocument, "labels"),
        ("cart", b'{"address":' + b"[" * 200 + b"]" * 200 + b"}", RequestError, "address|nested|deep"),
        ("stock", b'{"left":-1}', InvalidDocument, "left"),
        ("views", b'{"seen":1.5}', InvalidDocument, "seen"),
        ("note", b'{"body":null}', InvalidDocument, "body"),
    ],
)
def test_a_put_that_does_not_fit_is_refused(
    collection: str, body: bytes, kind: type[RequestError], says: str
) -> None:
    with pytest.raises(kind, match=says):
        put_of(RULES[collection], "k", body)


@pytest.mark.parametrize(
    ("collection", "operators", "kind", "says"),
    [
        ("profile", None, InvalidOperation, "object of operators"),
        ("profile", [], InvalidOperation, "object of operators"),
        ("profile", {}, InvalidOperation, "object of operators"),
        ("profile", "x", InvalidOperation, "object of operators"),
        ("profile", {"name": "Ann"}, InvalidOperation, "takes an object|operator"),
        ("profile", {"$set": {}}, InvalidOperation, "1 to 1000"),
        ("profile", {"$unset": []}, InvalidOperation, "1 to 1000"),
        ("profile", {"$set": ["name"]}, InvalidOperation, r"\$set takes an object"),
        ("profile", {"$unset": {"age": 1}}, InvalidOperation, r"\$unset takes a list"),
        ("profile", {"$unset": [1]}, InvalidOperation, r"\$unset takes a list"),
        ("profile", {"$unset": ["name"]}, InvalidOperation, "name"),
        ("profile", {"$set": {"age": "x"}}, InvalidDocument, "age"),
        ("profile", {"$set": {"nmae": "x"}}, UnknownField, "name"),
        ("profile", {"$set": {"nobody.first": "x"}}, UnknownField, "nobody"),
        ("profile", {"$set": {"name.first": "x"}}, InvalidOperation, "only map fields"),
        ("profile", {"$inc": {"age": 1}}, InvalidOperation, "plain field"),
        ("profile", {"$rename": {"age": 1}}, RequestError, "rename"),
        ("cart", {"$set": {"key": "x"}}, UnknownField, "key"),
        ("cart", {"$set": {"items.x": 1}}, InvalidOperation, "only map fields"),
        ("cart", {"$inc": {"labels": 1}}, InvalidOperation, "a map"),
        ("cart", {"$set": {"labels": 1}}, InvalidOperation, "takes an object, not int"),
        ("cart", {"$set": {"labels": {"a": "x"}}}, InvalidDocument, "labels"),
        ("cart", {"$set": {"labels.a": "x"}}, InvalidDocument, "labels"),
        ("cart", {"$inc": {"items": 1}}, InvalidOperation, r"\$add, \$remove, \$set, \$unset"),
        ("cart", {"$add": {"items": [1]}}, InvalidDocument, "items"),
        ("cart", {"$set": {"items": [1]}}, InvalidDocument, "items"),
        ("stock", {"$add": {"left": [1]}}, InvalidOperation, "bounded_counter"),
        ("note", {"$splice": {"lines": {"at": 0, "insert": [1]}}}, InvalidDocument, "lines"),
        ("note", {"$append": {"nothing": "x"}}, UnknownField, "nothing"),
    ],
)
def test_a_patch_that_does_not_fit_is_refused(
    collection: str, operators: Any, kind: type[RequestError], says: str
) -> None:
    with pytest.raises(kind, match=says):
        patch_of(RULES[collection], "k", operators)


def test_a_patch_is_bounded() -> None:
    members = {f"labels.m{n}": n for n in range(MAX_STEPS)}
    assert len(patch_of(RULES["cart"], "k", {"$set": members}).steps) == MAX_STEPS
    with pytest.raises(InvalidOperation, match="1 to 1000 operations, this one 1001"):
        patch_of(RULES["cart"], "k", {"$set": members, "$add": {"items": ["x"]}})


def test_a_put_of_one_register_is_its_canonical_text() -> None:
    put = put_of(RULES["profile"], "k", b' {"age": 4, "name": "Ann"} ', if_match="v", if_absent=True)
    assert put == Put("profile", "k", b'{"name":"Ann","age":4}', None, "v", True)


def test_a_put_of_many_registers_names_every_field() -> None:
    put = put_of(RULES["cart"], "k", b'{"items":["b","a","b"]}')
    assert put.plain == b'{"note":"","address":{}}'
    assert put.fields == {"note": "", "address": {}, "items": ["a", "b"], "labels": {}}


def test_fields_that_are_known_to_be_valid_are_taken_as_they_are() -> None:
    fields = {"title": "t", "left": 3}
    assert put_fields(RULES["stock"], "k", fields) == Put("stock", "k", b'{"title":"t"}', fields)


def test_unset_of_a_field_with_a_default_sets_it() -> None:
    steps = patch_of(RULES["profile"], "k", {"$unset": ["age"]}).steps
    assert steps == (Step("$set", "age", None, 0),)
    steps = patch_of(RULES["cart"], "k", {"$unset": ["items", "labels", "labels.a"]}).steps
    assert steps[:2] == (Step("$set", "items", None, []), Step("$set", "labels", None, {}))
    assert steps[2] == Step("$unset", "labels", "a", None)


def test_a_member_may_hold_dots_of_its_own() -> None:
    (step,) = patch_of(RULES["cart"], "k", {"$set": {"labels.a.b": 1}}).steps
    assert step == Step("$set", "labels", "a.b", 1)


def test_the_steps_keep_their_order() -> None:
    patch = patch_of(RULES["note"], "k", {"$append": {"body": "x"}, "$add": {"lines": ["y"]}}, if_match="v")
    assert patch == Patch(
        "note", "k", (Step("$append", "body", None, "x"), Step("$add", "lines", None, ["y"])), "v"
    )


def test_writes_of_one_content_are_equal() -> None:
    """Idempotency compares them by content."""
    first, again = (Write((put_of(RULES["profile"], "k", b'{"name":"A"}'),), "key") for _ in range(2))
    assert first == again
