from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.unit.region.world import World
from tests.unit.virtual_time import in_virtual_time

from atoll.errors import RegionUnreachable
from atoll.region.site import Site
from atoll.replication.messages import HeldCall


def refusing(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """No peer answers what it holds; links go on. Returns who was asked."""
    asked: list[str] = []
    honest = Site.ask

    async def ask(self: Site, region: str, call: Any, kind: Any, **options: Any) -> Any:
        if isinstance(call, HeldCall):
            asked.append(region)
            raise RegionUnreachable(f"{region} does not answer", region=region)
        return await honest(self, region, call, kind, **options)

    monkeypatch.setattr(Site, "ask", ask)
    return asked


@in_virtual_time
async def test_what_a_link_announces_ends_the_wait() -> None:
    with pytest.MonkeyPatch.context() as patch:
        asked = refusing(patch)
        async with World() as it:
            it.partition("ab", "ac")
            await it.write("a", "like", "k", {"$inc": {"count": 1}})
            acks = it["a"].sagas.acks
            waiting = asyncio.ensure_future(acks.reached(acks.position))
            await asyncio.sleep(3)
            assert not waiting.done()
            it.partition()
            async with asyncio.timeout(20):
                await waiting
            assert set(asked) == {"b", "c"}


@in_virtual_time
async def test_an_entry_that_another_database_lacks_is_not_waited_for() -> None:
    """The wait would never end, and with it nothing that the saga has yet to do."""
    async with World() as it:
        it.partition("ab", "ac")
        await it.write("a", "like", "k", {"$inc": {"count": 1}})
        acks, progress = it["a"].sagas.acks, it["a"].progress
        origin, seq = acks.position
        assert not await acks.reached((origin, seq + 1))
        waiting = asyncio.ensure_future(acks.reached((origin, seq)))
        await asyncio.sleep(3)
        assert not waiting.done()
        progress.vector[origin] = seq - 1
        async with asyncio.timeout(20):
            assert not await waiting
