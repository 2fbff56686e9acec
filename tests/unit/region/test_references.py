"""References of asynchronous collections: checked where they are written, and settled in every region alike."""

from __future__ import annotations

import asyncio
import contextlib
import json
from random import Random
from typing import Any

import pytest

from atoll.documents.mutation import Write, put_of
from atoll.documents.references import kept_at, place_of
from atoll.documents.strategies import DELETE_REFERENCED
from atoll.errors import InvalidOperation, NotFound, ReferenceViolation, UniqueViolation, VersionMismatch
from atoll.region import references
from atoll.region.references import REFERRED
from atoll.region.saga_steps import Changes, Reads
from atoll.schema import Collection, Counter, Ref, SetOf, field
from atoll.schema.application import application_of
from atoll.schema.system import DANGLING, DELETED
from atoll.store.port import AuditFilter

from ..virtual_time import in_virtual_time
from .world import World


class Account(Collection):
    name: str = ""
    code: str | None = field(None, unique=True)


class Order(Collection):
    owner: Ref[Account]
    note: str = ""
    moves: Counter


class Line(Collection, resolve="merge"):
    order: Ref[Order] | None = field(None, on_delete="dangling")
    account: Ref[Account] | None = None


class Folder(Collection):
    parent: Ref["Folder"] | None = field(None, on_delete="cascade")  # noqa: UP037 — it names itself
    tags: SetOf[str]


class Paper(Collection):
    folder: Ref[Folder] = field(on_delete="cascade")
    title: str | None = field(None, unique=True)


class Shelf(Collection):
    """What is deleted has parts that merge."""

    books: Counter
    tags: SetOf[str]


class Book(Collection):
    shelf: Ref[Shelf]


class Vault(Collection, consistency="strong"):
    gold: int = 0


APPLICATION = application_of(Account, Order, Line, Folder, Paper, Shelf, Book, Vault)
NAMES = ("account", "order", "line", "folder", "paper", "shelf", "book")


def records(it: World, name: str) -> list[dict[str, Any]]:
    rows = it.stores[name].tables.conflicts(AuditFilter(kind=DELETE_REFERENCED), limit=1000)
    return [json.loads(row.body) for row in sorted(rows, key=lambda row: row.id)]


def shown(it: World, collection: str, name: str) -> dict[str, Any]:
    rows = it.stores[name].tables.scan(collection, limit=1000).rows
    return {key: json.loads(row.value or b"") for key, row in rows}


async def settled(it: World, *names: str) -> None:
    """Wait until these regions have the same, and nothing is left to be settled."""
    async with asyncio.timeout(300):
        while True:
            await it.settled()
            states = [
                (records(it, name), *(shown(it, each, name) for each in (*NAMES, DANGLING)))
                for name in names or it.names
            ]
            assert all(state == states[0] for state in states)
            if not any(record["status"] == "open" for record in states[0][0]):
                found = dangling(it, (names or it.names)[0])
                if {place for place, policy in found if policy != "dangling"} <= states[0][-1].keys():
                    return
            await asyncio.sleep(0.5)


def dangling(it: World, name: str) -> list[tuple[str, str]]:
    """(place in `_dangling`, policy) of what refers to what is not there."""
    found = []
    for collection, schema in APPLICATION.collections.items():
        for key, fields in shown(it, collection, name).items():
            for each in schema.references:
                target = fields.get(each.field)
                if target is not None and it.shown(name, each.target, target) is None:
                    place = place_of(collection, each.field, key)
                    found.append((place, each.on_delete))
    return found


@in_virtual_time
async def test_a_reference_to_what_is_not_here_is_refused() -> None:
    async with World(application=APPLICATION) as it:
        with pytest.raises(
            ReferenceViolation, match="order/1: owner refers to account/ann, which does not exist"
        ) as e:
            await it.write("a", "order", "1", {"owner": "ann"})
        assert e.value.details == {
            "collection": "order",
            "key": "1",
            "field": "owner",
            "target_collection": "account",
            "target": "ann",
        }
        for key in ("", "x" * 5000, "a\x00b", "\ud7ff"):
            with pytest.raises(ReferenceViolation):
                await it.write("a", "order", "1", {"owner": key})
        await it.write("a", "account", "ann", {})
        await it.write("a", "order", "1", {"owner": "ann"})
        with pytest.raises(ReferenceViolation):
            await it.write("a", "order", "1", {"$set": {"owner": "bob"}})
        await it.write("a", "line", "none", {})
        await it.write("a", "line", "1", {"$set": {"order": "1", "account": "ann"}})
        with pytest.raises(ReferenceViolation):
            await it.write("a", "line", "2", {"$set": {"account": "bob"}})
        with pytest.raises(ReferenceViolation):
            await it.write("a", "folder", "x", {"parent": "y"})
        await it.write("a", "folder", "self", {"parent": "self"})
        await settled(it)
        assert records(it, "a") == []


