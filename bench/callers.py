"""Callers in a process of their own, as an application's would be: concurrent tasks, each awaiting its answers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from statistics import quantiles
from time import perf_counter, perf_counter_ns
from typing import Any, TypeVar

import uvloop

T = TypeVar("T")
Call = Callable[[int], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class Calls:
    """What calls took. `started` is of `perf_counter`, which all processes of a machine share on Linux."""

    per_second: float
    p50_ms: float
    p99_ms: float
    started: float


def apart(work: Callable[..., Coroutine[Any, Any, T]], *arguments: object) -> T:
    """Run a coroutine function, from the top of a module, in a new process on uvloop; returns what it returns."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(_run, work, arguments).result()


def _run(work: Callable[..., Coroutine[Any, Any, T]], arguments: Sequence[object]) -> T:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work(*arguments))


async def drive(calls: Sequence[Call], numbers: Iterable[int]) -> Calls:
    """Each call with the next number as soon as its last one is answered, until the numbers are used up."""
    left = iter(numbers)
    took_ns: list[int] = []

    async def work(call: Call) -> None:
        for number in left:
            before = perf_counter_ns()
            await call(number)
            took_ns.append(perf_counter_ns() - before)

    started = perf_counter()
    await asyncio.gather(*(work(call) for call in calls))
    return taken(took_ns, started, perf_counter() - started)


def taken(took_ns: Sequence[int], started: float, elapsed: float) -> Calls:
    percentiles = quantiles(took_ns, n=100)
    return Calls(len(took_ns) / elapsed, percentiles[49] / 1e6, percentiles[98] / 1e6, started)
