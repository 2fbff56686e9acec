from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from atoll.causality.origin import Origin
from atoll.causality.types import Seq, Stamp
from atoll.commit.identity import Address
from atoll.consensus.decided import (
    MOST_REMEMBERED,
    REMEMBERED_MS,
    Decided,
    Made,
    Memory,
    change_of,
    changed,
    decoded,
    encoded,
    forgetting,
    initial,
    row_for,
    written,
)
from atoll.documents import decided as documents
from atoll.documents.document import decode_row, row_of, visible
from atoll.documents.mutation import Delete, Mutation, patch_of, put_of
from atoll.documents.register import Operation, Version
from atoll.documents.rules import WHOLE, Rules
from atoll.errors import NotFound, StoreCorrupt, VersionMismatch
from atoll.schema import Collection, Counter, SetOf
from atoll.schema.application import application_of
from atoll.store.port import Row


class Basket(Collection, consistency="strong"):
    name: str = ""
    items: SetOf[str]
    count: Counter


class Note(Collection, consistency="strong"):
    text: str


RULES = Rules(application_of(Basket).collections["basket"])
PLAIN = Rules(application_of(Note).collections["note"])
ADDRESS: Address = ("basket", "k")
NOTHING = Decided()


def after(*mutations: Mutation, value: Decided = NOTHING) -> Decided:
    for mutation in mutations:
        value = changed(RULES, value, mutation, 1 << 16, None)
    return value


def put(if_match: str | None = None, if_absent: bool = False, **fields: Any) -> Mutation:
    body = json.dumps(fields).encode()
    return put_of(RULES, "k", body, if_match=if_match, if_absent=if_absent)


def patch(**operators: Any) -> Mutation:
    return patch_of(RULES, "k", {f"${name}": argument for name, argument in operators.items()})


def shown(value: Decided) -> Any:
    return json.loads(value.value or b"null")


def test_each_change_makes_the_next_revision_with_a_later_stamp() -> None:
    steps = (put(name="x"), patch(inc={"count": 2}), Delete("basket", "k"), put(name="y"))
    values = [after(*steps[:number]) for number in range(len(steps) + 1)]
    assert [value.revision for value in values] == [0, 1, 2, 3, 4]
    assert [value.operation for value in values[1:]] == [
        Operation.INSERT,
        Operation.UPDATE,
        Operation.DELETE,
        Operation.INSERT,
    ]
    stamps = [value.stamp for value in values]
    assert stamps == sorted(set(stamps))
    assert values[3].value is None


@given(st.none() | st.sampled_from([b'{"text":"a"}', b'{"text":"a","colour":"red"}']), st.integers(1, 9))
def test_a_put_is_the_same_with_and_without_a_condition(value: bytes | None, revision: int) -> None:
    before = Decided(revision, 1, value=value, base={"a": 1})
    condition: dict[str, Any] = {"if_absent": True} if value is None else {"if_match": "*"}
    plain, conditional = (put_of(PLAIN, "k", b'{"text": "b"}', **each) for each in ({}, condition))
    stamp = Stamp(5 << 16)
    found = changed(PLAIN, before, plain, stamp, None)
    assert found == changed(PLAIN, before, conditional, stamp, None)


def test_what_ordinary_writers_wrote_before_is_seen() -> None:
    ordinary = Version(Origin("b"), Seq(7), Stamp(1), 0, Operation.UPDATE, {}, b"")
    row = row_of(b'{"text":"a"}', ordinary)
    decided_row = row_for(Decided(3, 1, value=b'{"text":"a"}'))
    plain = put_of(PLAIN, "k", b'{"text": "b"}')
    before = Decided(3, 1, value=b'{"text":"a"}', base={"a": 1})
    assert changed(PLAIN, before, plain, Stamp(5 << 16), row).base == {"a": 1, "b": 7}
    assert changed(PLAIN, before, plain, Stamp(5 << 16), decided_row).base == {"a": 1}
    with pytest.raises(StoreCorrupt):
        changed(PLAIN, before, plain, Stamp(5 << 16), Row(b"{}", b"?"))


def test_a_precondition_is_judged_by_the_decided_value() -> None:
    value = after(put(if_absent=True, name="x"))
    with pytest.raises(VersionMismatch):
        after(put(if_absent=True, name="y"), value=value)
    tag = written(ADDRESS, value).version
    assert shown(after(put(if_match=tag, name="y"), value=value))["name"] == "y"
    with pytest.raises(VersionMismatch):
        after(put(if_match=tag, name="z"), value=after(patch(inc={"count": 1}), value=value))
    with pytest.raises(NotFound):
        after(Delete("basket", "k"), Delete("basket", "k"), value=value)


