"""Serve one region over HTTP, until a signal ends it. SIGHUP takes up a changed atoll.toml."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable
from pathlib import Path

from atoll.config.config import Config, load_config
from atoll.errors import AtollError
from atoll.node.connection import raise_descriptors
from atoll.node.listening import Listener
from atoll.node.node import Node
from atoll.store.collector import collect_rarely

logger = logging.getLogger("atoll.node")


async def serve(
    config: Config, region: str, ready: Callable[[], None] = lambda: None, node_number: int = 1
) -> None:
    """Run until SIGINT or SIGTERM; `ready` is called once requests are taken. SIGHUP reads the configuration again.

    Raises ConfigError, StoreLocked, StoreUnwritable.
    """
    listener = Listener.bound(config, region, node_number)
    ended, changed = asyncio.Event(), asyncio.Event()
    try:
        async with Node(config, region, number=node_number) as node:
            listener.app = node.app
            loop = asyncio.get_running_loop()
            for each in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(each, ended.set)
            loop.add_signal_handler(signal.SIGHUP, changed.set)
            await listener.start()
            following = asyncio.create_task(_follow(node, Path(config.source), changed), name="configuration")
            ready()
            await ended.wait()
            following.cancel()
            node.app.closing.set()
            await listener.stop()
    finally:
        listener.close()


async def _follow(node: Node, source: Path, changed: asyncio.Event) -> None:
    """Take up the file each time that it is said to have changed. What a node cannot follow changes nothing."""
    while True:
        await changed.wait()
        changed.clear()
        try:
            await node.follow(load_config(source))
        except AtollError as error:
            logger.error("%s goes on as before: %s", node.region.name, error.message)
        else:
            logger.warning("%s follows %s: %s", node.region.name, source, ", ".join(node.region.regions))


def run(config: Config, region: str, ready: Callable[[], None] = lambda: None, node_number: int = 1) -> None:
    """`serve` on a fast event loop, in a process of its own."""
    import uvloop

    raise_descriptors()
    collect_rarely()
    uvloop.run(serve(config, region, ready, node_number))
