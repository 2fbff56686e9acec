from __future__ import annotations

from typing import Any

import msgspec
import pytest
from pydantic import field_validator

from atoll.commit.batch import Batch
from atoll.commit.identity import Identity
from atoll.documents.document import decode_row
from atoll.documents.entry import Change, Entry, decode_frames, encode_frame
from atoll.documents.mutation import Delete, Mutation, Write, patch_of, put_of
from atoll.errors import TooLarge
from atoll.schema.application import application_of
from atoll.schema.bounds import BATCH_ANSWER_BYTES, ENTRY_BYTES, MOST_KEY_BYTES, SEGMENT_BYTES
from atoll.schema.collection import Collection
from atoll.schema.fields import Counter, ListOf, SetOf, Text
from atoll.schema.limits import Limits

from .replica import REGIONS, Replica, rules_of, settle

MOST = 2000


class File(Collection, resolve="lww"):
    data: str
    mark: int = 0


class Sheet(Collection, resolve="merge"):
    cells: SetOf[str]
    text: Text
    views: Counter


class Folder(Collection):
    names: ListOf[str]
    views: Counter


class Checked(Sheet, name="checked", resolve="merge"):
    @field_validator("views")
    @classmethod
    def positive(cls, views: int) -> int:
        assert views >= 0
        return views


RULES = rules_of(
    application_of(File, Sheet, Folder, Checked, name="sizes", limits=Limits(document_bytes=1 << 20))
)
SMALL = rules_of(
    application_of(File, Sheet, Folder, Checked, name="sizes", limits=Limits(document_bytes=MOST))
)


class Small(Replica):
    """Of a deployment with small documents."""

    def batch(self) -> Batch:
        batch = super().batch()
        batch._identity = Identity(self.name, REGIONS, 5, MOST)
        return batch


def put(collection: str, key: str = "k", **fields: Any) -> Mutation:
    return put_of(RULES[collection], key, msgspec.json.encode(fields))


def patch(collection: str, key: str = "k", **operators: Any) -> Mutation:
    return patch_of(RULES[collection], key, {f"${name}": given for name, given in operators.items()})


def filled(documents: int, size: int) -> Replica:
    it = Replica("a", RULES)
    for n in range(documents):
        it.write(put("file", f"k{n}", data="x" * size))
    it.journal.clear()
    return it


# -- entries -------------------------------------------------------------------------------------------


def test_a_batch_whose_entry_could_not_be_sent_is_refused_and_leaves_no_trace() -> None:
    it = filled(50, 900_000)
    batch = it.batch()
    marks = tuple(patch("file", f"k{n}", set={"mark": 1}) for n in range(50))
    with pytest.raises(TooLarge, match="entry of more than 33554432 bytes") as caught:
        batch.write(Write(marks, "once", brief=True))
    assert caught.value.details["limit_bytes"] == ENTRY_BYTES
    assert batch.empty
    batch.write(Write(marks[:25], "once", brief=True))
    (segment,) = batch.commit().segments
    assert [each.entry.seq for each in decode_frames(segment.body)] == [51]


def test_an_answer_that_could_not_be_read_is_refused_unless_it_is_not_wanted() -> None:
    it = filled(30, 900_000)
    marks = tuple(patch("file", f"k{n}", set={"mark": 1}) for n in range(30))
    batch = it.batch()
    with pytest.raises(TooLarge, match="return=minimal") as caught:
        batch.write(Write(marks))
    assert caught.value.details["limit_bytes"] == BATCH_ANSWER_BYTES
    assert batch.empty
    assert batch.write(Write(marks, brief=True)).seq == 31


def test_patching_one_document_often_counts_it_once() -> None:
    it = filled(1, 900_000)
    assert it.write(*(patch("file", "k0", set={"mark": n}) for n in range(1000))).seq == 2


@pytest.mark.parametrize("size", [MOST - len(b'{"data":"","mark":0}')])
def test_a_document_of_the_largest_size_reaches_everyone(size: int) -> None:
    one, other = (Small(name, RULES) for name in "ab")
    one.write(put("file", data="x" * size))
    assert len(one.shown("file", "k") or b"") == MOST
    settle([one, other])
    assert other.digests() == one.digests()


