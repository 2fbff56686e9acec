"""Two regions and a witness, which votes and holds no documents."""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import Awaitable, Callable

import pytest

from atoll.causality.types import Ballot
from atoll.consensus import acceptor
from atoll.consensus.acceptor import NEVER, Accept, Acceptor
from atoll.consensus.outcome import (
    OUTCOMES,
    aborted,
    encoded,
    first_ballot,
    register_of,
    transaction_id,
)
from atoll.documents.mutation import Delete, Write, patch_of, put_of
from atoll.errors import AtollError, ConfigError, Unavailable
from atoll.region.options import RegionOptions
from atoll.region.reading import ReadOptions
from atoll.region.region import Region
from atoll.replication.messages import ReadCall, VoteCall
from atoll.schema import Collection, Counter
from atoll.schema.application import application_of
from atoll.testing.cluster import OPTIONS, Cluster, simulated

from ..virtual_time import until


class Purse(Collection, consistency="strong"):
    amount: Counter


class Note(Collection):
    text: str = ""


APPLICATION = application_of(Purse, Note)
DATA, WITNESS = ("frankfurt", "tokyo"), "virginia"
Test = Callable[[Cluster], Awaitable[None]]


def deployment(test: Test) -> Callable[[], None]:
    """Run a test on two regions and a witness, on virtual time."""

    async def main() -> None:
        cluster = Cluster(APPLICATION, DATA, witnesses=(WITNESS,), seed=1, options=OPTIONS)
        cluster.start()
        await voting(cluster)
        await test(cluster)

    @functools.wraps(test)
    def run() -> None:
        simulated(main)

    del run.__wrapped__  # pytest would take the cluster for a fixture
    return run


async def voting(cluster: Cluster) -> None:
    def all_vote() -> bool:
        regions = [cluster[name].region for name in cluster.members]
        return all(region is not None and region.voting.closed is None for region in regions) and all(
            region.proposer.reaches_majority() for region in regions[:2] if region is not None
        )

    await until(all_vote)


async def add(cluster: Cluster, region: str, amount: int = 1, key: str = "k", **options: object) -> None:
    def write(at: Region) -> Write:
        return Write((patch_of(at.rules["purse"], key, {"$inc": {"amount": amount}}),))

    await cluster[region].ask(lambda at: at.write(write(at), None))


async def amount(cluster: Cluster, region: str, key: str = "k") -> int | None:
    reading = await cluster[region].ask(lambda at: at.read("purse", key, ReadOptions()))
    return None if reading.value is None else int(json.loads(reading.value)["amount"])


def kept(cluster: Cluster, name: str = WITNESS, prefix: str = "purse/") -> dict[str, Acceptor]:
    """What a region's acceptors hold."""
    rows = cluster[name].disk.store.states("register")
    return {name: acceptor.decoded(value) for name, value in rows if name.startswith(prefix)}


def empty(cluster: Cluster) -> bool:
    """Whether the witness votes for documents, and holds no values of any."""
    states = kept(cluster).values()
    return bool(states) and all(each.elsewhere and not each.value for each in states)


@deployment
async def test_a_witness_votes_and_keeps_no_values(it: Cluster) -> None:
    for number in range(5):
        await add(it, DATA[number % 2], key=f"k{number % 3}")
    await until(lambda: empty(it))
    store = it[WITNESS].disk.store
    assert store.positions() == {}
    assert len(kept(it)) == 3
    assert all(each.accepted != NEVER for each in kept(it).values())
    assert it.shown(WITNESS) == {}
    status = it.region(WITNESS).status()
    assert (status.regions, status.witnesses) == (list(DATA), [WITNESS])
    assert status.registers is not None
    assert status.registers.voting
    await until(lambda: not it.region(WITNESS).voting.held)
    assert it.region(WITNESS).voting.unshown.late(float("inf")) is None  # it shows nothing


