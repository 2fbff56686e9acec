from __future__ import annotations

from collections import Counter

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.documents.document import (
    Document,
    bucket_of,
    decode_row,
    delta_of,
    digest,
    encode_row,
    map_members,
    merge,
    siblings,
    version_tag,
    visible,
)
from atoll.documents.entry import Change, Entry
from atoll.documents.mutation import Delete, patch_of, put_of
from atoll.errors import HostileEntry, StoreCorrupt
from atoll.store.port import Row

from ..commit.replica import Replica, rules_of, settle
from ..commit.shop import SHOP

RULES = rules_of(SHOP)
BODIES = {
    "profile": b'{"name":"Ann","age":0}',
    "cart": b'{"note":"n","address":{"a":1},"items":["x"],"labels":{"l":1}}',
    "stock": b'{"title":"t","left":7}',
    "note": b'{"body":"text","lines":["one","two"]}',
    "views": b'{"seen":4}',
}


def put(replica: Replica, collection: str, body: bytes = b"", key: str = "k") -> None:
    replica.write(put_of(RULES[collection], key, body or BODIES[collection]))


def document(replica: Replica, collection: str, key: str = "k") -> Document:
    return decode_row(RULES[collection], replica.rows[collection, key])


def contested(collection: str, *bodies: bytes) -> Document:
    replicas = [Replica(name, RULES) for name in "ab"]
    for replica, body in zip(replicas, bodies, strict=True):
        put(replica, collection, body)
    settle(replicas)
    return document(replicas[0], collection)


@pytest.mark.parametrize("collection", BODIES)
def test_a_document_survives_its_row(collection: str) -> None:
    replica = Replica("a", RULES)
    put(replica, collection)
    row = replica.rows[collection, "k"]
    assert row.value == BODIES[collection]
    assert encode_row(RULES[collection], decode_row(RULES[collection], row)) == row


def test_a_contested_document_survives_its_row() -> None:
    found = contested("page", b'{"title":"a"}', b'{"title":"b"}')
    again = decode_row(RULES["page"], encode_row(RULES["page"], found))
    assert again.registers == found.registers
    assert again.contested


def test_a_value_is_stored_once() -> None:
    replica = Replica("a", RULES)
    put(replica, "profile", b'{"name":"only once in the row"}')
    assert b"only once" not in replica.rows["profile", "k"].meta


def test_a_deletion_leaves_a_tombstone() -> None:
    replica = Replica("a", RULES)
    put(replica, "cart")
    replica.write(Delete("cart", "k"))
    row = replica.rows["cart", "k"]
    assert row.value is None
    assert visible(RULES["cart"], decode_row(RULES["cart"], row)) is None


@pytest.mark.parametrize("meta", [b"", b"\xff", b"\x91\x01", msgspec.msgpack.encode([{}, {"items": b""}])])
def test_a_damaged_row_is_told(meta: bytes) -> None:
    with pytest.raises(StoreCorrupt, match="cart"):
        decode_row(RULES["cart"], Row(b"{}", meta))


def test_every_field_is_shown_even_when_it_was_never_written() -> None:
    replica = Replica("a", RULES)
    replica.write(patch_of(RULES["stock"], "k", {"$set": {"title": "t"}}))
    assert replica.shown("stock", "k") == b'{"title":"t","left":0}'


def test_a_collection_of_lattices_alone_is_shown() -> None:
    replica = Replica("a", RULES)
    replica.write(patch_of(RULES["views"], "k", {"$inc": {"seen": 2}}))
    assert replica.shown("views", "k") == b'{"seen":2}'


def test_map_members_are_shown_in_order_of_their_names() -> None:
    replica = Replica("a", RULES)
    replica.write(patch_of(RULES["cart"], "k", {"$set": {"labels.z": 1, "labels.a": 2, "labels.é.x": 3}}))
    members = map_members(RULES["cart"], document(replica, "cart"), "labels")
    assert list(members.items()) == [("a", b"2"), ("z", b"1"), ("é.x", b"3")]