@given(st.lists(st.integers(-9, 9).filter(bool), min_size=1, max_size=9), st.sets(st.sampled_from("abc")))
def test_mergeable_fields_are_plain_values(amounts: list[int], items: set[str]) -> None:
    value = after(put(name="x"), *(patch(inc={"count": amount}) for amount in amounts))
    for item in items:
        value = after(patch(add={"items": [item]}), value=value)
    assert shown(value)["count"] == sum(amounts)
    assert set(shown(value)["items"]) == items


def test_the_stored_document_and_its_change_say_what_was_decided() -> None:
    value = after(put(name="x"), patch(inc={"count": 2}))
    row = row_for(value)
    assert row is not None
    document = decode_row(RULES, row)
    assert visible(RULES, document) == value.value
    assert documents.revision_of(document.registers[WHOLE]) == 2
    change = change_of(ADDRESS, value)
    assert documents.decision_of(change.deltas) == documents.Decision(2, value.stamp, value.base)
    assert row_for(Decided()) is None
    assert written(ADDRESS, after(put(), Delete("basket", "k"))).value is None


def test_a_decided_value_says_the_same_when_a_register_begins_with_it() -> None:
    value = after(put(name="x"), patch(inc={"count": 2}))
    assert initial(RULES, row_for(value)).value == value.value
    assert initial(RULES, None) == decoded(None) == Decided()


def remembering(value: Decided, *made: Made) -> Decided:
    memory = Memory(value)
    for each in made:
        memory.add(each)
    return memory.kept_in(value)


def certain(number: int, ms: int) -> Made:
    return Made(b"%d" % number, b"", number + 1, ms << 16)


@given(
    st.lists(st.integers(0, 2 * REMEMBERED_MS), max_size=2 * MOST_REMEMBERED).map(sorted), st.integers(1, 64)
)
def test_the_latest_changes_are_remembered(times: list[int], at_once: int) -> None:
    value = Decided()
    made = [certain(number, time) for number, time in enumerate(times)]
    for first in range(0, len(made), at_once):
        value = remembering(value, *made[first : first + at_once])
        assert decoded(encoded(value)) == value
    kept = [each.id for each in made if each.stamp >> 16 > times[-1] - REMEMBERED_MS]
    assert [each.id for each in value.made] == kept[-MOST_REMEMBERED:]
    assert all(Memory(value).find(each.id) == each for each in value.made)


def test_nothing_is_made_anew_where_nothing_was_added() -> None:
    value = remembering(Decided(), certain(1, 1))
    assert remembering(value) is value


def test_doubted_changes_are_remembered_for_the_whole_time() -> None:
    doubted = Made(b"doubted", b"", 1, 1 << 16, True)
    value = remembering(Decided(), doubted)
    for number in range(2 * MOST_REMEMBERED):
        value = remembering(value, certain(number + 1, number + 2))
    memory = Memory(value)
    assert len(value.made) == MOST_REMEMBERED + 1
    assert memory.find(b"doubted") == doubted
    assert memory.find(b"1") is None
    oldest = value.made[1].revision
    assert memory.since(oldest - 1)
    assert not memory.since(oldest - 2)
    value = remembering(value, Made(b"late", b"", 9999, (REMEMBERED_MS + 1) << 16))
    assert Memory(value).find(b"doubted") is None


@given(st.integers(0, MOST_REMEMBERED), st.integers(1, MOST_REMEMBERED))
@example(MOST_REMEMBERED, 1)
def test_what_is_forgotten_on_purpose_does_not_hide_that_more_was_forgotten(needed: int, over: int) -> None:
    changes = [certain(number, 1) for number in range(needed + over)]
    value = forgetting(remembering(Decided(), *changes), {each.id for each in changes[needed:]})
    if len(changes) < MOST_REMEMBERED:
        assert list(value.made) == changes[:needed]
    memory = Memory(value)
    assert not memory.since(0) or all(memory.find(each.id) for each in changes[:needed])


def test_only_so_many_changes_may_be_doubted() -> None:
    memory = Memory(Decided())
    for number in range(MOST_REMEMBERED):
        assert memory.since(0)
        memory.add(Made(b"%d" % number, b"", number + 1, 1 << 16, True))
    assert not memory.since(0)
