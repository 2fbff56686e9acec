"""Unique fields of strong collections: their claims are taken and freed with the documents."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Sequence
from random import Random
from typing import Any

import pytest
from pydantic import field_validator

from atoll.commit.identity import Address
from atoll.consensus.claims import claim_of
from atoll.consensus.references import Moves
from atoll.documents.mutation import Check, Mutation, Write, put_of
from atoll.documents.unique import Value, supposed
from atoll.errors import (
    AtollError,
    ClaimsChanged,
    IdempotencyKeyReused,
    InvalidOperation,
    NotFound,
    Unavailable,
    UniqueViolation,
    VersionMismatch,
)
from atoll.region.claims import MOST_REGISTERS, Changed, Claims
from atoll.region.concluding import Asked
from atoll.region.learning import Change
from atoll.region.outcomes import Outcomes
from atoll.schema import Collection, Counter, field
from atoll.schema.application import application_of
from atoll.schema.system import CLAIMS

from ..virtual_time import in_virtual_time
from .test_transactions import no_intents
from .world import World


class Account(Collection, consistency="strong"):
    email: str = field(unique=True)
    phone: int | None = field(None, unique=True)
    name: str = ""
    visits: Counter


class Handle(Collection, consistency="strong"):
    """Its validator changes what is written."""

    name: str | None = field(None, unique=True)

    @field_validator("name")
    @classmethod
    def _small(cls, name: str | None) -> str | None:
        return None if name is None else name.lower()


class Loose(Collection, name="account", consistency="strong"):
    """The former declaration: nothing is unique."""

    email: str
    phone: int | None = None
    name: str = ""
    visits: Counter


APPLICATION = application_of(Account, Handle)
FORMER = application_of(Loose, Handle)


def body(email: str, **more: Any) -> dict[str, Any]:
    return {"email": email, **more}


def at(collection: str, name: str, value: Any) -> str:
    return claim_of(collection, Value(name, json.dumps(value).encode()))[1]


async def put(it: World, name: str, key: str, email: str, **more: Any) -> None:
    await it.write(name, "account", key, body(email, **more))


async def consistent(it: World) -> dict[str, str]:
    """Check in every region that documents and claims say the same; email → key of all documents."""
    await no_intents(it)
    return await alike(it)


async def alike(it: World) -> dict[str, str]:
    await it.settled()
    found: dict[str, str] = {}
    for name in it.names:
        tables = it.stores[name].tables
        needed, found = {}, {}
        for collection, fields in (("account", ("email", "phone")), ("handle", ("name",))):
            for key, row in tables.scan_all(collection, limit=10_000):
                shown = {} if row.value is None else json.loads(row.value)
                for each in fields:
                    if shown.get(each) is not None:
                        claim = at(collection, each, shown[each])
                        assert claim not in needed, f"{shown[each]} is twice in {name}"
                        needed[claim] = {"holder": key}
                        found[str(shown[each])] = key
        claims = {
            key: json.loads(row.value) for key, row in tables.scan_all(CLAIMS, limit=10_000) if row.value
        }
        assert claims == needed, name
    return found


@in_virtual_time
async def test_a_value_is_taken_once_and_freed_by_update_and_delete() -> None:
    async with World(application=APPLICATION) as it:
        await put(it, "a", "ann", "x@x", phone=1)
        with pytest.raises(
            UniqueViolation, match=r"account/bob: email is unique, and account/ann has"
        ) as caught:
            await put(it, "b", "bob", "x@x")
        assert caught.value.details == {
            "collection": "account",
            "key": "bob",
            "field": "email",
            "value": "x@x",
            "holder": "ann",
        }
        with pytest.raises(UniqueViolation, match="phone is unique"):
            await put(it, "c", "bob", "b@x", phone=1)
        assert await consistent(it) == {"x@x": "ann", "1": "ann"}
        await it.write("b", "account", "ann", {"$set": {"email": "y@x"}, "$unset": ["phone"]})
        await put(it, "c", "bob", "x@x", phone=1)
        assert await consistent(it) == {"y@x": "ann", "x@x": "bob", "1": "bob"}
        await it.write("a", "account", "bob", None)
        await put(it, "b", "ann", "x@x", phone=1)
        assert await consistent(it) == {"x@x": "ann", "1": "ann"}


@in_virtual_time
async def test_what_is_absent_is_not_unique() -> None:
    async with World(application=APPLICATION) as it:
        for key in ("one", "two"):
            await it.write("a", "handle", key, {})
            await it.write("b", "handle", key + "n", {"name": None})
            await it.write("c", "handle", key + "p", {"$unset": ["name"]})
        assert await consistent(it) == {}


@in_virtual_time
async def test_of_concurrent_takers_one_succeeds() -> None:
    async with World(application=APPLICATION) as it:
        for number in range(5):
            keys = [f"{number}{name}{nth}" for name in it.names for nth in range(3)]
            done = await asyncio.gather(
                *(put(it, key[1], key, f"{number}@x") for key in keys), return_exceptions=True
            )
            refused = [each for each in done if each is not None]
            assert len(refused) == len(keys) - 1
            assert all(isinstance(each, UniqueViolation) for each in refused), refused
            winner = keys[done.index(None)]
            assert {each.details["holder"] for each in refused if isinstance(each, AtollError)} == {winner}
        assert len(await consistent(it)) == 5


@pytest.mark.parametrize("seed", [6, 7])
@in_virtual_time
async def test_writes_at_random_never_break_it(seed: int) -> None:
    async with World(application=APPLICATION) as it:
        random = Random(seed)

        async def client(name: str) -> None:
            for _ in range(30):
                key, email = random.choice("pqrs"), random.choice("1234")
                choice = random.random()
                body_ = (
                    None
                    if choice < 0.2
                    else {"$set": {"email": email}}
                    if choice < 0.6
                    else {"$inc": {"visits": 1}}
                    if choice < 0.7
                    else body(email, phone=random.choice((None, 1, 2)))
                )
                with contextlib.suppress(UniqueViolation, NotFound, Unavailable):
                    await it.write(name, "account", key, body_)

        await asyncio.gather(*map(client, it.names * 2))
        await consistent(it)


@in_virtual_time
async def test_a_transaction_hands_values_over() -> None:
    async with World(application=APPLICATION) as it:
        await put(it, "a", "ann", "x@x")
        await put(it, "b", "bob", "y@x")

        async def swap(name: str, one: str, other: str) -> None:
            changes = [
                it.mutation("account", key, {"$set": {"email": to}})
                for key, to in zip(("ann", "bob"), (one, other), strict=True)
            ]
            await it[name].transact(Write(tuple(changes)))

        await swap("c", "y@x", "x@x")
        assert await consistent(it) == {"y@x": "ann", "x@x": "bob"}
        with pytest.raises(UniqueViolation):
            await swap("a", "z@x", "z@x")
        it.partition("ab", "ac", "bc")  # what the regions show gets old
        it.partition()
        await swap("b", "x@x", "y@x")
        await swap("a", "y@x", "x@x")
        assert await consistent(it) == {"y@x": "ann", "x@x": "bob"}
        moved = (it.mutation("account", "ann", None), it.mutation("account", "cat", body("y@x")))
        await it["a"].write(Write(moved))
        assert await consistent(it) == {"x@x": "bob", "y@x": "cat"}


@in_virtual_time
async def test_a_region_that_shows_old_values_frees_what_was_decided(monkeypatch: pytest.MonkeyPatch) -> None:
    async def nothing_yet(self: Claims, rules: Any, address: Address, asked: Asked) -> Any:
        values = supposed(rules, {}, asked.held[address])
        return Changed({}, values, Moves(rules, {}, {}, False))

    monkeypatch.setattr(Claims, "_shown", nothing_yet)
    async with World(application=APPLICATION) as it:
        await put(it, "a", "ann", "1@x")
        await put(it, "b", "ann", "2@x", phone=1)
        await put(it, "c", "ann", "2@x")
        await it.write("a", "account", "ann", {"$set": {"phone": 1}})
        assert await consistent(it) == {"2@x": "ann", "1": "ann"}
        await it.write("a", "account", "ann", None)
        assert await consistent(it) == {}


@in_virtual_time
async def test_what_is_refused_takes_nothing() -> None:
    async with World(application=APPLICATION) as it:
        await put(it, "a", "ann", "x@x")
        rules = it["a"].rules["account"]
        for refused in (
            put_of(rules, "ann", b'{"email": "n@x"}', if_absent=True),
            put_of(rules, "bob", b'{"email": "n@x"}', if_match="*"),
            it.mutation("account", "ann", {"$set": {"email": "n@x"}}, if_match="nothing"),
        ):
            with pytest.raises(VersionMismatch):
                await it["b"].write(Write((refused,)))
        with pytest.raises(NotFound):
            await it.write("b", "account", "none", None)
        with pytest.raises(VersionMismatch):
            await it["b"].write(
                Write((it.mutation("account", "bob", body("n@x")), Check("account", "ann", if_absent=True)))
            )
        assert await consistent(it) == {"x@x": "ann"}
        await put(it, "c", "bob", "n@x")


@in_virtual_time
async def test_a_repeated_write_is_made_once() -> None:
    async with World(application=APPLICATION) as it:
        write = Write((it.mutation("account", "ann", body("x@x")),), "once")
        first = (await it["a"].write(write)).receipt
        for name in it.names:
            again = (await it[name].write(write)).receipt
            assert again.replayed
            assert [each.key for each in again.written] == [each.key for each in first.written] == ["ann"]
        await put(it, "a", "ann", "y@x")
        await put(it, "b", "bob", "x@x")
        assert (await it["c"].write(write)).receipt.replayed
        with pytest.raises(IdempotencyKeyReused):
            await it["b"].write(Write((it.mutation("account", "ann", body("z@x")),), "once"))
        assert await consistent(it) == {"y@x": "ann", "x@x": "bob"}


@in_virtual_time
async def test_a_validator_that_changes_the_value_is_followed() -> None:
    async with World(application=APPLICATION) as it:
        await it.write("a", "handle", "one", {"name": "ann"})
        with pytest.raises(UniqueViolation):
            await it.write("b", "handle", "two", {"name": "ANN"})
        await it.write("b", "handle", "two", {"$set": {"name": "BOB"}})
        with pytest.raises(UniqueViolation):
            await it.write("b", "handle", "two", {"$set": {"name": "Ann"}})
        assert await consistent(it) == {"ann": "one", "bob": "two"}


@in_virtual_time
async def test_a_coordinator_that_dies_leaves_documents_and_claims_alike(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with World(application=APPLICATION) as it:
        honest = Outcomes.decide
        dead: list[str] = []

        async def decide(self: Outcomes, *arguments: Any, first: bool = False) -> Any:
            if first and not dead:
                dead.append("a")
                it.partition("ab", "ac")
            return await honest(self, *arguments, first=first)

        monkeypatch.setattr(Outcomes, "decide", decide)
        lost = asyncio.ensure_future(put(it, "a", "ann", "x@x"))
        while not dead:  # noqa: ASYNC110 - virtual time
            await asyncio.sleep(0.01)
        await put(it, "b", "bob", "x@x")
        it.partition()
        with pytest.raises(AtollError):
            await lost
        await asyncio.sleep(60)  # in virtual time: what nobody meets is finished in the end
        assert await alike(it) == {"x@x": "bob"}


@in_virtual_time
async def test_a_write_without_its_claims_is_refused_wherever_it_comes_from() -> None:
    async with World(application=APPLICATION) as it:
        change = Change(Write((it.mutation("account", "ann", body("x@x")),)), b"id")
        proposer = it["a"].registers.proposer
        proposer.propose(proposer.of(("account", "ann")), change)
        with pytest.raises(ClaimsChanged, match="same declarations"):
            await change.done
        assert await consistent(it) == {}


@in_virtual_time
async def test_a_transaction_with_too_many_values_is_refused() -> None:
    async with World(application=APPLICATION) as it:
        count = MOST_REGISTERS // 3 + 1
        assert count <= 101

        def many(number: int) -> Sequence[Mutation]:
            return [it.mutation("account", str(n), body(f"{n}", phone=n)) for n in range(number)]

        with pytest.raises(InvalidOperation, match="at most"):
            await it["a"].write(Write(tuple(many(count))))
        await it["a"].write(Write(tuple(many(20))))
        assert len(await consistent(it)) == 40 - 20  # both print alike
