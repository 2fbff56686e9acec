"""Time jumps, killed nodes stop where they stand, and nothing real gets in."""

from __future__ import annotations

import asyncio

import pytest

from atoll.testing.virtual_time import Life, Stalled, VirtualLoop, forbidding_real_time


def test_an_hour_passes_at_once() -> None:
    loop = VirtualLoop()
    loop.run_simulation(asyncio.sleep(3600))
    assert loop.time() == 3600


def test_waiting_for_what_cannot_come_is_noticed() -> None:
    async def wait() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(Stalled):
        VirtualLoop().run_simulation(wait())


def test_a_killed_node_runs_no_clean_up() -> None:
    loop = VirtualLoop()
    seen: list[str] = []

    async def node() -> None:
        try:
            await asyncio.sleep(1)
            seen.append("went on")
        finally:
            seen.append("cleaned up")

    async def main() -> list[str]:
        life = Life(loop, "tokyo", 1)
        life.spawn(node())
        await asyncio.sleep(0.5)
        loop.kill(life)
        await asyncio.sleep(5)
        return list(seen)

    assert loop.run_simulation(main()) == []
    assert seen == ["cleaned up"]  # disposed of after the end, so that nothing is left behind


def test_a_busy_node_does_nothing_else() -> None:
    loop = VirtualLoop()
    times: list[float] = []

    async def node() -> None:
        await asyncio.sleep(1)
        times.append(loop.time())

    async def main() -> None:
        life = Life(loop, "tokyo", 1)
        life.spawn(node())
        await asyncio.sleep(0.5)
        life.occupy(4)
        await asyncio.sleep(10)

    loop.run_simulation(main())
    assert times == [4.5]


def test_threads_take_no_time() -> None:
    loop = VirtualLoop()
    assert loop.run_simulation(asyncio.to_thread(lambda: "done")) == "done"
    assert loop.time() == 0


def test_exceptions_that_nobody_caught_are_kept() -> None:
    loop = VirtualLoop()

    async def main() -> None:
        loop.call_soon(lambda: 1 // 0)
        await asyncio.sleep(1)

    loop.run_simulation(main())
    assert "ZeroDivisionError" in loop.defects[0]


def test_atolls_own_code_cannot_ask_for_the_real_time() -> None:
    namespace = {"__name__": "atoll.somewhere"}
    exec("import time\ndef ask(): return time.time()", namespace)
    with forbidding_real_time(), pytest.raises(RuntimeError, match="would not replay"):
        namespace["ask"]()  # type: ignore[operator]
