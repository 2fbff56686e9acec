"""Unique fields of asynchronous collections: duplicates are found, and settled, in every region alike."""

from __future__ import annotations

import asyncio
import contextlib
import json
from random import Random
from typing import Any

import pytest
from pydantic import field_validator

from atoll.documents.mutation import Write, put_of
from atoll.documents.strategies import MULTIPLE_UNIQUE
from atoll.errors import (
    DeclarationError,
    IdempotencyKeyReused,
    InvalidOperation,
    NotFound,
    UniqueViolation,
    VersionMismatch,
)
from atoll.region.saga_steps import Changes, Reads
from atoll.schema import Collection, Counter, field
from atoll.schema.application import application_of
from atoll.store.port import AuditFilter

from ..virtual_time import in_virtual_time
from .world import World


class Seat(Collection):
    number: int | None = field(None, unique=True)
    guest: str = ""
    moves: Counter


class Desk(Collection, resolve="merge"):
    name: str = field(unique=True)
    owner: str = ""


class Room(Collection, resolve="fww"):
    door: str | None = field(None, unique=True)

    @field_validator("door")
    @classmethod
    def _small(cls, door: str | None) -> str | None:
        return None if door is None else door.lower()


class Loose(Collection, name="seat"):
    number: int | None = None
    guest: str = ""
    moves: Counter


class Vault(Collection, consistency="strong"):
    gold: int = 0


APPLICATION = application_of(Seat, Desk, Room, Vault)


def records(it: World, name: str) -> list[dict[str, Any]]:
    rows = it.stores[name].tables.conflicts(AuditFilter(kind=MULTIPLE_UNIQUE), limit=1000)
    return [json.loads(row.body) for row in sorted(rows, key=lambda row: row.id)]


def shown(it: World, collection: str, name: str) -> dict[str, Any]:
    rows = it.stores[name].tables.scan(collection, limit=1000).rows
    return {key: json.loads(row.value or b"") for key, row in rows}


async def settled(it: World) -> None:
    """Wait until all regions have the same, and nothing is left to be settled."""
    async with asyncio.timeout(120):
        while True:
            await it.settled()
            states = [
                (records(it, name), *(shown(it, each, name) for each in ("seat", "desk", "room")))
                for name in it.names
            ]
            assert all(state == states[0] for state in states)
            if not any(record["status"] == "open" for record in states[0][0]):
                return
            await asyncio.sleep(0.5)


@in_virtual_time
async def test_a_value_that_is_shown_here_is_refused() -> None:
    async with World(application=APPLICATION) as it:
        await it.write("a", "seat", "x", {"number": 1})
        with pytest.raises(UniqueViolation, match="seat/y: number is unique, and seat/x has the value 1"):
            await it.write("a", "seat", "y", {"number": 1})
        await it.settled()
        with pytest.raises(UniqueViolation):
            await it.write("b", "seat", "y", {"$set": {"number": 1}})
        await it.write("b", "seat", "x", {"$set": {"number": 2}})
        await it.write("b", "seat", "y", {"number": 1})
        await it.write("b", "seat", "y", {"number": 1, "guest": "again"})
        await it.write("b", "seat", "y", None)
        await it.write("b", "seat", "z", {"number": 1})
        for name in it.names:
            await it.write(name, "seat", "none" + name, {})
        await settled(it)
        assert records(it, "a") == []


@in_virtual_time
async def test_of_writes_at_once_in_one_region_one_succeeds() -> None:
    async with World(application=APPLICATION) as it:
        done = await asyncio.gather(
            *(it.write("a", "seat", str(n), {"number": 7}) for n in range(20)), return_exceptions=True
        )
        assert sum(isinstance(each, UniqueViolation) for each in done) == 19
        done = await asyncio.gather(
            *(it.write("a", "seat", "hot", {"$inc": {"moves": 1}}) for _ in range(50))
        )
        assert it.shown("a", "seat", "hot")["moves"] == 50


