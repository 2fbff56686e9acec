"""References of strong collections: none ever dangles, whoever writes what at once."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter as Tally
from random import Random
from typing import Any

import pytest

from atoll.consensus.references import counts_of
from atoll.documents.mutation import Mutation, Write
from atoll.documents.references import kept_at, place_of
from atoll.errors import AtollError, ClaimsChanged, NotFound, ReferenceViolation
from atoll.region import claims
from atoll.region.claims import Claims
from atoll.schema import Collection, Ref, field
from atoll.schema.application import application_of
from atoll.schema.system import MARKS, REFERRED

from ..virtual_time import in_virtual_time
from .test_transactions import no_intents
from .world import World


class Account(Collection, consistency="strong"):
    name: str = ""


class Order(Collection, consistency="strong"):
    owner: Ref[Account]
    payer: Ref[Account] | None = None
    note: str = ""


class Folder(Collection, consistency="strong"):
    parent: Ref["Folder"] | None = field(None, on_delete="cascade")  # noqa: UP037 — it names itself
    code: str | None = field(None, unique=True)


class Link(Collection, consistency="strong"):
    to: Ref[Account] | None = field(None, on_delete="dangling")


APPLICATION = application_of(Account, Order, Folder, Link)


async def transact(it: World, name: str, *parts: tuple[str, str, Any]) -> None:
    await it[name].transact(Write(tuple(it.mutation(*part) for part in parts)))


def dangling(it: World, name: str) -> list[str]:
    found = []
    for collection, schema in APPLICATION.collections.items():
        for key, row in it.stores[name].tables.scan_all(collection, limit=10_000):
            fields = {} if row.value is None else json.loads(row.value)
            for each in schema.references:
                target = fields.get(each.field)
                gone = target is not None and it.shown(name, each.target, target) is None
                if gone and each.on_delete != "dangling":
                    found.append(f"{collection}/{key}.{each.field} → {target}")
    return found


async def consistent(it: World, *, dangles: int = 0) -> None:
    """Check in every region that no more dangles, and that counts and marks are what documents say."""
    await no_intents(it)
    await alike(it, dangles=dangles)


async def alike(it: World, *, dangles: int = 0) -> None:
    await it.settled()
    for name in it.names:
        assert len(dangling(it, name)) == dangles
        needed: dict[str, Tally[str]] = {}
        marks: dict[str, Any] = {}
        tables = it.stores[name].tables
        for collection, schema in APPLICATION.collections.items():
            for key, row in tables.scan_all(collection, limit=10_000):
                fields = {} if row.value is None else json.loads(row.value)
                for each in schema.references:
                    if fields.get(each.field) is not None and each.on_delete != "dangling":
                        place = kept_at((each.target, fields[each.field]))
                        needed.setdefault(place, Tally())[f"{collection}.{each.field}"] += 1
                        mark = {"referrer": key, "target": [each.target, fields[each.field]]}
                        marks[place_of(collection, each.field, key)] = mark
        counts = {
            key: counts_of(row.value) for key, row in tables.scan_all(REFERRED, limit=10_000) if row.value
        }
        assert counts == needed, name
        told = {key: json.loads(row.value) for key, row in tables.scan_all(MARKS, limit=10_000) if row.value}
        assert told == marks, name


async def decided(it: World, name: str) -> list[str]:
    """What dangles in a snapshot of what a majority has decided."""
    addresses = [(collection, key) for collection in ("account", "order", "folder") for key in "pqr"]
    found, _ = await it[name].snapshot(addresses)
    shown = {(each.collection, each.key): json.loads(each.value) for each in found if each.value is not None}
    return [
        f"{collection}/{key}.{each.field}"
        for (collection, key), fields in shown.items()
        for each in APPLICATION.collections[collection].references
        if fields[each.field] is not None and (each.target, fields[each.field]) not in shown
    ]


@in_virtual_time
async def test_a_reference_is_checked_and_counted() -> None:
    async with World(application=APPLICATION) as it:
        with pytest.raises(
            ReferenceViolation, match="order/1: owner refers to account/ann, which does not exist"
        ) as e:
            await it.write("a", "order", "1", {"owner": "ann"})
        assert e.value.details["target"] == "ann"
        for key in ("x" * 5000, "a\x00b", ""):
            with pytest.raises(ReferenceViolation):
                await it.write("a", "order", "1", {"owner": key})
        await it.write("b", "account", "ann", {})
        await it.write("a", "order", "1", {"owner": "ann"})
        await it.write("c", "order", "2", {"owner": "ann", "payer": "ann"})
        with pytest.raises(ReferenceViolation, match=r"account/ann: 2 of order refer to it by owner"):
            await it.write("c", "account", "ann", None)
        await it.write("b", "order", "1", {"$set": {"note": "as before"}})
        await it.write("b", "order", "1", None)
        await it.write("b", "account", "bob", {})
        await it.write("a", "order", "2", {"$set": {"owner": "bob"}})
        with pytest.raises(ReferenceViolation, match=r"1 of order refer to it by payer"):
            await it.write("a", "account", "ann", None)
        await it.write("a", "order", "2", {"$unset": ["payer"]})
        await it.write("a", "account", "ann", None)
        with pytest.raises(NotFound):
            await it.write("a", "account", "ann", None)
        await consistent(it)


@in_virtual_time
async def test_a_transaction_may_change_both() -> None:
    async with World(application=APPLICATION) as it:
        await transact(it, "a", ("order", "1", {"owner": "ann"}), ("account", "ann", {}))
        with pytest.raises(ReferenceViolation):
            await transact(
                it, "b", ("account", "ann", None), ("order", "2", {"owner": "ann"}), ("order", "1", None)
            )
        await transact(it, "b", ("account", "ann", None), ("order", "1", None))
        await transact(
            it, "c", ("account", "ann", {}), ("account", "bob", {}), ("order", "1", {"owner": "ann"})
        )
        await transact(it, "c", ("account", "ann", None), ("order", "1", {"$set": {"owner": "bob"}}))
        await consistent(it)


@in_virtual_time
async def test_a_cascade_deletes_what_refers_in_the_same_transaction() -> None:
    async with World(application=APPLICATION) as it:
        for key, parent in (("top", None), ("left", "top"), ("right", "top"), ("leaf", "left")):
            await it.write("a", "folder", key, {"parent": parent, "code": key})
        await it.write("a", "folder", "self", {"parent": "self"})
        write = Write((it.mutation("folder", "top", None),), "once")
        receipt = (await it["b"].write(write)).receipt
        assert [each.key for each in receipt.written] == ["top"]
        again = (await it["c"].write(write)).receipt
        assert [each.key for each in again.written] == ["top"]
        await it.write("a", "folder", "self", None)
        await consistent(it)
        assert [key for key, row in it.stores["c"].tables.scan_all("folder", limit=9) if row.value] == []
        await it.write("c", "folder", "new", {"code": "leaf"})  # the value is free


@in_virtual_time
async def test_a_cascade_waits_for_what_this_region_does_not_know_yet(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    honest, late = claims.referring, iter(range(5))

    async def referring(*given: Any) -> Any:
        return [] if next(late, None) is not None else await honest(*given)

    monkeypatch.setattr(claims, "referring", referring)
    async with World(application=APPLICATION) as it:
        await it.write("a", "folder", "top", {})
        await it.write("a", "folder", "below", {"parent": "top"})
        await it.write("b", "folder", "top", None)
        assert next(late, None) is None
        await consistent(it)
        assert it.shown("c", "folder", "below") is None


@in_virtual_time
async def test_a_reference_may_be_left_dangling() -> None:
    async with World(application=APPLICATION) as it:
        await it.write("a", "account", "ann", {})
        await it.write("a", "link", "1", {"to": "ann"})
        await it.write("b", "account", "ann", None)
        with pytest.raises(ReferenceViolation):
            await it.write("b", "link", "2", {"to": "ann"})
        await consistent(it)
        assert it.shown("c", "link", "1") == {"to": "ann"}


@in_virtual_time
async def test_of_a_reference_and_a_deletion_at_once_one_succeeds() -> None:
    async with World(application=APPLICATION) as it:
        for number in range(12):
            key, (one, other) = str(number), Random(number).sample("abc", 2)
            await it.write(one, "account", key, {})
            done = await asyncio.gather(
                it.write(other, "order", key, {"owner": key}),
                it.write(one, "account", key, None),
                return_exceptions=True,
            )
            assert sum(isinstance(each, ReferenceViolation) for each in done) == 1, done
        await consistent(it)


@in_virtual_time
async def test_a_change_without_its_count_is_refused_by_whoever_proposes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with World(application=APPLICATION) as it:
        await it.write("a", "account", "ann", {})
        await it.write("a", "order", "1", {"owner": "ann"})
        monkeypatch.setattr(Claims, "concern", lambda *_: False)
        for made in (("order", "2", {"owner": "ann"}), ("order", "1", None), ("account", "ann", None)):
            with pytest.raises(ClaimsChanged, match="would change without"):
                await it.write("b", *made)
        await it.write("b", "order", "1", {"$set": {"note": "this is none"}})
        await consistent(it)


@pytest.mark.parametrize("seed", range(5))
@in_virtual_time
async def test_whatever_is_written_at_once_nothing_dangles(seed: int) -> None:
    async with World(application=APPLICATION) as it:
        random = Random(seed)

        def change() -> Mutation:
            key, to = random.choice("pqr"), random.choice("pqr")
            collection, made = random.choice(
                (
                    ("account", {"name": str(random.random())}),
                    ("order", {"owner": to, "payer": random.choice((None, key))}),
                    ("order", {"$set": {"owner": to}}),
                    ("folder", {"parent": random.choice((None, to)), "code": random.choice((None, key))}),
                    ("folder", {"$set": {"parent": to}}),
                    ("link", {"to": to}),
                )
            )
            return it.mutation(collection, key, None if random.random() < 0.4 else made)

        async def client(name: str) -> None:
            for _ in range(12):
                with contextlib.suppress(AtollError):
                    parts = tuple(change() for _ in range(random.choice((1, 1, 2))))
                    await it[name].write(Write(parts))
                with contextlib.suppress(AtollError):
                    assert await decided(it, name) == []
                await asyncio.sleep(random.choice((0, 0.01, 0.1)))

        await asyncio.gather(*(client(name) for name in "abcabc"))
        await consistent(it)
