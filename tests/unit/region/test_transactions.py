"""Transactions over strong documents."""

from __future__ import annotations

import asyncio
import json
from random import Random
from typing import Any

import pytest

from atoll.consensus import acceptor, decided, outcome
from atoll.consensus.decided import Intent
from atoll.consensus.outcome import OUTCOMES, transaction_id
from atoll.documents.mutation import Check, Delete, Mutation, Write, patch_of, put_of
from atoll.errors import (
    AtollError,
    BoundExceeded,
    IdempotencyKeyReused,
    Indefinite,
    InvalidOperation,
    NotFound,
    Overloaded,
    RegionUnreachable,
    StoreUnwritable,
    TooLarge,
    VersionMismatch,
)
from atoll.region.concluding import TRANSACTIONS, Concluding
from atoll.region.reading import ReadOptions
from atoll.region.transactions import Transactions
from atoll.region.voting import REGISTERS
from atoll.replication.messages import PlaceCall, VoteCall
from atoll.schema import BoundedCounter, Collection, Counter, SetOf, home_region
from atoll.schema.application import application_of
from atoll.store.memory.store import MemoryStore

from ..virtual_time import in_virtual_time
from .world import World


class Purse(Collection, consistency="strong"):
    balance: BoundedCounter = 0


class Doctor(Collection, consistency="strong"):
    on_call: bool = True


class Page(Collection, consistency="strong"):
    text: str = ""


class Note(Collection, consistency="causal"):
    text: str = ""


class Tag(Collection, resolve="merge"):
    owner: str
    names: SetOf[str]
    count: Counter


class Order(Collection, placement=home_region("region"), consistency="session"):
    region: str


APPLICATION = application_of(Purse, Doctor, Page, Note, Tag, Order)


def moved(it: World, amount: int, source: str, target: str) -> tuple[Mutation, ...]:
    rules = it["a"].rules["purse"]
    return (
        patch_of(rules, source, {"$inc": {"balance": -amount}}),
        patch_of(rules, target, {"$inc": {"balance": amount}}),
    )


async def fund(it: World, **balances: int) -> None:
    for key, amount in balances.items():
        await it.write("a", "purse", key, {"balance": amount})


async def balances(it: World, name: str, *keys: str) -> list[int]:
    found, _ = await it[name].snapshot([("purse", key) for key in keys])
    return [json.loads(each.value or b'{"balance": -1}')["balance"] for each in found]


async def no_intents(it: World) -> None:
    """Wait until all transactions are settled, and the outcomes of those that are committed dropped.

    The coordinator drops one at once; what it missed, regions look for now and then.
    """
    for _ in range(600):
        left = []
        for name in it.names:
            for key, state in await it[name].store.states(REGISTERS):
                value = acceptor.decoded(state).value
                if key.startswith(OUTCOMES):
                    left += [key] if outcome.decoded(value).committed else []
                elif decided.decoded(value).intent is not None:
                    left.append(key)
        if not left:
            return
        await asyncio.sleep(0.1)
    raise AssertionError(f"intents are left: {left}")


def fails(work: Concluding, *_: object) -> None:
    """As if the coordinator died once the outcome is decided."""
    work.result = Indefinite("dead")


@in_virtual_time
async def test_a_transfer_is_all_or_nothing_and_one_entry() -> None:
    async with World(application=APPLICATION) as it:
        await fund(it, ann=10, bob=0)
        receipt = (await it["b"].transact(Write(moved(it, 3, "ann", "bob")))).receipt
        assert [each.key for each in receipt.written] == ["ann", "bob"]
        for name in it.names:
            assert await balances(it, name, "ann", "bob") == [7, 3]
        with pytest.raises(BoundExceeded):
            await it["c"].transact(Write(moved(it, 8, "ann", "bob")))
        assert await balances(it, "a", "ann", "bob") == [7, 3]
        await it.settled()
        assert [it.shown(name, "purse", "bob") for name in it.names] == [{"balance": 3}] * 3
        await no_intents(it)