@in_virtual_time
async def test_what_is_referred_to_is_not_deleted() -> None:
    async with World(application=APPLICATION) as it:
        await it.write("a", "account", "ann", {})
        await it.write("a", "order", "1", {"owner": "ann"})
        await it.settled()
        with pytest.raises(ReferenceViolation, match=r"account/ann: order/1 refers to it by owner") as caught:
            await it.write("b", "account", "ann", None)
        assert caught.value.details["key"] == "1"
        await it.write("b", "order", "1", {"$inc": {"moves": 1}})
        await it.write("b", "account", "bob", {})
        await it.write("b", "order", "1", {"$set": {"owner": "bob"}})
        await it.write("b", "account", "ann", None)
        await it.write("b", "order", "1", None)
        await it.write("b", "account", "bob", None)
        with pytest.raises(NotFound):
            await it.write("b", "account", "bob", None)
        await settled(it)
        assert records(it, "a") == []


@in_virtual_time
async def test_one_write_may_change_both() -> None:
    async with World(application=APPLICATION) as it:

        async def batch(*parts: tuple[str, str, Any]) -> list[str]:
            made = tuple(it.mutation(*part) for part in parts)
            receipt = (await it["a"].write(Write(made))).receipt
            return [each.key for each in receipt.written]

        assert await batch(("order", "1", {"owner": "ann"}), ("account", "ann", {})) == ["1", "ann"]
        with pytest.raises(ReferenceViolation):
            await batch(("order", "2", {"owner": "ann"}), ("account", "ann", None), ("order", "1", None))
        with pytest.raises(ReferenceViolation):
            await batch(("account", "ann", None), ("order", "1", {"$set": {"note": "x"}}))
        assert await batch(("account", "ann", None), ("order", "1", None)) == ["ann", "1"]
        await settled(it)
        assert dangling(it, "a") == []


@in_virtual_time
async def test_a_cascade_deletes_what_refers_in_the_same_entry() -> None:
    async with World(application=APPLICATION) as it:
        for key, parent in (("top", None), ("left", "top"), ("right", "top"), ("leaf", "left")):
            await it.write("a", "folder", key, {"parent": parent})
        for key in ("top", "leaf"):
            await it.write("a", "paper", key, {"folder": key, "title": key})
        await it.write("a", "folder", "other", {})
        before = it["a"].vector["a"]
        write = Write((it.mutation("folder", "top", None),), "once")
        receipt = (await it["a"].write(write)).receipt
        assert [each.key for each in receipt.written] == ["top"]
        assert receipt.seq == it["a"].vector["a"] == before + 1
        assert (await it["a"].write(write)).receipt.replayed
        await settled(it)
        assert shown(it, "folder", "b").keys() == {"other"}
        assert shown(it, "paper", "b") == {}
        assert records(it, "c") == []
        await it.write("b", "paper", "new", {"folder": "other", "title": "leaf"})  # the value is free


@in_virtual_time
async def test_too_large_a_cascade_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(references, "MOST_DELETED", 3)
    async with World(application=APPLICATION) as it:
        await it.write("a", "folder", "top", {})
        for key in "1234":
            await it.write("a", "folder", key, {"parent": "top"})
        with pytest.raises(
            InvalidOperation, match="more than 3 documents that refer to it, such as folder/4"
        ):
            await it.write("a", "folder", "top", None)
        await it.write("a", "folder", "4", None)
        await it.write("a", "folder", "top", None)
        await settled(it)
        assert shown(it, "folder", "a") == {}


@in_virtual_time
async def test_a_reference_may_be_left_dangling() -> None:
    async with World(application=APPLICATION) as it:
        await it.write("a", "account", "ann", {})
        await it.write("a", "order", "1", {"owner": "ann"})
        await it.write("a", "line", "1", {"order": "1"})
        await it.settled()
        await it.write("b", "order", "1", None)
        await it.write("b", "line", "1", {"order": "1"})  # as it was: nothing refers anew
        await settled(it)
        await asyncio.sleep(100)
        assert records(it, "a") == []
        assert shown(it, "line", "a")["1"]["order"] == "1"


