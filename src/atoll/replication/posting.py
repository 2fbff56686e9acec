"""POST requests to peers, over connections that are kept.

A peer is asked many times a second, with a message and a short answer. A client for everything takes a quarter of a
millisecond for that, which is more than the question itself. This one knows HTTP/1.1 with `Content-Length` and chunks.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import defaultdict
from collections.abc import Mapping
from functools import cache
from typing import NamedTuple, cast
from urllib.parse import urlsplit

import httptools

_PER_PEER = 64
"""Requests to one address that are on their way; further ones wait."""
_IDLE_S = 60
"""A peer closes what was idle for longer: a request that meets that may have arrived, or not."""


class NotConnected(OSError):
    """The peer has received nothing."""


class Answered(NamedTuple):
    status: int
    headers: Mapping[bytes, bytes]
    """By their names in small letters."""
    body: bytes


class _Place(NamedTuple):
    host: str
    port: int
    tls: bool
    shown: str
    """As the header `Host` has it."""


class _Line(asyncio.Protocol):
    """One connection, with one request at a time."""

    def __init__(self, most_bytes: int) -> None:
        self.kept = True
        """Whether it takes another request."""
        self.idle_since_s = 0.0
        self._most_bytes = most_bytes
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[Answered] | None = None
        self._begin()

    def ask(self, request: bytes) -> asyncio.Future[Answered]:
        """Raises OSError for what is no answer, or too long."""
        self._answer = asyncio.get_running_loop().create_future()
        if self._transport is None or not self.kept:
            self._fail(ConnectionResetError("the connection was closed"))
        else:
            self._transport.write(request)
        return self._answer

    def close(self) -> None:
        self.kept = False
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the methods of `asyncio.Transport` and are none.
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.kept = False
        self._fail(exc or ConnectionResetError("the peer closed the connection"))

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            cause = error.__context__
            self._fail(cause if isinstance(cause, OSError) else OSError(f"it answers no HTTP: {error}"))
            self.close()

    # -- the parser calls --------------------------------------------------------------------------------

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.lower()] = value

    def on_body(self, body: bytes) -> None:
        self._size += len(body)
        if self._size > self._most_bytes:
            raise OSError(f"the answer has more than {self._most_bytes} bytes")
        self._body.append(body)

    def on_message_complete(self) -> None:
        answer = Answered(self._parser.get_status_code(), self._headers, b"".join(self._body))
        self.kept = self.kept and self._parser.should_keep_alive()
        waiting, self._answer = self._answer, None
        self._begin()
        if waiting is None:
            self.close()  # nobody has asked
        elif not waiting.done():
            waiting.set_result(answer)

    def _begin(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._headers: dict[bytes, bytes] = {}
        self._body: list[bytes] = []
        self._size = 0

    def _fail(self, error: Exception) -> None:
        waiting, self._answer = self._answer, None
        if waiting is not None and not waiting.done():
            waiting.set_exception(error)


class Posting:
    """`close` it in the loop that used it."""

    def __init__(self, most_bytes: int) -> None:
        """Answers of more bytes are refused."""
        self._most_bytes = most_bytes
        self._idle: defaultdict[_Place, list[_Line]] = defaultdict(list)
        self._room: defaultdict[_Place, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(_PER_PEER))
        self._closed = False

    async def post(
        self, url: str, path: str, headers: Mapping[str, str], body: bytes, *, timeout_s: float
    ) -> Answered:
        """Raises NotConnected where nothing has left; OSError, TimeoutError where the peer may have acted."""
        place = _place(url)
        lines = [f"POST {path} HTTP/1.1", f"Host: {place.shown}", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        request = "\r\n".join([*lines, "", ""]).encode() + body
        connected = False
        try:
            async with asyncio.timeout(timeout_s), self._room[place]:
                line = await self._line(place)
                connected = True
                try:
                    return await line.ask(request)
                except BaseException:
                    line.close()
                    raise
                finally:
                    self._keep(place, line)
        except TimeoutError as error:
            if connected:
                raise
            raise NotConnected(f"no connection within {timeout_s} s") from error

    async def _line(self, place: _Place) -> _Line:
        """Raises NotConnected."""
        idle, loop = self._idle[place], asyncio.get_running_loop()
        while idle:
            line = idle.pop()
            if line.kept and loop.time() - line.idle_since_s < _IDLE_S:
                return line
            line.close()
        context = ssl.create_default_context() if place.tls else None
        try:
            _, line = await loop.create_connection(
                lambda: _Line(self._most_bytes), place.host, place.port, ssl=context
            )
        except OSError as error:
            raise NotConnected(str(error)) from error
        return line

    def _keep(self, place: _Place, line: _Line) -> None:
        if not line.kept or self._closed:
            line.close()
        else:
            line.idle_since_s = asyncio.get_running_loop().time()
            self._idle[place].append(line)

    async def close(self) -> None:
        self._closed = True
        for lines in self._idle.values():
            for line in lines:
                line.close()
        self._idle.clear()


@cache
def _place(url: str) -> _Place:
    parts = urlsplit(url)
    tls = parts.scheme == "https"
    return _Place(parts.hostname or "", parts.port or (443 if tls else 80), tls, parts.netloc)
