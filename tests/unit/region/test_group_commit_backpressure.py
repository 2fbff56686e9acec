"""A link at its bound waits, but not for ever for what only it can bring."""

from __future__ import annotations

import asyncio

import pytest

from ..virtual_time import in_virtual_time
from .test_group_commit import entries_of, named, opened, stamped


@in_virtual_time
async def test_a_link_that_is_stuck_may_bring_as_much_again() -> None:
    it = await opened(stuck_s=2.0)
    _, two, three = entries_of("b", "x", "y", "z")
    it.intake.deliver([two], "b")  # the first one is missing
    loop = asyncio.get_running_loop()
    await it.intake.backpressure("b", 10)
    assert loop.time() == pytest.approx(2.0)
    it.intake.deliver([three], "b")
    await it.intake.backpressure("b", 10)
    assert loop.time() == pytest.approx(4.0)


@in_virtual_time
async def test_local_writes_do_not_keep_a_link_stuck() -> None:
    it = await opened(stuck_s=2.0)
    it.intake.deliver(entries_of("b", "x", "y")[1:], "b")
    backpressure = asyncio.ensure_future(it.intake.backpressure("b", 10))
    for number in range(5):
        await asyncio.sleep(0.5)
        await it.writes.write(named(f"k{number}"))
    await asyncio.sleep(0)
    assert backpressure.done()


@in_virtual_time
async def test_a_link_waits_as_long_as_the_disk_is_full() -> None:
    it = await opened(stuck_s=2.0)
    it.tables.refusal = "the disk is full"
    it.intake.deliver(entries_of("b", "x"), "b")
    backpressure = asyncio.ensure_future(it.intake.backpressure("b", 10))
    await asyncio.sleep(60)
    assert not backpressure.done()
    it.tables.refusal = ""
    await backpressure


@in_virtual_time
async def test_a_link_waits_as_long_as_a_clock_runs_ahead() -> None:
    it = await opened(stuck_s=2.0)
    it.intake.deliver([stamped("b", 1, it.now_ms + 60_000)], "b")
    backpressure = asyncio.ensure_future(it.intake.backpressure("b", 10))
    await asyncio.sleep(30)
    assert not backpressure.done()
    it.now_ms += 60_000
    await backpressure


@in_virtual_time
async def test_a_refusal_is_over_once_nothing_is_left_to_refuse() -> None:
    it = await opened(stuck_s=2.0)
    one, two = entries_of("b", "x", "y")
    it.tables.refusal = "the disk is full"
    it.intake.deliver([one], "b")
    await asyncio.sleep(0.1)
    it.intake.discard_pending("b", {})
    it.tables.refusal = ""
    it.intake.deliver([two], "b")  # what it waits for lies behind it in the stream
    async with asyncio.timeout(10):
        await it.intake.backpressure("b", 10)


@in_virtual_time
async def test_nothing_is_held_once_what_ran_ahead_is_gone() -> None:
    """Found by seed 795938965: the region's database went back before what its clock had kept waiting."""
    it = await opened(stuck_s=2.0)
    it.intake.deliver([stamped("b", 1, it.now_ms + 60_000)], "b")
    await asyncio.sleep(0.1)
    assert it.intake.held is not None
    it.intake.discard_pending("b", {})
    it.intake.deliver([stamped("b", 2, it.now_ms)], "b")  # what it waits for lies behind it in the stream
    async with asyncio.timeout(10):
        await it.intake.backpressure("b", 10)
    assert it.intake.held is None
