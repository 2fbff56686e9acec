"""A client's connection: how long a request may take to arrive, how large its head may be, and who goes first.

A node has as many connections as descriptors. One that has sent half a request, or nothing, or reads no answer, costs
its client nothing. So time-outs end it, and it is the first to go when the places, or the memory for answers, are
taken. What peers, operators and health checks ask is served on the last places, which no client may have.
"""

from __future__ import annotations

import asyncio
import re
import resource
from typing import Any, Literal
from urllib.parse import unquote

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from atoll.errors import AtollError, HeadTooLarge, MalformedRequest, Overloaded, RequestTimeout
from atoll.http.exchange import Exchange, Receive, Scope, Send
from atoll.http.problems import CONTENT_TYPE, problem

IDLE_S = 75
"""A connection without a request under way is closed after this."""
HEAD_S = 20.0
"""For a head, from its first byte; and for the first byte of a new connection."""
BODY_S = 30.0
"""For a body, and one second more for each `_BYTES_PER_S` that have arrived."""
_BYTES_PER_S = 4096
UNREAD_S = 120.0
"""An answer of which the client takes nothing for so long is cut off."""
UNREAD_BYTES = 256 << 20
"""Of the answers that wait for clients to read, together; beyond it the longest wait is cut off."""
HEAD_BYTES = 32 << 10
_COPIED_BYTES = 16 << 10
"""A body up to this is copied behind its head, so that they are sent in one piece."""
_MOST_DESCRIPTORS = 65_536
_ABSOLUTE = re.compile(rb"(?i)https?://([^/?#]+)(.*)")
_CLIENTS = b"/v1"
"""Where clients ask; all other paths are for peers, operators and health checks."""


