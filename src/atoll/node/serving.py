"""Serve one region over HTTP, until a signal ends it."""

from __future__ import annotations

import asyncio
import gc
import signal
from collections.abc import Callable

from atoll.config.config import Config
from atoll.node.connection import raise_descriptors
from atoll.node.listening import Listener
from atoll.node.node import Node

_GC_THRESHOLD = 50_000


async def serve(
    config: Config, region: str, ready: Callable[[], None] = lambda: None, node_number: int = 1
) -> None:
    """Run until SIGINT or SIGTERM; `ready` is called once requests are taken.

    Raises ConfigError, StoreLocked, StoreUnwritable.
    """
    listener = Listener.bound(config, region, node_number)
    ended = asyncio.Event()
    try:
        async with Node(config, region, number=node_number) as node:
            listener.app = node.app
            loop = asyncio.get_running_loop()
            for each in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(each, ended.set)
            await listener.start()
            ready()
            await ended.wait()
            node.app.closing.set()
            await listener.stop()
    finally:
        listener.close()


def run(config: Config, region: str, ready: Callable[[], None] = lambda: None, node_number: int = 1) -> None:
    """`serve` on a fast event loop, in a process of its own."""
    import uvloop

    raise_descriptors()
    # A batch makes thousands of small objects without cycles: collecting after every 700 of them is waste.
    gc.freeze()
    gc.set_threshold(_GC_THRESHOLD, 20, 20)
    uvloop.run(serve(config, region, ready, node_number))