def test_a_segment_ends_once_it_is_large() -> None:
    it = Replica("a", RULES)
    batch = it.batch()
    for n in range(6):
        batch.write(Write((put("file", f"k{n}", data="x" * (SEGMENT_BYTES // 2)),)))
    segments = batch.commit().segments
    assert [(each.first_seq, each.last_seq) for each in segments] == [(1, 2), (3, 4), (5, 6)]
    assert all(len(each.body) < 2 * SEGMENT_BYTES for each in segments)


# -- documents that merging has made too large ---------------------------------------------------------


def merged(name: str = "sheet") -> Small:
    """Two regions have added to one document, each as much as it may."""
    one, other = (Small(region, SMALL) for region in "ab")
    one.write(put(name))
    settle([one, other])
    one.write(patch(name, add={"cells": [f"a{n:09}" for n in range(130)]}))
    other.write(patch(name, add={"cells": [f"b{n:09}" for n in range(130)]}))
    settle([one, other])
    assert one.digests() == other.digests()
    assert len(one.shown(name, "k") or b"") > 1.5 * MOST
    return one


@pytest.mark.parametrize("name", ["sheet", "checked"])
def test_what_shrinks_or_counts_works_past_the_limit(name: str) -> None:
    it = merged(name)
    it.write(patch(name, inc={"views": 10}))
    it.write(patch(name, remove={"cells": ["a000000000"]}))
    it.write(patch(name, inc={"views": 100}, remove={"cells": ["a000000001"]}))
    it.write(patch(name, remove={"cells": [f"b{n:09}" for n in range(130)]}))
    assert len(it.shown(name, "k") or b"") < MOST
    it.write(patch(name, add={"cells": ["c"]}))


def test_what_grows_is_refused_past_the_limit() -> None:
    it = merged()
    before = it.shown("sheet", "k")
    for growing in ({"add": {"cells": ["new"]}}, {"append": {"text": "more"}}):
        with pytest.raises(TooLarge, match="would grow to"):
            it.write(patch("sheet", **growing))
    assert it.shown("sheet", "k") == before
    it.write(patch("sheet", remove={"cells": ["a000000000"]}, append={"text": "abc"}))
    it.write(Delete("sheet", "k"))


def test_replacing_it_by_less_works_past_the_limit() -> None:
    it = merged()
    it.write(put("sheet", cells=[f"a{n:09}" for n in range(130)]))
    assert len(it.shown("sheet", "k") or b"") < MOST


def test_a_patch_that_creates_too_large_a_document_is_refused() -> None:
    it = Small("a", RULES)
    with pytest.raises(TooLarge):
        it.write(patch("folder", inc={"views": 1}, set={"names": ["x" * MOST]}))
    assert it.rows == {}


# -- keys ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [513, MOST_KEY_BYTES])
def test_a_longer_key_of_a_peer_is_merged(size: int) -> None:
    """Its declarations allow keys that these do not, yet; and if it were parked, it would stay so."""
    it, key = Replica("b", RULES), "k" * size
    change = Change("file", key, 0, {"": b'{"data":"x","mark":0}'})
    it.receive(decode_frames(encode_frame(Entry("a", 1, 7, 5, {}, (change,)))))
    assert it.parked == []
    assert it.shown("file", key) == b'{"data":"x","mark":0}'
    assert decode_row(RULES["file"], it.rows["file", key]).registers


@pytest.mark.parametrize("key", ["", "k" * (MOST_KEY_BYTES + 1), "a\nb", "..", "e\u0301"])
def test_a_key_that_no_declaration_allows_is_parked(key: str) -> None:
    it = Replica("b", RULES)
    change = Change("file", key, 0, {"": b'{"data":"x","mark":0}'})
    it.receive(decode_frames(encode_frame(Entry("a", 1, 7, 5, {}, (change,)))))
    assert len(it.parked) == 1
    assert it.rows == {}