def raise_descriptors() -> None:
    """Let this process have the descriptors that it may have: the customary limit is for programs with `select`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _MOST_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class Places:
    """The connections that one node takes at once."""

    def __init__(self, most: int, kept: int) -> None:
        """`kept` of the `most` places are not for clients."""
        self.taken = 0
        self.waiting: dict[Connection, None] = {}
        """The connections that wait for their client, the one that has waited longest in front."""
        self._unread: dict[Connection, int] = {}
        """Bytes that wait for a client to read them, likewise."""
        self._unread_bytes = 0
        self._most = most
        self._clients = most - kept

    @classmethod
    def of_process(cls) -> Places:
        """What the limit of descriptors allows, less what the store and the links of the region need."""
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft == resource.RLIM_INFINITY:
            soft = _MOST_DESCRIPTORS
        most = max(16, soft - max(64, soft // 8))
        return cls(most, max(8, most // 16))

    @property
    def crowded(self) -> bool:
        """Whether only the places are left that are kept."""
        return self.taken > self._clients

    def enter(self, connection: Connection) -> bool:
        """Take a place, if need be that of the connection that has waited longest. False when there is none."""
        self.taken += 1
        if self.taken > self._clients and self.waiting:
            longest = next(iter(self.waiting))
            del self.waiting[longest]
            longest.transport.abort()
        if self.taken > self._most:
            return False
        self.waiting[connection] = None
        return True

    def leave(self, connection: Connection) -> None:
        self.taken -= 1
        self.waiting.pop(connection, None)
        self.read(connection)

    def unread(self, connection: Connection, size_bytes: int) -> None:
        """Its client does not read: if need be, cut off those that have not for longer."""
        self._unread[connection] = size_bytes
        self._unread_bytes += size_bytes
        while self._unread_bytes > UNREAD_BYTES and len(self._unread) > 1:
            longest = next(iter(self._unread))
            self.read(longest)
            longest.transport.abort()

    def read(self, connection: Connection) -> None:
        """Its client reads again, or is gone."""
        self._unread_bytes -= self._unread.pop(connection, 0)


class _Cycle(RequestResponseCycle):
    """One request and its answer. `App` gives names of headers in lower case, and a length unless it streams."""

    _head = b""
    """Goes out with the first bytes of the body."""

    async def send(self, message: Any) -> None:
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        if message["type"] == "http.response.start":
            self._begin(message["status"], message["headers"])
        elif not self.response_started or self.response_complete:
            raise RuntimeError("a body belongs between its head and its end")
        else:
            self._go_on(message["body"], more=message.get("more_body", False))

    def _begin(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        if self.response_started:
            raise RuntimeError("an answer has one head")
        lines = list(map(b": ".join, self.default_headers + headers))
        if b"connection: close" in lines:
            self.keep_alive = False
        elif not self.keep_alive:
            lines.append(b"connection: close")
        head = STATUS_LINE[status] + b"\r\n".join(lines)
        if not head.count(b"\r") == head.count(b"\n") == len(lines):
            raise RuntimeError("a header holds a line break")
        measured = b"\r\ncontent-length: " in head
        self.chunked_encoding = not measured and status not in (204, 304) and self.scope["method"] != "HEAD"
        if self.scope["http_version"] == "1.0":  # it knows no chunks: the answer ends with its connection
            self.chunked_encoding = False
        if self.chunked_encoding:
            head += b"\r\ntransfer-encoding: chunked"
        self.response_started = True
        self.waiting_for_100_continue = False
        self._head = head + b"\r\n\r\n"
        if not measured:
            self._write(b"")

    def _go_on(self, body: bytes, *, more: bool) -> None:
        if self.scope["method"] == "HEAD":
            body = b""
        elif self.chunked_encoding and len(body) > _COPIED_BYTES:
            self._write(b"%x\r\n" % len(body))
            self.transport.write(body)
            body = b"\r\n" if more else b"\r\n0\r\n\r\n"
        elif self.chunked_encoding:
            body = (b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + (b"" if more else b"0\r\n\r\n")
        self._write(body)
        if not more:
            self.response_complete = True
            self.message_event.set()
            if not self.keep_alive:
                self.transport.close()
            self.on_response()

    def _write(self, body: bytes) -> None:
        head, self._head = self._head, b""
        if len(body) > _COPIED_BYTES:
            self.transport.write(head)
            head = b""
        self.transport.write(head + body if head else body)


class Connection(HttpToolsProtocol):
    """Of one client. `places` is shared by all of a node's."""

    def __init__(self, places: Places, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._places = places
        self._part: Literal["head", "body", "idle", ""] = "head"
        """What of a request is expected to arrive; empty while an answer is under way."""
        self._received = 0
        """Bytes of that part, about."""
        self._since_s: float | None = None
        """When its time began, by the event loop's clock. None while the client is waited for no longer."""
        self._timer: asyncio.TimerHandle | None = None
        """Comes when that time is over, or earlier: it is not set anew for each request."""
        self._unread: asyncio.TimerHandle | None = None
        """Set while an answer waits for its client to read it."""
        self._refusal: AtollError | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn does
        super().connection_made(transport)
        if self._places.enter(self):
            self._await(HEAD_S)
        else:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._places.leave(self)
        for timer in (self._timer, self._unread):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    # -- what uvicorn and its parser call --------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        self._received += len(data)
        if self._part == "idle":
            self._part, self._since_s = "head", None
        while data:
            try:
                self.parser.feed_data(data)
                break
            except httptools.HttpParserUpgrade as offer:
                data = self._not_upgraded(data[offer.args[0] :])
            except httptools.HttpParserError as error:
                self._refuse(self._refusal or MalformedRequest(f"the request is not HTTP/1.1: {error}"))
                return
        if self._part in ("head", "body"):
            self._arriving()

    def _not_upgraded(self, rest: bytes) -> bytes:
        """Nothing is upgraded here: the request is read again without the offer, and with its body."""
        method, version = self.parser.get_method(), self.parser.get_http_version().encode()
        if method == b"CONNECT":
            self._refuse(MalformedRequest("CONNECT is for proxies, and this is none"))
            return b""
        lines = [b"%b %b HTTP/%b" % (method, self.url, version)]
        lines += [b"%b: %b" % header for header in self.headers if header[0] != b"upgrade"]
        data = b"\r\n".join(lines) + b"\r\n\r\n" + rest
        self._received = len(data)
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        return data

    def on_message_begin(self) -> None:
        self.url, self.headers, self.expect_100_continue = b"", [], False
        self._part, self._since_s = "head", None

    def on_headers_complete(self) -> None:
        parser, url, headers = self.parser, self.url, self.headers
        if parser.should_upgrade():
            return  # it stops here: see `_not_upgraded`
        if self._received > HEAD_BYTES:  # with what came of the body in the same piece
            self._check_head(len(url) + sum(len(name) + len(value) + 4 for name, value in headers))
        self._received, self._part = 0, "body"
        self.headers = []  # for trailers, which count for nothing
        if url[:1] != b"/" and (found := _ABSOLUTE.fullmatch(url)):
            # It names the host, and the header counts for nothing (RFC 9112, section 3.2.2).
            url = found[2] if found[2].startswith(b"/") else b"/" + found[2]
            headers[:] = [(name, found[1] if name == b"host" else value) for name, value in headers]
        path, _, query = url.partition(b"?")
        version = parser.get_http_version()
        if version not in ("1.1", "1.0") or b"#" in url or (path[:1] != b"/" and path != b"*"):
            self._refusal = MalformedRequest(
                f"the request line holds a path without a fragment (write %23 for #) and HTTP/1.1, not {version}"
            )
            raise self._refusal
        before = self.cycle
        self.scope = {
            "type": "http",
            "asgi": {"version": self.asgi_version, "spec_version": "2.3"},
            "http_version": version,
            "method": parser.get_method().decode("ascii"),
            "scheme": "http",
            "path": unquote(path.decode("ascii")),
            "raw_path": path,
            "query_string": query,
            "root_path": "",
            "headers": headers,
            "client": self.client,
            "server": self.server,
        }
        self.cycle = _Cycle(
            self.scope,
            self.transport,
            self.flow,
            self.logger,
            self.access_logger,
            access_log=False,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue,
            keep_alive=version != "1.0" and parser.should_keep_alive(),
            on_response=self.on_response_complete,
        )
        app: Any = _refuse_client if self._places.crowded and url.startswith(_CLIENTS) else self.app
        if before is None or before.response_complete:
            self._start_asgi_task(self.cycle, app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, app))

    def on_message_complete(self) -> None:
        if self._part == "head":
            return  # an offer to upgrade
        self._part, self._received, self._since_s = "", 0, None
        if self.cycle.response_complete:  # before its body was here
            self._idle()
        else:
            self._places.waiting.pop(self, None)
            self.cycle.more_body = False
            self.cycle.message_event.set()

    def on_response_complete(self) -> None:
        if self.transport.is_closing():
            self._close()
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        elif self._part:
            self._places.waiting[self] = None
        else:
            self._idle()

    def pause_writing(self) -> None:
        self._places.waiting[self] = None
        self._places.unread(self, self._await_reading())
        super().pause_writing()

    def resume_writing(self) -> None:
        if not self._part:
            self._places.waiting.pop(self, None)
        self._places.read(self)
        if self._unread is not None and not self.transport.is_closing():
            self._unread.cancel()
            self._unread = None
        super().resume_writing()

    # -- bounds ----------------------------------------------------------------------------------------

    def _check_head(self, size_bytes: int) -> None:
        """Raises HeadTooLarge. The parser passes it on as an error of its own."""
        if size_bytes > HEAD_BYTES:
            self._refusal = HeadTooLarge(
                f"path, query and headers have more than {HEAD_BYTES} bytes", limit_bytes=HEAD_BYTES
            )
            raise self._refusal

    def _idle(self) -> None:
        """No request is under way."""
        self._places.waiting[self] = None
        self._part = "idle"
        self._await(IDLE_S)

    def _arriving(self) -> None:
        """Something is not yet here in full."""
        if self.transport.is_closing():
            return
        if self._part == "head":
            try:
                self._check_head(self._received)
            except HeadTooLarge as error:
                self._refuse(error)
                return
        if self._since_s is None:
            self._await(HEAD_S if self._part == "head" else BODY_S)

    def _await(self, bound_s: float) -> None:
        """The client has so long from now on."""
        self._since_s = self.loop.time()
        if self._timer is not None:
            if self._timer.when() <= self._since_s + bound_s:
                return
            self._timer.cancel()
        self._timer = self.loop.call_later(bound_s, self._look)

    def _look(self) -> None:
        """Whether what has not arrived by now may still take its time."""
        self._timer = None
        if self._since_s is None:
            return
        bound_s = {"head": HEAD_S, "body": BODY_S + self._received / _BYTES_PER_S}.get(self._part, IDLE_S)
        answering = self._part == "head" and self.cycle is not None and not self.cycle.response_complete
        if self.flow.read_paused or answering:  # it is this side that lets the client wait
            self._since_s = self.loop.time()
        left_s = self._since_s + bound_s - self.loop.time()
        if left_s > 0:
            self._timer = self.loop.call_later(left_s, self._look)
        elif self._part == "idle":
            self._close()
        else:
            what = f"the {self._part} of the request has not arrived within {bound_s:.0f} s"
            self._refuse(RequestTimeout(what))

    def _refuse(self, error: AtollError) -> None:
        """Say why, unless an answer is under way or was given, and close."""
        cycle = self.cycle
        if cycle is None or (cycle.response_complete if self._part == "head" else not cycle.response_started):
            status, body = problem(error)
            head = b"content-type: %b\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
            common = b"".join(b"%b: %b\r\n" % each for each in self.server_state.default_headers)
            self.transport.write(STATUS_LINE[status] + common + head % (CONTENT_TYPE, len(body)) + body)
        self._close()

    def _await_reading(self, before: int | None = None) -> int:
        """How many bytes wait; none may wait for ever, be the connection closed or not."""
        self._unread = None
        waiting = self.transport.get_write_buffer_size()
        if waiting == before:
            self.transport.abort()
        elif waiting:
            self._unread = self.loop.call_later(UNREAD_S, self._await_reading, waiting)
        return waiting

    def _close(self) -> None:
        """Once the client has read what was written."""
        self.transport.close()
        if self._unread is None:
            self._await_reading()


async def _refuse_client(scope: Scope, receive: Receive, send: Send) -> None:
    """The answer on a place that is kept for others."""
    error = Overloaded("all connections that clients may have are taken; use fewer, or ask another region")
    await Exchange(scope, receive, send).refuse(error, [(b"connection", b"close")])
