"""One HTTP exchange over ASGI: bounded bodies in, whole responses out."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, MutableMapping
from contextlib import aclosing
from hashlib import blake2b
from typing import Any, TypeVar
from urllib.parse import unquote_to_bytes

import msgspec

from atoll.errors import AtollError, CursorExpired, InvalidKey, MalformedRequest, TooLarge, Unavailable
from atoll.http.parameters import check_escapes
from atoll.http.problems import CONTENT_TYPE, headers_of, problem
from atoll.schema.exact import decode_exactly
from atoll.schema.limits import check_members

logger = logging.getLogger("atoll.http")

T = TypeVar("T")
Headers = list[tuple[bytes, bytes]]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_TURN_BYTES = 256 << 10
"""Having sent so much, a stream lets others go on."""
MULTIPLEXED = "atoll.multiplexed"
"""In the scope of a request that came within another one."""
_JSON = (b"content-type", b"application/json")
_ONCE = frozenset(
    {b"atoll-session", b"atoll-seal", b"content-encoding", b"content-length", b"content-type", b"host"}
    | {b"idempotency-key", b"last-event-id", b"origin", b"traceparent"}
)
_TAG = re.compile(r'(?:W/)?"([!#-~\x80-\xff]*)"')
_TAGS = re.compile(rf"[\s,]*{_TAG.pattern}(?:\s*,[\s,]*{_TAG.pattern})*[\s,]*")


class ClientGone(Exception):
    """The client went away before its request was whole: nothing was done, nobody waits for an answer."""


class Exchange:
    """A request and the way to answer it."""

    __slots__ = ("_receive", "_scope", "_send", "arguments", "common", "headers", "method", "segments")

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        """By lower-case name."""
        self.arguments: Mapping[str, Any] = {}
        """The values of the route's query parameters, those included that were not given."""
        self.common: Headers = []
        """Sent with every answer."""
        self.method: str = scope["method"]
        raw: bytes = scope.get("raw_path") or scope["path"].encode()
        self.segments: list[bytes] = raw.split(b"?", 1)[0].split(b"/")[1:] or [raw]

    @property
    def shown(self) -> str:
        """For messages: method and path, cut short."""
        return f"{self.method[:20]} /{b'/'.join(self.segments)[:200].decode('latin-1')}"

    @property
    def multiplexed(self) -> bool:
        """Whether it came within another request."""
        return MULTIPLEXED in self._scope

    @property
    def http_version(self) -> str:
        """Empty for a request that came without a connection of its own."""
        found: str = self._scope.get("http_version", "")
        return found

    @property
    def query_string(self) -> bytes:
        raw: bytes = self._scope["query_string"]
        return raw

    def join_headers(self) -> None:
        """Make one of several lines of a field. Raises MalformedRequest where one that counts once is repeated."""
        given: list[tuple[bytes, bytes]] = self._scope["headers"]
        if len(self.headers) != len(given):
            self.headers = _joined(given)

    def header(self, name: bytes) -> str | None:
        """A request header by its lower-case name."""
        value = self.headers.get(name)
        return None if value is None else value.decode("latin-1")

    async def body(self, limit_bytes: int) -> bytes:
        """Raises TooLarge, ClientGone."""
        declared = self.header(b"content-length")
        if declared is not None and declared.isdecimal() and int(declared) > limit_bytes:
            raise TooLarge(
                f"the body has {declared} bytes; the limit is {limit_bytes}", limit_bytes=limit_bytes
            )
        chunks: list[bytes] = []
        left_bytes = limit_bytes
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            chunks.append(message.get("body", b""))
            left_bytes -= len(chunks[-1])
            if left_bytes < 0:
                raise TooLarge(f"the body has more than {limit_bytes} bytes", limit_bytes=limit_bytes)
            if not message.get("more_body"):
                return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def decode(self, kind: type[T], limit_bytes: int) -> T:
        """The body as JSON of this type. Raises MalformedRequest, which says what does not fit."""
        body = await self.body(limit_bytes)
        try:
            value = msgspec.json.decode(body, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise MalformedRequest(f"the body does not fit {self.shown}: {error}") from None
        check_members(body)
        return value

    def _start(self, status: int, headers: Headers) -> Awaitable[None]:
        if self.common:
            headers = [*headers, *self.common]
        return self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def answer(
        self,
        status: int,
        body: bytes,
        headers: Headers | None = None,
        content_type: tuple[bytes, bytes] = _JSON,
    ) -> None:
        sent = [content_type, (b"content-length", b"%d" % len(body))]
        if headers:
            sent += headers
        await self._start(status, sent)
        await self._send({"type": "http.response.body", "body": b"" if self.method == "HEAD" else body})

    async def answer_tagged(self, body: bytes, headers: Headers | None = None) -> None:
        """A good answer to a GET with an entity tag of its bytes; 304 where the caller has them."""
        tag = blake2b(body, digest_size=12).hexdigest()
        headers = [*(headers or ()), (b"etag", b'"' + tag.encode() + b'"')]
        if self.holds(tag):
            return await self.answer_nothing(304, headers)
        return await self.answer(200, body, headers)

    def holds(self, tag: str) -> bool:
        """Whether `If-None-Match` names this entity tag (RFC 9110, weak comparison). Raises MalformedRequest."""
        if b"if-none-match" not in self.headers:
            return False
        return not {"*", tag}.isdisjoint(self.tags(b"if-none-match"))

    def tags(self, name: bytes, *, strong: bool = False) -> list[str]:
        """The entity tags of a condition, without quotes; or `*`. `strong`: without the weak ones.

        Raises MalformedRequest.
        """
        value = self.headers[name].decode("latin-1")
        if value.strip() == "*":
            return ["*"]
        if not _TAGS.fullmatch(value):
            raise MalformedRequest(
                f"{name.decode()} takes versions in double quotes, as ETag gave them, with commas in between; or *"
            )
        tags = (found[1] for found in _TAG.finditer(value) if not (strong and found[0].startswith("W")))
        return [tag for tag in tags if tag != "*"]  # in quotes it is a tag that no version has

    async def answer_nothing(self, status: int, headers: Headers) -> None:
        """An answer of a status that has no body."""
        await self._start(status, headers)
        await self._send({"type": "http.response.body", "body": b""})

    async def answer_json(self, value: Any, status: int = 200, headers: Headers | None = None) -> None:
        await self.answer(status, msgspec.json.encode(value), headers)

    async def refuse(self, error: AtollError, headers: Headers | None = None) -> None:
        status, body = problem(error)
        await self.answer(
            status, body, [*(headers or ()), *headers_of(error)], (b"content-type", CONTENT_TYPE)
        )

    async def begin_stream(self, content_type: bytes, headers: Mapping[bytes, bytes] | None = None) -> None:
        sent = [(b"content-type", content_type), (b"cache-control", b"no-store"), *(headers or {}).items()]
        await self._start(200, sent)

    async def chunk(self, body: bytes) -> None:
        """Send one piece of a stream; waits while the client is slow."""
        await self._send({"type": "http.response.body", "body": body, "more_body": True})

    async def pump(self, chunks: AsyncGenerator[bytes, None], closing: asyncio.Event) -> None:
        """Send a stream and end it: when `chunks` ends, when the client has gone, or when `closing` is set.

        An Unavailable or CursorExpired of `chunks` ends it early. The caller asks again, and is told then.
        """

        async def send() -> None:
            left_bytes = _TURN_BYTES
            async with aclosing(chunks):
                async for chunk in chunks:
                    await self.chunk(chunk)
                    left_bytes -= len(chunk)
                    if left_bytes <= 0:
                        # A client that keeps up never makes it wait, nor does a store in a file.
                        left_bytes = _TURN_BYTES
                        await asyncio.sleep(0)

        tasks = [asyncio.ensure_future(each) for each in (send(), self.gone(), closing.wait())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            outcome = (await asyncio.gather(*tasks, return_exceptions=True))[0]
        if isinstance(outcome, Exception) and not isinstance(outcome, CursorExpired | Unavailable):
            logger.error("the stream of %s ended", self.shown, exc_info=outcome)
        await self.end()

    async def end(self) -> None:
        """Close a stream that this side ends; harmless when the client has gone."""
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def gone(self) -> None:
        """Return when the client has closed the connection."""
        while (await self._receive())["type"] != "http.disconnect":
            pass


def _joined(given: list[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Several lines of one field are one list (RFC 9110), unless it counts once. Raises MalformedRequest."""
    found: dict[bytes, bytes] = {}
    for name, value in given:
        if name in found and name in _ONCE:
            raise MalformedRequest(f"the header {name.decode()} is given more than once")
        found[name] = found[name] + b", " + value if name in found else value
    return found


def parse_json(body: bytes) -> Any:
    """Numbers that a float would change are Decimals.

    Raises MalformedRequest, also for an object with a member that is given twice.
    """
    try:
        value = decode_exactly(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedRequest(f"the body is not JSON: {error}") from None
    check_members(body, value)
    return value


def text_of(segment: bytes) -> str:
    """A percent-encoded path segment. Raises MalformedRequest, and InvalidKey for what is no UTF-8."""
    if b"%" not in segment:
        try:
            return segment.decode("ascii")
        except UnicodeDecodeError:
            pass
    check_escapes(segment, "the path")
    try:
        return unquote_to_bytes(segment).decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidKey("the key in the path is not UTF-8; percent-encode it as UTF-8") from None
