"""What is over goes once all regions have seen that, and nothing else changes by it."""

from __future__ import annotations

import contextlib
import random
from typing import Any

import msgspec
import pytest

from atoll.causality.origin import Origin
from atoll.causality.types import Seq, Stamp
from atoll.causality.vector import descends
from atoll.documents.document import Document, decode_row, merge
from atoll.documents.mutation import Delete, Mutation, patch_of, put_of
from atoll.documents.purging import unseen_touches
from atoll.documents.register import Operation, Version
from atoll.documents.rules import PURGED
from atoll.errors import BoundExceeded, NotFound

from .replica import Replica, settle
from .test_lives import BOTH, EMPTY, EVERYTHING, FULL, NEW, RULES, agreed, patch, put, started

WORD = b"secret"
SECRET: dict[str, Any] = {
    **FULL,
    "title": "secret",
    "body": "secret",
    "lines": ["secret"],
    "words": ["secret"],
    "members": {"secret": "secret"},
}


def purge(by: Replica, *others: Replica) -> None:
    """As a region does that has heard that all have everything."""
    everyone = [by, *others]
    settle(everyone)
    seen = dict(by.vector)
    assert all(each.vector == seen for each in everyone)
    batch = by.batch()
    batch.purge(sorted(by.rows), seen)
    by._take(batch)
    settle(everyone)


def meta(replica: Replica) -> bytes:
    (row,) = replica.rows.values()
    return row.meta


@BOTH
def test_a_deleted_document_leaves_no_bytes_of_its_content(collection: str) -> None:
    a, b, c = (Replica(name, RULES) for name in "abc")
    a.write(put(collection, SECRET))
    a.write(Delete(collection, "k"))
    settle([a, b, c])
    purge(a, b, c)
    for replica in (a, b, c):
        assert WORD not in meta(replica)
        assert len(meta(replica)) < 200
        assert replica.journal[-1].entry.changes[0].operation == Operation.DELETE
    assert agreed(a, b, c) is None
    b.write(put(collection, NEW))
    assert agreed(a, b, c) == NEW


@BOTH
def test_former_lives_leave_no_bytes_of_their_content(collection: str) -> None:
    a, b, c = (Replica(name, RULES) for name in "abc")
    a.write(put(collection, SECRET))
    sizes = []
    for deleter in (a, b, c, a, b, c):
        settle([a, b, c])
        deleter.write(Delete(collection, "k"))
        settle([a, b, c])
        a.write(put(collection, SECRET))
        a.write(Delete(collection, "k"), put(collection, NEW))
        purge(a, b, c)
        assert agreed(a, b, c) == NEW
        assert WORD not in meta(a)
        sizes.append(len(meta(a)))
    assert max(sizes[3:]) - min(sizes[3:]) < 20  # once all have written


@BOTH
def test_a_map_whose_members_come_and_go_does_not_grow(collection: str) -> None:
    a, b, c = started(collection)
    sizes = []
    for number in range(40):
        a.write(patch(collection, {"$set": {f"members.m{number}": "x"}}))
        b.receive([a.journal[-1]])
        b.write(patch(collection, {"$unset": [f"members.m{number}"]}))
        if number % 10 == 9:
            purge(b, a, c)
            sizes.append(len(meta(a)))
    assert agreed(a, b, c)["members"] == {"old": "old"}
    assert max(sizes) - min(sizes) < 20


@BOTH
def test_a_purge_that_came_before_the_snapshot_hides_nothing_of_it(collection: str) -> None:
    """Its entry is applied while what it had seen is still to come, with the pages."""

    def version(seq: int, value: bytes) -> Version:
        return Version(Origin("a"), Seq(seq), Stamp(seq), 0, 1, {}, value)

    here = Document({PURGED: (version(9, b'[0,{"a":8},{}]'),)}, {})
    page = Document({"members.x": (version(3, b'"x"'),)}, {})
    assert "members.x" in merge(RULES[collection], here, page, whole=True).registers
    assert "members.x" not in merge(RULES[collection], page, here, whole=True).registers


@BOTH
def test_an_unseen_change_of_what_was_purged_is_in_the_audit(collection: str) -> None:
    a, b, c = started(collection)
    b.write(patch(collection, EVERYTHING))
    a.write(Delete(collection, "k"))
    a.write(put(collection, NEW))
    settle([a, b, c])
    open_record = [msgspec.json.decode(row.body) for row in a.audit.values()]
    purge(a, b, c)
    assert agreed(a, b, c) == NEW
    (record,) = [msgspec.json.decode(row.body) for row in a.audit.values()]
    assert record["status"] == "resolved"
    assert record["losing"] == open_record[0]["losing"]


