"""What was decided is shown, though the region that decided it is gone."""

from __future__ import annotations

import asyncio

import pytest

from atoll.region import unshown
from atoll.region.unshown import Unshown
from atoll.store.memory.store import MemoryStore

from ..virtual_time import in_virtual_time
from .world import World


async def decided_and_lost(it: World) -> None:
    """b and c accept what a proposes; a loses its disk before it hears of that."""
    await it.write("a", "account", "k", {"balance": 1})
    await it.settled()
    await asyncio.sleep(5)  # the look at the start is over: only what they note shows them the next one
    for peer in "bc":
        it.reply_s[peer, "a"] = 0.5
    writing = asyncio.create_task(it.write("a", "account", "k", {"balance": 2}))
    await asyncio.sleep(0.1)
    it.partition("ab", "ac")
    await it["a"].stop()
    with pytest.raises(Exception, match="stopped while it proposed"):
        await writing
    it.stores["a"] = MemoryStore()


def shown(it: World, names: str) -> list[object]:
    return [it.shown(name, "account", "k") for name in names]


@in_virtual_time
async def test_what_was_decided_is_shown_without_a_strong_read() -> None:
    async with World() as it:
        await decided_and_lost(it)
        assert shown(it, "bc") == [{"balance": 1}] * 2
        await asyncio.sleep(20)
        assert shown(it, "bc") == [{"balance": 2}] * 2
        it.partition()
        await it.create("a").start()
        await it.settled()
        assert shown(it, "abc") == [{"balance": 2}] * 3


@in_virtual_time
async def test_it_is_so_after_others_were_started_anew_and_a_majority_was_away() -> None:
    async with World() as it:
        await decided_and_lost(it)
        it.partition("ab", "ac", "bc")
        for name in "bc":
            await it[name].stop()
            await it.create(name, founding=True).start()
        await asyncio.sleep(30)
        assert shown(it, "bc") == [{"balance": 1}] * 2
        it.partition("ab", "ac")
        await asyncio.sleep(30)
        assert shown(it, "bc") == [{"balance": 2}] * 2


@in_virtual_time
async def test_what_entries_have_shown_is_not_looked_at() -> None:
    async with World() as it:
        for number in range(100):
            await it.write("abc"[number % 3], "account", f"{number % 7}", {"balance": number})
        await it.settled()
        await asyncio.sleep(1)
        assert [it[name].voting.unshown.late(float("inf")) for name in it.names] == [None] * 3


def test_what_finds_no_room_is_looked_for_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unshown, "_MOST", 2)
    it = Unshown()
    for number in range(3):
        it.accepted(f"account/{number}", 1, float(number))
    assert it.overflowed
    assert it.late(0.5) is None
    assert it.late(1.5) == "account/1"
    it.accepted("account/1", 2, 3.0)
    it.shown("account/1", 2.5)  # a later one was accepted meanwhile
    it.shown("account/2", 2.5)
    assert it.late(4.0) == "account/1"


def test_later_revisions_do_not_hide_earlier_ones() -> None:
    it = Unshown()
    for at in range(20):
        it.accepted("account/k", 1 + at, float(at))
        it.accepted(f"account/{at}", 1, float(at))
    assert it.late(0.5) == "account/k"
    assert it.late(1.5, {"account/k", "account/0"}) == "account/1"
    it.shown("account/k", 15.5)
    assert it.late(15.9, {f"account/{at}" for at in range(20)}) is None
    assert it.late(16.5, {f"account/{at}" for at in range(20)}) == "account/k"


@in_virtual_time
async def test_what_was_accepted_before_the_start_was_accepted_before_any_time_since() -> None:
    async with World() as it:
        await decided_and_lost(it)
        it.partition("ab", "ac", "bc")
        await it["b"].stop()
        await it.create("b", founding=True).start()
        since_s = asyncio.get_running_loop().time()
        for _ in range(60):
            assert not it["b"].showing.shows(since_s)
            await asyncio.sleep(1)  # no majority can be asked
        it.partition("ab", "ac")
        async with asyncio.timeout(60):
            while not it["b"].showing.shows(since_s):  # noqa: ASYNC110 — virtual time
                await asyncio.sleep(0.1)
        assert shown(it, "b") == [{"balance": 2}]
