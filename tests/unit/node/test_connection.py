from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import uvicorn

from atoll.node import connection
from atoll.node.connection import HEAD_BYTES, Connection, Places

Served = tuple[int, Places]
LIVE = b"GET /health/live HTTP/1.1\r\nhost: a\r\n\r\n"
READ = b"GET /v1/note/k HTTP/1.1\r\nhost: a\r\n\r\n"
OPENED: list[asyncio.StreamWriter] = []
HALF = b"PUT /v1/note/k HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n"


async def echo(
    scope: Any, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]
) -> None:
    """Answers with the body's length, once it is here."""
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        size += len(message["body"])
        if not message.get("more_body"):
            break
    body = b"%d" % size
    await send(
        {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]}
    )
    await send({"type": "http.response.body", "body": body})


@asynccontextmanager
async def serving(most: int = 20, kept: int = 4, app: Any = None) -> AsyncIterator[Served]:
    places = Places(most, kept)
    config = uvicorn.Config(app or echo, lifespan="off", http="httptools", log_level="critical")
    config.load()
    state = uvicorn.server.ServerState()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        partial(Connection, places, config, state, {}), "127.0.0.1", 0, backlog=2048
    )
    try:
        yield server.sockets[0].getsockname()[1], places
    finally:
        for writer in OPENED:
            writer.transport.abort()
        await asyncio.gather(*(writer.wait_closed() for writer in OPENED), return_exceptions=True)
        OPENED.clear()
        server.close()
        for each in list(state.connections):
            each.transport.abort()


async def talk(port: int, sent: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    OPENED.append(writer)
    writer.write(sent)
    return reader, writer


async def answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(
        int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")
    )
    return int(head.split(b" ")[1]), await reader.readexactly(length)


async def asked(port: int, sent: bytes) -> tuple[int, bytes]:
    return await answer((await talk(port, sent))[0])


async def test_half_requests_lock_nobody_out() -> None:
    async with serving() as (port, places):
        halves = [await talk(port, HALF) for _ in range(60)]
        assert await asked(port, LIVE) == (200, b"0")
        assert await asked(port, READ) == (200, b"0")
        assert places.taken <= 20
        assert await halves[0][0].read() == b""  # the oldest were closed
        halves[-1][1].write(b"\r\n123456789")
        assert await answer(halves[-1][0]) == (200, b"9")


async def test_half_bodies_and_silence_lock_nobody_out() -> None:
    for sent in (HALF + b"\r\n123", b"", LIVE):  # the last one idles once it has its answer
        async with serving() as (port, _):
            for _ in range(60):
                await talk(port, sent)
            assert await asked(port, READ) == (200, b"0")


async def test_the_last_places_are_not_for_clients() -> None:
    async with serving(most=10, kept=4) as (port, places):
        places.taken = 6  # all of them busy: none waits for its client
        status, body = await asked(port, READ)
        assert (status, json.loads(body)["type"]) == (503, "urn:atoll:problem:overloaded")
        assert await asked(port, LIVE) == (200, b"0")


async def test_a_full_node_closes_what_comes() -> None:
    async with serving(most=10, kept=4) as (port, places):
        places.taken = 10
        reader, _ = await talk(port, LIVE)
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await answer(reader)


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /v1/note/k HTTP/1.1\r\nhost: a\r\nx: " + b"a" * (HEAD_BYTES + 70_000),
        b"GET /v1/note/" + b"a" * (HEAD_BYTES + 70_000),
        b"GET /v1/note/k HTTP/1.1\r\n" + b"a: b\r\n" * 40_000,
        b"GET /v1/note/k HTTP/1.1\r\nhost: a\r\nx: " + b"a" * HEAD_BYTES + b"\r\n\r\n",
        b"GET /v1/note/" + b"a" * HEAD_BYTES + b" HTTP/1.1\r\nhost: a\r\n\r\n",
    ],
    ids=["header without an end", "path without an end", "headers without an end", "header", "path"],
)
async def test_a_head_is_bounded(sent: bytes) -> None:
    async with serving() as (port, _):
        status, body = await asked(port, sent)
        assert (status, json.loads(body)["type"]) == (431, "urn:atoll:problem:head-too-large")


async def test_a_body_in_the_same_piece_is_no_part_of_the_head() -> None:
    async with serving() as (port, _):
        sent = b"PUT /v1/note/k HTTP/1.1\r\nhost: a\r\ncontent-length: 60000\r\n\r\n" + b"a" * 60_000
        assert await asked(port, sent) == (200, b"60000")
        assert await asked(port, sent + LIVE) == (200, b"60000")