@in_virtual_time
async def test_the_first_keeps_it_and_the_field_of_the_others_is_cleared() -> None:
    async with World(application=APPLICATION) as it:
        it.partition("ab", "ac", "bc")
        for name in it.names:
            await it.write(name, "seat", name, {"number": 5, "guest": name})
            await asyncio.sleep(0.1)
        it.partition()
        await settled(it)
        assert shown(it, "seat", "c") == {
            "a": {"number": 5, "guest": "a", "moves": 0},
            "b": {"number": None, "guest": "b", "moves": 0},
            "c": {"number": None, "guest": "c", "moves": 0},
        }
        found = records(it, "b")
        assert {(each["collection"], each["key"], each["field"], each["status"]) for each in found} == {
            ("seat", "b", "number", "resolved"),
            ("seat", "c", "number", "resolved"),
        }
        assert all(each["losing"]["value"] == {"key": each["key"], "value": 5} for each in found)
        assert all(each["winning"]["value"] == {"key": "a", "value": 5} for each in found)
        await it.write("c", "seat", "c", {"$set": {"number": 6}})


@in_virtual_time
async def test_what_needs_a_person_waits_for_one() -> None:
    async with World(application=APPLICATION) as it:
        it.partition("ab", "ac", "bc")
        await it.write("a", "desk", "one", {"name": "n"})
        await asyncio.sleep(0.1)
        await it.write("b", "desk", "two", {"name": "n"})
        it.partition()
        await settled(it)
        await asyncio.sleep(60)
        (record,) = records(it, "c")
        assert (record["key"], record["status"], record["strategy"]) == ("two", "manual", "manual")
        await it.write("c", "desk", "two", {"$set": {"owner": "o"}})  # it may be written all the same
        await it.settled()
        assert {each["status"] for each in records(it, "a")} == {"manual"}
        with pytest.raises(InvalidOperation, match="PATCH the document"):
            await it["c"].resolve(record["id"], b"{}")
        await it.write("c", "desk", "two", {"$set": {"name": "m"}})
        await settled(it)
        assert {each["status"] for each in records(it, "b")} == {"resolved"}
        assert {key: each["name"] for key, each in shown(it, "desk", "a").items()} == {"one": "n", "two": "m"}


@in_virtual_time
async def test_a_record_is_withdrawn_when_the_first_one_lets_the_value_go() -> None:
    async with World(application=APPLICATION) as it:
        it.partition("ab", "ac", "bc")
        await it.write("a", "desk", "one", {"name": "n"})
        await asyncio.sleep(0.1)
        await it.write("b", "desk", "two", {"name": "n"})
        it.partition()
        await settled(it)
        await it.write("c", "desk", "one", {"$set": {"name": "m"}})
        await settled(it)
        assert records(it, "a") == []
        assert {key: each["name"] for key, each in shown(it, "desk", "b").items()} == {"one": "m", "two": "n"}


@in_virtual_time
async def test_a_document_that_outlives_its_deletion_has_its_value() -> None:
    async with World(application=APPLICATION) as it:
        await it.write("a", "desk", "one", {"name": "n"})
        await it.settled()
        it.partition("ab", "ac", "bc")
        await it.write("b", "desk", "one", None)
        await it.write("c", "desk", "one", {"$set": {"owner": "o"}})
        it.partition()
        await settled(it)
        assert shown(it, "desk", "a") == {"one": {"name": "n", "owner": "o"}}
        await asyncio.sleep(5)  # in virtual time: until a region says so
        with pytest.raises(UniqueViolation):
            await it.write("a", "desk", "two", {"name": "n"})