@BOTH
def test_an_old_copy_does_not_bring_back_what_was_purged(collection: str) -> None:
    a, b, c = started(collection)
    a.write(patch(collection, {"$set": {"members.gone": "x"}}))
    settle([a, b, c])
    old = Replica("b", RULES)
    old.rows, old.vector, old.audit = dict(b.rows), dict(b.vector), dict(b.audit)
    a.write(patch(collection, {"$unset": ["members.gone"]}))
    purge(a, b, c)
    for page in a.snapshot():
        old.perform(page)
    assert old.digests() == a.digests()
    fresh = Replica("c", RULES)
    fresh.rows = dict(a.rows)
    for page in c.snapshot():
        fresh.perform(page)
    assert fresh.digests() == a.digests()


@BOTH
@pytest.mark.parametrize("seed", range(25))
def test_purging_changes_nothing_that_is_shown(collection: str, seed: int) -> None:
    """Two worlds with the same history: in one of them what is over is purged now and then."""
    plain = _history(collection, seed, purging=False)
    purged = _history(collection, seed, purging=True)
    assert plain == purged


def _history(collection: str, seed: int, *, purging: bool) -> tuple[Any, list[str]]:
    """What is shown in the end, and what was lost on the way."""
    rng = random.Random(seed)
    regions = [Replica(name, RULES) for name in "abc"]
    for count in range(60):
        here, there = rng.choice(regions), rng.choice(regions)
        moment = rng.random()
        if moment < 0.3:
            encoded = here.ready_from(there) if here is not there else None
            if encoded is not None:
                here.receive([encoded])
        elif moment < 0.4:
            settle(regions)
            if purging:
                purge(*rng.sample(regions, 3))
            else:
                rng.sample(regions, 3)
        else:
            mutation = _mutation(rng, collection, count)
            try:
                here.write(mutation)
            except NotFound:
                assert isinstance(mutation, Delete)
    shown = agreed(*regions)
    records = [msgspec.json.decode(row.body) for row in regions[0].audit.values()]
    lost = sorted(f"{r['kind']} of {r['field']!r}: {r['losing']['value']}" for r in records)
    return shown, lost


def _mutation(rng: random.Random, collection: str, count: int) -> Mutation:
    name = f"m{rng.randint(0, 2)}"
    return rng.choice(
        [
            put_of(
                RULES[collection], "k", msgspec.json.encode({**EMPTY, "body": f"[{count}]", "words": [name]})
            ),
            patch_of(RULES[collection], "k", {"$append": {"body": f"({count})"}, "$inc": {"views": 1}}),
            patch_of(RULES[collection], "k", {"$set": {f"members.{name}": str(count)}}),
            patch_of(RULES[collection], "k", {"$unset": [f"members.{name}"]}),
            patch_of(RULES[collection], "k", {"$set": {"title": str(count)}, "$remove": {"words": [name]}}),
            Delete(collection, "k"),
            Delete(collection, "k"),
        ]
    )


class Lost(Replica):
    """Region c without its disk, which writes before it has heard anybody."""

    def __init__(self, collection: str, incarnation: str = "01") -> None:
        super().__init__(f"c~{incarnation}", RULES, skew_ms=1000)
        self.write(put(collection, FULL))


def deleted_and_purged(collection: str) -> tuple[Replica, Replica, Replica]:
    a, b, c = started(collection)
    a.write(Delete(collection, "k"))
    purge(a, b, c)
    return a, b, c


def audit(replica: Replica) -> list[dict[str, Any]]:
    return [msgspec.json.decode(row.body) for row in replica.audit.values()]


@BOTH
def test_what_is_written_to_a_purged_life_is_in_the_audit(collection: str) -> None:
    a, b, _ = deleted_and_purged(collection)
    lost = Lost(collection)
    assert agreed(a, b, lost) == {**EMPTY, "title": "old"}
    record = next(each for each in audit(a) if each["kind"] == "update_deleted")
    assert (record["status"], record["outcome"], record["losing"]["region"]) == ("open", "dropped", "c~01")
    a.write(patch(collection, {"$set": {"members.x": "x"}}))
    purge(b, a, lost)
    assert {each["status"] for each in audit(b) if each["kind"] == "update_deleted"} == {"resolved"}
    assert agreed(a, b, lost) == {**EMPTY, "title": "old", "members": {"x": "x"}}


@BOTH
def test_a_document_that_is_back_after_its_purge_takes_edits(collection: str) -> None:
    a, b, _ = deleted_and_purged(collection)
    lost = Lost(collection)
    settle([a, b, lost])
    for replica in (a, b, lost):
        replica.write(patch(collection, {"$append": {"body": "!"}, "$inc": {"views": 3}}))
        settle([a, b, lost])
    assert agreed(a, b, lost) == {**EMPTY, "title": "old", "body": "!!!", "views": 9}