@pytest.mark.parametrize(
    "sent", [b"", b"\r\n", HALF, HALF + b"\r\n123"], ids=["nothing", "a line", "head", "body"]
)
async def test_a_request_that_does_not_arrive_times_out(sent: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "HEAD_S", 0.05)
    monkeypatch.setattr(connection, "BODY_S", 0.05)
    async with serving() as (port, places):
        status, body = await asked(port, sent)
        assert (status, json.loads(body)["type"]) == (408, "urn:atoll:problem:request-timeout")
        reader, writer = await talk(port, LIVE)
        assert await answer(reader) == (200, b"0")
        writer.write(sent)
        assert not sent or b"request-timeout" in await reader.read()
        assert places.taken <= 1


async def test_garbage_gets_a_problem() -> None:
    async with serving() as (port, _):
        status, body = await asked(port, b"\x16\x03\x01\x02\x00\x01\x00")
        assert (status, json.loads(body)["type"]) == (400, "urn:atoll:problem:malformed-request")


async def test_requests_in_a_pipeline_are_answered_in_order() -> None:
    async with serving() as (port, _):
        reader, writer = await talk(port, LIVE + HALF + b"\r\n123456789" + READ + LIVE[:20])
        assert [await answer(reader) for _ in range(3)] == [(200, b"0"), (200, b"9"), (200, b"0")]
        writer.write(LIVE[20:])
        assert await answer(reader) == (200, b"0")


async def test_trailers_count_for_nothing() -> None:
    head = b"PUT /v1/note/k HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"
    chunked = head + b"3\r\nabc\r\n0\r\nif-match: x\r\n\r\n"
    scopes: list[Any] = []

    async def watched(scope: Any, receive: Any, send: Any) -> None:
        scopes.append(scope)
        await echo(scope, receive, send)

    async with serving(app=watched) as (port, _):
        assert await asked(port, chunked) == (200, b"3")
    assert [name for name, _ in scopes[0]["headers"]] == [b"host", b"transfer-encoding"]


@pytest.mark.parametrize("offer", ["h2c", "websocket", "TLS/1.2, x"])
async def test_a_request_that_offers_another_protocol_keeps_its_body(offer: str) -> None:
    offered = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: %b\r\nHTTP2-Settings: AAMAAABkAAQ\r\n"
    head = b"PUT /v1/note/k HTTP/1.1\r\nhost: a\r\n" + offered % offer.encode()
    put = head + b"content-length: 12\r\n\r\nUpgrade: h2c"
    chunked = head + b"transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    asked = put + chunked + READ
    expected = [(200, b"12"), (200, b"3"), (200, b"0")]
    async with serving() as (port, _):
        reader, _writer = await talk(port, asked)
        assert [await answer(reader) for _ in expected] == expected
        reader, writer = await talk(port, b"")
        for at in range(len(asked)):  # each byte alone
            writer.write(asked[at : at + 1])
            await writer.drain()
        assert [await answer(reader) for _ in expected] == expected


async def test_a_long_pipeline_of_offers_is_answered() -> None:
    offer = b"GET /v1/note/k HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
    async with serving() as (port, _):
        reader, _ = await talk(port, offer * 2_000)
        assert {await answer(reader) for _ in range(2_000)} == {(200, b"0")}


async def test_connect_is_refused() -> None:
    async with serving() as (port, _):
        status, body = await asked(port, b"CONNECT a:80 HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc")
        assert (status, json.loads(body)["type"]) == (400, "urn:atoll:problem:malformed-request")


class Large:
    """Answers with much, in two pieces."""

    def __init__(self, size_bytes: int) -> None:
        self.piece = b"x" * size_bytes
        self.begun = asyncio.Event()
        self.ended = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Callable[[Any], Awaitable[None]]) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"a", b"b")]})
        await send({"type": "http.response.body", "body": self.piece, "more_body": True})
        self.begun.set()
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        self.ended.set()


async def test_an_answer_that_nobody_reads_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "UNREAD_S", 0.05)
    app = Large(20 << 20)
    async with serving(app=app) as (port, places):
        await talk(port, READ)
        await app.ended.wait()
        assert (places.taken, places._unread_bytes) == (0, 0)


@pytest.mark.parametrize("sent", [READ, READ.replace(b"1.1", b"1.0")], ids=["idle", "closing"])
async def test_the_rest_of_an_answer_that_nobody_reads_is_cut_off(
    sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "UNREAD_S", 0.05)
    monkeypatch.setattr(connection, "IDLE_S", 0.05)
    lost = asyncio.Event()
    leave = Places.leave

    def left(self: Places, connection: Connection) -> None:
        leave(self, connection)
        lost.set()

    monkeypatch.setattr(Places, "leave", left)
    size = 20 << 20

    async def app(scope: Any, receive: Any, send: Callable[[Any], Awaitable[None]]) -> None:
        await send(
            {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % size)]}
        )
        await send({"type": "http.response.body", "body": b"x" * size, "more_body": False})

    async with serving(app=app) as (port, places):
        await talk(port, sent)
        await lost.wait()
        assert (places.taken, places._unread_bytes) == (0, 0)


