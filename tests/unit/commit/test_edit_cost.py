"""An edit costs what it changes: in the journal, and on the wire, which carries the same frames."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest

from atoll.documents.mutation import Delete, Write, patch_of, put_of
from atoll.errors import InvalidOperation
from atoll.schema.application import application_of
from atoll.schema.collection import Collection
from atoll.schema.fields import Counter, ListOf, MapOf, SetOf, Text

from .replica import Replica, rules_of, settle


class Paper(Collection):
    body: Text
    lines: ListOf[str]
    words: SetOf[str]
    members: MapOf[str]
    views: Counter


class Sheet(Collection, resolve="merge"):
    body: Text
    lines: ListOf[str]
    words: SetOf[str]
    members: MapOf[str]
    views: Counter


RULES = rules_of(application_of(Paper, Sheet))
MOST_BYTES = 200
EDITS: dict[str, dict[str, Any]] = {
    "append": {"$append": {"body": "x"}},
    "splice": {"$splice": {"body": {"at": 7, "remove": 1, "insert": "y"}}},
    "line": {"$add": {"lines": ["x"]}},
    "unline": {"$remove": {"lines": ["5"]}},
    "relined": {"$splice": {"lines": {"at": 3, "insert": ["x"]}}},
    "add": {"$add": {"words": ["x"]}},
    "remove": {"$remove": {"words": ["5"]}},
    "member": {"$set": {"members.x": "y"}},
    "unmember": {"$unset": ["members.5"]},
    "count": {"$inc": {"views": 1}},
}


def values(size: int) -> dict[str, Any]:
    numbers = list(map(str, range(size)))
    return {
        "body": "word " * size,
        "lines": numbers,
        "words": numbers,
        "members": dict.fromkeys(numbers, "v"),
    }


def large(collection: str, size: int) -> tuple[Replica, dict[str, Any]]:
    whole = values(size)
    replica = Replica("a", RULES)
    replica.write(put_of(RULES[collection], "k", msgspec.json.encode(whole)))
    return replica, whole


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS.keys())
@pytest.mark.parametrize("collection", ["paper", "sheet"])
def test_an_edit_of_a_large_value_journals_what_it_changes(collection: str, edit: dict[str, Any]) -> None:
    replica, _ = large(collection, 3000)
    replica.write(patch_of(RULES[collection], "k", edit))
    assert len(replica.journal) == 2
    assert len(replica.journal[-1].frame) <= MOST_BYTES


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS.keys())
def test_an_edit_journals_as_much_whatever_the_size_of_the_value(edit: dict[str, Any]) -> None:
    """But for a byte or two of each place and count."""
    field = next(name for name in (*values(0), "views") if name in repr(edit))
    frames = []
    for size in (100, 50_000):
        whole = values(size)
        replica = Replica("a", RULES)
        given = {field: whole[field]} if field in whole else {"views": size}
        replica.write(put_of(RULES["paper"], "k", msgspec.json.encode(given)))
        replica.write(patch_of(RULES["paper"], "k", edit))
        frames.append(len(replica.journal[-1].frame))
    assert frames[1] <= frames[0] + 12


@pytest.mark.parametrize("collection", ["paper", "sheet"])
def test_a_put_of_a_large_value_journals_the_difference(collection: str) -> None:
    replica, whole = large(collection, 3000)
    whole["body"] += "more"
    whole["lines"] = [*whole["lines"], "more"]
    whole["words"] = [*whole["words"], "more"]
    whole["members"] = {**whole["members"], "more": "v"}
    replica.write(put_of(RULES[collection], "k", msgspec.json.encode(whole)))
    assert len(replica.journal[-1].frame) <= 2 * MOST_BYTES


@pytest.mark.parametrize("collection", ["paper", "sheet"])
def test_a_batch_of_keystrokes_is_one_text_and_few_bytes(collection: str) -> None:
    """As recorded typing is sent: many splices in one request, each where the one before left the text."""
    rng = random.Random(7)
    a, b = Replica("a", RULES), Replica("b", RULES)
    shown, at = "", 0
    for _ in range(20):
        splices = []
        for _ in range(50):
            if rng.random() < 0.1:
                at = rng.randint(0, len(shown))
            removed = rng.randint(0, min(2, len(shown) - at)) if rng.random() < 0.2 else 0
            inserted = "" if removed else rng.choice("abc é😀")
            splices.append({"$splice": {"body": {"at": at, "remove": removed, "insert": inserted}}})
            shown = shown[:at] + inserted + shown[at + removed :]
            at += len(inserted)
        a.write(*(patch_of(RULES[collection], "k", each) for each in splices))
    settle([a, b])
    for replica in (a, b):
        assert msgspec.json.decode(replica.shown(collection, "k") or b"")["body"] == shown
    assert a.digests() == b.digests()
    assert sum(len(each.frame) for each in a.journal) < 1000 * 20


def test_a_deletion_puts_all_unseen_operations_into_the_audit() -> None:
    """Not the last one only: the record shows what the document would show."""
    a, b = Replica("a", RULES), Replica("b", RULES)
    a.write(put_of(RULES["paper"], "k", b'{"body":"one"}'))
    settle([a, b])
    b.write(patch_of(RULES["paper"], "k", {"$append": {"body": " two"}}))
    b.write(patch_of(RULES["paper"], "k", {"$add": {"words": ["three"]}, "$set": {"members.four": "4"}}))
    a.write(Delete("paper", "k"))
    settle([a, b])
    (record,) = [msgspec.json.decode(row.body) for row in a.audit.values()]
    assert (record["kind"], record["status"]) == ("update_deleted", "open")
    assert record["losing"]["value"] == {
        "body": "one two",
        "lines": [],
        "words": ["three"],
        "members": {"four": "4"},
        "views": 0,
    }
    assert a.audit == b.audit


def test_a_refused_batch_leaves_the_text_as_it_was() -> None:
    replica = Replica("a", RULES)
    replica.write(put_of(RULES["paper"], "k", b'{"body":"one","words":["w"]}'))
    batch = replica.batch()
    fine = patch_of(RULES["paper"], "k", {"$append": {"body": " two"}, "$add": {"words": ["x"]}})
    bad = patch_of(RULES["paper"], "k", {"$splice": {"body": {"at": 99, "insert": "x"}}})
    with pytest.raises(InvalidOperation):
        batch.write(Write((fine, bad)))
    batch.write(Write((patch_of(RULES["paper"], "k", {"$append": {"body": "!"}, "$add": {"words": ["y"]}}),)))
    replica._take(batch)
    after = msgspec.json.decode(replica.shown("paper", "k") or b"")
    assert (after["body"], after["words"]) == ("one!", ["w", "y"])


@pytest.mark.parametrize("collection", ["paper", "sheet"])
def test_a_text_emptied_while_others_edit_it_is_small_and_alike_everywhere(collection: str) -> None:
    rng = random.Random(3)
    rules = RULES[collection]
    a, b, c = (Replica(name, RULES) for name in "abc")
    a.write(put_of(rules, "k", b'{"body":"","lines":[]}'))
    settle([a, b, c])
    for turn in range(30):
        for replica in (a, b):
            for _ in range(8):
                shown = msgspec.json.decode(replica.shown(collection, "k") or b"")
                at = {field: rng.randint(0, len(shown[field])) for field in ("body", "lines")}
                inserted = {"body": {"at": at["body"], "insert": "xyz"}}
                inserted["lines"] = {"at": at["lines"], "insert": ["x", "y"]}
                replica.write(patch_of(rules, "k", {"$splice": inserted}))
        a.write(patch_of(rules, "k", {"$set": {"body": "", "lines": []}}))
        assert len(a.journal[-1].frame) <= 2 * MOST_BYTES
        if turn % 3 == 0:
            b.write(patch_of(rules, "k", {"$unset": ["body", "lines"]}))
        settle([a, b])
    shown = msgspec.json.decode(a.shown(collection, "k") or b"")
    assert (len(shown["body"]), len(shown["lines"])) == (8 * 3, 8 * 2)
    assert len(a.rows[(collection, "k")].meta) < 1500
    for page in a.snapshot():
        c.perform(page)
    assert a.digests() == b.digests() == c.digests()
    assert [each.parked for each in (a, b, c)] == [[], [], []]