@in_virtual_time
async def test_of_a_reference_and_a_deletion_at_once_in_one_region_one_succeeds() -> None:
    async with World(application=APPLICATION) as it:
        for number in range(20):
            key = str(number)
            await it.write("a", "account", key, {})
            done = await asyncio.gather(
                it.write("a", "order", key, {"owner": key}),
                it.write("a", "account", key, None),
                return_exceptions=True,
            )
            assert sum(isinstance(each, ReferenceViolation) for each in done) == 1, done
        assert dangling(it, "a") == []
        await settled(it)
        assert records(it, "a") == []


@in_virtual_time
async def test_a_deletion_that_met_a_reference_is_undone() -> None:
    async with World(application=APPLICATION) as it:
        await it.write("a", "account", "ann", {"name": "Ann", "code": "7"})
        await it.settled()
        it.partition("ab", "ac", "bc")
        await it.write("a", "account", "ann", None)
        await it.write("b", "order", "1", {"owner": "ann"})
        await it.write("c", "line", "1", {"account": "ann"})
        it.partition()
        await settled(it)
        for name in it.names:
            assert it.shown(name, "account", "ann") == {"name": "Ann", "code": "7"}
            found = records(it, name)
            assert {
                (
                    each["collection"],
                    each["key"],
                    each["field"],
                    each["status"],
                    each["strategy"],
                    each["outcome"],
                )
                for each in found
            } == {
                ("order", "1", "owner", "resolved", "restrict", "dropped"),
                ("line", "1", "account", "resolved", "restrict", "dropped"),
            }
            assert {each["losing"]["operation"] for each in found} == {"delete"}
            assert {each["losing"]["region"] for each in found} == {"a"}
            assert {each["losing"]["value"]["target"] for each in found} == {"account/ann"}
        with pytest.raises(UniqueViolation):
            await it.write("c", "account", "bob", {"code": "7"})
        with pytest.raises(ReferenceViolation):
            await it.write("c", "account", "ann", None)


@in_virtual_time
async def test_what_was_written_beside_the_deletion_comes_back() -> None:
    async with World(application=APPLICATION) as it:
        await it.write("a", "account", "ann", {"name": "Ann"})
        await it.settled()
        it.partition("ab", "ac", "bc")
        await it.write("b", "account", "ann", {"name": "Anna"})
        await it.write("b", "order", "1", {"owner": "ann"})
        await asyncio.sleep(0.1)
        await it.write("a", "account", "ann", None)
        it.partition()
        await settled(it)
        assert it.shown("c", "account", "ann")["name"] == "Anna"


@in_virtual_time
async def test_what_merges_comes_back_once() -> None:
    async with World(application=APPLICATION) as it:
        await it.write("a", "shelf", "s", {"books": 3, "tags": ["x", "y"]})
        await it.settled()
        it.partition("ab", "ac", "bc")
        await it.write("a", "shelf", "s", None)
        await it.write("b", "book", "1", {"shelf": "s"})
        it.partition()
        await settled(it)
        assert it.shown("c", "shelf", "s") == {"books": 3, "tags": ["x", "y"]}
        # Also if the region that deleted it is away for long: nobody else counts it once more.
        it.partition("ab", "ac", "bc")
        await it.write("b", "book", "1", None)
        await it.write("b", "shelf", "s", None)
        await it.write("c", "book", "2", {"shelf": "s"})
        it.partition("ab", "ac")
        while not records(it, "c") or it.shown("c", "shelf", "s") is None:  # noqa: ASYNC110 - virtual time
            await asyncio.sleep(0.1)
        it.partition()
        await settled(it)
        assert it.shown("a", "shelf", "s") == {"books": 3, "tags": ["x", "y"]}


@in_virtual_time
async def test_a_document_that_met_a_cascade_is_deleted() -> None:
    async with World(application=APPLICATION) as it:
        await it.write("a", "folder", "f", {"tags": ["x"]})
        await it.settled()
        it.partition("ab", "ac", "bc")
        await it.write("a", "folder", "f", None)
        await it.write("b", "folder", "below", {"parent": "f"})
        await it.write("b", "paper", "p", {"folder": "below", "title": "p"})
        it.partition()
        await settled(it)
        assert shown(it, "folder", "c") == shown(it, "paper", "c") == {}
        (found,) = records(it, "c")
        assert (found["collection"], found["key"], found["status"]) == ("folder", "below", "resolved")
        assert found["losing"]["region"] == "b"
        assert found["losing"]["value"]["target"] == "folder/f"
        assert found["winning"]["operation"] == "delete"