@in_virtual_time
async def test_a_batch_with_a_strong_document_is_a_transaction() -> None:
    async with World(application=APPLICATION) as it:
        await fund(it, ann=10, bob=0)
        await it["a"].write(Write(moved(it, 3, "ann", "bob")))
        assert await balances(it, "c", "ann", "bob") == [7, 3]


@in_virtual_time
async def test_concurrent_transfers_keep_the_total_and_snapshots_show_it() -> None:
    async with World(application=APPLICATION) as it:
        keys = ["k0", "k1", "k2", "k3"]
        await fund(it, **dict.fromkeys(keys, 100))

        async def transfer(number: int) -> None:
            source, target = keys[number % 4], keys[(number * 3 + 1) % 4]
            if source != target:
                await it["abc"[number % 3]].transact(Write(moved(it, 1 + number % 5, source, target)))

        async def look(name: str) -> None:
            for _ in range(5):
                assert sum(await balances(it, name, *keys)) == 400

        await asyncio.gather(*map(transfer, range(30)), *map(look, it.names))
        await no_intents(it)
        assert sum(await balances(it, "b", *keys)) == 400


@in_virtual_time
async def test_what_a_transaction_has_read_must_still_be_there() -> None:
    """Write skew: two doctors who both see the other one on call must not both leave."""
    async with World(application=APPLICATION) as it:
        for key in ("ann", "bob"):
            await it.write("a", "doctor", key, {"on_call": True})
        seen = {key: (await it["b"].read("doctor", key)).version for key in ("ann", "bob")}

        async def leave(name: str, key: str, other: str) -> None:
            put = put_of(it["a"].rules["doctor"], key, b'{"on_call": false}', if_match=seen[key])
            await it[name].transact(Write((put, Check("doctor", other, seen[other]))))

        answers = await asyncio.gather(
            leave("a", "ann", "bob"), leave("c", "bob", "ann"), return_exceptions=True
        )
        assert sum(isinstance(each, VersionMismatch) for each in answers) == 1
        found, _ = await it["b"].snapshot([("doctor", "ann"), ("doctor", "bob")])
        assert sum(json.loads(each.value or b"")["on_call"] for each in found) == 1


@in_virtual_time
async def test_one_that_wrote_nothing_is_checked_too() -> None:
    async with World(application=APPLICATION) as it:
        await fund(it, ann=1, bob=2)
        seen = [(key, (await it["b"].read("purse", key)).version) for key in ("ann", "bob")]
        checks = tuple(Check("purse", key, version) for key, version in seen)
        await it["b"].transact(Write((*checks, Check("purse", "eve", if_absent=True))))
        await fund(it, bob=3)
        with pytest.raises(VersionMismatch):
            await it["b"].transact(Write(checks))


@in_virtual_time
async def test_a_repeated_transaction_is_done_once_in_any_region() -> None:
    async with World(application=APPLICATION) as it:
        await fund(it, ann=10, bob=0)
        write = Write(moved(it, 3, "ann", "bob"), "once")
        assert not (await it["a"].transact(write)).receipt.replayed
        for name in it.names:
            assert (await it[name].transact(write)).receipt.replayed
        with pytest.raises(IdempotencyKeyReused):
            await it["c"].transact(Write(moved(it, 4, "ann", "bob"), "once"))
        assert await balances(it, "b", "ann", "bob") == [7, 3]
        await no_intents(it)


