from __future__ import annotations

import asyncio

from bench.callers import apart, drive


async def doubled(number: int) -> int:
    await asyncio.sleep(0)
    return number * 2


def test_work_apart_returns_what_it_found() -> None:
    assert apart(doubled, 21) == 42


async def test_every_number_is_called_once_and_nobody_waits_for_another() -> None:
    called: list[tuple[str, int]] = []
    gate = asyncio.Event()

    async def slow(number: int) -> None:
        called.append(("slow", number))
        await gate.wait()

    async def quick(number: int) -> None:
        called.append(("quick", number))
        if number == 9:
            gate.set()

    calls = await drive([slow, quick], range(10))
    assert sorted(number for _, number in called) == list(range(10))
    assert called.count(("slow", 0)) == 1
    assert sum(who == "quick" for who, _ in called) == 9
    assert calls.per_second > 0
    assert calls.p50_ms <= calls.p99_ms
