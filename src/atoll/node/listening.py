"""A region's port: bound first, served later, closed without holding anything up."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import Iterator
from functools import partial

import uvicorn

from atoll.config.config import Config
from atoll.errors import ConfigError
from atoll.http.app import App
from atoll.node.connection import IDLE_S, Connection, Places

_BACKLOG = 2048


class _Server(uvicorn.Server):
    """Leaves signals to the embedding process, and reports when it is up."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.up.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Listener:
    """Set `app`, then `start` and `stop` it."""

    def __init__(self, listening: socket.socket) -> None:
        self.app: App | None = None
        self._socket = listening
        self._server: _Server | None = None
        self._task: asyncio.Task[None] | None = None

    @classmethod
    def bound(cls, config: Config, region: str, node: int = 1) -> Listener:
        """Take the node's port. Raises ConfigError when it is in use, and for an https:// address."""
        placed = config.member(region)
        host, port = placed.address(node)
        url = (placed.nodes or (placed.url,))[node - 1]
        where = f"{config.source}: region {region}"
        if url.startswith("https:"):
            raise ConfigError(
                f"{where} cannot listen at {url}: it serves plain HTTP. Let a proxy end TLS: keep this as its url, and"
                f' give the address where the region listens behind it, such as nodes = ["http://127.0.0.1:{port}"]'
            )
        return cls(_bind(host, port, where))

    async def start(self) -> None:
        """Return once requests are taken."""
        self._server = _Server(
            uvicorn.Config(
                self.app,  # type: ignore[arg-type]
                log_level="warning",
                access_log=False,
                lifespan="off",
                ws="none",
                http=partial(Connection, Places.of_process()),  # type: ignore[arg-type] # it is called, no more
                proxy_headers=False,
                server_header=False,
                date_header=True,
                timeout_keep_alive=IDLE_S,
                timeout_graceful_shutdown=5,
            )
        )
        self._task = asyncio.create_task(self._server.serve(sockets=[self._socket]))
        up = asyncio.create_task(self._server.up.wait())
        await asyncio.wait({up, self._task}, return_when=asyncio.FIRST_COMPLETED)
        up.cancel()

    async def stop(self) -> None:
        """Finish what is being answered; the application ends its streams itself (`App.closing`)."""
        if self._server is not None and self._task is not None:
            self._server.should_exit = True
            await asyncio.gather(self._task, return_exceptions=True)
        self.close()

    def close(self) -> None:
        self._socket.close()


def _bind(host: str, port: int, where: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(_BACKLOG)
    except OSError as error:
        listening.close()
        reason = (
            "is in use by another process"
            if error.errno == errno.EADDRINUSE
            else f"cannot be opened: {error}"
        )
        raise ConfigError(
            f"{where}: {host}:{port} {reason}; end it, or give the region another url"
        ) from error
    listening.setblocking(False)
    return listening
