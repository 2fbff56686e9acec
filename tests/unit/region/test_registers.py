"""Strong documents, that a majority of regions decides."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest

from atoll.causality.types import Ballot
from atoll.commit.batch import Batch
from atoll.commit.work import Wants
from atoll.consensus import acceptor, decided
from atoll.consensus.acceptor import Accept, Inspect, Prepare
from atoll.consensus.acceptor_set import AcceptorSet, Counted
from atoll.consensus.decided import MOST_REMEMBERED, REMEMBERED_MS
from atoll.documents.decided import DECIDED
from atoll.documents.entry import decode_frames
from atoll.documents.mutation import Write, patch_of, put_of
from atoll.errors import (
    AtollError,
    IdempotencyKeyReused,
    Indefinite,
    NotFound,
    RegionUnreachable,
    StoreUnreachable,
    StoreUnwritable,
    Unavailable,
    VersionMismatch,
)
from atoll.region.group_commit import GroupCommitOptions
from atoll.region.learning import Deciding, OwnVotes
from atoll.region.reading import ReadOptions
from atoll.region.status import RegistersStatus
from atoll.region.voting import REGISTERS, VOTERS
from atoll.replication.messages import JoinCall, VoteCall, VoteReply, WriteCall, WriteReply, WritesCall
from atoll.schema import Collection, Counter, SetOf
from atoll.schema.application import application_of
from atoll.store.memory.store import MemoryStore
from atoll.store.port import Transaction, View, Wanted

from ..virtual_time import in_virtual_time, until
from .world import World


class Basket(Collection, consistency="strong"):
    name: str = ""
    items: SetOf[str]
    count: Counter


class Purse(Collection, consistency="strong"):
    balance: Counter


APPLICATION = application_of(Basket, Purse)


async def balance(it: World, name: str, key: str = "k") -> int | None:
    found = (await it[name].read("purse", key)).value
    return None if found is None else int(json.loads(found)["balance"])


def deposit(it: World, amount: int, idempotency_key: str | None = None, key: str = "k") -> Write:
    patch = patch_of(it["a"].rules["purse"], key, {"$inc": {"balance": amount}})
    return Write((patch,), idempotency_key)


@in_virtual_time
async def test_any_region_changes_and_reads_what_a_majority_decided() -> None:
    async with World(application=APPLICATION) as it:
        for number, name in enumerate(it.names, 1):
            await it[name].write(deposit(it, 1))
            assert [await balance(it, reader) for reader in it.names] == [number] * 3
        await it.settled()
        assert [it.shown(name, "purse", "k") for name in it.names] == [{"balance": 3}] * 3


@in_virtual_time
async def test_concurrent_changes_in_all_regions_are_each_made_once() -> None:
    async with World(application=APPLICATION) as it:
        replies = await asyncio.gather(*(it[name].write(deposit(it, 1)) for name in "abc" * 15))
        versions = {reply.receipt.written[0].version for reply in replies}
        assert len(versions) == 45
        assert [await balance(it, name) for name in it.names] == [45] * 3


@in_virtual_time
async def test_a_region_that_proposed_last_needs_one_round_trip_more_only() -> None:
    async with World(application=APPLICATION) as it:
        await it["a"].write(deposit(it, 1))
        it.calls.clear()
        await it["a"].write(deposit(it, 1))
        asked = [call.requests for _, _, call in it.calls if isinstance(call, VoteCall)]
        assert [type(each).__name__ for requests in asked for each in requests] == ["Accept", "Accept"]


@in_virtual_time
async def test_proposals_of_adjoining_turns_of_the_event_loop_share_a_message() -> None:
    async with World(application=APPLICATION) as it:

        async def write(turn: int) -> None:
            for _ in range(turn):
                await asyncio.sleep(0)
            await it["a"].write(deposit(it, 1, key=f"k{turn}"))

        for _ in ("first writes", "own documents"):
            it.calls.clear()
            await asyncio.gather(*map(write, range(3)))
            asked = [len(call.requests) for _, region, call in it.calls if isinstance(call, VoteCall)]
        assert asked == [3, 3]


@in_virtual_time
async def test_the_own_vote_and_the_entry_are_one_commit() -> None:
    async with World(application=APPLICATION) as it:
        await it["a"].write(deposit(it, 1))
        await it.settled()
        before = it["a"].statistics.commits
        await it["a"].write(deposit(it, 1))
        assert it["a"].statistics.commits == before + 1


@in_virtual_time
async def test_the_own_votes_for_many_registers_are_cast_at_once() -> None:
    async with World(application=APPLICATION) as it:
        voting = it["a"].voting
        honest, cast = voting.cast, list[int]()

        def counted(batch: Batch, view: View, call: VoteCall) -> VoteReply:
            cast.append(len(call.requests))
            return honest(batch, view, call)

        for _ in ("first writes", "own documents"):
            await asyncio.gather(*(it["a"].write(deposit(it, 1, key=f"k{each}")) for each in range(5)))
            await it.settled()
            voting.cast = counted  # type: ignore[method-assign]
        assert cast == [5]
        assert [await balance(it, "c", f"k{each}") for each in range(5)] == [2] * 5


@in_virtual_time
async def test_own_votes_take_no_more_proposals_once_they_have_begun_or_are_many_bytes() -> None:
    async with World(application=APPLICATION) as it:
        voting = it["a"].voting
        counted = voting.counted()
        other = Counted(counted.set, {**counted.voters, "a": 7})

        def deciding(size_bytes: int = 1) -> Deciding:
            accept = Accept("purse/k", Ballot(1, "a/0"), b"x" * size_bytes, Ballot(2, "a/0"))
            return Deciding(("purse", "k"), [], (), accept, decided=False)

        votes = OwnVotes(voting, counted, deciding())
        assert not votes.join(other, deciding())
        assert votes.join(counted, deciding(1 << 20))
        assert not votes.join(counted, deciding())
        begun, failed, left = (OwnVotes(voting, counted, deciding()) for _ in range(3))
        begun.want(Wants(it["a"].rules))
        failed.failed(Unavailable("the store does not answer"))
        for each in left.deciding:
            each.done.cancel()
        assert not any(each.join(counted, deciding()) for each in (begun, failed, left))


@in_virtual_time
async def test_what_one_peer_accepted_and_this_region_must_not_is_not_decided() -> None:
    async with World(application=APPLICATION) as it:
        await it["a"].write(deposit(it, 1))
        await it.settled()
        it.partition("ac")
        await until(lambda: not it["a"].links["c"].status.connected)
        it.reply_s["b", "a"] = 1.0
        it.calls.clear()
        written = asyncio.create_task(it["a"].write(deposit(it, 2)))
        await asyncio.sleep(0.5)
        higher = Prepare("purse/k", Ballot(1 << 62, "c/0"))
        await it["a"].voting.vote(VoteCall.of(it["a"].voting.counted(), higher))
        await written
        asked = [each for _, _, call in it.calls if isinstance(call, VoteCall) for each in call.requests]
        assert any(isinstance(each, Prepare) and each.ballot > higher.ballot for each in asked)
        assert await balance(it, "b") == 3


@in_virtual_time
async def test_two_of_three_regions_go_on() -> None:
    async with World(application=APPLICATION) as it:
        await it["a"].write(deposit(it, 1))
        it.partition("ab", "ac")
        await asyncio.sleep(1)
        await it["b"].write(deposit(it, 2))
        assert await balance(it, "c") == 3
        with pytest.raises(RegionUnreachable, match="needs a majority of 3 regions"):
            await it["a"].read("purse", "k")
        with pytest.raises(AtollError):
            await it["a"].write(deposit(it, 4))
        assert json.loads((await it["a"].read("purse", "k", ReadOptions("eventual"))).value or b"") == {
            "balance": 1
        }
        it.cut.clear()
        await it["a"].write(deposit(it, 8))
        assert await balance(it, "b") in (11, 15)  # the one in between may have been decided after all


@in_virtual_time
async def test_a_minority_refuses_definitely_once_it_knows_that_it_is_one() -> None:
    async with World(application=APPLICATION) as it:
        await it["a"].write(deposit(it, 1))
        it.partition("ab", "ac")
        await until(lambda: not any(link.status.connected for link in it["a"].links.values()))
        with pytest.raises(RegionUnreachable, match="needs a majority"):
            await it["a"].write(deposit(it, 4))
        it.cut.clear()
        await asyncio.sleep(1)
        assert await balance(it, "b") == 1


@in_virtual_time
async def test_one_of_many_creators_succeeds() -> None:
    async with World(application=APPLICATION) as it:
        put = put_of(it["a"].rules["purse"], "claim", b'{"balance": 1}', if_absent=True)
        answers = await asyncio.gather(
            *(it[name].write(Write((put,))) for name in "abc" * 5), return_exceptions=True
        )
        assert sum(not isinstance(each, BaseException) for each in answers) == 1
        assert all(isinstance(each, VersionMismatch) for each in answers if isinstance(each, BaseException))


@in_virtual_time
async def test_a_version_guards_a_change_in_every_region() -> None:
    async with World(application=APPLICATION) as it:
        first = (await it["a"].write(deposit(it, 1))).receipt.written[0].version
        seen = await it["c"].read("purse", "k")
        assert seen.version == first
        for name in ("b", "c"):
            patch = patch_of(it["a"].rules["purse"], "k", {"$inc": {"balance": 1}}, if_match=first)
            if name == "b":
                await it[name].write(Write((patch,)))
            else:
                with pytest.raises(VersionMismatch):
                    await it[name].write(Write((patch,)))


@in_virtual_time
async def test_a_repeated_change_is_made_once_wherever_it_is_repeated() -> None:
    async with World(application=APPLICATION) as it:
        await it["a"].write(deposit(it, 1, "once"))
        for name in it.names:
            assert (await it[name].write(deposit(it, 1, "once"))).receipt.replayed
        assert await balance(it, "b") == 1
        with pytest.raises(IdempotencyKeyReused):
            await it["c"].write(deposit(it, 2, "once"))


@in_virtual_time
async def test_an_entry_that_shows_what_another_change_made_is_not_the_repeated_ones() -> None:
    async with World(application=APPLICATION) as it:
        await it["a"].write(deposit(it, 1, key="other"))
        await it.settled()
        it.partition("ac", "bc")
        await it["a"].write(Write(deposit(it, 1, "once").mutations, "once", trace=b"one"))
        await it["a"].write(deposit(it, 2))
        it.partition("ab", "ac")
        assert it.shown("c", "purse", "k") is None
        receipt = (await it["c"].write(Write(deposit(it, 1, "once").mutations, "once", trace=b"one"))).receipt
        assert (receipt.replayed, receipt.origin, receipt.seq) == (True, DECIDED, 0)
        assert it.shown("c", "purse", "k") == {"balance": 3}
        segments = [
            each.segment for each in it.stores["c"].tables.journal(0) if each.segment.origin == it["c"].origin
        ]
        assert [found.entry.trace for each in segments for found in decode_frames(each.body)] == [None]


@in_virtual_time
async def test_what_is_deleted_is_absent_everywhere_and_can_be_created_again() -> None:
    async with World(application=APPLICATION) as it:
        await it["a"].write(deposit(it, 5))
        await it.write("b", "purse", "k", None)
        assert [await balance(it, name) for name in it.names] == [None] * 3
        with pytest.raises(NotFound):
            await it.write("c", "purse", "k", None)
        await it["c"].write(deposit(it, 2))
        assert [await balance(it, name) for name in it.names] == [2] * 3


@in_virtual_time
async def test_the_region_that_changes_a_register_most_proposes_its_changes() -> None:
    async with World(application=APPLICATION) as it:
        await it["a"].write(deposit(it, 1))
        origins = [str((await it["c"].write(deposit(it, 1))).receipt.origin) for _ in range(20)]
        assert origins[0] == "a"
        assert origins[-1] == "c"


@in_virtual_time
async def test_a_region_that_sends_many_changes_at_once_beside_another_one_goes_on_to_forward_them() -> None:
    async with World(application=APPLICATION) as it:
        await it["a"].write(deposit(it, 1))
        await it.settled()
        for _ in range(4):
            replies = await asyncio.gather(*(it[name].write(deposit(it, 1)) for name in "bc" * 16))
            assert {str(reply.receipt.origin) for reply in replies} == {"a"}


@in_virtual_time
async def test_changes_that_are_forwarded_at_once_share_a_message_and_have_their_own_answers() -> None:
    async with World(application=APPLICATION) as it:
        await it["a"].write(deposit(it, 1))
        await it.settled()
        it.calls.clear()
        taken = put_of(it["a"].rules["purse"], "k", b'{"balance": 1}', if_absent=True)
        writes = [deposit(it, 1), Write((taken,)), deposit(it, 1), deposit(it, 1, key="other")]
        found = await asyncio.gather(*map(it["c"].write, writes), return_exceptions=True)
        assert [type(each) for each in found] == [WriteReply, VersionMismatch, WriteReply, WriteReply]
        sent = [call for _, region, call in it.calls if isinstance(call, WriteCall | WritesCall)]
        assert [len(call.calls) for call in sent if isinstance(call, WritesCall)] == [3]
        assert await balance(it, "b") == 3


@in_virtual_time
async def test_a_forwarded_change_waits_for_a_region_that_is_busy_and_not_for_one_that_is_not() -> None:
    for busy in (True, False):
        async with World(application=APPLICATION) as it:
            await it["a"].write(deposit(it, 1))
            await it.settled()
            it.request_s["c", "a"] = 2.0
            loop = asyncio.get_running_loop()
            since = loop.time()
            forwarded = asyncio.create_task(it["c"].write(deposit(it, 1)))
            while busy and not forwarded.done():
                await it["a"].write(deposit(it, 1))
                await asyncio.sleep(0.5)
            assert (await forwarded).receipt.origin == ("a" if busy else "c")
            assert (loop.time() - since > 2.0) == busy


@in_virtual_time
async def test_changes_that_cannot_be_forwarded_together_are_proposed_here() -> None:
    async with World(application=APPLICATION) as it:
        await it["a"].write(deposit(it, 1))
        await it.settled()
        it.cut.add(frozenset("a"))  # gone before any link has noticed
        found = await asyncio.gather(*(it["c"].write(deposit(it, 1)) for _ in range(5)))
        assert len(found) == 5
        assert await balance(it, "b") == 6


@in_virtual_time
async def test_a_lost_disk_joins_anew_before_it_votes() -> None:
    async with World(application=APPLICATION) as it:
        await it["a"].write(deposit(it, 1))
        await it.settled()
        it.partition("ab", "bc")
        await asyncio.sleep(1)
        await it["a"].write(deposit(it, 1))  # decided by a and c alone
        it.cut.clear()
        await lose(it, "c")
        assert it["c"].voting.joining is None
        held = await it["c"].store.state(REGISTERS, "purse/k")
        it.partition("ab", "ac")
        await asyncio.sleep(1)
        assert held is not None
        assert await balance(it, "b") == 2  # b and c alone: b never heard of it


@in_virtual_time
async def test_an_incarnation_that_was_only_heard_of_is_recorded_before_anything_is_read() -> None:
    """Else the region goes on to accept proposals that count a promise of the former one."""
    async with World(application=APPLICATION) as it:
        await it["a"].write(deposit(it, 1))
        it["b"].voting.heard({"c": 99})
        assert (await it["b"].store.state(VOTERS, "c")) == b"0"
        await it["b"].acceptor_sets.joiner.join(JoinCall("c", 99))
        assert (await it["b"].store.state(VOTERS, "c")) == b"99"


@in_virtual_time
async def test_a_region_that_joins_records_what_others_have_recorded() -> None:
    async with World(application=APPLICATION) as it:
        await it["a"].write(deposit(it, 1))
        await it["a"].acceptor_sets.joiner.join(JoinCall("c", 99))
        it["b"].voting.heard({"c": 99})
        joiner = it["b"].acceptor_sets.joiner
        async with joiner._as_one() as fence:
            await joiner._read("a", 0, fence)
        assert (await it["b"].store.state(VOTERS, "c")) == b"99"


@in_virtual_time
async def test_a_change_that_was_forwarded_and_not_answered_may_have_been_made() -> None:
    async with World(application=APPLICATION) as it:
        await it["a"].write(deposit(it, 1))
        await it.settled()
        it["a"].group_commit.listen(lambda batch: it.partition("ac", "bc") if batch.written else None)
        with pytest.raises(Indefinite):
            await it["c"].write(
                deposit(it, 2)
            )  # decided by a; c heard nothing of it, and has no majority now
        assert await balance(it, "b") == 3


@in_virtual_time
async def test_a_change_that_was_refused_here_is_not_made_by_whom_it_was_forwarded_to() -> None:
    async with World(application=APPLICATION) as it:
        await it["a"].write(deposit(it, 1))
        await it.settled()
        it.request_s["c", "a"] = 3.0  # as of a process that is stopped for a while
        put = put_of(it["a"].rules["purse"], "k", b'{"balance": 9}', if_absent=True)
        with pytest.raises(VersionMismatch):
            await it["c"].write(Write((put,)))
        await it.write("b", "purse", "k", None)
        await asyncio.sleep(5)
        assert await balance(it, "a") is None


@in_virtual_time
async def test_a_change_that_was_refused_in_doubt_is_refused_again() -> None:
    async with World(application=APPLICATION) as it:
        await it["a"].write(deposit(it, 1))
        await it.settled()
        it.request_s["c", "a"] = 3.0
        put = put_of(it["a"].rules["purse"], "k", b'{"balance": 9}', if_absent=True)
        for name in ("c", "b"):
            with pytest.raises(VersionMismatch, match="exists"):
                await it[name].write(Write((put,), "once"))
        await it.write("b", "purse", "k", None)
        with pytest.raises(VersionMismatch, match="exists"):
            await it["b"].write(Write((put,), "once"))


@in_virtual_time
async def test_a_change_that_comes_late_is_made_once_however_many_came_in_between() -> None:
    async with World(application=APPLICATION) as it:
        await it["a"].write(deposit(it, 1))
        await it.settled()
        it.request_s["c", "a"] = 3.0
        await it["c"].write(deposit(it, 1000))
        for _ in range(2 * MOST_REMEMBERED):
            await it["c"].write(deposit(it, 1))
        await asyncio.sleep(5)
        await it["a"].write(deposit(it, 1))
        assert await balance(it, "a") == 1002 + 2 * MOST_REMEMBERED


@in_virtual_time
async def test_a_register_remembers_only_what_may_be_proposed_again() -> None:
    async with World(application=APPLICATION) as it:

        async def remembered() -> int:
            state = acceptor.decoded(await it["b"].store.state(REGISTERS, "purse/k"))
            return len(decided.decoded(state.value).made)

        for _ in range(9):
            await it["a"].write(deposit(it, 1))
            assert await remembered() == 1
        await it["a"].write(deposit(it, 1, "key"))
        await it["c"].write(deposit(it, 1))
        for _ in range(9):
            await it["a"].write(deposit(it, 1))
            assert await remembered() == 3
        await it["b"].write(deposit(it, 1, "key"))
        assert await balance(it, "c") == 20


@in_virtual_time
async def test_a_change_that_may_be_forgotten_already_is_not_proposed_again() -> None:
    async with World(application=APPLICATION) as it:
        await it["a"].write(deposit(it, 1))
        await it.settled()
        it.reply_s["a", "c"] = 30.0
        forwarded = asyncio.create_task(it["c"].write(deposit(it, 1000)))
        await asyncio.sleep(0.1)
        assert await balance(it, "b") == 1001
        for number in range(2 * MOST_REMEMBERED):
            await it["a"].write(deposit(it, 1, f"key {number}"))
        with pytest.raises(Indefinite, match="no longer remembers"):
            await forwarded
        assert await balance(it, "a") == 1001 + 2 * MOST_REMEMBERED


@in_virtual_time
async def test_a_change_that_waited_for_minutes_is_not_proposed() -> None:
    async with World(application=APPLICATION, max_wait_s=1000) as it:
        it.partition("ab", "ac", "bc")
        await asyncio.sleep(1)
        waiting = asyncio.create_task(it["a"].write(deposit(it, 1)))
        await asyncio.sleep(REMEMBERED_MS / 1000)
        it.partition()
        with pytest.raises(Indefinite, match="no longer remembers"):
            await waiting
        assert await balance(it, "b") is None


@in_virtual_time
async def test_proposals_are_counted() -> None:
    async with World(application=APPLICATION) as it:
        await asyncio.gather(*(it["a"].write(deposit(it, 1)) for _ in range(5)))
        found = registers_of(it, "a")
        assert (found.voting, found.reason, found.waits_for) == (True, None, [])
        assert found.lost == 0
        assert found.proposals + found.combined == 5
        assert found.combined > 0


@in_virtual_time
async def test_a_proposal_that_a_higher_ballot_beats_is_counted() -> None:
    async with World(application=APPLICATION) as it:
        await it["a"].write(deposit(it, 1))
        it.partition("ab")  # c may be asked by both
        await asyncio.sleep(1)
        await it["b"].write(deposit(it, 1))
        await it["a"].write(deposit(it, 1))
        assert registers_of(it, "a").lost == 1


@in_virtual_time
async def test_a_region_says_why_it_does_not_vote() -> None:
    async with World(application=APPLICATION) as it:
        await it["a"].write(deposit(it, 1))
        await it["c"].stop()
        it.partition("bc")
        it.stores["c"] = MemoryStore()
        await it.create("c").start()
        await until(lambda: registers_of(it, "c").waits_for == ["b"])
        found = registers_of(it, "c")
        assert not found.voting
        assert "takes over what the acceptors of other regions have promised" in (found.reason or "")
        it.partition()
        await until(lambda: registers_of(it, "c").voting)
        assert registers_of(it, "c").waits_for == []


@in_virtual_time
async def test_a_region_says_that_a_proposal_counts_other_regions() -> None:
    async with World(application=APPLICATION) as it:
        await it["a"].write(deposit(it, 1))
        other = AcceptorSet(1, ("a", "b"))
        reply = await it["b"].voting.vote(VoteCall({"a": 0, "b": 0}, (Inspect("purse/k"),), other))
        assert (reply.set.members, reply.votes) == (("a", "b", "c"), ())
        found = registers_of(it, "b")
        assert found.voting
        assert "counts the acceptors of a, b, c, and a proposer those of a, b" in (found.reason or "")
        await it["a"].write(deposit(it, 1))
        assert registers_of(it, "b").reason is None


@in_virtual_time
async def test_a_region_whose_disk_is_full_does_not_vote() -> None:
    async with World(application=APPLICATION) as it:
        await it["b"].write(deposit(it, 1))
        await it.settled()
        it.stores["a"].__class__ = FullDisk
        await it["b"].write(deposit(it, 1))
        assert (registers_of(it, "a").voting, registers_of(it, "a").reason) == (False, "the disk is full")
        it.stores["a"].__class__ = MemoryStore
        await it["b"].write(deposit(it, 1))
        assert registers_of(it, "a").voting


class FullDisk(MemoryStore):
    def begin(self, wanted: Wanted) -> AbstractAsyncContextManager[Transaction]:
        raise StoreUnwritable("the disk is full")


@in_virtual_time
async def test_votes_that_nobody_waits_for_do_not_keep_a_slow_database_busy() -> None:
    async with World(application=APPLICATION) as it:
        await it["b"].write(deposit(it, 1))
        await it.settled()
        it.stores["a"].__class__ = SlowDisk
        counted = it["b"].voting.counted()
        prepares = (Prepare(f"purse/{number}", Ballot(1, "b/1")) for number in range(1000))
        calls = [VoteCall.of(counted, each) for each in prepares]
        asked = await asyncio.gather(*map(it["a"].voting.vote, calls), return_exceptions=True)
        late = [str(each) for each in asked if isinstance(each, Unavailable)]
        assert late
        assert "could not record its votes within 5 s" in late[0]
        it.stores["a"].__class__ = MemoryStore
        held = await it.stores["a"].states(REGISTERS, limit=2000)
        assert len(held) <= 1 + 3 * GroupCommitOptions().works_per_commit  # three commits began within 5 s


class SlowDisk(MemoryStore):
    @asynccontextmanager
    async def begin(self, wanted: Wanted) -> AsyncGenerator[Transaction, None]:
        await asyncio.sleep(2)
        async with super().begin(wanted) as transaction:
            yield transaction


@in_virtual_time
async def test_a_decided_change_that_cannot_be_recorded_here_may_have_been_made() -> None:
    async with World(application=APPLICATION) as it:
        await it["a"].write(deposit(it, 1))
        await it.settled()
        it.stores["a"].__class__ = FullDisk
        with pytest.raises(Indefinite, match="the disk is full"):
            await it["a"].write(deposit(it, 2))
        assert await balance(it, "b") == 3


def registers_of(it: World, name: str) -> RegistersStatus:
    found = it[name].status().registers
    assert found is not None
    return found


async def lose(it: World, name: str) -> None:
    """Start a region on an empty disk, and wait until its acceptors vote."""
    await it[name].stop()
    it.stores[name] = MemoryStore()
    await it.create(name).start()
    await until(lambda: it[name].voting.joining is None)


@in_virtual_time
async def test_mergeable_fields_of_a_strong_document_are_plain_values() -> None:
    async with World(application=APPLICATION) as it:
        rules = it["a"].rules["basket"]

        async def patch(name: str, operators: dict[str, Any]) -> None:
            await it[name].write(Write((patch_of(rules, "k", operators),)))

        await patch("a", {"$add": {"items": ["x"]}, "$inc": {"count": 2}})
        await patch("b", {"$add": {"items": ["y"]}, "$inc": {"count": 3}})
        await patch("c", {"$remove": {"items": ["x"]}, "$set": {"name": "n"}})
        await it.settled()
        assert [it.shown(name, "basket", "k") for name in it.names] == [
            {"name": "n", "items": ["y"], "count": 5}
        ] * 3


@in_virtual_time
async def test_a_store_that_fails_once_a_change_was_forwarded_makes_it_no_refusal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The other region makes the change: it must not be answered as certainly not made."""
    async with World(application=APPLICATION) as it:
        await it["a"].write(deposit(it, 1))
        await it.settled()
        registers = it["c"].registers
        forwarded, honest = registers._forwarded, registers._promised

        async def broken(register: Any) -> Any:
            raise StoreUnreachable("the connection broke")

        async def forward(*arguments: Any) -> Any:
            monkeypatch.setattr(registers, "_promised", broken)
            try:
                return await forwarded(*arguments)
            finally:
                monkeypatch.setattr(registers, "_promised", honest)

        monkeypatch.setattr(registers, "_forwarded", forward)
        receipt = (await it["c"].write(deposit(it, 1))).receipt
        assert receipt.written
        assert await balance(it, "b") == 2
