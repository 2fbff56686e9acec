from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.commit.identity import Address
from atoll.documents.mutation import Delete, Mutation, Write, patch_of, put_of
from atoll.documents.rules import Rules
from atoll.errors import InvalidDocument, InvalidOperation, OwnershipFixed
from atoll.membership.members import Members, Membership
from atoll.ownership.ownership import Ownership, Seen, rendezvous
from atoll.schema.application import application_of
from atoll.schema.collection import Collection
from atoll.schema.placement import home_region, key_ranges
from atoll.store.port import Row

REGIONS = ("a", "b", "c")


class Order(Collection, placement=home_region("region")):
    region: str
    quantity: int = 1


class Shelf(Collection, placement=key_ranges({"": "a", "m": "b"})):
    label: str = ""


class Account(Collection, consistency="strong"):
    balance: int = 0


class Inventory(Collection, consistency="strong", fallback="eventual"):
    title: str = ""


APPLICATION = application_of(Order, Shelf, Account, Inventory)
RULES = {name: Rules(schema) for name, schema in APPLICATION.collections.items()}


STORED = {("order", "b-order"): Row(b'{"region":"b","quantity":1}', b"")}


@pytest.fixture
def ownership() -> Ownership:
    return Ownership("a", Members(Membership.of(REGIONS)), RULES)


def put(collection: str, key: str, document: Any) -> Mutation:
    return put_of(RULES[collection], key, msgspec.json.encode(document))


def patch(collection: str, key: str, operators: Any) -> Mutation:
    return patch_of(RULES[collection], key, operators)


def seen(ownership: Ownership) -> Callable[[Address], Seen]:
    return lambda address: ownership.seen(address[0], STORED.get(address))


@pytest.mark.parametrize(
    ("mutation", "owner"),
    [
        (put("order", "new", {"region": "c"}), "c"),
        (put("order", "b-order", {"region": "b", "quantity": 9}), "b"),
        (patch("order", "b-order", {"$set": {"quantity": 2}}), "b"),
        (patch("order", "new", {"$set": {"region": "c"}}), "c"),
        (Delete("order", "b-order"), "b"),
        (Delete("order", "unheard-of"), None),
        (put("shelf", "apple", {}), "a"),
        (put("shelf", "melon", {}), "b"),
        (put("inventory", "any", {}), None),
    ],
    ids=str,
)
def test_a_write_belongs_to_its_owner(ownership: Ownership, mutation: Mutation, owner: str | None) -> None:
    assert ownership.of_write(Write((mutation,)), seen(ownership)) == owner


@pytest.mark.parametrize(
    "mutation",
    [put("order", "b-order", {"region": "c"}), patch("order", "b-order", {"$set": {"region": "a"}})],
    ids=["put", "patch"],
)
def test_a_write_cannot_move_a_document(ownership: Ownership, mutation: Mutation) -> None:
    with pytest.raises(OwnershipFixed) as raised:
        ownership.of_write(Write((mutation,)), seen(ownership))
    assert raised.value.details["owner"] == "b"


def test_a_region_that_is_none_owns_nothing(ownership: Ownership) -> None:
    with pytest.raises(InvalidDocument, match="mars"):
        ownership.of_write(Write((put("order", "new", {"region": "mars"}),)), seen(ownership))


@pytest.mark.parametrize(
    "mutation",
    [
        put("order", "b-order", {"region": "b", "quantity": 9}),
        put("order", "b-order", {"region": "c"}),
        patch("order", "b-order", {"$set": {"quantity": 2}}),
        patch("order", "b-order", {"$set": {"region": "a"}}),
        Delete("order", "b-order"),
    ],
    ids=["put", "move by put", "patch", "move by patch", "delete"],
)
def test_documents_of_a_region_that_has_left_fall_to_one_of_the_others(mutation: Mutation) -> None:
    members = Members(Membership.of(REGIONS).without("b"))
    ownership = Ownership("a", members, RULES)
    owner = ownership.of_write(Write((mutation,)), seen(ownership))
    assert owner == ownership.of_document("order", "b-order", STORED["order", "b-order"])
    assert owner == rendezvous(("a", "c"), "order\x00b-order")
    moved: dict[Address, Seen] = {("order", "b-order"): {"region": "c"}}
    assert ownership.of_write(Write((Delete("order", "b-order"),)), moved.get) == "c"
    with pytest.raises(InvalidDocument, match="names 'b' as its region"):
        ownership.of_write(Write((put("order", "new", {"region": "b"}),)), seen(ownership))
    with pytest.raises(InvalidDocument, match="names 'mars' as its region"):
        ownership.of_write(Write((patch("order", "b-order", {"$set": {"region": "mars"}}),)), seen(ownership))


def test_a_batch_has_one_owner(ownership: Ownership) -> None:
    both = Write((put("shelf", "apple", {}), put("order", "new", {"region": "a"})))
    assert ownership.of_write(both, seen(ownership)) == "a"
    with pytest.raises(InvalidOperation, match="several owners"):
        ownership.of_write(Write((put("shelf", "apple", {}), put("shelf", "melon", {}))), seen(ownership))


def test_strong_documents_without_a_placement_have_no_owner(ownership: Ownership) -> None:
    assert ownership.of_write(Write((put("account", "k", {}),)), seen(ownership)) is None
    assert (
        ownership.of_document("account", "k", None) is ownership.of_document("inventory", "k", None) is None
    )


@given(st.text(max_size=8))
def test_a_region_that_leaves_moves_only_what_it_owned(name: str) -> None:
    owner = rendezvous(REGIONS, name)
    left = tuple(region for region in REGIONS if region != "b")
    assert rendezvous(left, name) == owner or owner == "b"


def test_owners_are_spread() -> None:
    owners = [rendezvous(REGIONS, f"k{n}") for n in range(300)]
    assert all(owners.count(region) > 60 for region in REGIONS)
