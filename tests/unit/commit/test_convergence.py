"""Whatever is written where, and in whatever causal order it arrives: one state, one audit, everywhere."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atoll.conflicts.records import record_id
from atoll.documents.document import decode_row, delta_of
from atoll.documents.mutation import Delete, Mutation, patch_of, put_of
from atoll.documents.register import Version
from atoll.errors import RequestError
from atoll.recovery.snapshot_record import MoveRecord, Record


def _beside(name: str) -> Any:
    path = Path(__file__).with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location(f"core_tests_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


replicas = _beside("replica")
shop = _beside("shop")
RULES = replicas.rules_of(shop.SHOP)
REGIONS = replicas.REGIONS

_keys = st.sampled_from(["k1", "k2"])
_words = st.sampled_from(["", "x", "yy", "zebra", "émoji 🦓", "tokyo"])
_numbers = st.integers(-5, 5)


def _whole(collection: str, field: str) -> st.SearchStrategy[Any]:
    put = _words.map(lambda word: ("put", collection, {field: word}))
    return st.one_of(put, put, st.just(("delete", collection, None)))


_operations = st.one_of(
    _whole("profile", "name"),
    _whole("claim", "owner"),
    _whole("page", "title"),
    _whole("draft", "text"),
    _numbers.map(lambda age: ("patch", "profile", {"$set": {"age": age}})),
    st.builds(lambda w, n: ("patch", "cart", {"$set": {"note": w, "labels.a": n}}), _words, _numbers),
    st.builds(lambda w: ("patch", "cart", {"$add": {"items": [w]}}), _words),
    st.builds(lambda w: ("patch", "cart", {"$remove": {"items": [w]}}), _words),
    st.builds(lambda n: ("patch", "cart", {"$set": {"address": {"street": n, str(n): 1}}}), _numbers),
    st.just(("patch", "cart", {"$unset": ["labels.a"]})),
    st.just(("delete", "cart", None)),
    _numbers.map(lambda n: ("patch", "stock", {"$inc": {"left": n}})),
    st.builds(lambda n: ("put", "stock", {"left": abs(n) * 10}), _numbers),
    st.just(("delete", "stock", None)),
    _numbers.map(lambda n: ("patch", "views", {"$inc": {"seen": n}})),
    st.just(("delete", "views", None)),
    st.builds(lambda w: ("patch", "note", {"$append": {"body": w}, "$add": {"lines": [w]}}), _words),
    st.builds(lambda w: ("put", "note", {"body": w, "lines": [w, "end"]}), _words),
)
_steps = st.one_of(
    st.tuples(st.just("write"), st.sampled_from(REGIONS), _keys, _operations),
    st.tuples(st.just("deliver"), st.sampled_from(REGIONS), st.sampled_from(REGIONS)),
    st.tuples(st.just("wait"), st.sampled_from(REGIONS), st.integers(-3000, 3000)),
)


def _mutation(verb: str, collection: str, key: str, body: Any) -> Mutation:
    rules = RULES[collection]
    if verb == "put":
        return put_of(rules, key, msgspec.json.encode(body))
    if verb == "patch":
        return patch_of(rules, key, body)
    return Delete(collection, key)


def _perform(world: dict[str, Any], steps: list[Any]) -> None:
    for step in steps:
        match step:
            case ("write", region, key, (verb, collection, body)):
                with contextlib.suppress(
                    RequestError
                ):  # absent documents, spent counters: refused and forgotten
                    world[region].write(_mutation(verb, collection, key, body))
            case ("deliver", here, there):
                encoded = world[here].ready_from(world[there])
                if encoded is not None:
                    world[here].receive([encoded])
            case ("wait", region, ms):
                world[region].time_ms += ms


def _run(steps: list[Any]) -> dict[str, Any]:
    world = {name: replicas.Replica(name, RULES, skew_ms=index * 40) for index, name in enumerate(REGIONS)}
    _perform(world, steps)
    replicas.settle(list(world.values()))
    return world


@settings(max_examples=300, deadline=None)
@given(st.lists(_steps, max_size=60))
def test_regions_converge_and_agree_on_the_audit(steps: list[Any]) -> None:
    one, *others = _run(steps).values()
    assert one.parked == []
    for other in others:
        assert other.digests() == one.digests()
        assert {k: row.value for k, row in other.rows.items()} == {
            k: row.value for k, row in one.rows.items()
        }
        assert other.audit == one.audit
        assert other.parked == []


@settings(max_examples=200, deadline=None)
@given(st.lists(_steps, max_size=60))
def test_stock_never_falls_below_zero_in_any_region(steps: list[Any]) -> None:
    world = {name: replicas.Replica(name, RULES) for name in REGIONS}
    for step in steps:
        _perform(world, [step])
        for replica in world.values():
            for key in ("k1", "k2"):
                shown = replica.shown("stock", key)
                assert shown is None or msgspec.json.decode(shown)["left"] >= 0


def _install_page(world: dict[str, Any], here: str, there: str, began: dict[str, int]) -> None:
    """`began` is what `there` had when its first page was read; the others are read now."""
    taker, until, pages = world[here], dict(world[there].vector), world[there].snapshot()
    world[here].clock.update(world[there].clock.last)
    taker.perform(MoveRecord(Record(), Record().next_round(), began))
    while any(taker.vector.get(origin, 0) < seq for origin, seq in until.items()):
        encoded = next(each for name in REGIONS if (each := taker.ready_from(world[name])) is not None)
        taker.receive([encoded])
    for page in (*pages, *pages[::2]):  # after a crash some come again
        taker.perform(page)


@settings(max_examples=300, deadline=None)
@given(st.lists(_steps, max_size=30), st.lists(_steps, max_size=10), st.lists(_steps, max_size=20))
def test_a_snapshot_leaves_what_all_entries_would_have_left(
    before: list[Any], meanwhile: list[Any], after: list[Any]
) -> None:
    world = {name: replicas.Replica(name, RULES, skew_ms=index * 40) for index, name in enumerate(REGIONS)}
    _perform(world, before)
    began = dict(world["a"].vector)
    # Whoever takes a snapshot over writes nothing and applies nothing while it comes.
    _perform(world, [step for step in meanwhile if step[1] != "c"])
    _install_page(world, "c", "a", began)
    _perform(world, after)
    replicas.settle(list(world.values()))
    a, b, c = world.values()
    assert c.digests() == b.digests() == a.digests()
    assert c.audit == b.audit == a.audit
    assert {k: row.value for k, row in c.rows.items()} == {k: row.value for k, row in b.rows.items()}
    assert c.parked == []


def _history(world: dict[str, Any], collection: str, key: str) -> list[Version]:
    """Every version of the whole document that was ever written, read from one journal."""
    versions = []
    for encoded in world[REGIONS[0]].journal:
        for change in encoded.entry.changes:
            if (change.collection, change.key) == (collection, key) and "" in change.registers:
                versions += delta_of(RULES[collection], encoded.entry, change).registers[""]
    return versions


def _saw(writer: Version, version: Version) -> bool:
    return writer.context.get(version.origin, 0) >= version.seq


def _frontier(versions: list[Version]) -> list[Version]:
    return [v for v in versions if not any(_saw(other, v) for other in versions)]


def _losing(collection: str, versions: list[Version]) -> set[tuple[str, int]]:
    order = sorted(versions, key=lambda v: (v.stamp, v.origin, v.seq))
    winner = order[0] if collection == "claim" else order[-1]
    same = {winner.value} if collection != "page" else set()
    return {(v.origin, v.seq) for v in order if v is not winner and v.value not in same}


@pytest.mark.parametrize("collection", ["profile", "claim", "page"])
@settings(max_examples=120, deadline=None)
@given(steps=st.lists(_steps, max_size=60))
def test_the_audit_is_what_the_history_says(collection: str, steps: list[Any]) -> None:
    """An oracle that knows only the journal: who wrote what, having seen what."""
    world = _run(steps)
    for key in ("k1", "k2"):
        history = _history(world, collection, key)
        lost = _losing(collection, _frontier(history)) if len(_frontier(history)) > 1 else set()
        for writer in history:
            seen = _frontier([version for version in history if _saw(writer, version)])
            if len(seen) > 1:
                lost |= _losing(collection, seen)
        expected = {record_id(collection, key, "", v.dot) for v in history if (v.origin, v.seq) in lost}
        for replica in world.values():
            found = {r.id for r in replica.audit.values() if (r.collection, r.key) == (collection, key)}
            assert found == expected


@settings(max_examples=120, deadline=None)
@given(st.lists(_steps, max_size=40))
def test_what_is_shown_is_what_the_history_says(steps: list[Any]) -> None:
    world = _run(steps)
    for collection in ("profile", "claim"):
        for key in ("k1", "k2"):
            frontier = _frontier(_history(world, collection, key))
            if frontier:
                order = sorted(frontier, key=lambda v: (v.stamp, v.origin, v.seq))
                expected = (order[0] if collection == "claim" else order[-1]).value
                assert world["b"].shown(collection, key) == expected


def test_a_successor_of_a_merge_does_not_take_the_other_side_for_seen() -> None:
    """The trap of a merged row that keeps only the incoming write's version."""
    a, b, c = (replicas.Replica(name, RULES) for name in REGIONS)
    a.write(put_of(RULES["page"], "k", b'{"title":"from a"}'))
    b.write(put_of(RULES["page"], "k", b'{"title":"from b"}'))
    c.receive([a.journal[0], b.journal[0]])
    a.write(put_of(RULES["page"], "k", b'{"title":"again a"}'))
    c.receive([a.journal[1]])
    replicas.settle([a, b, c])
    assert [record.kind for record in c.audit.values()] == ["update_origin_differs"]
    siblings = decode_row(RULES["page"], c.rows[("page", "k")]).registers[""]
    assert {version.value for version in siblings} == {b'{"title":"from b"}', b'{"title":"again a"}'}
