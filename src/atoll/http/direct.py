"""Requests to the application from within its own process: by an embedded client, or out of another request."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any
from urllib.parse import unquote

from atoll.client.transport import Response
from atoll.http.exchange import Receive, Scope, Send

App = Callable[[Scope, Receive, Send], Awaitable[None]]


async def ask(app: App, scope: Scope, body: bytes) -> Response:
    """One exchange over ASGI."""
    head: MutableMapping[str, Any] = {}
    chunks: list[bytes] = []

    async def send(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            head.update(message)
        else:
            chunks.append(message.get("body", b""))

    await app(scope, receiving(body, asyncio.Event()), send)
    return Response(head["status"], headers_of(head), b"".join(chunks))


def scope_of(method: str, path: str, query: str, headers: Mapping[str, str]) -> Scope:
    """`path` and `query` are percent-encoded. Raises UnicodeEncodeError where they, or the headers, cannot be."""
    return {
        "type": "http",
        "method": method,
        "path": unquote(path),
        "raw_path": path.encode("ascii"),
        "query_string": query.encode("ascii"),
        "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()],
    }


def receiving(body: bytes, left: asyncio.Event) -> Receive:
    """The whole body at once; then that the client has `left`."""
    sent = False

    async def receive() -> MutableMapping[str, Any]:
        nonlocal sent
        if not sent:
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}
        await left.wait()
        return {"type": "http.disconnect"}

    return receive


def headers_of(head: MutableMapping[str, Any]) -> dict[str, str]:
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in head["headers"]}
