"""The longest stall of the event loop is told, and forgotten after a minute or two."""

from __future__ import annotations

import asyncio

from atoll.node.watchdog import Watchdog

from ..virtual_time import in_virtual_time, pause


@in_virtual_time
async def test_a_stall_is_told_and_forgotten() -> None:
    told = list[float]()
    watchdog = Watchdog(told.append)
    await asyncio.sleep(1)
    assert told
    assert max(told) < 0.01
    pause(0.7)
    await asyncio.sleep(1)
    assert 0.6 < told[-1] < 0.8
    await asyncio.sleep(130)
    assert told[-1] < 0.01
    watchdog.close()
    count = len(told)
    await asyncio.sleep(1)
    assert len(told) == count
