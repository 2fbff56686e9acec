"""Registers of deleted documents are forgotten, and nothing of what was decided is."""

from __future__ import annotations

import asyncio

import pytest

from atoll.causality.types import Ballot
from atoll.consensus import acceptor, decided
from atoll.consensus.acceptor import Accept, Acceptor
from atoll.documents.document import revision_in
from atoll.documents.mutation import Check, Write
from atoll.errors import VersionMismatch
from atoll.region.voting import REGISTERS
from atoll.replication.messages import VoteCall, VoteReply

from ..virtual_time import in_virtual_time
from .world import World

LONG_S = 700.0
"""Longer than a deletion is remembered."""


async def registers(it: World) -> dict[str, list[str]]:
    """What each region's acceptors hold."""
    found = {name: [key for key, _ in await it[name].store.states(REGISTERS)] for name in it.names}
    return {name: keys for name, keys in found.items() if keys}


async def forgotten(it: World) -> int:
    return sum([await it[name].forgetting.round() for name in it.names])


def revision(it: World, name: str, key: str) -> int:
    return revision_in(it.stores[name].tables.get("account", key))


@in_virtual_time
async def test_a_deleted_document_is_forgotten_and_created_anew() -> None:
    async with World() as it:
        await it.write("a", "account", "k", {"balance": 1})
        await it.write("a", "account", "kept", {"balance": 2})
        await it.write("b", "account", "k", None)
        await it.settled()
        before = revision(it, "a", "k")
        assert not await forgotten(it)  # the register may have to know its latest changes yet
        await asyncio.sleep(LONG_S)
        assert await registers(it) == {name: ["account/kept"] for name in it.names}
        for name in it.names:
            assert (await it[name].read("account", "k")).value is None
            assert (await it[name].read("account", "kept")).value == b'{"balance":2}'
        await it.write("c", "account", "k", {"balance": 5})
        await it.settled()
        assert [it.shown(name, "account", "k") for name in it.names] == [{"balance": 5}] * 3
        assert all(revision(it, name, "k") > before for name in it.names)
        with pytest.raises(VersionMismatch):
            await it["a"].transact(Write((Check("account", "k", if_absent=True),)))


@in_virtual_time
async def test_nothing_is_forgotten_while_a_region_is_away() -> None:
    async with World() as it:
        await it.write("a", "account", "k", {"balance": 1})
        await it.settled()
        it.partition("ac", "bc")
        await it.write("a", "account", "k", None)
        await asyncio.sleep(LONG_S)
        assert len(await registers(it)) == 3
        it.partition()
        await it.settled()
        await asyncio.sleep(LONG_S)
        assert not await registers(it)
        assert [it.shown(name, "account", "k") for name in it.names] == [None] * 3


@in_virtual_time
async def test_what_was_decided_before_a_restart_is_found_again() -> None:
    async with World() as it:
        await it.write("a", "account", "k", {"balance": 1})
        await it.write("a", "account", "k", None)
        await it.settled()
        await it["a"].stop()
        await it.create("a").start()
        await asyncio.sleep(LONG_S)
        assert not await registers(it)


@in_virtual_time
async def test_a_message_that_comes_after_all_was_forgotten_changes_nothing() -> None:
    async with World() as it:
        await it.write("a", "account", "k", {"balance": 1})
        old = acceptor.decoded(await it["b"].store.state(REGISTERS, "account/k"))
        await it.write("a", "account", "k", None)
        await it.settled()
        await asyncio.sleep(LONG_S)
        assert not await registers(it)
        value = decided.encoded(decided.Decided(2, 1, 0, b'{"balance":9}'))
        for ballot in (old.promised, Ballot(old.promised.number + 1, old.promised.proposer)):
            late = Accept("account/k", ballot, value, Ballot(ballot.number + 1, ballot.proposer))
            reply = await it["b"].answer(VoteCall.of(it["b"].proposer.counted(), late))
            assert isinstance(reply, VoteReply)
            assert [vote.granted for vote in reply.votes] == [False]
        assert not await registers(it)


@in_virtual_time
async def test_a_region_with_a_new_disk_takes_over_what_was_promised_for_forgotten_ones() -> None:
    async with World() as it:
        await it.write("a", "account", "k", {"balance": 1})
        held = acceptor.decoded(await it["b"].store.state(REGISTERS, "account/k"))
        await it.write("a", "account", "k", None)
        await it.settled()
        await asyncio.sleep(LONG_S)
        await it["b"].stop()
        it.stores["b"] = type(it.stores["b"])()
        await it.create("b").start()
        await asyncio.sleep(60)
        late = Accept(
            "account/k", held.promised, b"", Ballot(held.promised.number + 1, held.promised.proposer)
        )
        reply = await it["b"].answer(VoteCall.of(it["b"].proposer.counted(), late))
        assert isinstance(reply, VoteReply)
        assert [vote.granted for vote in reply.votes] == [False]
        await it.write("b", "account", "k", {"balance": 7})
        await it.settled()
        assert [it.shown(name, "account", "k") for name in it.names] == [{"balance": 7}] * 3


def test_nothing_held_is_as_closed_as_what_was_promised() -> None:
    state = Acceptor(Ballot(7, "a/1"), Ballot(6, "a/1"), b"v")
    unknown = acceptor.unknown(acceptor.past(state))
    assert unknown.promised > state.promised
    assert unknown.accepted == acceptor.NEVER
