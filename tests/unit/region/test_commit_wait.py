from __future__ import annotations

import asyncio
from random import Random

import pytest

from atoll.causality.clock import stamp_ms
from atoll.documents.mutation import Write
from atoll.errors import ClockUnsafe, ConfigError, Indefinite, OrderUncertain
from atoll.region.commit_wait import settled_ms
from atoll.region.region import Region
from atoll.replication.messages import WriteReply
from atoll.schema import Collection, home_region
from atoll.schema.application import application_of

from ..virtual_time import in_virtual_time
from .world import World as AnyWorld


class Event(Collection, commit_wait=True):
    text: str = ""


class Parcel(Collection, placement=home_region("region"), commit_wait=True):
    region: str


class Note(Collection):
    text: str = ""


APPLICATION = application_of(Event, Parcel, Note, name="ordered")
MOST_MS = 300


class World(AnyWorld):
    def __init__(self, *names: str, **options: object) -> None:
        settings = {"application": APPLICATION, "max_clock_offset_ms": MOST_MS, **options}
        super().__init__(*names, **settings)  # type: ignore[arg-type]

    async def keyed(self, region: str, key: str) -> WriteReply:
        return await self[region].write(Write((self.mutation("event", "k", {"text": key}),), key))


def now_s() -> float:
    return asyncio.get_running_loop().time()


@in_virtual_time
async def test_acknowledgement_waits_for_the_bound_and_the_uncertainty() -> None:
    world = World("a")
    world.kernel_uncertainty_ms = 20
    async with world as it:
        began_s = now_s()
        await it.write("a", "note", "k", {})
        assert now_s() - began_s < 0.01
        began_s = now_s()
        await it.write("a", "event", "k", {})
        assert (MOST_MS + 20) / 1000 < now_s() - began_s < (MOST_MS + 20 + 10) / 1000


@in_virtual_time
async def test_write_is_shown_while_its_order_is_waited_for() -> None:
    async with World("a", "b") as it:
        waiting = asyncio.create_task(it.write("a", "event", "k", {"text": "x"}))
        await asyncio.sleep(0.2)
        assert not waiting.done()
        assert it.shown("b", "event", "k") == {"text": "x"}
        await waiting


