from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from atoll.errors import StoreUnwritable

from ..virtual_time import in_virtual_time
from .world import World


@in_virtual_time
async def test_a_region_finds_out_by_itself_that_its_disk_is_well_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def at_once(work: Callable[[], None]) -> None:
        work()

    monkeypatch.setattr(asyncio, "to_thread", at_once)  # threads know nothing of virtual time
    async with World(housekeeping_s=0.5) as it:
        it.stores["a"].tables.refusal = "full"
        with pytest.raises(StoreUnwritable):
            await it.write("a", "note", "k", {})
        it.stores["a"].tables.refusal = ""
        await asyncio.sleep(1)
        assert it["a"].gates.closed is None
