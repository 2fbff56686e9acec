from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from atoll.documents.entry import EncodedEntry, Entry, decode_frames, encode_frame
from atoll.replication.inbox import Inbox


def encoded(origin: str, seq: int, seen: dict[str, int] | None = None) -> EncodedEntry:
    context = {**(seen or {}), **({origin: seq - 1} if seq > 1 else {})}
    return next(decode_frames(encode_frame(Entry(origin, seq, seq << 16, 5, context, ()))))


@st.composite
def histories(draw: st.DrawFn) -> list[EncodedEntry]:
    """Entries of three regions, each having seen what it says."""
    vectors: dict[str, dict[str, int]] = {name: {} for name in "abc"}
    found = []
    for _ in range(draw(st.integers(1, 20))):
        name = draw(st.sampled_from("abc"))
        vector = vectors[name]
        other = vectors[draw(st.sampled_from("abc"))]
        for origin, seq in other.items():
            vector[origin] = max(vector.get(origin, 0), seq)
        found.append(encoded(name, vector.get(name, 0) + 1, dict(vector)))
        vector[name] = vector.get(name, 0) + 1
    return found


@given(histories(), st.data())
def test_whatever_the_order_of_arrival_entries_leave_in_causal_order(
    history: list[EncodedEntry], data: st.DataObject
) -> None:
    arriving = data.draw(st.permutations(history + history[:3]))
    inbox, vector = Inbox(), dict[str, int]()
    for each in arriving:
        inbox.add(each, data.draw(st.sampled_from("xy")), vector)
        for ready in inbox.ready(vector, data.draw(st.integers(1, 5))):
            entry = ready.entry
            assert entry.seq == vector.get(entry.origin, 0) + 1
            assert all(vector.get(origin, 0) >= seq for origin, seq in entry.context.items())
            vector[entry.origin] = entry.seq
    while ready_now := inbox.ready(vector, 5):
        for ready in ready_now:
            vector[ready.entry.origin] = ready.entry.seq
    assert sum(vector.values()) == len(history)
    assert (len(inbox), inbox.size_bytes) == (0, 0)


def test_what_is_here_or_waits_already_is_not_kept_twice() -> None:
    inbox = Inbox()
    assert not inbox.add(encoded("a", 1), "l", {"a": 1})
    assert inbox.add(encoded("a", 3), "l", {"a": 1})
    assert not inbox.add(encoded("a", 3), "m", {"a": 1})
    assert len(inbox) == 1


def test_bytes_count_for_the_link_that_brought_them() -> None:
    inbox = Inbox()
    one, two = encoded("a", 1), encoded("b", 1)
    inbox.add(one, "l", {})
    inbox.add(two, "m", {})
    assert inbox.bytes_of("l") == len(one.frame)
    assert inbox.size_bytes == len(one.frame) + len(two.frame)
    inbox.ready({}, 9)
    assert (inbox.bytes_of("l"), inbox.bytes_of("never")) == (0, 0)


def test_it_says_what_it_waits_for() -> None:
    inbox = Inbox()
    inbox.add(encoded("a", 3), "l", {})
    inbox.add(encoded("b", 1, {"c": 7}), "l", {})
    assert inbox.blocked_on({"a": 1}) == {"a": {"a": 2}, "b": {"c": 7}}


def test_what_could_not_be_committed_comes_out_again() -> None:
    inbox = Inbox()
    for seq in (1, 2):
        inbox.add(encoded("a", seq), "l", {})
    taken = inbox.ready({}, 9)
    inbox.give_back(taken, {})
    assert inbox.ready({}, 9) == taken


def test_origins_that_are_held_back_stay() -> None:
    inbox = Inbox()
    inbox.add(encoded("a", 1), "l", {})
    inbox.add(encoded("b", 1), "l", {})
    assert [each.entry.origin for each in inbox.ready({}, 9, {"a"})] == ["b"]
    assert [each.entry.origin for each in inbox.ready({}, 9)] == ["a"]


def test_what_an_origin_no_longer_has_is_thrown_away() -> None:
    inbox = Inbox()
    for each in (encoded("a", 2), encoded("a", 4), encoded("b", 2)):
        inbox.add(each, "x", {})
    assert inbox.drop_past("a", 2)
    assert not inbox.drop_past("a", 2)
    assert not inbox.drop_past("c", 0)
    assert len(inbox) == 2
    assert inbox.bytes_of("x") == len(encoded("a", 2).frame) + len(encoded("b", 2).frame)
