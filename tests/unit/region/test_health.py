from __future__ import annotations

import asyncio

import pytest

from atoll.errors import StoreUnwritable

from ..virtual_time import in_virtual_time
from .world import World


@in_virtual_time
async def test_a_region_is_caught_up_once_it_has_what_its_peers_have() -> None:
    async with World() as it:
        await it.write("b", "note", "k", {})
        assert it.create("a").health_of("ready") is not None
        await it["a"].start()
        await asyncio.sleep(1)
        assert it["a"].health_of("ready") is None


@in_virtual_time
async def test_why_a_region_is_out_of_service() -> None:
    async with World() as it:
        region = it["a"]
        assert "has just started and waits for b, c" in (region.gates.closed or "")
        assert region.gates.reads_closed is None
        await asyncio.sleep(1)
        assert region.gates.closed is None
        region.gates.draining = True
        assert region.gates.closed == "draining"
        region.gates.draining = False
        it.stores["a"].tables.refusal = "no space left"
        with pytest.raises(StoreUnwritable):
            await it.write("a", "note", "k", {})
        assert "no space left" in (region.gates.closed or "")


@in_virtual_time
async def test_background_work_that_breaks_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with World() as it:

        def defect(*arguments: object) -> None:
            raise ZeroDivisionError("a defect")

        monkeypatch.setattr(it["a"].clocks.offsets, "add", defect)
        await asyncio.sleep(3)
        assert "clock of c ended" in (it["a"].gates.closed or "")
        assert "ZeroDivisionError" in caplog.text