@pytest.mark.parametrize("lost", [*DATA, WITNESS])
def test_any_one_of_the_three_may_be_lost(lost: str) -> None:
    async def test(it: Cluster) -> None:
        left = [name for name in DATA if name != lost]
        await add(it, DATA[0])
        await until(lambda: empty(it))
        it.kill(lost)
        await asyncio.sleep(10)
        for number in range(4):
            await add(it, left[number % len(left)])
        assert [await amount(it, name) for name in left] == [5] * len(left)

    deployment(test)()


@pytest.mark.parametrize("lost", DATA)
def test_what_only_a_lost_region_and_the_witness_held_is_there(lost: str) -> None:
    async def test(it: Cluster) -> None:
        other = next(name for name in DATA if name != lost)
        await add(it, lost)
        await until(lambda: empty(it))
        it.partition([other])
        await asyncio.sleep(3)
        await add(it, lost, 10)
        await asyncio.sleep(10)
        assert not any(each.elsewhere for each in kept(it).values())
        it.kill(lost)
        it.network.heal_all()
        assert await amount(it, other) == 11
        await add(it, other)
        assert await amount(it, other) == 12

    deployment(test)()


@deployment
async def test_what_a_region_missed_is_decided_anew_for_it(it: Cluster) -> None:
    await add(it, "tokyo")
    it.kill("frankfurt")
    await asyncio.sleep(3)
    for number in range(100):
        await add(it, "tokyo", key=f"k{number}")
    await asyncio.sleep(5)
    assert it.region(WITNESS).status().registers.values == 101  # type: ignore[union-attr]
    it.start("frankfurt")
    await until(lambda: empty(it))
    assert {name: each.value for name, each in kept(it, "frankfurt").items()} == {
        name: each.value for name, each in kept(it, "tokyo").items()
    }
    await it.settle()


@deployment
async def test_a_witness_whose_disk_was_lost_joins_anew_and_drops_values_again(it: Cluster) -> None:
    for number in range(5):
        await add(it, "tokyo", key=f"k{number}")
    it.lose_disk(WITNESS)
    await asyncio.sleep(1)
    it.start(WITNESS)
    await voting(it)
    await until(lambda: empty(it) and len(kept(it)) == 5)
    it.kill("tokyo")
    await asyncio.sleep(3)
    await add(it, "frankfurt", key="k1")
    assert await amount(it, "frankfurt", "k1") == 2


@deployment
async def test_a_region_whose_disk_was_lost_takes_values_from_the_other(it: Cluster) -> None:
    await add(it, "tokyo")
    await until(lambda: empty(it))
    it.lose_disk("frankfurt")
    await asyncio.sleep(1)
    it.start("frankfurt")
    await voting(it)
    it.kill("tokyo")
    await asyncio.sleep(3)
    assert await amount(it, "frankfurt") == 1


@deployment
async def test_a_witness_that_restarts_goes_on_dropping(it: Cluster) -> None:
    it.kill("frankfurt")
    await asyncio.sleep(3)
    await add(it, "tokyo")
    it.restart(WITNESS)
    await voting_again(it)
    it.start("frankfurt")
    await until(lambda: empty(it))


async def voting_again(it: Cluster) -> None:
    await until(lambda: it[WITNESS].region is not None and it.region(WITNESS).voting.closed is None)


@deployment
async def test_a_transaction_is_finished_without_its_coordinator(it: Cluster) -> None:
    def move(at: Region) -> Write:
        rules = at.rules["purse"]
        return Write(
            (
                patch_of(rules, "one", {"$inc": {"amount": -1}}),
                patch_of(rules, "two", {"$inc": {"amount": 1}}),
            )
        )

    await add(it, "tokyo", 5, "one")
    await add(it, "tokyo", 5, "two")
    it.partition(["frankfurt"])
    await asyncio.sleep(3)
    await it["tokyo"].ask(lambda at: at.transact(move(at)))
    it.kill("tokyo")
    it.network.heal_all()
    assert [await amount(it, "frankfurt", key) for key in ("one", "two")] == [4, 6]


