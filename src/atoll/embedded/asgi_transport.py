"""A client transport that calls the region's own HTTP application, with no socket in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, MutableMapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import unquote

from atoll.client.transport import Request, Response, Stream
from atoll.server.app import App

_QUEUED_PIECES = 16


class AsgiTransport:
    """Implements `client.transport.Transport`."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def send(self, request: Request) -> Response:
        head: MutableMapping[str, Any] = {}
        body: list[bytes] = []

        async def send(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                head.update(message)
            else:
                body.append(message.get("body", b""))

        await self._app(_scope(request), _receive(request.body, asyncio.Event()), send)
        return Response(head["status"], _headers(head), b"".join(body))

    @asynccontextmanager
    async def stream(self, request: Request) -> AsyncIterator[Stream]:
        queue: asyncio.Queue[MutableMapping[str, Any] | None] = asyncio.Queue(_QUEUED_PIECES)
        left = asyncio.Event()

        async def run() -> None:
            try:
                await self._app(_scope(request), _receive(request.body, left), queue.put)
            finally:
                await queue.put(None)

        async def pieces() -> AsyncIterator[bytes]:
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
            yield Stream(head["status"], _headers(head), pieces())
        finally:
            left.set()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def close(self) -> None:
        """Nothing is held."""


def _scope(request: Request) -> MutableMapping[str, Any]:
    return {
        "type": "http",
        "method": request.method,
        "path": unquote(request.path),
        "raw_path": request.path.encode(),
        "query_string": request.query.encode(),
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in request.headers.items()],
    }


def _receive(body: bytes, left: asyncio.Event) -> Any:
    sent = False

    async def receive() -> MutableMapping[str, Any]:
        nonlocal sent
        if not sent:
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}
        await left.wait()
        return {"type": "http.disconnect"}

    return receive


def _headers(head: MutableMapping[str, Any]) -> dict[str, str]:
    return {name.decode(): value.decode("latin-1") for name, value in head["headers"]}
