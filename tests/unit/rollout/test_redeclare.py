"""The decisions of a pass under new declarations, one event at a time."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.documents.entry import Change, Entry
from atoll.errors import StoreUnwritable
from atoll.protocol import port
from atoll.rollout.redeclare import LOOKED_AFTER_S, SHARE, MarkMixed, Redeclare, RedeclareState, step
from atoll.store.port import Parked

from ..commit.replica import Replica, Shown

DECLARED = {"like": "new", "note": "new"}


def mark(steps: int = 0, of: int = 1) -> dict[str, str]:
    return dict.fromkeys(DECLARED, f"new?n{of}.{steps}")


class Pass:
    """A node on a store whose documents follow old declarations."""

    def __init__(self) -> None:
        self.state = RedeclareState(DECLARED, "n", 1.0)
        self.now_s = 0.0
        self.asked: tuple[port.Effect, ...] = ()

    def meets(self, event: port.Outcome) -> tuple[port.Effect, ...]:
        self.state, self.asked = step(self.state, event, self.now_s)
        return self.asked

    def looks(self, stored: Mapping[str, str]) -> tuple[port.Effect, ...]:
        return self.meets(port.SchemasRead(stored))

    def commits(self) -> tuple[port.Effect, ...]:
        (commit,) = self.asked
        assert isinstance(commit, port.Commit)
        return self.meets(port.Committed(commit.step))

    def begins(self) -> None:
        assert self.meets(port.Woken()) == (port.ReadSchemas(),)
        assert self.looks({"note": "old"}) == (port.Commit(Redeclare(schemas=mark())),)
        assert self.commits() == (port.ReadSchemas(),)
        assert self.looks(mark()) == (port.ReadParked(None),)

    def goes_over_all(self) -> None:
        self.begins()
        assert self.meets(port.ParkedRead(())) == (port.ScanKeys("like", None),)
        assert self.meets(port.KeysScanned(())) == (port.ScanKeys("note", None),)
        shown = Redeclare("note", ("k1", "k2"), schemas=mark(1), instead_of=mark())
        assert self.meets(port.KeysScanned(("k1", "k2"))) == (port.Commit(shown),)
        assert self.commits() == (port.ScanKeys("note", "k2"),)
        assert self.meets(port.KeysScanned(())) == (
            port.Commit(Redeclare(schemas=DECLARED, instead_of=mark(1))),
        )
        assert self.commits() == (port.ReadSchemas(),)


def test_where_all_is_as_declared_nothing_is_done() -> None:
    it = Pass()
    it.meets(port.Woken())
    assert it.looks(DECLARED) == (port.WakeAt(LOOKED_AFTER_S),)


def test_a_pass_goes_over_all_that_is_due() -> None:
    it = Pass()
    it.goes_over_all()
    assert it.looks(DECLARED) == (port.WakeAt(LOOKED_AFTER_S),)


def test_a_pass_ends_where_the_mark_was_the_first_commit_of_all() -> None:
    it = Pass()
    it.meets(port.Woken())
    it.looks({})
    assert it.commits() == (port.ReadSchemas(),)
    assert it.looks(DECLARED) == (port.WakeAt(LOOKED_AFTER_S),)


def test_what_was_parked_is_tried_again_if_it_can_be_read() -> None:
    entry = Entry("b", 1, 1, 0, {"b": 0}, (Change("note", "k", 0, {"": b"{}"}),))
    whole = Parked("b", 1, 0, "undeclared", "why", msgspec.msgpack.encode(entry))
    damaged = Parked("b", 2, 0, "unreadable", "why", b"rubbish")
    it = Pass()
    it.begins()
    it.meets(port.ParkedRead((whole, damaged)))
    (commit,) = it.asked
    assert isinstance(commit, port.Commit)
    assert isinstance(commit.step, Redeclare)
    assert commit.step.parked == (whole,)
    assert it.commits() == (port.ReadParked(("b", 2, 0)),)


def test_a_pass_that_another_node_wrote_into_is_made_again_soon() -> None:
    it = Pass()
    it.goes_over_all()
    assert it.looks({"note": ""}) == (port.WakeAt(1.0),)
    it.meets(port.Woken())
    it.looks({"note": ""})
    (commit,) = it.asked
    assert isinstance(commit, port.Commit)
    assert commit.step == Redeclare(schemas=mark(of=2))  # a mark of its own


def test_passes_take_a_small_share_of_the_time() -> None:
    it = Pass()
    it.goes_over_all()
    it.now_s = 60.0
    assert it.looks({"note": ""}) == (port.WakeAt(60.0 + SHARE * 60.0),)


@pytest.mark.parametrize("so_far", range(4))
def test_what_fails_begins_anew(so_far: int) -> None:
    it = Pass()
    it.meets(port.Woken())
    for event in (
        port.SchemasRead({}),
        port.Committed(Redeclare()),
        port.SchemasRead({}),
        port.ParkedRead(()),
    )[:so_far]:
        it.meets(event)
    assert it.meets(port.Failed(it.asked[0], StoreUnwritable("full"))) == (port.WakeAt(1.0),)
    assert it.meets(port.Woken()) == (port.ReadSchemas(),)


def test_the_store_names_every_collection_that_may_have_documents() -> None:
    """Whoever starts next may declare none of them, and passes them on all the same."""
    batch = Replica("a", {}).batch()
    MarkMixed(DECLARED).perform(batch, Shown(schemas={"like": "new", "old": "gone"}))
    assert batch.pending.schemas == {"note": "", "old": ""}


def test_progress_is_told_now_and_then() -> None:
    it = Pass()
    it.begins()
    it.meets(port.ParkedRead(()))
    told = 0
    for page in range(101):
        it.meets(port.KeysScanned(tuple(f"{page:03}-{number}" for number in range(200))))
        it.commits()
        told += any(isinstance(effect, port.Log) for effect in it.asked)
        it.asked = it.asked[-1:]
    assert told == 1


def keys_of(documents: Mapping[str, str], after: str | None) -> tuple[str, ...]:
    return tuple(sorted(key for key in documents if after is None or key > after))[:2]


@given(st.data())
def test_a_database_that_went_back_is_gone_over_once_more(data: st.DataObject) -> None:
    """At any step it may be replaced by a copy of any earlier moment, as a failover does."""
    state = RedeclareState({"note": "new"}, "n", 1.0)
    documents = {f"k{number}": "old" for number in range(5)}
    schemas = {"note": "old"}
    history = [(dict(documents), dict(schemas))]
    state, (effect,) = step(state, port.Woken(), 0.0)
    for _ in range(400):
        if not isinstance(effect, port.WakeAt) and data.draw(st.integers(0, 9)) == 0 and len(history) < 40:
            documents, schemas = map(dict, data.draw(st.sampled_from(history)))
        event: port.Outcome
        match effect:
            case port.WakeAt():
                if schemas == {"note": "new"}:
                    break
                event = port.Woken()
            case port.ReadSchemas():
                event = port.SchemasRead(dict(schemas))
            case port.ReadParked():
                event = port.ParkedRead(())
            case port.ScanKeys(_, after):
                event = port.KeysScanned(keys_of(documents, after))
            case port.Commit(Redeclare() as work):
                batch = Replica("a", {}).batch()
                work._replace(keys=()).perform(batch, Shown(schemas=dict(schemas)))
                schemas |= batch.pending.schemas
                documents |= dict.fromkeys(work.keys, "new")
                history.append((dict(documents), dict(schemas)))
                event = port.Committed(work)
            case _:
                raise AssertionError(effect)
        state, (effect,) = step(state, event, 0.0)
    assert schemas == {"note": "new"}
    assert set(documents.values()) == {"new"}