@deployment
async def test_a_witness_has_outcomes_finished_that_it_alone_keeps(it: Cluster) -> None:
    await add(it, "tokyo", 5, "one")
    await add(it, "tokyo", 5, "two")
    region = it.region(WITNESS)
    transaction = transaction_id(it.now_ms() - 90_000_000, 1)
    ballot = first_ballot("tokyo/1")
    value = encoded(aborted(("purse/one",)))
    accept = Accept(register_of(transaction), ballot, value, Ballot(2, "tokyo/1"))
    call = VoteCall.of(region.voting.counted(), accept)
    assert (await region.voting.vote(call)).votes[0].granted
    assert len(kept(it, prefix=OUTCOMES)) == 1
    await until(lambda: not kept(it, prefix=OUTCOMES))


@deployment
async def test_registers_of_deleted_documents_are_dropped_with_a_witness(it: Cluster) -> None:
    await add(it, "tokyo")
    await it["tokyo"].ask(lambda at: at.write(Write((Delete("purse", "k"),)), None))
    await asyncio.sleep(30)
    assert [each.elsewhere for each in kept(it).values()] == [False]  # a deletion has no value to hide
    await until(lambda: not any(kept(it, name) for name in it.members), within_s=3000)
    await add(it, "frankfurt", 7)
    assert await amount(it, "tokyo") == 7


@deployment
async def test_a_witness_serves_no_documents(it: Cluster) -> None:
    region = it.region(WITNESS)
    assert region.health_of("live") is None
    for check in ("serving", "reading"):
        assert "is a witness" in (region.health_of(check) or "")  # type: ignore[arg-type]
    assert region.role() == f"{WITNESS} is a witness: it votes, and holds no documents; ask another region"
    with pytest.raises(Unavailable, match="is a witness"):
        await region.answer(ReadCall("purse", "k", {}))
    with pytest.raises(AtollError):
        await region.write(Write((put_of(it.region("tokyo").rules["note"], "k", b"{}"),)), None)
    await it["tokyo"].ask(lambda at: at.write(Write((put_of(at.rules["note"], "k", b'{"text":"t"}'),)), None))
    await it.settle()
    assert it.region("tokyo").peers == ["frankfurt", WITNESS]
    assert list(it.region("tokyo").links) == ["frankfurt"]
    assert not region.links


@pytest.mark.parametrize("becomes", ["witness", "region"])
def test_a_store_does_not_change_its_role(becomes: str) -> None:
    async def main() -> None:
        witnesses = () if becomes == "witness" else (WITNESS,)
        names = (*DATA, *(() if witnesses else (WITNESS,)))
        cluster = Cluster(APPLICATION, names, witnesses=witnesses, seed=1, options=OPTIONS)
        cluster.start()
        await asyncio.sleep(3)
        await add(cluster, "tokyo")
        if becomes == "witness":
            await cluster.settle()
        cluster.kill(WITNESS)
        cluster.witnesses = (WITNESS,) if becomes == "witness" else ()
        cluster.names = tuple(sorted({*DATA, WITNESS} - {*cluster.witnesses}))
        node = cluster[WITNESS]
        node.start()
        await asyncio.sleep(1)
        assert node.region is not None
        region, wanted = node.region, "holds documents" if becomes == "witness" else "is a witness's"
        with pytest.raises(ConfigError, match=wanted):
            await region.voting.open()

    simulated(main)


def test_options_of_a_witness_write_no_events() -> None:
    async def main() -> None:
        options = RegionOptions(events_most=100)
        cluster = Cluster(APPLICATION, DATA, witnesses=(WITNESS,), seed=1, options=options)
        cluster.start()
        await asyncio.sleep(3)
        cluster.kill("tokyo")
        await asyncio.sleep(10)
        assert cluster[WITNESS].disk.store.positions() == {}

    simulated(main)
