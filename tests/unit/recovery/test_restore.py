from __future__ import annotations

import asyncio

import pytest

from atoll.errors import Unavailable
from atoll.recovery.restore import RESTORED, RestoreRecovery, without
from atoll.store.memory.store import MemoryStore

from ..virtual_time import in_virtual_time


class Seen:
    """What the region has; `covered` waits for more."""

    def __init__(self) -> None:
        self.vector: dict[str, int] = {}
        self.more = asyncio.Event()
        self.fault = ""

    async def covered(self, vector: object) -> None:
        assert isinstance(vector, dict)
        while any(self.vector.get(origin, 0) < seq for origin, seq in vector.items()):
            self.more.clear()
            await self.more.wait()

    async def forked(self) -> str:
        return self.fault

    def see(self, **vector: int) -> None:
        self.vector.update(vector)
        self.more.set()


async def restored(
    *gone: str, peers: tuple[str, ...] = ("b", "c")
) -> tuple[RestoreRecovery, Seen, MemoryStore]:
    store, seen = MemoryStore(), Seen()
    await store.raise_counter(RESTORED, 50)
    for peer in gone:
        await store.raise_counter(without(peer), 50)
    restore = RestoreRecovery("a", peers, store, seen.covered, forked=seen.forked)
    await restore.open()
    return restore, seen, store


async def test_a_region_that_was_not_restored_waits_for_nobody() -> None:
    restore = RestoreRecovery("a", ["b"], MemoryStore(), Seen().covered, forked=Seen().forked)
    await restore.open()
    await restore.run()
    restore.check()


async def test_it_holds_back_until_all_peers_were_heard_and_what_they_had_has_come() -> None:
    restore, seen, store = await restored()
    running = asyncio.create_task(restore.run())
    restore.heard("b", {"a": 7, "b": 2})
    with pytest.raises(Unavailable, match="has not yet heard c"):
        restore.check()
    restore.heard("c", {"a": 9, "c": 1})
    restore.heard("c", {"a": 9, "c": 1000})  # what they write meanwhile is not waited for
    await asyncio.sleep(0)
    with pytest.raises(Unavailable, match="is catching up"):
        restore.check()
    seen.see(a=8, b=2, c=1)
    await asyncio.sleep(0)
    assert restore.pending
    seen.see(a=9)
    await running
    restore.check()
    again = RestoreRecovery("a", ["b", "c"], store, seen.covered, forked=seen.forked)
    await again.open()
    assert not again.pending


async def test_a_restart_in_between_begins_anew() -> None:
    restore, seen, store = await restored()
    restore.heard("b", {})
    again = RestoreRecovery("a", ["b", "c"], store, seen.covered, forked=seen.forked)
    await again.open()
    with pytest.raises(Unavailable, match="has not yet heard b, c"):
        again.check()


async def test_peers_that_are_gone_are_not_waited_for() -> None:
    restore, _, _ = await restored("b", "c")
    await restore.run()
    restore.check()


async def test_gone_at_an_earlier_restore_is_not_gone_now() -> None:
    store, seen = MemoryStore(), Seen()
    await store.raise_counter(without("b"), 40)
    await store.raise_counter(RESTORED, 50)
    restore = RestoreRecovery("a", ["b"], store, seen.covered, forked=seen.forked)
    await restore.open()
    with pytest.raises(Unavailable):
        restore.check()


async def test_a_region_without_peers_serves_at_once() -> None:
    restore, _, _ = await restored(peers=())
    await restore.run()
    restore.check()


@in_virtual_time
async def test_a_copy_of_an_abandoned_history_never_serves() -> None:
    restore, seen, _ = await restored()
    seen.fault = "entry 7 of a is another one at b"
    running = asyncio.create_task(restore.run())
    for peer in ("b", "c"):
        restore.heard(peer, {})
    await asyncio.sleep(100)
    with pytest.raises(Unavailable, match="cannot take part: entry 7 of a is another one at b"):
        restore.check()
    seen.fault = ""
    await running
    restore.check()