@in_virtual_time
async def test_a_dangling_reference_waits_for_a_person() -> None:
    async with World(application=APPLICATION) as it:
        await it.write("a", "account", "ann", {})
        await it.write("a", "order", "1", {"owner": "ann"})
        await it.settled()
        it.partition("ab", "ac", "bc")
        await it.write("a", "order", "1", None)
        await it.write("b", "line", "x", {"order": "1"})
        await it.write("c", "line", "y", {"order": "1"})
        it.partition()
        await asyncio.sleep(10)
        await settled(it)
        assert [(each["key"], each["status"], each["outcome"]) for each in records(it, "a")] in (
            [("x", "manual", "kept"), ("y", "manual", "kept")],
            [("y", "manual", "kept"), ("x", "manual", "kept")],
        )
        await it.write("c", "line", "x", {"$unset": ["order"]})
        await asyncio.sleep(40)
        await settled(it)
        assert {each["key"]: each["status"] for each in records(it, "b")} == {"x": "resolved", "y": "manual"}
        await it.write("b", "order", "1", {"owner": "ann"})
        await asyncio.sleep(40)
        await settled(it)
        assert {each["status"] for each in records(it, "b")} == {"resolved"}
        assert shown(it, DANGLING, "a") == {}


@in_virtual_time
async def test_what_cannot_be_undone_waits_for_a_person() -> None:
    async with World(application=APPLICATION) as it:
        await it.write("a", "account", "ann", {"code": "7"})
        await it.settled()
        it.partition("ab", "ac", "bc")
        await it.write("a", "account", "ann", None)
        await it.write("a", "account", "bob", {"code": "7"})
        await it.write("b", "order", "1", {"owner": "ann"})
        it.partition()
        await settled(it)
        (found,) = [each for each in records(it, "c") if each["status"] != "resolved"]
        assert found["status"] == "manual"
        assert "code is unique, and account/bob has" in found["reason"]
        await it.write("c", "account", "ann", {})
        await asyncio.sleep(40)
        await settled(it)
        assert {each["status"] for each in records(it, "c")} == {"resolved"}


@in_virtual_time
async def test_a_chain_of_deletions_is_undone() -> None:
    async with World(application=APPLICATION) as it:
        await it.write("a", "account", "ann", {})
        await it.write("a", "order", "1", {"owner": "ann"})
        await it.settled()
        it.partition("ab", "ac", "bc")
        await it.write("a", "order", "1", None)
        await it.write("a", "account", "ann", None)
        await it.write("b", "line", "1", {"order": "1", "account": "ann"})
        it.partition()
        await settled(it)
        assert it.shown("c", "account", "ann") is not None
        assert it.shown("c", "order", "1") is None  # that one may dangle


@in_virtual_time
async def test_a_region_that_is_gone_leaves_it_to_others() -> None:
    async with World(application=APPLICATION) as it:
        await it.write("a", "account", "ann", {"name": "Ann"})
        await it.settled()
        it.partition("ab", "ac", "bc")
        await it.write("a", "account", "ann", None)
        it.partition("bc", "ac")
        while it.shown("b", "account", "ann") is not None:  # noqa: ASYNC110 - virtual time
            await asyncio.sleep(0.01)
        it.partition("ab", "ac", "bc")
        await it["a"].stop()
        await it.write("c", "order", "1", {"owner": "ann"})
        it.partition("ab", "ac")
        while it.shown("c", "account", "ann") is None or it.shown("b", "account", "ann") is None:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        it.partition()
        await it.create("a").start()
        await settled(it)
        assert it.shown("a", "account", "ann")["name"] == "Ann"


@in_virtual_time
async def test_what_was_deleted_is_kept_until_every_region_has_seen_it() -> None:
    async with World(application=APPLICATION) as it:
        await it.write("a", "account", "ann", {"name": "Ann"})
        await it.settled()
        it.partition("ac")
        await it["c"].stop()
        await it.write("a", "account", "ann", None)
        await asyncio.sleep(300)
        assert list(shown(it, DELETED, "a").values()) == [{"name": "Ann", "code": None}]
        it.partition()
        await it.create("c").start()
        await asyncio.sleep(300)
        await it.settled()
        assert [shown(it, DELETED, name) for name in it.names] == [{}, {}, {}]
        await it.write("a", "account", "ann", {"name": "anew"})
        await it.write("a", "account", "ann", None)
        await it.write("a", "account", "ann", {"name": "again"})
        await it.write("a", "account", "ann", None)
        assert list(shown(it, DELETED, "a").values()) == [{"name": "again", "code": None}]


