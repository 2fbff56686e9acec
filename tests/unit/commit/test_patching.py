"""What patches, deletions and new beginnings make of a document, and what the team's own rules say to it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from pydantic import field_validator, model_validator

from atoll.commit.draft import Draft
from atoll.documents.document import Document, decode_row
from atoll.documents.mutation import Delete, Mutation, Transfer, patch_of, put_of
from atoll.documents.register import Operation, Version
from atoll.documents.rules import TOUCH, WHOLE, Rules
from atoll.errors import BoundExceeded, InvalidDocument, InvalidOperation, NotFound, VersionMismatch
from atoll.lattices.base import Actor
from atoll.schema.application import application_of
from atoll.schema.collection import Collection
from atoll.schema.fields import Counter, SetOf

from .replica import REGIONS, Replica, rules_of
from .shop import SHOP


class Range(Collection):
    low: int = 0
    high: int = 10
    used: Counter

    @model_validator(mode="after")
    def _ordered(self) -> Range:
        if not self.low + self.used <= self.high:
            raise ValueError("low and used are above high")
        return self


class Tagged(Collection, resolve="merge"):
    name: str = ""
    tags: SetOf[str]

    @field_validator("name")
    @classmethod
    def _trimmed(cls, name: str) -> str:
        return name.strip()

    @model_validator(mode="after")
    def _named(self) -> Tagged:
        if self.tags and not self.name:
            raise ValueError("tags need a name")
        return self


RULES = rules_of(SHOP) | rules_of(application_of(Range, Tagged))


def draft(rules: Rules, before: Document | None = None) -> Draft:
    dot = Version("a", 4, 9 << 16, 5, 0, {"a": 3, "b": 2}, None)
    return Draft(rules, "k", before or Document({}, {}), None, dot=dot, actor=Actor("a", REGIONS))


def put(collection: str, body: bytes, **guards: Any) -> Mutation:
    return put_of(RULES[collection], "k", body, **guards)


def patch(collection: str, if_match: str | None = None, **operators: object) -> Mutation:
    named = {"$" + name: argument for name, argument in operators.items()}
    return patch_of(RULES[collection], "k", named, if_match=if_match)


def after(*mutations: Mutation) -> Any:
    replica = Replica("a", RULES)
    for mutation in mutations:
        replica.write(mutation)
    shown = replica.shown(mutations[0].collection, "k")
    return None if shown is None else msgspec.json.decode(shown)


# -- operators -----------------------------------------------------------------------------------------


def test_set_and_unset_change_only_what_they_name() -> None:
    first = put("profile", b'{"name":"A","age":4}')
    assert after(first, patch("profile", set={"name": "B"})) == {"name": "B", "age": 4}
    assert after(first, patch("profile", unset=["age"])) == {"name": "A", "age": 0}


def test_the_last_step_on_a_field_stands() -> None:
    assert after(patch("profile", set={"name": "B", "age": 1}, unset=["age"])) == {"name": "B", "age": 0}


def test_map_members_are_set_one_by_one() -> None:
    first = put("cart", b'{"labels":{"a":1,"b":2}}')
    assert after(first, patch("cart", set={"labels.c": 3}, unset=["labels.a"]))["labels"] == {"b": 2, "c": 3}
    assert after(first, patch("cart", set={"labels": {"b": 5}}))["labels"] == {"b": 5}
    assert after(first, patch("cart", unset=["labels"]))["labels"] == {}


def test_only_the_members_that_differ_are_written() -> None:
    replica = Replica("a", RULES)
    replica.write(put("cart", b'{"labels":{"a":1,"b":2}}'))
    replica.write(patch("cart", set={"labels": {"b": 2, "c": 3}}))
    (change,) = replica.journal[-1].entry.changes
    assert change.registers == {"labels.a": None, "labels.c": b"3", WHOLE: b"{}", TOUCH: b"{}"}


def test_operations_on_lattices_leave_a_touch() -> None:
    made = draft(RULES["views"])
    made.mutate(patch("views", inc={"seen": 3}))
    assert made.written_registers[TOUCH] == b"{}"
    quiet = draft(RULES["views"], made.document)
    quiet.mutate(patch("views", inc={"seen": 0}))
    assert quiet.empty
    deleted = draft(RULES["views"], made.document)
    deleted.mutate(Delete("views", "k"))
    assert deleted.written_registers == {WHOLE: None, TOUCH: None}


def test_a_change_says_what_the_writer_did() -> None:
    document, operations = None, []
    for mutation in (
        put("profile", b'{"name":"A"}'),
        put("profile", b'{"name":"B"}'),
        Delete("profile", "k"),
    ):
        made = draft(RULES["profile"], document)
        made.mutate(mutation)
        operations.append(made.change(()).operation)
        document = made.document
    assert operations == [Operation.INSERT, Operation.UPDATE, Operation.DELETE]


def test_versions_carry_the_dot_and_what_was_seen() -> None:
    made = draft(RULES["profile"])
    made.mutate(put("profile", b'{"name":"A"}'))
    (version,) = made.document.registers[WHOLE]
    assert (version.origin, version.seq, version.stamp) == ("a", 4, 9 << 16)
    assert version.context == {"a": 3, "b": 2}


@pytest.mark.parametrize("collection", ["profile", "cart"])
def test_the_document_before_is_left_alone(collection: str) -> None:
    replica = Replica("a", RULES)
    replica.write(put(collection, b'{"name":"n"}' if collection == "profile" else b'{"note":"n"}'))
    before = decode_row(RULES[collection], replica.rows[collection, "k"])
    kept = (dict(before.registers), dict(before.lattices))
    draft(RULES[collection], before).mutate(Delete(collection, "k"))
    assert (before.registers, before.lattices) == kept


# -- preconditions -------------------------------------------------------------------------------------


def test_a_tag_of_a_tombstone_opens_nothing() -> None:
    replica = Replica("a", RULES)
    replica.write(put("profile", b'{"name":"A"}'))
    tag = replica.write(Delete("profile", "k")).written[0].version
    with pytest.raises(VersionMismatch, match="does not exist"):
        replica.write(put("profile", b'{"name":"B"}', if_match=tag))
    replica.write(put("profile", b'{"name":"C"}', if_absent=True))


def test_a_second_precondition_in_one_request_cannot_hold() -> None:
    replica = Replica("a", RULES)
    tag = replica.write(put("profile", b'{"name":"A"}')).written[0].version
    with pytest.raises(VersionMismatch):
        replica.write(patch("profile", tag, set={"age": 1}), patch("profile", tag, set={"age": 2}))
    assert replica.shown("profile", "k") == b'{"name":"A","age":0}'


# -- new beginnings ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("collection", "body", "operators", "shown"),
    [
        ("profile", b'{"name":"A","age":9}', {"$set": {"name": "B"}}, {"name": "B", "age": 0}),
        ("views", b'{"seen":9}', {"$inc": {"seen": 1}}, {"seen": 1}),
        ("stock", b'{"title":"t","left":2}', {"$inc": {"left": 1}}, {"title": "", "left": 1}),
        ("note", b'{"body":"old","lines":["o"]}', {"$append": {"body": "new"}}, {"body": "new", "lines": []}),
        (
            "cart",
            b'{"note":"n","address":{"a":1},"items":["x"],"labels":{"l":1}}',
            {"$add": {"items": ["y"]}},
            {"note": "", "address": {}, "items": ["y"], "labels": {}},
        ),
    ],
)
def test_a_patch_after_a_deletion_starts_from_the_defaults(
    collection: str, body: bytes, operators: dict[str, object], shown: object
) -> None:
    again = patch_of(RULES[collection], "k", operators)
    assert after(put(collection, body), Delete(collection, "k"), again) == shown


def test_a_put_after_a_deletion_shows_what_it_says() -> None:
    first = put("cart", b'{"note":"n","items":["x"],"labels":{"l":1}}')
    shown = after(first, Delete("cart", "k"), put("cart", b'{"items":["y"]}'))
    assert shown == {"note": "", "address": {}, "items": ["y"], "labels": {}}


def test_one_request_may_delete_and_write_again() -> None:
    replica = Replica("a", RULES)
    replica.write(put("views", b'{"seen":9}'))
    replica.write(Delete("views", "k"), patch("views", inc={"seen": 2}))
    assert replica.shown("views", "k") == b'{"seen":2}'
    assert len(replica.journal) == 2


def test_a_patch_cannot_invent_a_required_field() -> None:
    with pytest.raises(NotFound, match="cannot create it") as caught:
        after(patch("profile", set={"age": 3}))
    assert caught.value.details == {"collection": "profile", "key": "k"}


# -- bounded counters ----------------------------------------------------------------------------------


def test_rights_that_others_hold_end_with_the_document() -> None:
    replica = Replica("a", RULES)
    replica.write(put("stock", b'{"left":9}'))
    with pytest.raises(BoundExceeded) as caught:
        replica.write(put("stock", b'{"left":1}'))
    assert (caught.value.details["wanted"], caught.value.details["left_here"]) == (8, 3)
    replica.write(Delete("stock", "k"))
    replica.write(put("stock", b'{"left":1}'))
    assert replica.shown("stock", "k") == b'{"title":"","left":1}'


@pytest.mark.parametrize(
    ("wanted", "ahead", "given"),
    [(1, False, 15), (20, False, 20), (1000, False, 30), (1, True, 1), (20, True, 20), (1000, True, 30)],
)
def test_a_transfer_gives_what_is_asked_or_half_the_spare(wanted: int, ahead: bool, given: int) -> None:
    """Ahead of need no more than was asked for."""
    replica = Replica("a", RULES)
    replica.write(put("stock", b'{"left":90}'))
    assert replica.write(Transfer("stock", "k", "left", "b", wanted, ahead)).seq == 2
    lattice = RULES["stock"].lattices["left"]
    state = decode_row(RULES["stock"], replica.rows["stock", "k"]).lattices["left"]
    assert lattice.rights(state, "b") == 30 + given  # type: ignore[attr-defined]
    assert lattice.value(state) == 90


@pytest.mark.parametrize(("collection", "field"), [("profile", "age"), ("views", "seen"), ("stock", "title")])
def test_only_a_bounded_counter_has_rights_to_give(collection: str, field: str) -> None:
    with pytest.raises(InvalidOperation, match="not a BoundedCounter"):
        Replica("a", RULES).write(Transfer(collection, "k", field, "b", 1))


# -- the team's rules ----------------------------------------------------------------------------------


def test_the_teams_rules_hold_for_a_patch() -> None:
    first = put("range", b'{"low":1,"high":5}')
    assert after(first, patch("range", set={"low": 5})) == {"low": 5, "high": 5, "used": 0}
    with pytest.raises(InvalidDocument, match="above high"):
        after(first, patch("range", set={"low": 6}))
    with pytest.raises(InvalidDocument, match="above high"):
        after(patch("range", set={"low": 11}))


def test_the_teams_rules_hold_for_operations_on_lattices() -> None:
    first = put("range", b'{"low":1,"high":5}')
    assert after(first, patch("range", inc={"used": 4})) == {"low": 1, "high": 5, "used": 4}
    with pytest.raises(InvalidDocument, match="above high"):
        after(first, patch("range", inc={"used": 5}))
    with pytest.raises(InvalidDocument, match="above high"):
        after(first, patch("range", inc={"used": 1}, set={"low": 5}))


def test_the_teams_rules_hold_under_merge() -> None:
    with pytest.raises(InvalidDocument, match="tags need a name"):
        after(patch("tagged", add={"tags": ["x"]}))
    with pytest.raises(InvalidDocument, match="tags need a name"):
        after(put("tagged", b'{"name":"n","tags":["x"]}'), patch("tagged", set={"name": " "}))
    assert after(patch("tagged", add={"tags": ["x"]}, set={"name": "n"})) == {"name": "n", "tags": ["x"]}


def test_what_the_teams_rules_make_of_it_is_stored() -> None:
    assert after(patch("tagged", set={"name": "  n "})) == {"name": "n", "tags": []}
    assert after(put("tagged", b'{"name":" n"}')) == {"name": "n", "tags": []}
