from __future__ import annotations

import asyncio
from itertools import pairwise
from math import inf

import pytest

from atoll.documents.mutation import Write
from atoll.errors import CursorExpired

from ..virtual_time import in_virtual_time
from .world import World


@in_virtual_time
async def test_a_feed_that_truncation_overtakes_ends_with_an_error() -> None:
    async with World("a") as it:
        for n in range(4):
            await it.write("a", "note", "k", {"text": str(n)})
        changes = it["a"].feed.changes({}, idle_s=1.0)
        assert (found := await anext(changes)) is not None
        assert found[1] == {"a": 1}
        await it.write("a", "note", "k", {"text": "later"})
        slow = it["a"].feed.changes({"a": 4}, idle_s=1.0)
        await it.write("a", "note", "k", {"text": "last"})
        await it.stores["a"].truncate(5)
        with pytest.raises(CursorExpired) as caught:
            await anext(slow)
        assert caught.value.details == {"gone": {"a": 5}}


async def take(it: World, region: str, vector: dict[str, int], count: int) -> list[tuple[str, int]]:
    found: list[tuple[str, int]] = []
    async for item in it[region].feed.changes(vector, idle_s=5):
        assert item is not None
        entry, after = item
        assert after[entry.origin] == entry.seq
        found.append((entry.origin, entry.seq))
        if len(found) == count:
            break
    return found


@in_virtual_time
async def test_the_feed_holds_every_entry_once() -> None:
    async with World() as it:
        for n in range(5):
            await it.write("ab"[n % 2], "note", "k", {"text": str(n)})
        await it.settled()
        for name in it.names:
            assert sorted(await take(it, name, {}, 5)) == [("a", 1), ("a", 2), ("a", 3), ("b", 1), ("b", 2)]
            assert sorted(await take(it, name, {"a": 2, "b": 1}, 2)) == [("a", 3), ("b", 2)]


@in_virtual_time
async def test_the_feed_goes_on_with_what_comes() -> None:
    async with World() as it:
        await it.write("a", "note", "k", {})
        following = asyncio.ensure_future(take(it, "b", {}, 3))
        for _ in range(2):
            await asyncio.sleep(1)
            await it.write("c", "note", "k", {})
        assert await following == [("a", 1), ("c", 1), ("c", 2)]


@in_virtual_time
async def test_a_quiet_feed_says_so() -> None:
    async with World() as it:
        began = asyncio.get_running_loop().time()
        async for item in it["a"].feed.changes({}, idle_s=5):
            assert item is None
            break
        assert asyncio.get_running_loop().time() - began == pytest.approx(5)


@in_virtual_time
async def test_a_busy_feed_pauses_by_time_too() -> None:
    async with World("a") as it:
        began_s = asyncio.get_running_loop().time()
        pauses: list[float] = []
        async for item in it["a"].feed.changes({}, idle_s=5):
            now_s = asyncio.get_running_loop().time() - began_s
            if item is None:
                pauses.append(now_s)
            if now_s > 20:
                break
            await asyncio.sleep(1)
            await it.write("a", "note", "k", {"text": str(now_s)})
        assert len(pauses) >= 3
        assert max(b - a for a, b in pairwise([0.0, *pauses])) <= 7


@in_virtual_time
async def test_a_stuck_consumer_holds_the_journal_for_a_while_only() -> None:
    async with World("a") as it:
        feed = it["a"].feed
        assert feed.held(100) == inf
        await it.write("a", "note", "k", {"text": "x"})
        changes = feed.changes({}, idle_s=5)
        await anext(changes)
        await it.write("a", "note", "k", {"text": "y"})
        assert feed.held(100) == 0
        await asyncio.sleep(101)
        assert feed.held(100) == inf
        found = [await anext(changes) for _ in range(4)]
        assert [each is None for each in found] == [True, False, True, True]
        assert feed.held(100) == 1
        await anext(changes)
        assert feed.held(100) == 2
        await changes.aclose()
        assert feed.held(100) == inf


@in_virtual_time
async def test_a_slow_consumer_keeps_no_large_values_in_memory() -> None:
    async with World("a") as it:
        for n in range(2):
            puts = (it.mutation("note", f"{n}{key}", {"text": "x" * 900_000}) for key in range(4))
            await it["a"].write(Write(tuple(puts)), None)
        await it.write("a", "note", "small", {"text": "x"})
        changes = it["a"].feed.changes({}, idle_s=5)
        for seq in (1, 2):
            found = await anext(changes)
            assert found is not None
            assert (found[0].seq, found[1]) == (seq, {"a": seq})
            assert [each.key for each in found[0].changes] == [f"{seq - 1}{key}" for key in range(4)]
            assert not any(each.registers for each in found[0].changes)
            assert len(changes.ag_frame.f_locals["numbered"]) == (1 if seq == 1 else 0)
        found = await anext(changes)
        assert found is not None
        assert found[0].changes[0].registers
        await changes.aclose()
