"""`POST /v1/multiplex`: many requests in one HTTP exchange, each answered as soon as it can be.

Where a client has many calls under way, exchanges cost more than what is asked for. What comes together also
reaches the group commit together.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from atoll.client import multiplex
from atoll.client.multiplex import Answered, Asked
from atoll.errors import MalformedRequest
from atoll.http import bodies, direct
from atoll.http.common import BODY
from atoll.http.direct import App
from atoll.http.exchange import MULTIPLEXED, Exchange, Receive, Scope, Send
from atoll.http.route import Answer, Body, Route, Serving
from atoll.schema.bounds import MULTIPLEX_BYTES, PAGE_BYTES

_USUAL = frozenset(
    {"atoll-session", "content-type", "idempotency-key", "if-match", "if-none-match", "prefer"}
)
_FRAMING = frozenset({"content-length", "transfer-encoding"})
"""Headers that speak of a connection's bytes: a request within another one is framed by that."""


async def _answer(on: Serving, exchange: Exchange, at: Sequence[str]) -> None:
    asked = multiplex.decode_asked(await exchange.body(multiplex.MOST_BYTES))
    await exchange.begin_stream(multiplex.CONTENT_TYPE.encode())
    finished: list[bytes] = []
    more = asyncio.Event()
    room = _Room()

    async def one(number: int, request: Asked) -> None:
        reserved = _size_of_answer(request, on.region.bounds.document_bytes)
        if reserved:
            await room.take(reserved)
        app, scope = _addressed(request, on.app)
        answer = await direct.ask(app, scope, request.body)
        answered = multiplex.encode_answered(Answered(number, *answer))
        room.give(reserved - len(answered))
        finished.append(answered)
        more.set()

    async with asyncio.TaskGroup() as group:
        for number, request in enumerate(asked):
            group.create_task(one(number, request))
        left = len(asked)
        while left:
            await more.wait()
            more.clear()
            left -= len(finished)
            chunk = b"".join(finished)
            finished.clear()
            await exchange.chunk(chunk)
            room.give(len(chunk))
    await exchange.end()


class _Room:
    """For the answers of one exchange that its client has not taken yet."""

    def __init__(self) -> None:
        self._left_bytes = MULTIPLEX_BYTES
        self._given = asyncio.Event()

    async def take(self, size_bytes: int) -> None:
        while self._left_bytes <= 0:
            self._given.clear()
            await self._given.wait()
        self._left_bytes -= size_bytes

    def give(self, size_bytes: int) -> None:
        self._left_bytes += size_bytes
        self._given.set()


def _size_of_answer(request: Asked, document_bytes: int) -> int:
    """At most, about. Writes are not held up: they join one commit."""
    if request.method != "GET":
        return 0
    return document_bytes if request.path.count("/") > 2 else PAGE_BYTES


def _addressed(request: Asked, app: App) -> tuple[App, Scope]:
    """Who answers it, and as what: as the application answers the request alone."""
    try:
        return app, _scope_of(request)
    except UnicodeEncodeError:
        return _refuse, direct.scope_of("", "", "", {})


def _scope_of(request: Asked) -> Scope:
    """Raises UnicodeEncodeError for what no request line, or no header, can hold."""
    path, query, headers = request.path, request.query, request.headers
    if path[:1] != "/" or "?" in path or "#" in path or "#" in query or not (path + query).isprintable():
        raise UnicodeEncodeError("ascii", path, 0, 1, "not percent-encoded")
    if not _USUAL.issuperset(headers):
        lower = [(name.lower(), text) for name, text in headers.items()]
        headers = {
            name: ", ".join(t for n, t in lower if n == name) for name, _ in lower if name not in _FRAMING
        }
    scope = direct.scope_of(request.method, path, query, headers)
    if request.body:
        scope["headers"].append((b"content-length", b"%d" % len(request.body)))
    scope[MULTIPLEXED] = True
    return scope


async def _refuse(scope: Scope, receive: Receive, send: Send) -> None:
    error = MalformedRequest("path, query and headers have to be percent-encoded text")
    await Exchange(scope, receive, send).refuse(error)


ROUTES = (
    Route(
        method="POST",
        path=multiplex.PATH,
        name="multiplex",
        handler=_answer,
        access="public",
        meaning="up to 256 of these calls in one exchange (8 MiB). Each is answered as if it were alone, as soon as"
        " possible. `client/multiplex.py` defines the format",
        body=Body(bodies.BINARY, multiplex.CONTENT_TYPE),
        answers=(Answer("the answers, as they come", bodies.BINARY, media_type=multiplex.CONTENT_TYPE),),
        problems=(MalformedRequest, *BODY),
    ),
)
