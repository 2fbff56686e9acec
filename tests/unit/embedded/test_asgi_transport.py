from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest

from atoll.client.transport import Request
from atoll.embedded.asgi_transport import AsgiTransport
from atoll.http.app import App

Application = Callable[[Any, Any, Any], Awaitable[None]]


def transport(application: Application) -> AsgiTransport:
    return AsgiTransport(cast(App, application))


def request(
    method: str = "GET", path: str = "/", query: str = "", body: bytes = b"", **headers: str
) -> Request:
    return Request("a", method, path, query, headers, body, 5.0)


def head(status: int = 200, *headers: tuple[bytes, bytes]) -> dict[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": list(headers)}


def chunk(body: bytes, more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": body, "more_body": more}


async def test_a_request_becomes_a_scope() -> None:
    seen: dict[str, Any] = {}

    async def application(scope: Any, receive: Any, send: Any) -> None:
        seen.update(scope, body=(await receive())["body"])
        await send(head())
        await send(chunk(b""))

    await transport(application).send(request("PUT", "/v1/%C3%A9%2Fb", "a=1&b=%20", b"body", name="Grüße"))
    assert (seen["type"], seen["method"]) == ("http", "PUT")
    assert (seen["path"], seen["raw_path"]) == ("/v1/é/b", b"/v1/%C3%A9%2Fb")
    assert (seen["query_string"], seen["body"]) == (b"a=1&b=%20", b"body")
    assert seen["headers"] == [(b"name", "Grüße".encode("latin-1"))]


async def test_an_answer_is_put_together() -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send(head(201, (b"etag", b'"v"')))
        for part in (b"one ", b"two"):
            await send(chunk(part, more=True))
        await send(chunk(b""))

    answer = await transport(application).send(request())
    assert (answer.status, answer.headers, answer.body) == (201, {"etag": '"v"'}, b"one two")


async def test_a_failure_of_the_application_comes_through() -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await transport(application).send(request())
    with pytest.raises(ZeroDivisionError):
        async with transport(application).stream(request()):
            pass


async def test_an_application_that_says_nothing_is_a_defect() -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        return

    with pytest.raises(RuntimeError, match="without an answer"):
        async with transport(application).stream(request()):
            pass


async def test_a_stream_comes_chunk_by_chunk() -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send(head(200, (b"content-type", b"text/event-stream")))
        for part in (b"a", b"", b"b"):
            await send(chunk(part, more=True))
        await send(chunk(b"end"))

    async with transport(application).stream(request()) as stream:
        assert (stream.status, stream.headers) == (200, {"content-type": "text/event-stream"})
        assert [part async for part in stream.chunks] == [b"a", b"b", b"end"]


async def test_a_slow_consumer_holds_the_application_back() -> None:
    sent = 0

    async def application(scope: Any, receive: Any, send: Any) -> None:
        nonlocal sent
        await send(head())
        while True:
            await send(chunk(b"x", more=True))
            sent += 1

    async with transport(application).stream(request()) as stream:
        for _ in range(100):
            await asyncio.sleep(0)
        assert sent <= 17
        assert await anext(aiter(stream.chunks)) == b"x"


async def test_leaving_a_stream_ends_the_application() -> None:
    ended = asyncio.Event()

    async def application(scope: Any, receive: Any, send: Any) -> None:
        try:
            await send(head())
            await receive()
            await receive()
        finally:
            ended.set()

    async with transport(application).stream(request()):
        assert not ended.is_set()
    assert ended.is_set()


async def test_a_stream_that_is_over_ends() -> None:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send(head())
        await send(chunk(b"x", more=True))

    async with transport(application).stream(request()) as stream:
        assert [part async for part in stream.chunks] == [b"x"]
    await transport(application).close()