def test_the_tag_tells_states_apart() -> None:
    replica = Replica("a", RULES)
    put(replica, "profile")
    first = replica.rows["profile", "k"]
    put(replica, "profile")
    second = replica.rows["profile", "k"]
    assert first.value == second.value
    assert version_tag(first) != version_tag(second)
    assert version_tag(first) == version_tag(Row(first.value, first.meta))


def test_siblings_are_offered_where_the_choice_is_the_applications() -> None:
    page = contested("page", b'{"title":"a"}', b'{"title":"b"}')
    assert [v.value for v in siblings(RULES["page"], page)] == [b'{"title":"a"}', b'{"title":"b"}']
    profile = contested("profile", b'{"name":"a"}', b'{"name":"b"}')
    assert profile.contested
    assert siblings(RULES["profile"], profile) == ()
    assert siblings(RULES["page"], Document({}, {})) == ()


def test_merge_changes_neither_side() -> None:
    one, other = (Replica(name, RULES) for name in "ab")
    put(one, "cart")
    put(other, "cart", b'{"items":["y"]}')
    ours, theirs = document(one, "cart"), document(other, "cart")
    before = (dict(ours.registers), dict(ours.lattices), dict(theirs.registers))
    merged = merge(RULES["cart"], ours, theirs)
    assert (ours.registers, ours.lattices, theirs.registers) == before
    assert digest(RULES["cart"], "k", merged) == digest(
        RULES["cart"], "k", merge(RULES["cart"], theirs, ours)
    )


def test_the_digest_says_whose_document_it_is() -> None:
    one = contested("page", b'{"title":"a"}', b'{"title":"b"}')
    assert digest(RULES["page"], "k", one) != digest(RULES["page"], "l", one)
    assert len(digest(RULES["page"], "k", one)) == 16


@given(st.sets(st.text(max_size=8), min_size=200, max_size=300))
def test_keys_spread_over_the_buckets(keys: set[str]) -> None:
    found = Counter(bucket_of(key, 8) for key in keys)
    assert set(found) <= set(range(8))
    assert max(found.values()) < len(keys) / 2


def _entry(change: Change) -> Entry:
    return Entry("b", 1, 7, 5, {}, (change,))


@pytest.mark.parametrize(
    ("collection", "registers", "deltas", "says"),
    [
        ("cart", {"no name": b"1"}, {}, "has a register 'no name'"),
        ("cart", {".x": b"1"}, {}, "has a register"),
        ("cart", {"note": b"1e999"}, {}, "is not JSON"),
        ("cart", {"note": b'"\xff"'}, {}, "is not JSON"),
        ("cart", {"note": b"[" * 200 + b"]" * 200}, {}, "nested deeper"),
        ("profile", {"": b"not json"}, {}, "is not JSON"),
        ("profile", {"": b"\xff"}, {}, "is not JSON"),
        ("profile", {"": b"[1]"}, {}, "not a JSON object"),
        ("profile", {"": b"[" * 100_000}, {}, "is not JSON"),
        ("views", {}, {"seen": b"\x81\xa1c\x92\x01\x00"}, "another region's part"),
        ("views", {}, {"seen": b"\xff"}, "counter"),
        ("cart", {}, {"items": b"garbage"}, "set"),
    ],
)
def test_a_change_that_does_not_fit_is_hostile(
    collection: str, registers: dict[str, bytes | None], deltas: dict[str, bytes], says: str
) -> None:
    change = Change(collection, "k", 0, registers, deltas)
    with pytest.raises(HostileEntry, match=says):
        delta_of(RULES[collection], _entry(change), change)


def test_a_change_becomes_versions_that_carry_their_dot() -> None:
    change = Change("cart", "k", 1, {"": b"{}", "note": b'"x"', "labels.a": None})
    versions = delta_of(RULES["cart"], _entry(change), change).registers
    assert {name: v[0].value for name, v in versions.items()} == change.registers
    assert {(v[0].origin, v[0].seq, v[0].stamp, v[0].operation) for v in versions.values()} == {
        ("b", 1, 7, 1)
    }
