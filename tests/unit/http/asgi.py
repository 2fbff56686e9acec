"""Requests to an ASGI application without a network."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

from atoll.http.exchange import Exchange


class Connection:
    """One request, its body in pieces, and everything that was answered."""

    def __init__(
        self,
        method: str = "GET",
        path: bytes = b"/",
        *chunks: bytes,
        query: bytes = b"",
        headers: dict[bytes, bytes] | None = None,
        cut: bool = False,
    ) -> None:
        """`cut`: the client goes away before its body is whole."""
        self.scope: dict[str, Any] = {
            "type": "http",
            "method": method,
            "raw_path": path,
            "path": path.decode("latin-1"),
            "query_string": query,
            "headers": list((headers or {}).items()),
        }
        self.sent: list[MutableMapping[str, Any]] = []
        bodies = chunks or (b"",)
        self._messages: list[dict[str, Any]] = [
            {"type": "http.request", "body": body, "more_body": cut or index < len(bodies) - 1}
            for index, body in enumerate(bodies)
        ]
        self._messages.append({"type": "http.disconnect"})
        self.exchange = Exchange(self.scope, self.receive, self.send)

    async def receive(self) -> MutableMapping[str, Any]:
        return self._messages.pop(0) if len(self._messages) > 1 else self._messages[0]

    async def send(self, message: MutableMapping[str, Any]) -> None:
        self.sent.append(message)

    @property
    def status(self) -> int:
        status: int = self.sent[0]["status"]
        return status

    @property
    def headers(self) -> dict[bytes, bytes]:
        return dict(self.sent[0]["headers"])

    @property
    def body(self) -> bytes:
        return b"".join(message["body"] for message in self.sent[1:])
