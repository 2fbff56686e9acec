"""Serve one region over HTTP, until a signal ends it."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable

import uvicorn

from atoll.config import Config
from atoll.errors import ConfigError
from atoll.node import Node

_BACKLOG = 2048


def bind(host: str, port: int, where: str) -> socket.socket:
    """Take the port before anything else is opened. Raises ConfigError when it is in use."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        reason = (
            "is in use by another process"
            if error.errno == errno.EADDRINUSE
            else f"cannot be opened: {error}"
        )
        raise ConfigError(
            f"{where}: {host}:{port} {reason}; end it, or give the region another url"
        ) from error
    listener.setblocking(False)
    return listener


async def serve(config: Config, region: str, ready: Callable[[], None] = lambda: None) -> None:
    """Run until SIGINT or SIGTERM; `ready` is called once requests are taken.

    Raises ConfigError, StoreLocked, StoreUnwritable.
    """
    host, port = config.region(region).address
    listener = bind(host, port, f"{config.source}: region {region}")
    try:
        async with Node(config, region) as node:
            server = uvicorn.Server(
                uvicorn.Config(
                    node.app,
                    log_level="warning",
                    access_log=False,
                    lifespan="off",
                    ws="none",
                    http="httptools",
                    loop="none",
                    proxy_headers=False,
                    server_header=False,
                    date_header=False,
                    timeout_keep_alive=75,
                    timeout_graceful_shutdown=5,
                    h11_max_incomplete_event_size=65_536,
                )
            )
            closing = asyncio.create_task(_close_with(server, node))
            try:
                ready()
                await server.serve(sockets=[listener])
            finally:
                closing.cancel()
    finally:
        listener.close()


async def _close_with(server: uvicorn.Server, node: Node) -> None:
    """Long streams must end for the server to end."""
    while not server.should_exit:
        await asyncio.sleep(0.1)
    node.app.closing.set()


def run(config: Config, region: str, ready: Callable[[], None] = lambda: None) -> None:
    """`serve` on a fast event loop."""
    import uvloop

    uvloop.run(serve(config, region, ready))