async def test_answers_that_nobody_reads_hold_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    size = 40 << 20  # more than twice what the kernel keeps of an answer
    monkeypatch.setattr(connection, "UNREAD_BYTES", size)
    apps = [Large(size) for _ in range(2)]
    waiting = list(apps)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await waiting.pop(0)(scope, receive, send)

    async with serving(app=app) as (port, places):
        await talk(port, READ)
        await apps[0].begun.wait()
        reader, _ = await talk(port, READ)
        await apps[0].ended.wait()
        assert places.taken == 1
        await reader.readuntil(b"\r\n\r\n")  # who comes late reads all of it
        assert int(await reader.readuntil(b"\r\n"), 16) == size
        assert len(await reader.readexactly(size)) == size
        await apps[1].ended.wait()
        assert places._unread_bytes == 0


async def refuse_early(scope: Any, receive: Any, send: Callable[[Any], Awaitable[None]]) -> None:
    """Answers before the body has arrived."""
    await send({"type": "http.response.start", "status": 415, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


async def test_a_connection_idles_when_the_body_comes_after_its_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection, "IDLE_S", 0.05)
    async with serving(app=refuse_early) as (port, places):
        reader, writer = await talk(port, HALF + b"\r\n123")
        assert await answer(reader) == (415, b"")
        writer.write(b"456789")
        assert await reader.read() == b""  # after that time, and without a word
        assert places.taken == 0


async def test_a_stream_shows_its_head_before_its_first_chunk() -> None:
    go_on = asyncio.Event()

    async def stream(scope: Any, receive: Any, send: Callable[[Any], Awaitable[None]]) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"a/b")]})
        await go_on.wait()
        await send({"type": "http.response.body", "body": b"abc", "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async with serving(app=stream) as (port, _):
        reader, _writer = await talk(port, LIVE)
        assert b"\r\ntransfer-encoding: chunked\r\n" in await reader.readuntil(b"\r\n\r\n")
        go_on.set()
        assert await reader.readuntil(b"0\r\n\r\n") == b"3\r\nabc\r\n0\r\n\r\n"


@pytest.mark.parametrize("value", [b"a\r\nset-cookie: b", b"a\nb", b"a\rb"])
async def test_a_header_ends_with_its_line(value: bytes) -> None:
    async def split(scope: Any, receive: Any, send: Callable[[Any], Awaitable[None]]) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"etag", value)]})
        await send({"type": "http.response.body", "body": b""})

    async with serving(app=split) as (port, _):
        assert (await asked(port, LIVE))[0] == 500


async def test_a_large_body_follows_its_head_whole() -> None:
    body = b"a" * 300_000

    async def large(scope: Any, receive: Any, send: Callable[[Any], Awaitable[None]]) -> None:
        length = b"%d" % len(body)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]})
        await send({"type": "http.response.body", "body": body})

    async with serving(app=large) as (port, _):
        assert await asked(port, LIVE + LIVE) == (200, body)


@pytest.mark.parametrize(
    "line", [b"GET / HTTP/2.0", b"GET / HTTP/0.9", b"GET /", b"GET /v1/note/k#x HTTP/1.1"]
)
async def test_a_request_line_is_one_of_http_1(line: bytes) -> None:
    async with serving() as (port, _):
        status, body = await asked(port, line + b"\r\nhost: a\r\n\r\n")
        assert (status, json.loads(body)["type"]) == (400, "urn:atoll:problem:malformed-request")


async def test_a_target_that_names_a_host_is_believed_more_than_the_header() -> None:
    scopes: list[Any] = []

    async def watched(scope: Any, receive: Any, send: Any) -> None:
        scopes.append(scope)
        await echo(scope, receive, send)

    async with serving(app=watched) as (port, places):
        for target in (b"http://evil:1/v1/note/k?a=b", b"HTTPS://evil:1/v1/note/k?a=b", b"http://evil:1?a=b"):
            assert await asked(port, b"GET " + target + b" HTTP/1.1\r\nhost: a\r\n\r\n") == (200, b"0")
        assert [scope["headers"] for scope in scopes] == [[(b"host", b"evil:1")]] * 3
        assert [scope["query_string"] for scope in scopes] == [b"a=b"] * 3
        assert [scope["path"] for scope in scopes] == ["/v1/note/k", "/v1/note/k", "/"]
        places.taken = 17  # a client's request is one in this form, too
        assert (await asked(port, b"GET http://a/v1/note/k HTTP/1.1\r\nhost: a\r\n\r\n"))[0] == 503


async def test_a_stream_in_http_1_0_ends_with_its_connection() -> None:
    async def stream(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for body in (b"one", b"", b"two"):
            await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async with serving(app=stream) as (port, _):
        reader, _writer = await talk(port, b"GET /v1/changes HTTP/1.0\r\n\r\n")
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        assert (b"transfer-encoding" in head, body) == (False, b"onetwo")
    async with serving() as (port, _):
        assert await asked(port, LIVE.replace(b"/1.1", b"/1.0")) == (200, b"0")
