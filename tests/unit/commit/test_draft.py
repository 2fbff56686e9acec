"""Local writes: what is refused, what is written, and what another region is told."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from atoll.documents.mutation import MAX_STEPS, Delete, Patch, Put, Transfer, patch_of, put_of
from atoll.errors import (
    AtollError,
    BoundExceeded,
    InvalidDocument,
    InvalidOperation,
    NotFound,
    TooLarge,
    UnknownField,
    VersionMismatch,
)
from atoll.schema import Collection
from atoll.schema.application import application_of

from .replica import Replica, rules_of, settle
from .shop import SHOP

RULES = rules_of(SHOP)


def put(collection: str, key: str, document: Any, **options: Any) -> Put:
    return put_of(RULES[collection], key, msgspec.json.encode(document), **options)


def patch(collection: str, key: str, operators: Any, **options: Any) -> Patch:
    return patch_of(RULES[collection], key, operators, **options)


def shown(replica: Replica, collection: str, key: str) -> Any:
    value = replica.shown(collection, key)
    return None if value is None else msgspec.json.decode(value)


@pytest.fixture
def region() -> Replica:
    replica = Replica("a", RULES)
    replica.write(put("profile", "ann", {"name": "Ann", "age": 3}))
    replica.write(put("cart", "c", {"note": "n", "items": ["x"], "labels": {"l": 1}}))
    return replica


@pytest.mark.parametrize(
    ("collection", "operators", "error"),
    [
        ("profile", [], InvalidOperation),
        ("profile", {}, InvalidOperation),
        ("profile", {"$set": {}}, InvalidOperation),
        ("profile", {"$set": ["name"]}, InvalidOperation),
        ("profile", {"$unset": {"age": 1}}, InvalidOperation),
        ("profile", {"$unset": ["name"]}, InvalidOperation),
        ("profile", {"$set": {"nmae": "x"}}, UnknownField),
        ("profile", {"$set": {"nmae.x": 1}}, UnknownField),
        ("profile", {"$set": {"name.x": 1}}, InvalidOperation),
        ("profile", {"$set": {"name": 7}}, InvalidDocument),
        ("profile", {"$inc": {"age": 1}}, InvalidOperation),
        ("profile", {"$bogus": {"age": 1}}, InvalidOperation),
        ("cart", {"$inc": {"items": 1}}, InvalidOperation),
        ("cart", {"$add": {"items": [7]}}, InvalidDocument),
        ("cart", {"$add": {"labels": ["x"]}}, InvalidOperation),
        ("cart", {"$set": {"labels": 7}}, InvalidOperation),
        ("cart", {"$set": {"labels.x": "seven"}}, InvalidDocument),
        ("profile", {"$set": dict.fromkeys(map(str, range(MAX_STEPS + 1)), 1)}, AtollError),
    ],
    ids=str,
)
def test_a_patch_that_does_not_fit_is_refused(
    collection: str, operators: Any, error: type[AtollError]
) -> None:
    with pytest.raises(error):
        patch(collection, "k", operators)


def refused(region: Replica, mutation: Any, error: type[AtollError]) -> AtollError:
    """Write, expect `error`, and check that nothing changed."""
    before = dict(region.rows), dict(region.vector), list(region.journal)
    with pytest.raises(error) as raised:
        region.write(mutation)
    assert (region.rows, region.vector, region.journal) == before
    return raised.value


def test_preconditions_name_the_version_that_is_there(region: Replica) -> None:
    version = region.write(patch("profile", "ann", {"$set": {"age": 4}})).written[0].version
    error = refused(region, put("profile", "ann", {"name": "X"}, if_match="other"), VersionMismatch)
    assert error.details["version"] == version
    refused(region, put("profile", "ann", {"name": "X"}, if_absent=True), VersionMismatch)
    refused(region, put("profile", "bob", {"name": "X"}, if_match="*"), VersionMismatch)
    refused(region, Delete("profile", "ann", "other"), VersionMismatch)
    refused(region, patch("profile", "ann", {"$set": {"age": 5}}, if_match="other"), VersionMismatch)
    region.write(put("profile", "ann", {"name": "X"}, if_match=version))
    refused(region, put("profile", "ann", {"name": "Y"}, if_match=version), VersionMismatch)


def test_an_absent_document_cannot_be_deleted(region: Replica) -> None:
    refused(region, Delete("profile", "bob"), NotFound)
    region.write(Delete("profile", "ann"))
    refused(region, Delete("profile", "ann"), NotFound)


def test_a_patch_creates_what_defaults_allow(region: Replica) -> None:
    region.write(patch("views", "new", {"$inc": {"seen": 2}}))
    assert shown(region, "views", "new") == {"seen": 2}
    region.write(patch("profile", "new", {"$set": {"name": "New"}}))
    assert shown(region, "profile", "new") == {"name": "New", "age": 0}
    refused(region, patch("profile", "newer", {"$set": {"age": 1}}), NotFound)


def test_a_document_may_not_grow_past_its_limit(region: Replica) -> None:
    half = "x" * (600 << 10)
    region.write(patch("note", "n", {"$append": {"body": half}}))
    refused(region, patch("note", "n", {"$append": {"body": half}}), TooLarge)


def test_a_write_of_several_is_all_or_none(region: Replica) -> None:
    before = dict(region.rows)
    with pytest.raises(NotFound):
        region.write(put("profile", "bob", {"name": "Bob"}), Delete("profile", "nobody"))
    assert region.rows == before


def test_two_changes_of_one_document_become_one_entry(region: Replica) -> None:
    region.write(put("profile", "bob", {"name": "B"}), patch("profile", "bob", {"$set": {"age": 9}}))
    assert shown(region, "profile", "bob") == {"name": "B", "age": 9}
    assert len(region.journal[-1].entry.changes) == 1


def test_a_put_sends_only_the_difference_of_a_merged_field() -> None:
    a, b = Replica("a", RULES), Replica("b", RULES)
    a.write(put("cart", "c", {"items": ["x", "y"]}))
    settle([a, b])
    b.write(patch("cart", "c", {"$add": {"items": ["z"]}}))
    a.write(put("cart", "c", {"items": ["y"]}))
    settle([a, b])
    assert shown(a, "cart", "c")["items"] == shown(b, "cart", "c")["items"] == ["y", "z"]


def test_under_merge_an_untouched_field_cannot_collide() -> None:
    a, b = Replica("a", RULES), Replica("b", RULES)
    a.write(put("cart", "c", {"note": "n", "labels": {"l": 1}}))
    settle([a, b])
    a.write(put("cart", "c", {"note": "n", "labels": {"l": 2}}))
    b.write(put("cart", "c", {"note": "new", "labels": {"l": 1}}))
    settle([a, b])
    assert shown(a, "cart", "c") == shown(b, "cart", "c")
    assert shown(a, "cart", "c")["note"] == "new"
    assert shown(a, "cart", "c")["labels"] == {"l": 2}
    assert not [row for row in a.audit.values() if row.field]


def test_rights_are_handed_over_and_spent_once(region: Replica) -> None:
    region.write(put("stock", "s", {"left": 9}))
    error = refused(region, patch("stock", "s", {"$inc": {"left": -4}}), BoundExceeded)
    details = {name: error.details[name] for name in ("wanted", "left_here", "left_in_all", "field", "key")}
    assert details == {"wanted": 4, "left_here": 3, "left_in_all": 9, "field": "left", "key": "s"}
    region.write(Transfer("stock", "s", "left", "b", 1))
    refused(region, patch("stock", "s", {"$inc": {"left": -3}}), BoundExceeded)
    refused(region, Transfer("profile", "ann", "age", "b", 1), InvalidOperation)


def test_a_transfer_without_rights_changes_nothing(region: Replica) -> None:
    region.write(put("stock", "s", {"left": 3}))
    region.write(patch("stock", "s", {"$inc": {"left": -1}}))
    assert region.write(Transfer("stock", "s", "left", "b", 1)).seq == 0


def test_what_a_request_writes_and_deletes_is_the_same_in_every_region() -> None:
    a, b = Replica("a", RULES), Replica("b", RULES)
    a.write(put("cart", "c", {"note": "n", "labels": {"l": 1}}))
    a.write(patch("cart", "c", {"$set": {"note": "m", "labels.l": 2}}), Delete("cart", "c"))
    settle([a, b])
    assert a.digests() == b.digests()


class Photo(Collection, resolve="merge"):
    owner: str | None = None
    pet: str | None = None


def test_what_one_write_sets_and_deletes_is_gone() -> None:
    """Else it is there again with what another region has written at that time."""
    rules = rules_of(application_of(Photo))
    region, other = replicas = [Replica("a", rules), Replica("b", rules)]
    region.write(put_of(rules["photo"], "k", b'{"owner": "eve", "pet": "rex"}'))
    settle(replicas)
    region.write(patch_of(rules["photo"], "k", {"$set": {"owner": "bob"}}), Delete("photo", "k"))
    other.write(patch_of(rules["photo"], "k", {"$set": {"pet": "tom"}}))
    settle(replicas)
    for each in replicas:
        assert shown(each, "photo", "k") == {"owner": "eve", "pet": "tom"}  # as if it had been deleted alone
