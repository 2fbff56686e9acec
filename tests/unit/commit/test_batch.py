from __future__ import annotations

import re

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.causality.clock import HybridLogicalClock
from atoll.commit.batch import Batch
from atoll.commit.checks import check_batch
from atoll.commit.identity import Identity
from atoll.documents.document import decode_row
from atoll.documents.entry import (
    UNREADABLE,
    Change,
    EncodedEntry,
    Entry,
    LosingVersion,
    decode_entry,
    decode_frames,
    encode_frame,
)
from atoll.documents.mutation import Delete, Mutation, Receipt, Write, patch_of, put_of
from atoll.errors import (
    AtollError,
    ClockAhead,
    CorruptEntry,
    InvalidOperation,
    NotFound,
    TooLarge,
    VersionMismatch,
)
from atoll.store.port import Row

from .replica import REGIONS, Replica, rules_of, settle
from .shop import SHOP

RULES = rules_of(SHOP)
NOW_MS = 1_000_000


def put(collection: str, body: bytes, key: str = "k", if_match: str | None = None) -> Mutation:
    return put_of(RULES[collection], key, body, if_match=if_match)


def patch(collection: str, key: str = "k", **operators: object) -> Mutation:
    named = {"$" + name: argument for name, argument in operators.items()}
    return patch_of(RULES[collection], key, named)


def batch(rows: dict[tuple[str, str], Row] | None = None, *, document_bytes: int = 1 << 20) -> Batch:
    return Batch(
        Identity("a", REGIONS, 5, document_bytes),
        RULES,
        HybridLogicalClock(lambda: NOW_MS),
        {},
        rows=rows or {},
        remembered={},
        audit={},
        now_ms=NOW_MS,
    )


def remote(seq: int, *changes: Change, origin: str = "b", stamp: int = 7, **context: int) -> EncodedEntry:
    seen = {origin: seq - 1, **context} if seq > 1 else dict(context)
    return next(decode_frames(encode_frame(Entry(origin, seq, stamp, 5, seen, changes))))


def named(name: str, key: str = "k", **more: object) -> Change:
    text = msgspec.json.encode({"name": name, "age": 0})
    return Change("profile", key, 0, {"": text}, **more)  # type: ignore[arg-type]


# -- local ---------------------------------------------------------------------------------------------


def test_a_write_is_one_entry_whatever_it_holds() -> None:
    it = batch()
    receipt = it.write(
        Write((put("profile", b'{"name":"A"}'), patch("views", inc={"seen": 2})), trace=bytes(26))
    )
    assert (receipt.origin, receipt.seq, it.vector) == ("a", 1, {"a": 1})
    (entry,) = it.written
    assert [change.collection for change in entry.changes] == ["profile", "views"]
    assert (entry.trace, entry.context, entry.uncertainty_ms) == (bytes(26), {"a": 0}, 5)
    assert [each.value for each in receipt.written] == [b'{"name":"A","age":0}', b'{"seen":2}']


def test_what_is_committed_is_one_chunk() -> None:
    it = batch()
    it.write(Write((put("profile", b'{"name":"A"}'),)))
    it.apply(remote(1, named("B", "other")))
    it.write(Write((put("profile", b'{"name":"C"}', "third"),)))
    commit = it.commit()
    assert [(s.origin, s.first_seq, s.last_seq) for s in commit.segments] == [
        ("a", 1, 1),
        ("b", 1, 1),
        ("a", 2, 2),
    ]
    assert commit.positions == {"a": 2, "b": 1}
    assert [key for key, *_ in commit.documents["profile"]] == ["k", "other", "third"]
    assert commit.clock == it.written[-1].stamp


def test_two_writes_of_one_document_become_one_row() -> None:
    it = batch()
    for times in (1, 2, 3):
        it.write(Write((patch("views", inc={"seen": times}),)))
    ((key, value, _),) = it.commit().documents["views"]
    assert (key, value) == ("k", b'{"seen":6}')
    assert it.vector == {"a": 3}


def test_a_write_that_changes_nothing_is_no_entry() -> None:
    it = batch()
    write = Write((patch("views", inc={"seen": 0}),))
    assert it.write(write).seq == 1  # the document comes to be
    receipt = it.write(write)
    assert (receipt.seq, receipt.written[0].value, it.vector) == (0, b'{"seen":0}', {"a": 1})
    nothing = batch().commit()
    assert (nothing.segments, nothing.documents, nothing.positions) == ([], {}, {})


