"""A document that is created anew inherits nothing of the deleted one, and what was done to that one is not unseen."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from atoll.documents.mutation import Delete, Mutation, patch_of, put_of
from atoll.schema.application import application_of
from atoll.schema.collection import Collection
from atoll.schema.fields import BoundedCounter, Counter, ListOf, MapOf, SetOf, Text

from .replica import Replica, rules_of, settle


class Paper(Collection):
    title: str = ""
    body: Text
    lines: ListOf[str]
    words: SetOf[str]
    members: MapOf[str]
    views: Counter
    left: BoundedCounter = 0


class Sheet(Collection, resolve="merge"):
    title: str = ""
    body: Text
    lines: ListOf[str]
    words: SetOf[str]
    members: MapOf[str]
    views: Counter
    left: BoundedCounter = 0


RULES = rules_of(application_of(Paper, Sheet))
BOTH = pytest.mark.parametrize("collection", ["paper", "sheet"])
FULL: dict[str, Any] = {
    "title": "old",
    "body": "old",
    "lines": ["old"],
    "words": ["old"],
    "members": {"old": "old"},
    "views": 90,
    "left": 90,
}
NEW: dict[str, Any] = {
    "title": "new",
    "body": "new",
    "lines": ["new"],
    "words": ["new"],
    "members": {"new": "new"},
    "views": 1,
    "left": 1,
}
EMPTY: dict[str, Any] = {
    "title": "", "body": "", "lines": [], "words": [], "members": {}, "views": 0, "left": 0
}  # fmt: skip
EVERYTHING: dict[str, Any] = {
    "$append": {"body": " more"},
    "$add": {"lines": ["more"], "words": ["more"]},
    "$set": {"members.more": "more"},
    "$inc": {"views": 3, "left": -2},
}


def put(collection: str, value: dict[str, Any]) -> Mutation:
    return put_of(RULES[collection], "k", msgspec.json.encode(value))


def patch(collection: str, operators: dict[str, Any]) -> Mutation:
    return patch_of(RULES[collection], "k", operators)


def started(collection: str) -> tuple[Replica, Replica, Replica]:
    a, b, c = (Replica(name, RULES) for name in "abc")
    a.write(put(collection, FULL))
    settle([a, b, c])
    return a, b, c


def agreed(*replicas: Replica) -> Any:
    """What all of them show of the document."""
    settle(list(replicas))
    first, *others = replicas
    for other in others:
        assert other.rows.keys() == first.rows.keys()
        assert other.digests() == first.digests()
        assert other.audit == first.audit
    ((collection, key),) = first.rows
    shown = {replica.shown(collection, key) for replica in replicas}
    assert len(shown) == 1
    value = shown.pop()
    return None if value is None else msgspec.json.decode(value)


@BOTH
def test_nothing_is_inherited(collection: str) -> None:
    a, b, c = started(collection)
    a.write(Delete(collection, "k"))
    a.write(put(collection, NEW))
    assert agreed(a, b, c) == NEW
    b.write(Delete(collection, "k"))
    b.write(patch(collection, {"$inc": {"views": 1}}))
    assert agreed(a, b, c) == {**EMPTY, "views": 1}


@BOTH
def test_one_request_may_delete_and_create(collection: str) -> None:
    a, b, c = started(collection)
    a.write(Delete(collection, "k"), put(collection, NEW), patch(collection, {"$inc": {"views": 1}}))
    assert agreed(a, b, c) == {**NEW, "views": 2}


@BOTH
@pytest.mark.parametrize("first", ["ab", "ba"])
def test_what_was_done_to_the_deleted_one_is_in_the_audit_and_not_in_the_new_one(
    collection: str, first: str
) -> None:
    a, b, c = started(collection)
    b.write(patch(collection, EVERYTHING))
    a.write(Delete(collection, "k"))
    a.write(put(collection, NEW))
    sources = {"a": a, "b": b}
    for name in first:  # c hears of them in either order
        c.receive(sources[name].journal[-2:] if name == "a" else sources[name].journal[-1:])
    assert agreed(a, b, c) == NEW
    (record,) = [msgspec.json.decode(row.body) for row in a.audit.values()]
    assert (record["kind"], record["status"], record["field"]) == ("update_deleted", "open", "")
    assert record["losing"]["region"] == "b"
    assert record["losing"]["value"] == {
        "body": "old more",
        "lines": ["old", "more"],
        "words": ["more", "old"],
        "members": {"more": "more", "old": "old"},
        "views": 93,
        "left": 88,
    }


@BOTH
def test_those_who_create_it_anew_at_once_create_one_document(collection: str) -> None:
    a, b, c = started(collection)
    a.write(Delete(collection, "k"))
    settle([a, b, c])
    a.write(put(collection, {**EMPTY, "views": 1, "words": ["a"]}))
    b.write(put(collection, {**EMPTY, "views": 2, "words": ["b"]}))
    assert agreed(a, b, c) == {**EMPTY, "views": 3, "words": ["a", "b"]}


@BOTH
def test_both_may_delete_it_and_create_it_anew(collection: str) -> None:
    a, b, c = started(collection)
    for replica, word in ((a, "a"), (b, "b")):
        replica.write(Delete(collection, "k"))
        replica.write(put(collection, {**EMPTY, "views": 1, "words": [word]}))
    assert agreed(a, b, c) == {**EMPTY, "views": 2, "words": ["a", "b"]}
    assert a.audit == {}


def test_a_smaller_stock_needs_no_rights_of_the_former_one() -> None:
    a, b, c = started("paper")
    b.write(Delete("paper", "k"))
    b.write(put("paper", {**EMPTY, "left": 3}))
    b.write(patch("paper", {"$inc": {"left": -1}}))
    assert agreed(a, b, c) == {**EMPTY, "left": 2}


@BOTH
def test_a_snapshot_brings_all_lives(collection: str) -> None:
    a, b, c = started(collection)
    b.write(patch(collection, EVERYTHING))
    a.write(Delete(collection, "k"))
    a.write(put(collection, NEW))
    settle([a, b, c])
    d = Replica("d", RULES)
    for page in a.snapshot():
        d.perform(page)
    assert d.digests() == a.digests()
    assert d.audit == a.audit
