"""A client transport that calls the region's own HTTP application, with no socket in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, MutableMapping
from contextlib import asynccontextmanager
from typing import Any

from atoll.client.transport import Request, Response, Stream
from atoll.http import direct
from atoll.http.app import App
from atoll.http.exchange import Scope

_QUEUED_CHUNKS = 16


class AsgiTransport:
    """Implements `client.transport.Transport`."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def send(self, request: Request) -> Response:
        return await direct.ask(self._app, _scope(request), request.body)

    @asynccontextmanager
    async def stream(self, request: Request) -> AsyncIterator[Stream]:
        queue: asyncio.Queue[MutableMapping[str, Any] | None] = asyncio.Queue(_QUEUED_CHUNKS)
        left = asyncio.Event()

        async def run() -> None:
            try:
                await self._app(_scope(request), direct.receiving(request.body, left), queue.put)
            finally:
                await queue.put(None)

        async def chunks() -> AsyncIterator[bytes]:
            while (message := await queue.get()) is not None:
                if message.get("body"):
                    yield message["body"]
                if not message.get("more_body"):
                    return

        task = asyncio.create_task(run())
        try:
            head = await queue.get()
            if head is None:
                await task
                raise RuntimeError("the region's application ended without an answer")
            yield Stream(head["status"], direct.headers_of(head), chunks())
        finally:
            left.set()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def close(self) -> None:
        """Nothing is held."""

    def forget(self) -> None:
        """Nothing is held."""


def _scope(request: Request) -> Scope:
    return direct.scope_of(request.method, request.path, request.query, request.headers)