@in_virtual_time
async def test_who_lost_the_value_in_another_conflict_does_not_keep_it() -> None:
    async with World(application=APPLICATION) as it:
        it.partition("ab", "ac", "bc")
        await it.write("a", "seat", "x", {"number": 1})
        await asyncio.sleep(0.1)
        await it.write("b", "seat", "y", {"number": 1})
        await asyncio.sleep(0.1)
        await it.write("c", "seat", "x", {"number": 2})  # the later one is shown
        it.partition("ab", "ac")
        while it.shown("b", "seat", "x") is None:  # noqa: ASYNC110 - virtual time
            await asyncio.sleep(0.01)
        it.partition()
        await settled(it)
        assert {key: each["number"] for key, each in shown(it, "seat", "a").items()} == {"x": 2, "y": 1}
        with pytest.raises(UniqueViolation):
            await it.write("a", "seat", "z", {"number": 1})


@in_virtual_time
async def test_a_document_that_is_written_beside_its_clearing_is_cleared_again() -> None:
    async with World(application=APPLICATION) as it:
        it.partition("ab", "ac", "bc")
        await it.write("a", "seat", "x", {"number": 1})
        await asyncio.sleep(0.1)
        await it.write("b", "seat", "y", {"number": 1})
        it.partition("ac", "bc")
        await asyncio.sleep(60)
        assert it.shown("b", "seat", "y")["number"] is None
        it.partition("ab", "ac", "bc")
        await it.write("c", "seat", "y", {"number": 1, "guest": "late"})
        it.partition()
        await settled(it)
        assert {key: each["number"] for key, each in shown(it, "seat", "a").items()} == {"x": 1, "y": None}


@in_virtual_time
async def test_a_region_that_is_gone_leaves_its_duplicates_to_others() -> None:
    async with World(application=APPLICATION) as it:
        it.partition("ab", "bc")
        await it.write("a", "seat", "x", {"number": 1})
        await asyncio.sleep(0.1)
        await it.write("b", "seat", "y", {"number": 1})
        await it["c"].stop()
        it.partition("ac", "bc")
        # Before b can settle it, a has the entry, and b is cut off.
        while it.shown("a", "seat", "y") is None:  # noqa: ASYNC110 - virtual time
            await asyncio.sleep(0.001)
        it.partition("ab", "ac", "bc")
        await asyncio.sleep(60)
        assert it.shown("a", "seat", "y")["number"] is None
        await it.create("c").start()
        it.partition()
        await settled(it)


@in_virtual_time
async def test_a_batch_hands_values_over() -> None:
    async with World(application=APPLICATION) as it:
        await it.write("a", "seat", "x", {"number": 1})
        await it.write("a", "seat", "y", {"number": 2})

        async def batch(**numbers: int | None) -> None:
            made = [it.mutation("seat", key, {"$set": {"number": to}}) for key, to in numbers.items()]
            receipt = (await it["a"].write(Write(tuple(made)))).receipt
            assert [each.key for each in receipt.written] == list(numbers)

        await batch(x=2, y=1)
        with pytest.raises(UniqueViolation, match="seat/z"):
            await batch(x=3, z=1)
        with pytest.raises(UniqueViolation):
            await batch(x=3, z=3)
        await batch(x=None, z=2)
        await settled(it)
        assert {key: each["number"] for key, each in shown(it, "seat", "b").items()} == {
            "x": None,
            "y": 1,
            "z": 2,
        }
        assert records(it, "c") == []


@in_virtual_time
async def test_a_validator_that_changes_the_value_is_followed() -> None:
    async with World(application=APPLICATION) as it:
        await it.write("a", "room", "x", {"door": "d"})
        for body in ({"door": "D"}, {"$set": {"door": "D"}}):
            with pytest.raises(UniqueViolation):
                await it.write("a", "room", "y", body)


