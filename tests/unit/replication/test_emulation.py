from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest

from atoll.errors import RegionUnreachable
from atoll.replication.emulation import Emulation

from ..virtual_time import in_virtual_time


def now_s() -> float:
    return asyncio.get_running_loop().time()


async def chunks_every(seconds: float, count: int) -> AsyncIterator[bytes]:
    for number in range(count):
        yield b"%d" % number
        await asyncio.sleep(seconds)
    await asyncio.Event().wait()


async def arrivals(
    emulation: Emulation, source: AsyncIterator[bytes], count: int
) -> list[tuple[float, bytes]]:
    found: list[tuple[float, bytes]] = []
    async with aclosing(emulation.delayed("b", source)) as stream:
        async for chunk in stream:
            found.append((round(now_s(), 3), chunk))
            if len(found) == count:
                break
    return found


@in_virtual_time
async def test_a_way_takes_its_time() -> None:
    emulation = Emulation("a", lambda peer: 0.115 if peer == "b" else 0.0)
    await emulation.travel("b")
    assert now_s() == pytest.approx(0.115)
    await emulation.travel("unknown")
    assert now_s() == pytest.approx(0.115)


@in_virtual_time
async def test_chunks_arrive_one_way_later_and_side_by_side() -> None:
    emulation = Emulation("a", lambda _: 1.0)
    assert await arrivals(emulation, chunks_every(0.1, 3), 3) == [(1.0, b"0"), (1.1, b"1"), (1.2, b"2")]


@in_virtual_time
async def test_a_changed_delay_holds_for_what_is_sent_from_then_on() -> None:
    emulation = Emulation("a", lambda _: 1.0)
    emulation.delay("b", 0.25)
    assert (emulation.one_way_s("b"), emulation.one_way_s("c")) == (0.25, 1.0)
    assert await arrivals(emulation, chunks_every(0.0, 1), 1) == [(0.25, b"0")]


@in_virtual_time
async def test_a_cut_peer_is_out_of_reach_until_healed() -> None:
    emulation = Emulation("a", lambda _: 0.1)
    emulation.partition("b", cut=True)
    assert emulation.cut == ("b",)
    with pytest.raises(RegionUnreachable, match="cut"):
        await emulation.travel("b")
    emulation.partition("b", cut=False)
    await emulation.travel("b")
    assert emulation.cut == ()


@in_virtual_time
async def test_a_cut_on_the_way_loses_what_travels() -> None:
    emulation = Emulation("a", lambda _: 1.0)
    asyncio.get_running_loop().call_later(0.5, emulation.partition, "b", True)
    with pytest.raises(RegionUnreachable, match="cut"):
        await emulation.travel("b")


@in_virtual_time
async def test_a_cut_ends_an_open_stream_at_once() -> None:
    emulation = Emulation("a", lambda _: 0.1)
    asyncio.get_running_loop().call_later(5.0, emulation.partition, "b", True)
    with pytest.raises(RegionUnreachable, match="cut"):
        await arrivals(emulation, chunks_every(0.01, 2), 99)
    assert now_s() == pytest.approx(5.0)


@in_virtual_time
async def test_a_stream_that_fails_fails_here() -> None:
    async def failing() -> AsyncIterator[bytes]:
        yield b"0"
        raise RegionUnreachable("gone")

    with pytest.raises(RegionUnreachable, match="gone"):
        await arrivals(Emulation("a", lambda _: 0.0), failing(), 2)


@in_virtual_time
async def test_a_reader_that_stops_leaves_nothing_running() -> None:
    await arrivals(Emulation("a", lambda _: 1.0), chunks_every(0.0, 200), 1)
    assert asyncio.all_tasks() == {asyncio.current_task()}
