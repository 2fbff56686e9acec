"""Requests as bytes on a socket, to the server of production."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from email.utils import parsedate_to_datetime
from typing import NamedTuple

import pytest

from atoll.node.listening import Listener

from ..http.served import Served

DOCUMENT = b'{"name":"x"}'


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


Ask = Callable[[bytes], Coroutine[None, None, Reply]]


@asynccontextmanager
async def listening() -> AsyncIterator[tuple[Served, Ask]]:
    async with Served() as it:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            taken.setblocking(False)
            port = taken.getsockname()[1]
            listener = Listener(taken)
            listener.app = it.apps["a"]
            await listener.start()

            async def ask(request: bytes) -> Reply:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                try:
                    writer.write(request)
                    async with asyncio.timeout(10):
                        return await reply(reader, head_only=request.startswith(b"HEAD"))
                finally:
                    writer.close()

            try:
                yield it, ask
            finally:
                await listener.stop()


async def reply(reader: asyncio.StreamReader, *, head_only: bool) -> Reply:
    head, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")[:-2]
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = await reader.readexactly(0 if head_only else int(headers.get("content-length", "0")))
    return Reply(int(head.split()[1]), headers, body)


def request(line: bytes, *headers: bytes, body: bytes = b"", host: bytes = b"here") -> bytes:
    head = [line + b" HTTP/1.1", b"Host: " + host, *headers]
    if body:
        head.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join([*head, b"", body])


PUT = (b"PUT /v1/profile/k", b"Content-Type: application/json")


async def test_every_answer_has_a_date() -> None:
    async with listening() as (_, ask):
        for line in (
            b"GET /health/live",
            b"GET /nowhere",
            b"OPTIONS /v1/profile",
            b"TRACE /v1/profile/k",
            b"BREW /",
        ):
            answer = await ask(request(line))
            assert parsedate_to_datetime(answer.headers["date"]).tzinfo is not None


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (request(b"GET /health/live"), 200),
        (request(b"GET http://here/health/live"), 200),
        (request(b"GET /health/live", host=b"127.0.0.1:9"), 200),
        (request(b"GET /health/live", host=b"evil.example"), 421),
        (request(b"GET /health/live", b"Host: here"), 400),
        (request(b"GET /nowhere", b"Host: here"), 400),
        (b"GET /health/live HTTP/1.1\r\n\r\n", 400),
        (b"GET /health/live HTTP/1.0\r\n\r\n", 200),
        (request(b"OPTIONS *"), 204),
        (request(b"GET /v1/profile/%zz"), 400),
        (request(b"GET /v1/profile/k?where=%zz"), 400),
        (request(b"POST /v1/profile/k"), 405),
        (request(b"GET /health/live", b"Origin: https://evil.example"), 403),
        (request(*PUT, body=DOCUMENT), 200),
        (request(*PUT, b"Content-Encoding: gzip", body=DOCUMENT), 415),
        (request(*PUT, b"Content-Encoding: Identity", body=DOCUMENT), 200),
        (request(PUT[0], b"Content-Type: text/plain", body=DOCUMENT), 415),
        (request(PUT[0], body=DOCUMENT), 415),
        (request(*PUT, b"Expect: 100-continue", body=DOCUMENT), 100),
    ],
)
async def test_requests_are_answered_as_the_standard_says(raw: bytes, status: int) -> None:
    async with listening() as (_, ask):
        assert (await ask(raw)).status == status


async def test_head_is_get_without_a_body() -> None:
    async with listening() as (_, ask):
        await ask(request(*PUT, body=DOCUMENT))
        for path in (b"/v1/profile/k", b"/v1/profile", b"/openapi.json", b"/metrics", b"/v1/profile/nobody"):
            got = await ask(request(b"GET " + path))
            head = await ask(request(b"HEAD " + path))
            assert (head.status, head.body) == (got.status, b"")
            assert head.headers.keys() == got.headers.keys()


def chunked(*trailers: bytes) -> bytes:
    head = request(*PUT, b"Transfer-Encoding: chunked", b"Trailer: If-None-Match")
    end = b"\r\n".join([b"0", *trailers, b"", b""])
    return head + b"%x\r\n%b\r\n" % (len(DOCUMENT), DOCUMENT) + end


async def test_a_trailer_is_not_obeyed() -> None:
    async with listening() as (_, ask):
        assert (await ask(chunked())).status == 200
        for trailer in (
            b"If-None-Match: *",
            b'If-Match: "x"',
            b"Origin: https://evil.example",
            b"Host: evil",
        ):
            assert (await ask(chunked(trailer))).status == 200, trailer


async def test_an_upgrade_that_is_not_made_loses_no_body() -> None:
    """As curl with --http2, and Java's client, ask."""
    async with listening() as (it, ask):
        upgrade = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABk")
        assert (await ask(request(*PUT, *upgrade, body=DOCUMENT))).status == 200
        assert (await it.ask("GET", "/v1/profile/k")).json["value"]["name"] == "x"
