"""Old and new declarations exchange entries, in any order and mixture, and lose no field."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atoll.documents import document as documents
from atoll.documents.mutation import Delete, Mutation, patch_of, put_of
from atoll.documents.rules import Rules
from atoll.errors import AtollError
from atoll.schema.application import application_of
from atoll.schema.collection import Collection
from atoll.schema.fields import Counter, MapOf, SetOf, Text

from .replica import REGIONS, Replica, rules_of, settle


class PersonOld(Collection, name="person"):
    name: str
    nick: str | None = None


class PersonNew(Collection, name="person"):
    """`nick` is gone, `age` may be a text, and two fields and a counter are new."""

    name: str
    age: int | str = 0
    tier: str = "plain"
    visits: Counter


class BoardOld(Collection, name="board", resolve="merge"):
    title: str = ""
    stars: Counter


class BoardNew(Collection, name="board", resolve="merge"):
    title: str = ""
    colour: str = "white"
    tags: SetOf[str]
    labels: MapOf[int]
    stars: Counter


class BoardLater(Collection, name="board", resolve="merge"):
    """Without `stars`."""

    title: str = ""
    colour: str = "white"
    tags: SetOf[str]
    labels: MapOf[int]


class Memo(Collection):
    body: Text


OLD = rules_of(application_of(PersonOld, BoardOld))
NEW = rules_of(application_of(PersonNew, BoardNew, Memo))
LATER = rules_of(application_of(PersonNew, BoardLater, Memo))


def shown(replica: Replica, collection: str, key: str = "k") -> Any:
    value = replica.shown(collection, key)
    return None if value is None else msgspec.json.decode(value)


def put(replica: Replica, collection: str, document: dict[str, Any]) -> None:
    replica.write(put_of(replica.rules[collection], "k", msgspec.json.encode(document)))


def patch(replica: Replica, collection: str, operators: dict[str, Any]) -> None:
    replica.write(patch_of(replica.rules[collection], "k", operators))


def two() -> tuple[Replica, Replica]:
    return Replica("a", OLD), Replica("b", NEW)


def test_an_older_region_carries_what_it_does_not_know() -> None:
    a, b = two()
    put(b, "board", {"title": "t", "colour": "red", "tags": ["x"], "labels": {"m": 1}, "stars": 2})
    settle([a, b])
    assert shown(a, "board") == {"title": "t", "stars": 2}
    patch(a, "board", {"$set": {"title": "by a"}, "$inc": {"stars": 1}})
    settle([a, b])
    a.upgrade(NEW)
    assert shown(a, "board") == shown(b, "board")
    assert shown(b, "board") == {
        "title": "by a", "colour": "red", "tags": ["x"], "labels": {"m": 1}, "stars": 3,
    }  # fmt: skip
    assert (a.digests(), a.kept) == (b.digests(), {})


def test_an_older_put_leaves_the_newer_fields_alone() -> None:
    a, b = two()
    put(b, "person", {"name": "Ann", "age": "old", "tier": "gold", "visits": 4})
    settle([a, b])
    put(a, "person", {"name": "Anna"})
    settle([a, b])
    assert shown(b, "person") == {"name": "Anna", "nick": None, "age": "old", "tier": "gold", "visits": 4}


def test_a_newer_put_leaves_a_removed_field_alone() -> None:
    a, b = two()
    put(a, "person", {"name": "Ann", "nick": "annie"})
    settle([a, b])
    put(b, "person", {"name": "Anna", "tier": "gold"})
    settle([a, b])
    assert shown(a, "person")["nick"] == "annie"


def test_a_document_that_was_deleted_begins_anew() -> None:
    a, b = two()
    put(b, "person", {"name": "Ann", "tier": "gold"})
    settle([a, b])
    a.write(Delete("person", "k"))
    put(a, "person", {"name": "Anna"})
    assert "tier" not in shown(a, "person")


def test_a_collection_that_is_not_known_waits_for_the_upgrade() -> None:
    a, b = two()
    patch(b, "memo", {"$append": {"body": "one"}})
    patch(b, "memo", {"$append": {"body": " two"}})
    settle([a, b])
    assert len(a.kept) == 2
    a.upgrade(NEW)
    assert shown(a, "memo") == {"body": "one two"}
    assert a.kept == {}


def test_a_field_that_was_removed_does_not_make_documents_unreadable() -> None:
    a, b = Replica("a", NEW), Replica("b", NEW)
    patch(a, "board", {"$inc": {"stars": 5}})
    settle([a, b])
    a.upgrade(LATER)
    patch(b, "board", {"$inc": {"stars": 2}})
    settle([a, b])
    assert "stars" not in shown(a, "board")
    patch(a, "board", {"$set": {"title": "t"}})
    settle([a, b])
    a.upgrade(NEW)  # rolled back
    assert shown(a, "board") == shown(b, "board")
    assert shown(b, "board")["stars"] == 7


def test_a_touch_register_is_kept_by_a_region_that_has_no_use_for_it() -> None:
    a, b = two()
    put(b, "person", {"name": "Ann", "visits": 1})
    settle([a, b])
    assert documents.decode_row(OLD["person"], a.rows["person", "k"]).registers.keys() == {"", "~"}
    a.write(Delete("person", "k"))
    settle([a, b])
    a.upgrade(NEW)
    assert a.digests() == b.digests()
    assert a.audit == b.audit


def test_an_older_deletion_does_not_hide_a_count_unseen() -> None:
    a, b = two()
    put(b, "person", {"name": "Ann", "visits": 1})
    settle([a, b])
    patch(b, "person", {"$inc": {"visits": 1}})
    a.write(Delete("person", "k"))
    settle([a, b])
    assert shown(b, "person") is None
    assert [row.kind for row in b.audit.values()] == ["update_deleted"]
    assert a.audit.keys() == b.audit.keys()
    a.upgrade(NEW)  # until then its record lacks the count, which it does not know
    assert a.audit == b.audit
    put(a, "person", {"name": "Anna", "visits": 2})
    settle([a, b])
    assert a.audit == b.audit
    assert [row.status for row in a.audit.values()] == ["resolved"]
    assert shown(b, "person")["visits"] == 2  # of a new document, which inherits nothing


Step = tuple[int, int, int, str]


def act(replica: Replica, chance: int, word: str) -> Mutation | None:
    """What anybody may do, as far as the replica's declarations know it."""
    rules: Rules
    match chance % 8:
        case 0 | 1:
            rules = replica.rules["person"]
            fields = {"name": word, "nick": word, "age": word, "tier": word}
            known = {name: value for name, value in fields.items() if name in rules.plain}
            return put_of(rules, "k", msgspec.json.encode(known))
        case 2 if "visits" in replica.rules["person"].lattices:
            return patch_of(replica.rules["person"], "k", {"$set": {"name": word}, "$inc": {"visits": 1}})
        case 3 if "tags" in replica.rules["board"].lattices:
            rules = replica.rules["board"]
            return patch_of(
                rules, "k", {"$add": {"tags": [word]}, "$set": {"colour": word, f"labels.{word}": 1}}
            )
        case 4:
            return patch_of(replica.rules["board"], "k", {"$set": {"title": word}})
        case 5 if "memo" in replica.rules:
            return patch_of(replica.rules["memo"], "k", {"$append": {"body": word}})
        case 6:
            return Delete("person" if word == "x" else "board", "k")
    return None


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 99), st.sampled_from("xyz")),
        max_size=25,
    )
)
def test_all_agree_once_all_are_upgraded(steps: list[Step]) -> None:
    replicas = [Replica(name, rules) for name, rules in zip(REGIONS, (OLD, OLD, NEW), strict=True)]
    for who, other, chance, word in steps:
        replica, peer = replicas[who], replicas[other]
        if chance > 90 and replica.rules is OLD:
            replica.upgrade(NEW)
        elif chance > 60:
            encoded = replica.ready_from(peer)
            if encoded is not None:
                replica.receive([encoded])
        else:
            mutation = act(replica, chance, word)
            if mutation is not None:
                try:
                    replica.write(mutation)
                except AtollError:
                    continue
    settle(replicas)
    for replica in replicas:
        replica.upgrade(NEW)
        assert replica.kept == {}
    first = replicas[0]
    for replica in replicas[1:]:
        assert {key: row.value for key, row in replica.rows.items()} == {
            key: row.value for key, row in first.rows.items()
        }
        assert replica.digests() == first.digests()
        assert replica.audit == first.audit


@pytest.mark.parametrize("rules", [OLD, NEW])
def test_an_upgrade_to_the_same_changes_nothing(rules: dict[str, Rules]) -> None:
    replica = Replica("a", rules)
    put(replica, "person", {"name": "Ann"})
    before = dict(replica.rows)
    replica.upgrade(rules)
    assert replica.rows == before


def test_a_node_with_older_declarations_replaces_what_the_register_holds_not_what_is_shown() -> None:
    """Two nodes share a database during a rollout: the newer one's document shows a counter, which is no member."""
    node = Replica("a", NEW)
    put(node, "person", {"name": "Ann", "age": 7})
    node.rules = OLD  # the write comes to the other node
    put(node, "person", {"name": "Bob", "nick": "B"})
    register = documents.decode_row(OLD["person"], node.rows["person", "k"]).registers[""][0].value
    assert register is not None
    assert msgspec.json.decode(register) == {"name": "Bob", "nick": "B", "age": 7, "tier": "plain"}
    node.upgrade(NEW)
    value = node.shown("person", "k")
    assert value is not None
    assert value.count(b'"visits"') == 1