@in_virtual_time
async def test_a_repeated_write_has_its_answer() -> None:
    async with World(application=APPLICATION) as it:
        write = Write((it.mutation("seat", "x", {"number": 1}),), "once")
        first = (await it["a"].write(write)).receipt
        assert [each.key for each in first.written] == ["x"]
        again = (await it["a"].write(write)).receipt
        assert again.replayed
        assert again.written == first.written
        await it.write("a", "seat", "x", {"number": 2})
        await it.write("a", "seat", "y", {"number": 1})
        assert (await it["a"].write(write)).receipt.replayed
        with pytest.raises(IdempotencyKeyReused):
            await it["a"].write(Write((it.mutation("seat", "z", {"number": 9}),), "once"))


@in_virtual_time
async def test_what_is_refused_takes_nothing() -> None:
    async with World(application=APPLICATION) as it:
        await it.write("a", "seat", "x", {"number": 1})
        put = put_of(it["a"].rules["seat"], "x", b'{"number": 2}', if_absent=True)
        with pytest.raises(VersionMismatch):
            await it["a"].write(Write((put,)))
        with pytest.raises(NotFound):
            await it.write("a", "seat", "none", None)
        await it.write("a", "seat", "y", {"number": 2})


@in_virtual_time
async def test_a_transaction_beside_strong_documents_cannot_write_it() -> None:
    async with World(application=APPLICATION) as it:
        with pytest.raises(InvalidOperation, match="has a unique field"):
            await it["a"].transact(
                Write((it.mutation("vault", "v", {}), it.mutation("seat", "x", {"number": 1})))
            )


@in_virtual_time
async def test_a_step_of_a_saga_cannot_write_it_in_its_own_entry() -> None:
    async with World(application=APPLICATION) as it:
        changes = Changes(Reads(APPLICATION, it["a"].rules, it["a"].reader.read))
        with pytest.raises(InvalidOperation, match="seat has a unique field"):
            changes.put(Seat(key="x", number=1))
        assert changes.mutations == []


@in_virtual_time
async def test_a_field_of_documents_that_exist_cannot_become_unique() -> None:
    async with World("a", application=application_of(Loose, Desk, Room, Vault)) as it:
        await it.write("a", "seat", "x", {"number": 1})
        await it["a"].stop()
        it.application = APPLICATION
        with pytest.raises(DeclarationError, match="seat/x was written when number was not unique"):
            await it.create("a").start()
        it.application = application_of(Loose, Desk, Room, Vault)
        await it.create("a").start()
        await it.write("a", "seat", "x", {"$unset": ["number"]})
        await it["a"].stop()
        it.application = APPLICATION
        await it.create("a").start()


@pytest.mark.parametrize("seed", range(6))
@in_virtual_time
async def test_whatever_is_written_regions_agree_and_no_duplicate_is_left(seed: int) -> None:
    async with World(application=APPLICATION) as it:
        random = Random(seed)
        for _ in range(12):
            it.partition(*(pair for pair in ("ab", "ac", "bc") if random.random() < 0.5))
            for _ in range(8):
                name, key, value = random.choice("abc"), random.choice("pqr"), random.choice((1, 2))
                collection = random.choice(("seat", "desk", "room"))
                member = {"seat": "number", "desk": "name", "room": "door"}[collection]
                given: Any = value if collection == "seat" else str(value)
                body = random.choice(({member: given}, {"$set": {member: given}}, None))
                if collection == "seat" and random.random() < 0.3:
                    body = {"$set": {"guest": str(random.random())}}
                with contextlib.suppress(UniqueViolation, NotFound):
                    await it.write(name, collection, key, body)
                await asyncio.sleep(random.choice((0, 0, 0.3)))
        it.partition()
        await settled(it)
        await asyncio.sleep(120)
        await settled(it)
        for collection, member in (("seat", "number"), ("room", "door"), ("desk", "name")):
            values = [
                each[member] for each in shown(it, collection, "a").values() if each[member] is not None
            ]
            doubles = len(values) - len(set(values))
            waiting = [
                each
                for each in records(it, "a")
                if each["status"] == "manual" and each["collection"] == collection
            ]
            assert doubles == len(waiting), (collection, values, waiting)