@in_virtual_time
async def test_a_former_declaration_does_not_check_and_others_find_out() -> None:
    class Loose(Collection, name="order"):
        owner: str
        note: str = ""
        moves: Counter

    loose = application_of(Account, Loose, Folder, Shelf, Vault)
    async with World(application=loose) as it:
        await it.write("a", "order", "1", {"owner": "nobody"})
        await it.write("a", "account", "ann", {"name": "Ann"})
        await it.write("a", "order", "2", {"owner": "ann"})
        await it.write("a", "account", "ann", None)
        await it.settled()
        for name in it.names:
            await it[name].stop()
        it.application = APPLICATION
        for name in it.names:
            await it.create(name).start()
        await asyncio.sleep(60)
        await settled(it)
        found = {each["key"]: each for each in records(it, "c") if each["status"] != "resolved"}
        assert {key: each["status"] for key, each in found.items()} == {"1": "manual", "2": "manual"}
        assert "there is no such document" in found["1"]["reason"]
        assert "not kept any more" in found["2"]["reason"]
        await it.write("b", "account", "nobody", {})
        await it.write("b", "order", "2", None)
        await asyncio.sleep(60)
        await settled(it)
        assert {each["status"] for each in records(it, "c")} == {"resolved"}


@in_virtual_time
async def test_the_mark_of_references_goes_with_the_document() -> None:
    async with World(application=APPLICATION) as it:
        await it.write("a", "account", "ann", {})
        await it.write("a", "order", "1", {"owner": "ann"})
        place = kept_at(("account", "ann"))
        store = it.stores["a"]
        assert await store.state(REFERRED, place) is not None
        await it.write("a", "order", "1", None)
        await it.write("a", "account", "ann", None)
        assert await store.state(REFERRED, place) is None


@in_virtual_time
async def test_what_is_refused_changes_nothing() -> None:
    async with World(application=APPLICATION) as it:
        await it.write("a", "account", "ann", {})
        await it.write("a", "order", "1", {"owner": "ann"})
        put = put_of(it["a"].rules["order"], "1", b'{"owner": "bob"}', if_absent=True)
        with pytest.raises(VersionMismatch):
            await it["a"].write(Write((put,)))
        with pytest.raises(NotFound):
            await it.write("a", "order", "none", {"$inc": {"moves": 1}})
        with pytest.raises(VersionMismatch):
            await it["a"].write(Write((it.mutation("account", "ann", None, "no-such"),)))
        assert it.shown("a", "account", "ann") is not None
        await settled(it)


@in_virtual_time
async def test_a_transaction_and_a_step_of_a_saga_cannot_write_it_in_their_own_entry() -> None:
    async with World(application=APPLICATION) as it:
        await it.write("a", "account", "ann", {})
        for mutation in (it.mutation("order", "1", {"owner": "ann"}), it.mutation("shelf", "s", None)):
            with pytest.raises(InvalidOperation, match="refer"):
                await it["a"].transact(Write((it.mutation("vault", "v", {}), mutation)))
        changes = Changes(Reads(APPLICATION, it["a"].rules, it["a"].reader.read))
        with pytest.raises(InvalidOperation, match="order refers to account"):
            changes.put(Order(key="1", owner="ann"))
        with pytest.raises(InvalidOperation, match="shelf is referred to by book"):
            changes.delete(Shelf, "s")
        assert changes.mutations == []


@pytest.mark.parametrize("seed", range(6))
@in_virtual_time
async def test_whatever_is_written_regions_agree_and_nothing_dangles(seed: int) -> None:
    async with World(application=APPLICATION) as it:
        random = Random(seed)
        for _ in range(12):
            it.partition(*(pair for pair in ("ab", "ac", "bc") if random.random() < 0.5))
            for _ in range(10):
                name, key, to = random.choice("abc"), random.choice("pq"), random.choice("pq")
                collection, made = random.choice(
                    (
                        ("account", {"name": str(random.random())}),
                        ("order", {"owner": to}),
                        ("order", {"$set": {"owner": to}}),
                        ("line", {"order": to, "account": to}),
                        ("line", {"$set": {"account": to}}),
                        ("folder", {"parent": random.choice((None, to)), "tags": [key]}),
                        ("paper", {"folder": to}),
                        ("shelf", {"books": 2}),
                        ("book", {"shelf": to}),
                    )
                )
                body: Any = None if random.random() < 0.35 else made
                with contextlib.suppress(ReferenceViolation, NotFound):
                    await it.write(name, collection, key, body)
                await asyncio.sleep(random.choice((0, 0, 0.3)))
            if random.random() < 0.3:
                it.partition()  # else it would wait for its peers before it takes a write
                name = random.choice("abc")
                await it[name].stop()
                await it.create(name).start()
                await asyncio.sleep(5)
        it.partition()
        await settled(it)
        await asyncio.sleep(120)
        await settled(it)
        places = shown(it, DANGLING, "a")
        for place, policy in dangling(it, "a"):
            assert policy == "dangling" or places[place]["reason"], (place, policy, places)
