from __future__ import annotations

import asyncio

import pytest

from atoll.replication.signal import Signal

from ..virtual_time import in_virtual_time, turns


@in_virtual_time
async def test_everyone_who_waits_is_woken() -> None:
    signal = Signal()
    waiting = [asyncio.ensure_future(signal.wait()) for _ in range(3)]
    await turns()
    assert not any(task.done() for task in waiting)
    signal.notify()
    await asyncio.gather(*waiting)


@in_virtual_time
async def test_an_event_wakes_only_who_waited_before_it() -> None:
    signal = Signal()
    signal.notify()
    late = asyncio.ensure_future(signal.wait())
    await turns()
    assert not late.done()
    signal.notify()
    await late
    assert signal.count == 2


@in_virtual_time
async def test_the_count_tells_what_was_missed() -> None:
    signal = Signal()
    before = signal.count
    signal.notify()
    signal.notify()
    assert signal.count == before + 2


@in_virtual_time
async def test_who_gives_up_is_forgotten() -> None:
    signal = Signal()
    given_up = asyncio.ensure_future(signal.wait())
    other = asyncio.ensure_future(signal.wait())
    await turns()
    given_up.cancel()
    signal.notify()
    await other
    with pytest.raises(asyncio.CancelledError):
        await given_up


@in_virtual_time
async def test_a_waiter_may_wait_again_at_once() -> None:
    signal = Signal()
    seen: list[int] = []

    async def follow() -> None:
        while True:
            await signal.wait()
            seen.append(signal.count)

    task = asyncio.ensure_future(follow())
    for _ in range(3):
        await turns()
        signal.notify()
    await turns()
    task.cancel()
    assert seen == [1, 2, 3]