@in_virtual_time
@pytest.mark.parametrize("committed", [True, False])
async def test_whoever_meets_an_unfinished_transaction_finishes_it(
    committed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The coordinator dies before its outcome is decided, or right after it."""
    async with World(application=APPLICATION) as it:
        await fund(it, ann=10, bob=0)

        async def dies(*_: object, **__: object) -> None:
            await asyncio.Event().wait()

        place = "_settle" if committed else "decided"
        if committed:
            monkeypatch.setattr(Concluding, "perform", fails)
            monkeypatch.setattr(Transactions, "_settle", dies)
        else:
            monkeypatch.setattr(it["a"].proposer.outcomes, "decide", dies)
        transfer = asyncio.create_task(it["a"].transact(Write(moved(it, 3, "ann", "bob"))))
        await asyncio.sleep(0.5)
        it.partition("ab", "ac")
        await asyncio.sleep(2)
        assert await balances(it, "b", "ann", "bob") == ([7, 3] if committed else [10, 0]), place
        monkeypatch.undo()
        await it["c"].transact(Write(moved(it, 1, "ann", "bob")))
        assert await balances(it, "b", "ann", "bob") == ([6, 4] if committed else [9, 1])
        transfer.cancel()


FAR_S = {"ab": 0.115, "ac": 0.075, "bc": 0.045}
"""One way, between Tokyo, Frankfurt and Virginia."""


def spread(it: World) -> None:
    for one, other in (*FAR_S, *(pair[::-1] for pair in FAR_S)):
        it.request_s[one, other] = it.reply_s[one, other] = FAR_S["".join(sorted(one + other))]


@in_virtual_time
async def test_transactions_far_apart_wait_for_each_other_and_all_happen() -> None:
    """Nobody aborts one that goes on, and nobody takes a register from a region that waits for one."""
    async with World(application=APPLICATION) as it:
        names = ("ann", "bob", "eve", "kim")
        await fund(it, **dict.fromkeys(names, 100))
        spread(it)
        await no_intents(it)
        before = {name: it[name].statistics.proposals_lost for name in it.names}

        async def client(number: int) -> None:
            random = Random(number)
            for _ in range(3):
                source, target = random.sample(names, 2)
                await it[it.names[number % 3]].transact(Write(moved(it, 1, source, target)))

        async with asyncio.timeout(15):  # one after the other, they take 10
            await asyncio.gather(*map(client, range(8)))
        assert sum(await balances(it, "b", *names)) == 400
        assert {name: it[name].statistics.proposals_lost for name in it.names} == before


@pytest.mark.parametrize(
    ("options", "within_s"),
    [({}, 1.0), ({"shares_store": True}, 1.0), ({"shares_store": True, "read_leases": False}, 3.0)],
    ids=["embedded store", "one node", "several nodes"],
)
@in_virtual_time
async def test_a_transaction_that_nobody_coordinates_is_aborted_soon(
    options: dict[str, bool], within_s: float
) -> None:
    """Its region goes on without it: the process has been started anew, for instance.

    Of several nodes, the one that is asked does not know whether another one is at it.
    """
    async with World(application=APPLICATION, **options) as it:
        await fund(it, ann=10, bob=0)
        mutations = moved(it, 3, "ann", "bob")
        lost = Intent(
            transaction_id(it["a"].now_ms(), 1), "a", it["a"].clock.now(), ("purse/ann", "purse/bob")
        )
        await it["a"].registers.place(PlaceCall(mutations[:1], lost))
        async with asyncio.timeout(within_s):
            await it["b"].transact(Write(moved(it, 1, "ann", "bob")))
        assert await balances(it, "c", "ann", "bob") == [9, 1]


@in_virtual_time
async def test_an_intent_that_comes_late_does_nothing() -> None:
    """A message may be delayed until its transaction is over, and its outcome dropped."""
    async with World(application=APPLICATION) as it:
        await fund(it, ann=10, bob=0)
        await it["a"].transact(Write(moved(it, 3, "ann", "bob")))
        await no_intents(it)
        for _, target, call in list(it.calls):
            if isinstance(call, PlaceCall):
                await it[target].answer(call)
        late = [call for _, _, call in it.calls if isinstance(call, PlaceCall)]
        assert late or it["a"].registers.any
        assert await balances(it, "c", "ann", "bob") == [7, 3]
        await it["b"].transact(Write(moved(it, 1, "ann", "bob")))
        assert await balances(it, "c", "ann", "bob") == [6, 4]


@in_virtual_time
async def test_other_documents_appear_with_the_commit_or_not_at_all() -> None:
    async with World(application=APPLICATION) as it:
        await fund(it, ann=1, bob=0)
        note = put_of(it["a"].rules["note"], "n", b'{"text": "moved"}')
        with pytest.raises(BoundExceeded):
            await it["b"].transact(Write((*moved(it, 3, "ann", "bob"), note)))
        await it.settled()
        assert [it.shown(name, "note", "n") for name in it.names] == [None] * 3
        receipt = (await it["b"].transact(Write((*moved(it, 1, "ann", "bob"), note)))).receipt
        assert [each.collection for each in receipt.written] == ["purse", "purse", "note"]
        await it.settled()
        assert [it.shown(name, "note", "n") for name in it.names] == [{"text": "moved"}] * 3
        assert not await it["b"].store.states(TRANSACTIONS)


def beside(it: World, *mutations: Mutation) -> Write:
    return Write((put_of(it["a"].rules["page"], "p", b'{"text": "done"}'), *mutations))


@in_virtual_time
async def test_other_documents_may_be_patched() -> None:
    async with World(application=APPLICATION) as it:
        rules = it["a"].rules
        await it.write("a", "tag", "t", {"names": ["x"], "count": 1, "owner": "ann"})
        patch = patch_of(rules["tag"], "t", {"$add": {"names": ["y"]}, "$inc": {"count": 2}})
        note = patch_of(rules["note"], "n", {"$set": {"text": "new"}})
        receipt = (await it["a"].transact(beside(it, patch, note))).receipt
        assert [each.collection for each in receipt.written] == ["page", "tag", "note"]
        await it.settled()
        for name in it.names:
            assert it.shown(name, "tag", "t") == {"names": ["x", "y"], "count": 3, "owner": "ann"}
            assert it.shown(name, "note", "n") == {"text": "new"}


@in_virtual_time
async def test_what_other_documents_refuse_is_refused_before_anything_happens() -> None:
    async with World(application=APPLICATION) as it:
        rules = it["a"].rules
        await fund(it, ann=1)
        large = json.dumps({"text": "x" * 900_000}).encode()
        await it.write("a", "tag", "t", {"owner": "x" * 900_000})
        refused: list[tuple[Mutation, type[AtollError]]] = [
            (Delete("note", "nope"), NotFound),
            (patch_of(rules["tag"], "nope", {"$inc": {"count": 1}}), NotFound),
            (patch_of(rules["tag"], "t", {"$add": {"names": ["y" * 200_000]}}), TooLarge),
        ]
        for mutation, error in refused:
            with pytest.raises(error):
                await it["a"].transact(beside(it, put_of(rules["note"], "n", large), mutation))
        assert not await it["a"].store.states(TRANSACTIONS)
        await no_intents(it)
        assert (await it["b"].read("page", "p")).value is None
        assert it.shown("a", "note", "n") is None


@in_virtual_time
async def test_other_documents_may_change_until_the_transaction_commits() -> None:
    """One is deleted, one has grown, one is gone already that was to be deleted."""
    async with World(application=APPLICATION) as it:
        rules = it["a"].rules
        for key in ("gone", "grown"):
            await it.write("a", "tag", key, {"names": ["x"], "count": 1, "owner": "ann"})
        await it.write("a", "note", "n", {"text": "old"})
        write = beside(
            it,
            patch_of(rules["tag"], "gone", {"$inc": {"count": 2}}),
            patch_of(rules["tag"], "grown", {"$add": {"names": ["y" * 100_000]}}),
            Delete("note", "n"),
        )
        for peer in "bc":
            it.reply_s[peer, "a"] = 0.3
        committing = asyncio.create_task(it["a"].transact(write))
        await asyncio.sleep(0.2)
        assert await it["a"].store.states(TRANSACTIONS)
        await it.write("a", "tag", "gone", None)
        await it.write("a", "note", "n", None)
        await it.write("a", "tag", "grown", {"$set": {"owner": "z" * 990_000}})
        await committing
        await it.settled()
        for name in it.names:
            assert it.shown(name, "tag", "gone") == {"names": ["x"], "count": 3, "owner": "ann"}
            assert it.shown(name, "note", "n") is None
            assert len(it.shown(name, "tag", "grown")["names"]) == 2
        assert not await it["a"].store.states(TRANSACTIONS)


@in_virtual_time
async def test_what_was_to_be_written_beside_is_written_after_a_restart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with World(application=APPLICATION) as it:
        await fund(it, ann=1, bob=0)
        note = put_of(it["a"].rules["note"], "n", b'{"text": "moved"}')
        with monkeypatch.context() as patch:
            patch.setattr(Concluding, "perform", fails)
            task = asyncio.create_task(it["b"].transact(Write((*moved(it, 1, "ann", "bob"), note))))
            await asyncio.sleep(1)
            await it["b"].stop()
            task.cancel()
        await it.create("b").start()
        await asyncio.sleep(40)
        assert await balances(it, "c", "ann", "bob") == [0, 1]
        assert it.shown("b", "note", "n") == {"text": "moved"}
        await no_intents(it)


@in_virtual_time
@pytest.mark.parametrize("error", [StoreUnwritable("the disk is full"), Overloaded("too many")])
async def test_what_is_committed_is_never_called_refused(
    error: AtollError, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The outcome is decided, and then its coordinator can record nothing."""
    async with World(application=APPLICATION) as it:
        await fund(it, ann=10, bob=0)
        commits = it["a"].group_commit
        honest = commits.submit

        def submit(work: Any) -> None:
            if not isinstance(work, Concluding):
                honest(work)
            elif isinstance(error, Overloaded):
                raise error
            else:
                work.failed(error)

        with monkeypatch.context() as patch:
            patch.setattr(commits, "submit", submit)
            with pytest.raises(Indefinite, match="is committed"):
                await it["a"].transact(Write(moved(it, 3, "ann", "bob"), "once"))
        assert await balances(it, "b", "ann", "bob") == [7, 3]
        assert (await it["a"].transact(Write(moved(it, 3, "ann", "bob"), "once"))).receipt.replayed
        assert await balances(it, "c", "ann", "bob") == [7, 3]


@in_virtual_time
async def test_a_region_cut_off_refuses_and_the_others_go_on() -> None:
    async with World(application=APPLICATION) as it:
        await fund(it, ann=10, bob=0)
        it.partition("ab", "ac")
        await asyncio.sleep(3)
        with pytest.raises(RegionUnreachable):
            await it["a"].transact(Write(moved(it, 1, "ann", "bob")))
        with pytest.raises(RegionUnreachable):
            await balances(it, "a", "ann", "bob")
        await it["c"].transact(Write(moved(it, 2, "ann", "bob")))
        assert await balances(it, "b", "ann", "bob") == [8, 2]


@in_virtual_time
async def test_two_round_trips_where_the_documents_were_written_last() -> None:
    async with World(application=APPLICATION) as it:
        await fund(it, ann=10, bob=0)
        await no_intents(it)
        it.calls.clear()
        await it["a"].transact(Write(moved(it, 1, "ann", "bob")))
        asked = [call for source, _, call in it.calls if isinstance(call, VoteCall) and source == "a"]
        rounds = [[type(request).__name__ for request in call.requests] for call in asked[:4]]
        assert rounds == [["Accept", "Accept"]] * 2 + [["Accept"]] * 2


@in_virtual_time
async def test_a_session_that_saw_a_transaction_sees_all_of_it_in_its_region() -> None:
    async with World(application=APPLICATION) as it:
        await fund(it, ann=10, bob=0)
        await it["a"].transact(Write(moved(it, 3, "ann", "bob")))
        _, vector = await it["c"].snapshot([("purse", "ann"), ("purse", "bob")])
        for key, amount in (("ann", 7), ("bob", 3)):
            reading = await it["c"].read("purse", key, ReadOptions("session", vector))
            assert json.loads(reading.value or b"") == {"balance": amount}


@in_virtual_time
async def test_what_a_transaction_cannot_hold_is_refused() -> None:
    async with World(application=APPLICATION) as it:
        rules = it["a"].rules
        put = put_of(rules["purse"], "ann", b'{"balance": 1}')
        note = put_of(rules["note"], "n", b"{}")
        for mutations, match in (
            ((note,), "needs a document of a strong collection"),
            ((put, Check("note", "n")), "read outside of it"),
            ((put, put_of(rules["order"], "o", b'{"region": "a"}')), "one region orders its documents"),
            ((put, put_of(rules["note"], "n", b"{}", if_absent=True)), "without a condition"),
            ((put, Delete("note", "n", "*")), "without a condition"),
            (
                tuple(put_of(rules["purse"], f"k{n}", b'{"balance": 1}') for n in range(101)),
                "at most 100 strong documents",
            ),
        ):
            with pytest.raises(InvalidOperation, match=match):
                await it["a"].transact(Write(mutations))
        with pytest.raises(InvalidOperation, match="read it outside"):
            await it["a"].snapshot([("note", "n")])


@in_virtual_time
async def test_a_lost_disk_in_the_middle_loses_no_transaction() -> None:
    async with World(application=APPLICATION) as it:
        await fund(it, ann=100, bob=0)
        for number in range(6):
            lost = "abc"[number % 3]
            transfers = [
                it[name].transact(Write(moved(it, 1, "ann", "bob"))) for name in it.names if name != lost
            ]
            tasks = [asyncio.ensure_future(each) for each in transfers]
            await asyncio.sleep(0.002 * number)
            await it[lost].stop()
            it.stores[lost] = MemoryStore()
            await it.create(lost).start()
            await asyncio.gather(*tasks, return_exceptions=True)
            while it[lost].voting.joining is not None:  # noqa: ASYNC110 — virtual time
                await asyncio.sleep(0.1)
            assert sum(await balances(it, "b", "ann", "bob")) == 100


@in_virtual_time
async def test_an_aborted_transaction_that_is_settled_disturbs_nobody() -> None:
    async with World(application=APPLICATION) as it:
        await fund(it, ann=10)
        site = it["a"].site
        transaction = outcome.transaction_id(site.now_ms(), 1)
        await it["a"].proposer.outcomes.decide(transaction, outcome.aborted(("purse/ann",)))
        await asyncio.sleep(60)
        proposals = [it[name].statistics.proposals for name in it.names]
        before = len(it.calls)
        await asyncio.sleep(600)
        assert [it[name].statistics.proposals for name in it.names] == proposals
        assert not any(isinstance(call, VoteCall) for _, _, call in it.calls[before:])
        assert await it["b"].store.state(REGISTERS, outcome.register_of(transaction))


@in_virtual_time
async def test_what_does_not_fit_in_one_entry_is_refused_before_it_happens() -> None:
    async with World(application=APPLICATION) as it:
        await fund(it, ann=10)
        rules, text = it["a"].rules["note"], b'{"text": "%s"}' % (b"x" * 1_000_000)
        large = [put_of(rules, f"n{number}", text) for number in range(26)]
        with pytest.raises(TooLarge, match="Write fewer documents in one transaction"):
            await it["a"].transact(
                Write(
                    (patch_of(it["a"].rules["purse"], "ann", {"$inc": {"balance": -1}}), *large), brief=True
                )
            )
        await no_intents(it)
        assert await balances(it, "b", "ann") == [10]
        assert it.shown("a", "note", "n0") is None
        assert not await it["a"].store.states(TRANSACTIONS)


@in_virtual_time
async def test_a_snapshot_holds_what_one_answer_can() -> None:
    async with World(application=APPLICATION) as it:
        keys = [f"k{number}" for number in range(26)]
        for key in keys:
            await it.write("a", "page", key, {"text": "x" * 1_000_000})
        found, _ = await it["b"].snapshot([("page", key) for key in keys[:20]])
        assert len(found) == 20
        with pytest.raises(TooLarge, match="Read fewer documents in one snapshot"):
            await it["b"].snapshot([("page", key) for key in keys])
