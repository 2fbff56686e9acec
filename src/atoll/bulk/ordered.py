"""Many things done at once, those of one key in their order."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


async def each_in_order(
    do: Callable[[int, T], Awaitable[None]],
    items: Sequence[T],
    key_of: Callable[[T], str],
    *,
    at_once: int,
) -> None:
    """`do(number, item)` for each item, counted from 0.

    Nothing begins after a failure, and nothing goes on once this has returned. Raises the first failure.
    """
    by_key: defaultdict[str, list[tuple[int, T]]] = defaultdict(list)
    for number, item in enumerate(items):
        by_key[key_of(item)].append((number, item))
    room = asyncio.Semaphore(at_once)
    failures: list[Exception] = []

    async def of_key(rest: list[tuple[int, T]]) -> None:
        async with room:
            for number, item in rest:
                if failures:
                    return
                try:
                    await do(number, item)
                except Exception as error:
                    failures.append(error)

    await asyncio.gather(*map(of_key, by_key.values()))
    if failures:
        raise failures[0]