@pytest.mark.parametrize(
    "last",
    [Delete("profile", "none"), put("profile", b'{"name":"X"}', if_match="never"), Delete("cart", "k")],
)
def test_a_write_that_fails_leaves_no_trace(last: Mutation) -> None:
    it = batch()
    it.write(Write((put("profile", b'{"name":"A"}'), patch("stock", inc={"left": 9}))))
    before = it.commit()
    failing = Write((put("profile", b'{"name":"B"}'), patch("stock", inc={"left": -1}), last), "key")
    with pytest.raises((NotFound, VersionMismatch)):
        it.write(failing)
    after = it.commit()
    assert (after.documents, after.segments, after.remembered) == (before.documents, before.segments, [])
    assert it.vector == {"a": 1}


def test_a_write_after_a_failed_one_takes_its_place() -> None:
    it = batch()
    with pytest.raises(NotFound):
        it.write(Write((put("profile", b'{"name":"A"}'), Delete("profile", "none"))))
    assert it.write(Write((put("profile", b'{"name":"B"}'),))).seq == 1
    assert it.written[0].context == {"a": 0}


def test_a_document_cannot_grow_past_the_limit() -> None:
    it = batch(document_bytes=64)
    it.write(Write((patch("note", append={"body": "x" * 30}),)))
    with pytest.raises(TooLarge, match="note/k would grow to 82 bytes") as caught:
        it.write(Write((patch("note", append={"body": "x" * 30}),)))
    assert caught.value.details == {"limit_bytes": 64}
    assert it.vector == {"a": 1}
    it.write(Write((patch("note", splice={"body": {"at": 0, "remove": 30, "insert": "y"}}),)))


def test_a_document_that_grew_elsewhere_is_taken() -> None:
    """Two regions may each stay below the limit; their merge has to be stored all the same."""
    it = batch(document_bytes=40)
    it.apply(remote(1, named("x" * 60)))
    assert it.commit().documents["profile"]
    assert not it.pending.parked


@pytest.mark.parametrize("count", [0, 1001])
def test_a_request_is_neither_empty_nor_endless(count: int) -> None:
    with pytest.raises(InvalidOperation, match=f"1 to 1000 writes, this one {count}"):
        check_batch(count)
    check_batch(3)


_names = st.sampled_from(["k", "l", "m"])
_whole = st.builds(
    lambda key, name, absent: put_of(
        RULES["profile"], key, msgspec.json.encode({"name": name}), if_absent=absent
    ),
    _names,
    st.sampled_from(["A", "B"]),
    st.sampled_from([False, False, False, True]),
)
_other = st.builds(lambda key: Delete("profile", key), _names) | st.builds(
    lambda key: patch("views", key, inc={"seen": 1}), _names
)
_writes = st.builds(
    lambda mutations, brief: Write(tuple(mutations), brief=brief),
    st.lists(_whole | _whole | _other, min_size=1, max_size=4),
    st.booleans(),
)


@given(st.lists(_writes, max_size=6))
def test_the_short_way_ends_where_the_long_way_does(writes: list[Write]) -> None:
    short, long = batch(), batch()
    long._replace = lambda *_: None  # type: ignore[method-assign]

    def outcome(it: Batch, write: Write) -> Receipt | str:
        try:
            return it.write(write)
        except AtollError as error:
            return error.message

    for write in writes:
        assert outcome(short, write) == outcome(long, write)
    assert short.commit() == long.commit()


# -- idempotency ---------------------------------------------------------------------------------------


def test_a_replay_gives_the_first_answer() -> None:
    replica = Replica("a", RULES)
    first = replica.write(patch("views", inc={"seen": 1}), idempotency_key="once")
    replica.write(patch("views", inc={"seen": 5}))
    again = replica.write(patch("views", inc={"seen": 1}), idempotency_key="once")
    assert again.replayed
    assert not first.replayed
    assert (again.seq, again.stamp, again.written) == (first.seq, first.stamp, first.written)
    assert replica.shown("views", "k") == b'{"seen":6}'


