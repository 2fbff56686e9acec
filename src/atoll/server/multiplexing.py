"""`POST /v1/multiplex`: many requests in one HTTP exchange, each answered as soon as it can be.

Where a client has many calls under way, exchanges cost more than what is asked for. What comes together also
reaches the commit door together.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from atoll import multiplex
from atoll.errors import MalformedRequest
from atoll.multiplex import Answered, Asked
from atoll.server.exchange import Exchange, Receive, Scope, Send

_STREAMS = ("/v1/changes", multiplex.PATH)
App = Callable[[Scope, Receive, Send], Awaitable[None]]


async def answer(exchange: Exchange, app: App) -> None:
    """Raises MalformedRequest, TooLarge, ClientGone."""
    asked = multiplex.decode_asked(await exchange.body(multiplex.MOST_BYTES))
    await exchange.begin_stream(multiplex.CONTENT_TYPE.encode())
    finished: list[bytes] = []
    more = asyncio.Event()

    async def one(number: int, request: Asked) -> None:
        finished.append(multiplex.encode_answered(await _answered(number, request, app)))
        more.set()

    async with asyncio.TaskGroup() as group:
        for number, request in enumerate(asked):
            group.create_task(one(number, request))
        left = len(asked)
        while left:
            await more.wait()
            more.clear()
            left -= len(finished)
            piece = b"".join(finished)
            finished.clear()
            await exchange.piece(piece)
    await exchange.end()


async def _answered(number: int, request: Asked, app: App) -> Answered:
    """As the application answers the request alone."""
    inner = _Inner(request)
    if request.path.startswith("/v1/") and not request.path.startswith(_STREAMS) and inner.scope is not None:
        await app(inner.scope, inner.receive, inner.send)
    else:
        refused = MalformedRequest(f"{request.method[:20]} {request.path[:200]} cannot be asked with others")
        await Exchange({"method": "GET", "path": "/", "headers": []}, inner.receive, inner.send).refuse(
            refused
        )
    return Answered(number, inner.status, inner.headers, inner.body)


class _Inner:
    """One request as its own exchange over ASGI."""

    __slots__ = ("_request", "body", "headers", "scope", "status")

    def __init__(self, request: Asked) -> None:
        self._request = request
        self.status = 500
        self.headers: dict[str, str] = {}
        self.body = b""
        self.scope = _scope(request)

    async def receive(self) -> MutableMapping[str, Any]:
        return {"type": "http.request", "body": self._request.body, "more_body": False}

    async def send(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {
                name.decode("latin-1"): value.decode("latin-1") for name, value in message["headers"]
            }
        else:
            self.body += message["body"]


def _scope(request: Asked) -> Scope | None:
    """None for what no HTTP request could hold."""
    try:
        return {
            "type": "http",
            "method": request.method,
            "path": request.path,
            "raw_path": request.path.encode("ascii"),
            "query_string": request.query.encode("ascii"),
            "headers": [
                (name.encode("latin-1"), value.encode("latin-1")) for name, value in request.headers.items()
            ],
        }
    except UnicodeEncodeError:
        return None