@BOTH
def test_a_region_that_saw_the_purge_and_one_that_did_not_create_one_document(collection: str) -> None:
    a, b, c = started(collection)
    a.write(Delete(collection, "k"))
    settle([a, b, c])
    batch = a.batch()
    batch.purge(sorted(a.rows), dict(a.vector))
    a._take(batch)
    a.write(put(collection, {**EMPTY, "views": 1}))
    b.write(put(collection, {**EMPTY, "views": 2}))
    assert agreed(a, b, c)["views"] == 3
    assert not [each for each in audit(a) if each["kind"] == "update_deleted"]


def test_plain_fields_of_a_document_that_is_back_are_not_purged() -> None:
    a, b, _ = deleted_and_purged("sheet")
    lost = Lost("sheet")
    settle([a, b, lost])
    a.write(patch("sheet", {"$set": {"members.x": "x"}}))
    a.write(patch("sheet", {"$unset": ["members.x"]}))
    for _ in range(3):
        purge(a, b, lost)
        assert agreed(a, b, lost) == {**EMPTY, "title": "old"}


@BOTH
def test_what_was_lost_does_not_keep_later_lives(collection: str) -> None:
    a, b, _ = deleted_and_purged(collection)
    lost = Lost(collection)
    settle([a, b, lost])
    a.write(patch(collection, {"$append": {"body": "secret"}}))
    a.write(Delete(collection, "k"))
    a.write(put(collection, NEW))
    purge(a, b, lost)
    assert WORD not in meta(a)
    assert agreed(a, b, lost) == NEW


@BOTH
@pytest.mark.parametrize("seed", range(30))
def test_no_order_of_arrival_matters(collection: str, seed: int) -> None:
    """Purges of all that some region had seen at some time, beside regions that write without their disks."""
    rng = random.Random(seed)
    regions = [Replica(name, RULES) for name in "abc"]
    moments: list[dict[str, int]] = [{}]
    for count in range(45):
        here, there = rng.choice(regions), rng.choice(regions)
        moment = rng.random()
        if moment < 0.35:
            encoded = here.ready_from(there) if here is not there else None
            if encoded is not None:
                here.receive([encoded])
        elif moment < 0.5:
            moments.append(dict(here.vector))
            seen = rng.choice([each for each in moments if descends(here.vector, each)])
            batch = here.batch()
            batch.purge(sorted(here.rows), seen)
            here._take(batch)
        elif moment < 0.55 and count > 20 and len(regions) < 5:
            regions.append(Lost(collection, f"{count:02}"))
            for _ in range(rng.randint(0, 4)):
                with contextlib.suppress(NotFound, BoundExceeded):
                    regions[-1].write(_mutation(rng, collection, count))
        else:
            with contextlib.suppress(NotFound, BoundExceeded):
                here.write(_mutation(rng, collection, count))
    shown = agreed(*regions)
    entries = [each for region in regions for each in region.journal if each.entry.origin == region.name]
    for _ in range(6):
        other, left = Replica("d", RULES), list(entries)
        copied = rng.randrange(len(entries)) if rng.random() < 0.5 else 0
        while len(left) > copied:
            ready = [each for each in left if descends(other.vector, each.entry.context)]
            encoded = rng.choice(ready)
            left.remove(encoded)
            other.receive([encoded])
        for page in regions[0].snapshot() if copied else ():
            other.perform(page)
        other.vector = dict(regions[0].vector)
        assert agreed(regions[0], other) == shown


@BOTH
def test_a_touch_stays_until_one_single_purge_has_seen_it_and_the_end_of_its_life(collection: str) -> None:
    """One purge has seen the touch, and another one the end: neither of them has resolved the record of it."""
    a, b, _ = started(collection)
    lost = Lost(collection)
    b.write(patch(collection, {"$set": {"members.gone": "x"}}))
    b.write(patch(collection, {"$unset": ["members.gone"]}))
    b.receive(lost.journal)
    a.write(Delete(collection, "k"))
    for replica in (a, b):
        batch = replica.batch()
        batch.purge(sorted(replica.rows), dict(replica.vector))
        replica._take(batch)
    agreed(a, b, lost)
    for replica in (a, b, lost):
        opened = [each["losing"]["region"] for each in audit(replica) if each["status"] == "open"]
        assert "c~01" in opened
        (row,) = replica.rows.values()
        touches = unseen_touches(decode_row(RULES[collection], row).registers)
        assert "c~01" in [version.origin for versions in touches.values() for version in versions]