def test_what_a_repeated_write_brings_along_is_not_remembered() -> None:
    replica = Replica("a", RULES)
    whole = put("profile", msgspec.json.encode({"name": "A" * 1000}))
    first = replica.write(whole, idempotency_key="once")
    replica.write(put("profile", b'{"name":"B"}'))
    again = replica.write(whole, idempotency_key="once")
    assert (again.replayed, again.written) == (True, first.written)
    assert len(replica.remembered["once"]) < 200


def test_a_replay_within_one_batch_counts_once() -> None:
    it = batch()
    write = Write((patch("views", inc={"seen": 1}),), "once")
    assert [it.write(write).replayed for _ in range(3)] == [False, True, True]
    assert it.vector == {"a": 1}
    assert [each.key for each in it.commit().remembered] == ["once"]


@pytest.mark.parametrize(
    "other",
    [patch("views", inc={"seen": 2}), patch("views", "l", inc={"seen": 1}), Delete("views", "k")],
)
def test_a_key_that_comes_back_with_another_write_is_refused(other: Mutation) -> None:
    replica = Replica("a", RULES)
    replica.write(patch("views", inc={"seen": 1}), idempotency_key="once")
    with pytest.raises(InvalidOperation, match="used for another write") as caught:
        replica.write(other, idempotency_key="once")
    assert caught.value.details == {"idempotency_key": "once"}
    assert replica.shown("views", "k") == b'{"seen":1}'


def test_a_replay_answers_even_where_it_would_fail_now() -> None:
    replica = Replica("a", RULES)
    replica.write(put("profile", b'{"name":"A"}'))
    first = replica.write(Delete("profile", "k"), idempotency_key="once")
    again = replica.write(Delete("profile", "k"), idempotency_key="once")
    assert (again.seq, again.replayed) == (first.seq, True)


def test_a_refused_write_is_not_remembered() -> None:
    replica = Replica("a", RULES)
    with pytest.raises(NotFound):
        replica.write(Delete("profile", "k"), idempotency_key="once")
    replica.write(put("profile", b'{"name":"A"}'))
    assert replica.write(Delete("profile", "k"), idempotency_key="once").seq == 2


def test_the_trace_is_no_part_of_what_is_compared() -> None:
    it = batch()
    mutations = (patch("views", inc={"seen": 1}),)
    it.write(Write(mutations, "once", "first attempt"))
    assert it.write(Write(mutations, "once", "second attempt")).replayed


# -- remote --------------------------------------------------------------------------------------------


def test_an_entry_is_applied_once() -> None:
    it = batch()
    encoded = remote(1, named("B"))
    for _ in range(2):
        it.apply(encoded)
    assert it.applied == [encoded.entry]
    assert it.vector == {"b": 1}
    assert it.written == []


def test_an_entry_out_of_turn_is_corrupt() -> None:
    with pytest.raises(CorruptEntry, match="seen b up to 1, and this region has not"):
        batch().apply(remote(2, named("B")))
    with pytest.raises(CorruptEntry, match="seen c up to 4"):
        batch().apply(remote(1, named("B"), c=4))


def test_the_clock_follows_what_is_applied() -> None:
    it = batch()
    stamp = (NOW_MS + 400) << 16
    it.apply(remote(1, named("B"), stamp=stamp))
    assert it.write(Write((put("profile", b'{"name":"A"}'),))).stamp == stamp + 1
    with pytest.raises(ClockAhead):
        it.apply(remote(2, named("B"), stamp=(NOW_MS + 501) << 16))
    assert it.vector == {"a": 1, "b": 1}


