from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.unit.region.world import World
from tests.unit.virtual_time import in_virtual_time

from atoll import Collection, Counter, Increment, Saga, step
from atoll.errors import NotFound
from atoll.schema import application_of
from atoll.schema.system import RIGHTS


class Times(Collection):
    count: Counter


class Once(Saga):
    @step
    def only(self, tx: Any) -> None:
        tx.update(Times, self.key, count=Increment(1))


class Asked(Saga):
    @step(signal="answer")
    def only(self) -> None:
        """Nobody answers."""


APPLICATION = application_of(Times, Once, Asked, name="once")
KEPT_S, ROUND_S = 100.0, 10.0


def world(*names: str) -> World:
    return World(*names, application=APPLICATION, sagas_s=KEPT_S, sagas_round_s=ROUND_S, forget_s=1.0)


async def done(it: World, region: str = "a") -> str:
    await it[region].start_saga("once", "1", b"{}")
    found = await it[region].await_saga("once", "1", 20.0)
    assert found.status == "completed"
    return found.nonce


async def there(it: World, region: str) -> bool:
    try:
        await it[region].find_saga("once", "1")
    except NotFound:
        return False
    return True


@pytest.mark.parametrize("names", [("a",), ("a", "b", "c")])
@in_virtual_time
async def test_what_is_over_for_long_is_removed_everywhere(names: tuple[str, ...]) -> None:
    async with world(*names) as it:
        nonce = await done(it)
        await asyncio.sleep(KEPT_S - 5)
        assert (await it[names[-1]].start_saga("once", "1", b"{}")).nonce == nonce
        await asyncio.sleep(3 * ROUND_S)
        assert [await there(it, name) for name in names] == [False] * len(names)
        assert it.shown(names[-1], "times", "1") == {"count": 1}


@in_virtual_time
async def test_after_that_it_may_be_started_anew_wherever_one_likes() -> None:
    async with world("a", "b", "c") as it:
        nonce = await done(it)
        await asyncio.sleep(KEPT_S + 3 * ROUND_S)
        assert (await it["b"].registers.read(RIGHTS, "claim/once/1")).value is None
        assert await done(it, "b") != nonce
        assert (await it["b"].find_saga("once", "1")).home == "b"
        assert it.shown("b", "times", "1") == {"count": 2}


@in_virtual_time
async def test_what_a_region_has_not_seen_stays() -> None:
    async with world("a", "b", "c") as it:
        await asyncio.sleep(5)  # or nothing is decided yet
        it.partition("ac", "bc")
        await done(it)
        await asyncio.sleep(2 * KEPT_S)
        assert await there(it, "a")
        it.partition()
        await asyncio.sleep(5 * ROUND_S)
        assert [await there(it, name) for name in "abc"] == [False] * 3


@in_virtual_time
async def test_what_is_not_over_stays() -> None:
    async with world("a", "b", "c") as it:
        await it["a"].start_saga("asked", "1", b"{}")
        await asyncio.sleep(2 * KEPT_S)
        assert (await it["c"].find_saga("asked", "1")).status == "waiting"


@in_virtual_time
async def test_what_a_region_has_started_that_is_gone_is_removed_by_another() -> None:
    async with world("a", "b", "c") as it:
        await done(it, "c")
        await it.settled()
        for name in "ab":
            await it[name].change_members(it[name].members.current.without("c"))
        await it["c"].stop()
        await asyncio.sleep(KEPT_S + 3 * ROUND_S)
        assert [await there(it, name) for name in "ab"] == [False] * 2
