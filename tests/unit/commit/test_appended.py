"""Documents that are written once: the key of each is its place, which every region orders alike."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.causality.place import Place, place_of
from atoll.commit.snapshot_page import SnapshotPage
from atoll.documents.entry import Change, EncodedEntry, Entry, encode_frame
from atoll.documents.mutation import Delete, Put, put_of
from atoll.documents.register import Operation
from atoll.documents.rules import Rules
from atoll.errors import HostileEntry, NotFound
from atoll.schema.system import EVENTS, system_collections

from .replica import REGIONS, Replica, rules_of
from .shop import SHOP

RULES = {**rules_of(SHOP), EVENTS: Rules(system_collections()[EVENTS])}
SKEWS = {"a": 0, "b": 3000, "c": -2000}


def event(kind: str = "link-down", **fields: Any) -> Put:
    return put_of(RULES[EVENTS], "", msgspec.json.encode({"kind": kind, "region": "a", "at_ms": 1, **fields}))


def replicas() -> dict[str, Replica]:
    return {name: Replica(name, RULES, skew_ms=SKEWS[name]) for name in REGIONS}


def timeline(replica: Replica) -> list[str]:
    return sorted(key for collection, key in replica.rows if collection == EVENTS)


def deliver_all(all_: dict[str, Replica]) -> None:
    moved = True
    while moved:
        moved = False
        for one in all_.values():
            for other in all_.values():
                while (found := one.ready_from(other)) is not None:
                    one.receive([found])
                    moved = True


STEPS = st.one_of(
    st.tuples(st.just("append"), st.sampled_from(REGIONS), st.integers(1, 3)),
    st.tuples(st.just("write"), st.sampled_from(REGIONS), st.just(0)),
    st.tuples(st.just("deliver"), st.sampled_from(REGIONS), st.sampled_from(REGIONS)),
)


@given(st.lists(STEPS, max_size=25))
def test_the_order_extends_causality_and_is_one(steps: list[tuple[str, str, Any]]) -> None:
    all_ = replicas()
    for verb, name, given_ in steps:
        match verb:
            case "append":
                all_[name].write(*(event() for _ in range(given_)))
            case "write":
                all_[name].write(put_of(RULES["profile"], "k", b'{"name":"A"}'))
            case "deliver":
                found = all_[name].ready_from(all_[given_])
                if found is not None:
                    all_[name].receive([found])
    deliver_all(all_)
    order = timeline(all_["a"])
    assert all(timeline(each) == order and each.digests() == all_["a"].digests() for each in all_.values())
    assert all(each.parked == [] for each in all_.values())
    entries = {(e.entry.origin, e.entry.seq): e.entry for e in all_["a"].journal}
    places = [place for key in order if (place := place_of(key)) is not None]
    assert len(places) == len(order)
    for at, later in enumerate(places):
        for earlier in places[:at]:  # what comes before in the timeline has not seen what comes after
            context = entries[(earlier.origin, earlier.seq)].context
            assert context.get(later.origin, 0) < later.seq or later[1:3] == earlier[1:3]


def test_one_write_appends_many_in_their_order() -> None:
    it = Replica("a", RULES)
    it.write(event("link-down"), event("link-up"))
    kinds = [msgspec.json.decode(it.rows[(EVENTS, key)].value or b"")["kind"] for key in timeline(it)]
    assert kinds == ["link-down", "link-up"]


def test_a_retried_append_counts_once() -> None:
    it = Replica("a", RULES)
    first = it.write(event(), idempotency_key="once")
    again = it.write(event(), idempotency_key="once")
    assert (first.seq, again.seq, again.replayed, len(timeline(it))) == (1, 1, True, 1)


def forged(change: Change) -> EncodedEntry:
    entry = Entry("b", 1, 7 << 16, 5, {}, (change,))
    return EncodedEntry(entry, encode_frame(entry))


OWN = Place(7 << 16, "b", 1, 0).key


@pytest.mark.parametrize(
    "change",
    [
        Change(EVENTS, "k", Operation.INSERT, {"": b"{}"}),
        Change(EVENTS, Place(7 << 16, "a", 1, 0).key, Operation.INSERT, {"": b"{}"}),
        Change(EVENTS, Place(8 << 16, "b", 1, 0).key, Operation.INSERT, {"": b"{}"}),
        Change(EVENTS, OWN, Operation.DELETE, {"": None}),
        Change(EVENTS, OWN, Operation.INSERT, {"": b"{}", "kind": b"1"}),
    ],
)
def test_a_peer_appends_in_its_own_place_only(change: Change) -> None:
    it = Replica("a", RULES)
    it.receive([forged(change)])
    assert (timeline(it), len(it.parked), it.vector) == ([], 1, {"b": 1})
    assert "cannot have written" in it.parked[0]


def test_a_snapshot_holds_each_in_its_place() -> None:
    giver, taker = Replica("b", RULES), Replica("a", RULES)
    giver.write(event())
    for page in giver.snapshot():
        taker.perform(page)
    assert taker.digests() == giver.digests()
    ((address, row),) = giver.rows.items()
    moved = SnapshotPage(documents=((address[0], "elsewhere", row),), stamp=giver.clock.last)
    with pytest.raises(HostileEntry, match="cannot have written"):
        taker.perform(moved)


def test_nothing_deletes_one_by_its_key() -> None:
    it = Replica("a", RULES)
    it.write(event())
    with pytest.raises(NotFound):
        it.write(Delete(EVENTS, timeline(it)[0]))