@pytest.mark.parametrize(
    ("change", "cause", "reason"),
    [
        (Change("unheard", "k", 0, {"": b"{}"}), "undeclared", "no collection 'unheard'"),
        (
            Change("", "", UNREADABLE, {}, {"": b"\xc1"}),
            "unreadable",
            "the changes of the entry cannot be read",
        ),
        (Change("profile", "", 0, {"": b"{}"}), "refused", "InvalidKey: "),
        (Change("profile", "k", 99, {"": b"{}"}), "refused", "HostileEntry: .*unknown operation: 99"),
        (Change("views", "k", 99, {}, {"seen": b"\x80"}), "refused", "HostileEntry: .*unknown operation: 99"),
        (Change("profile", "k", 0, {"": b"[]"}), "refused", "HostileEntry: .*not a JSON object"),
        (Change("profile", "k", 0, {}, {"name": b""}), "undeclared", "no mergeable field name of 'profile'"),
        (Change("views", "k", 0, {}, {"seen": b"\xff"}), "refused", "HostileEntry: "),
        (
            named("B", resolved=(LosingVersion("id", "resolved", b"no record"),)),
            "refused",
            "HostileEntry: .*cannot be read",
        ),
    ],
)
def test_a_change_that_cannot_be_merged_is_parked(change: Change, cause: str, reason: str) -> None:
    it = batch()
    it.apply(remote(1, named("before", "x"), change, named("after", "y")))
    it.apply(remote(2, named("next", "z")))
    commit = it.commit()
    (parked,) = commit.parked
    assert (parked.origin, parked.seq, parked.change, len(it.pending.parked)) == ("b", 1, 1, 1)
    kept = decode_entry(parked.body)
    assert (kept.origin, kept.seq, kept.changes) == ("b", 1, (change,))
    assert parked.cause == cause
    assert re.match(reason, parked.reason)
    assert [key for key, *_ in commit.documents["profile"]] == ["x", "y", "z"]
    assert commit.positions == {"b": 2}


def test_a_row_that_cannot_be_read_parks_what_would_touch_it() -> None:
    it = batch({("profile", "k"): Row(b"{}", b"damaged")})
    it.apply(remote(1, named("B")))
    (parked,) = it.commit().parked
    assert parked.reason.startswith("StoreCorrupt: ")
    assert it.commit().documents == {}


# -- conflicts -----------------------------------------------------------------------------------------


def collided() -> tuple[Replica, Replica, Replica]:
    a, b, c = (Replica(name, RULES) for name in REGIONS)
    a.write(put("profile", b'{"name":"A"}'))
    b.write(put("profile", b'{"name":"B"}'))
    settle([a, b, c])
    return a, b, c


def statuses(replica: Replica) -> list[str]:
    return [record.status for record in replica.audit.values()]


def test_a_conflict_is_detected_once_in_each_region() -> None:
    for replica in collided():
        assert (statuses(replica), replica.detected) == (["open"], 1)


def test_the_next_write_resolves_a_conflict_everywhere() -> None:
    a, b, c = collided()
    c.write(put("profile", b'{"name":"C"}'))
    settle([a, b, c])
    assert statuses(a) == statuses(b) == statuses(c) == ["resolved"]
    assert a.audit == b.audit == c.audit
    assert not decode_row(RULES["profile"], a.rows["profile", "k"]).contested


def test_of_two_that_resolve_at_once_the_earlier_is_recorded() -> None:
    a, b, c = collided()
    b.time_ms += 1000
    b.write(put("profile", b'{"name":"from b"}'))
    a.write(put("profile", b'{"name":"from a"}'))
    settle([a, b, c])
    assert a.audit == b.audit == c.audit
    bodies = [msgspec.json.decode(record.body) for record in a.audit.values() if record.status == "resolved"]
    assert [body["resolved_by"][1:] for body in bodies] == [["a", 2]]


def test_a_record_is_withdrawn_when_the_losing_versions_own_line_goes_on() -> None:
    a, b, c = (Replica(name, RULES) for name in REGIONS)
    b.time_ms += 100  # so that b wins
    a.write(put("profile", b'{"name":"A"}'))
    b.write(put("profile", b'{"name":"B"}'))
    c.receive([a.journal[0], b.journal[0]])
    (first,) = c.audit.values()
    a.write(put("profile", b'{"name":"A goes on"}'))
    c.receive([a.journal[1]])
    (second,) = c.audit.values()
    assert (first.losing_origin, second.losing_origin) == ("a", "a")
    assert first.id != second.id
    assert msgspec.json.decode(second.body)["losing"]["seq"] == 2


def test_what_a_write_resolves_is_gone_with_the_write_when_it_fails() -> None:
    _, _, c = collided()
    before = dict(c.audit)
    with pytest.raises(NotFound):
        c.write(put("profile", b'{"name":"C"}'), Delete("profile", "none"))
    assert c.audit == before