@in_virtual_time
async def test_what_was_acknowledged_before_is_stamped_before() -> None:
    """Clocks differ by as much as they may, and the second write begins just when the first is acknowledged.

    No region hears of the other's write before its own: what it has seen it would stamp after anyway.
    """
    for seed in range(40):
        random = Random(seed)
        world = World()
        for name in world.names:
            # As far apart as a majority lets them be.
            world.skew_ms[name] = random.choice((-MOST_MS // 2, 0, MOST_MS // 2))
            honest_ms = abs(world.skew_ms[name]) + random.randrange(3)
            world.kernels_ms[name] = random.choice((None, honest_ms))
        async with world as it:
            await asyncio.sleep(3)
            it.partition("ab", "bc", "ac")
            for _ in range(6):
                one, other = random.sample(it.names, 2)
                before = await it.write(one, "event", "k", {"text": str(random.random())})
                after = await it.write(other, random.choice(("note", "event")), "other", {"text": "y"})
                assert before.receipt.stamp < after.receipt.stamp, (seed, one, other, it.skew_ms)


def test_from_the_settled_time_on_the_slowest_clock_stamps_higher() -> None:
    for ms in (0, 1_000, 1_999):
        stamp = (ms << 16) + 65_535
        slowest_ms = settled_ms(stamp, MOST_MS) - MOST_MS
        assert slowest_ms << 16 > stamp
        assert (slowest_ms - 1) << 16 <= stamp


@in_virtual_time
async def test_forwarded_write_waits_where_it_is_committed() -> None:
    async with World("a", "b") as it:
        began_s = now_s()
        reply = await it.write("a", "parcel", "k", {"region": "b"})
        assert reply.receipt.origin.startswith("b")
        assert now_s() - began_s > 2 * MOST_MS / 1000


@in_virtual_time
async def test_write_that_changes_nothing_waits_for_nothing() -> None:
    async with World("a") as it:
        await it.write("a", "event", "k", {"text": "x"})
        began_s = now_s()
        reply = await it.write("a", "event", "k", {"$set": {"text": "x"}})
        assert (reply.receipt.seq == 0) == (now_s() - began_s < 0.01)


async def end_uncertain(it: World) -> OrderUncertain:
    """A write, during whose wait the clock is set back."""
    waiting = asyncio.create_task(it.keyed("a", "one"))
    await asyncio.sleep(0.1)
    it.skew_ms["a"] = -10_000
    with pytest.raises(OrderUncertain) as caught:
        await waiting
    return caught.value


@in_virtual_time
async def test_wait_that_does_not_end_says_that_the_write_is_done() -> None:
    async with World("a") as it:
        error = await end_uncertain(it)
        assert isinstance(error, Indefinite)
        assert "the write is durable in a" in error.message
        assert it.shown("a", "event", "k") == {"text": "one"}
        assert (error.details["region"], error.details["seq"]) == ("a", it["a"].vector[it["a"].origin])
        assert error.vector == it["a"].vector


@in_virtual_time
async def test_repeated_under_its_key_it_waits_for_the_rest_and_is_not_written_anew() -> None:
    async with World("a") as it:
        await end_uncertain(it)
        it.skew_ms["a"] = 0
        vector, began_s = it["a"].vector, now_s()
        reply = await it.keyed("a", "one")
        assert reply.receipt.replayed
        assert it["a"].vector == vector
        assert now_s() - began_s < 0.01


@in_virtual_time
async def test_replayed_answer_waits_as_the_first_did() -> None:
    async with World("a") as it:
        first = asyncio.create_task(it.keyed("a", "one"))
        await asyncio.sleep(0.1)
        replayed = await it.keyed("a", "one")
        assert replayed.receipt.replayed
        await asyncio.sleep(0)
        assert first.done()


@in_virtual_time
async def test_where_clocks_are_disputed_nothing_is_written() -> None:
    """Writes that need no order go on in the region that is behind."""
    async with World("a", "b", skew_ms={"b": 5000}) as it:
        await asyncio.sleep(3)
        with pytest.raises(ClockUnsafe, match="nothing was written"):
            await it.write("a", "event", "k", {})
        assert it.shown("a", "event", "k") is None
        await it.write("a", "note", "k", {})


@in_virtual_time
async def test_stamps_far_ahead_of_the_clock_are_refused_at_once() -> None:
    async with World("a") as it:
        await it.write("a", "note", "k", {})
        it.skew_ms["a"] = -10_000
        began_s = now_s()
        with pytest.raises(ClockUnsafe, match="ahead of its clock"):
            await it.write("a", "event", "k", {})
        assert now_s() == began_s
        await it.write("a", "note", "k", {})


@in_virtual_time
async def test_bound_that_no_wait_would_pass_in_time_is_refused_at_the_start() -> None:
    def create(most_ms: int) -> Region:
        return World("a", max_clock_offset_ms=most_ms).create("a")

    create(1333)
    with pytest.raises(ConfigError, match="at most 1333"):
        create(1334)
    AnyWorld("a", max_clock_offset_ms=5000).create("a")


@in_virtual_time
async def test_stamp_is_settled_only_once_the_clock_shows_more_than_both_bounds() -> None:
    async with World("a") as it:
        reply = await it.write("a", "event", "k", {})
        assert it["a"].now_ms() >= stamp_ms(reply.receipt.stamp) + 2 * MOST_MS + 1


@in_virtual_time
async def test_order_that_rests_on_an_assumption_is_told() -> None:
    async with World("a") as it:
        assert "nothing proves the clock of a" in it["a"].status().warnings[0]
        it.kernel_uncertainty_ms = 20
        await asyncio.sleep(0.001)
        assert it["a"].status().warnings == []
    async with AnyWorld("a") as it:
        assert it["a"].status().warnings == []
