from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest

from atoll import errors
from atoll.client import ClientOptions, Request, Response
from atoll.client.aiohttp_transport import AiohttpTransport

from .peer import BREAK, HANG, chunked, closed_port, http, peer

OPTIONS = ClientOptions(response_bytes=1000, connect_timeout_s=2.0)


def request(
    method: str = "GET", path: str = "/v1/a/b%2Fc", timeout_s: float = 5.0, body: bytes = b""
) -> Request:
    return Request(
        "tokyo", method, path, "limit=1&where=a%3Aeq%3A%221%22", {"atoll-session": "t"}, body, timeout_s
    )


@asynccontextmanager
async def transport(url: str) -> AsyncIterator[AiohttpTransport]:
    one = AiohttpTransport({"tokyo": url}, OPTIONS)
    try:
        yield one
    finally:
        await one.close()


async def send(url: str, sent: Request) -> Response:
    async with transport(url) as one:
        return await one.send(sent)


async def test_request_arrives_as_it_was_written() -> None:
    with peer(http(200, b"{}", "Atoll-Region: tokyo")) as server:
        response = await send(server.url, request("PUT", body=b'{"a":1}'))
    assert server.requests[0].startswith(b"PUT /v1/a/b%2Fc?limit=1&where=a%3Aeq%3A%221%22 HTTP/1.1\r\n")
    assert b"atoll-session: t" in server.requests[0]
    assert server.requests[0].endswith(b'\r\n\r\n{"a":1}')
    assert (response.status, response.body) == (200, b"{}")
    assert response.headers.get("atoll-region") == "tokyo"


async def test_connection_is_kept() -> None:
    with peer(http(200, b"{}")) as server:
        async with transport(server.url) as one:
            for _ in range(5):
                await one.send(request())
    assert server.connections == 1


async def test_calls_beyond_the_bound_wait_without_failing() -> None:
    busy = most = 0

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal busy, most
        while await reader.readline():
            await reader.readuntil(b"\r\n\r\n")
            busy += 1
            most = max(most, busy)
            await asyncio.sleep(0.01)
            busy -= 1
            writer.write(http(200, b"{}"))
        writer.close()

    options = ClientOptions(connections=2, connect_timeout_s=0.02)
    async with await asyncio.start_server(slow, "127.0.0.1", 0) as server:
        one = AiohttpTransport({"tokyo": f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"}, options)
        answers = await asyncio.gather(*(one.send(request()) for _ in range(20)))
        await one.close()
    assert [answer.status for answer in answers] == [200] * 20
    assert most == 2


async def test_waiting_for_a_connection_ends_with_the_callers_patience() -> None:
    options = ClientOptions(connections=1)
    with peer(HANG) as server:
        one = AiohttpTransport({"tokyo": [server.url, server.url + "/"]}, options)
        first = asyncio.create_task(one.send(request(timeout_s=0.5)))
        await asyncio.sleep(0)
        with pytest.raises(errors.Overloaded, match="connections in ClientOptions"):
            await one.send(msgspec.structs.replace(request("PUT"), patience_s=0.1))
        with pytest.raises(errors.Indefinite):
            await first
        await one.close()


async def test_refused_connection_is_definite() -> None:
    with pytest.raises(errors.RegionUnreachable):
        await send(closed_port(), request("PUT"))


async def test_unknown_host_is_definite() -> None:
    with pytest.raises(errors.RegionUnreachable):
        await send("http://no-such-host.invalid:1", request("PUT"))


async def test_broken_connection_is_indefinite() -> None:
    with peer(BREAK) as server, pytest.raises(errors.Indefinite):
        await send(server.url, request("PUT"))


async def test_silence_is_indefinite() -> None:
    with peer(HANG) as server, pytest.raises(errors.Indefinite):
        await send(server.url, request("PUT", timeout_s=0.2))


async def test_answer_cut_short_is_indefinite() -> None:
    with (
        peer(http(200, b"{}").replace(b"Length: 2", b"Length: 200")) as server,
        pytest.raises(errors.Indefinite),
    ):
        await send(server.url, request("PUT", timeout_s=0.2))


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "POST"])
async def test_request_on_a_broken_kept_connection_is_not_repeated(method: str) -> None:
    with peer(http(200, b"{}"), BREAK) as server:
        async with transport(server.url) as one:
            await one.send(request())
            with pytest.raises(errors.Indefinite):
                await one.send(request(method))
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    "answer", [http(200, b"x" * 1001), chunked(b"x" * 600, b"x" * 600)], ids=["declared", "chunked"]
)
async def test_too_large_an_answer_is_not_read(answer: bytes) -> None:
    with peer(answer) as server, pytest.raises(errors.TooLarge, match="1000 bytes"):
        await send(server.url, request())


async def test_chunked_answer_is_read_whole() -> None:
    with peer(chunked(b"ab", b"cd")) as server:
        assert (await send(server.url, request())).body == b"abcd"


async def test_redirect_is_not_followed() -> None:
    with peer(http(302, b"", "Location: /elsewhere")) as server:
        assert (await send(server.url, request())).status == 302
    assert len(server.requests) == 1


async def test_what_does_not_speak_http_is_named() -> None:
    with peer(b"SSH-2.0-OpenSSH_9.6\r\n") as server, pytest.raises(errors.ConfigError, match="HTTP"):
        await send(server.url, request())


async def test_stream_brings_chunks_and_ends() -> None:
    with peer(chunked(b": hello\n\n", b"data: x\n\n")) as server:
        async with transport(server.url) as one, one.stream(request()) as stream:
            assert stream.status == 200
            assert stream.headers.get("content-type") == "text/event-stream"
            assert b"".join([chunk async for chunk in stream.chunks]) == b": hello\n\ndata: x\n\n"


async def test_silent_stream_is_indefinite() -> None:
    with peer(chunked(b": hello\n\n", end=False)) as server:
        async with transport(server.url) as one, one.stream(request(timeout_s=0.2)) as stream:
            assert await anext(stream.chunks) == b": hello\n\n"
            with pytest.raises(errors.Indefinite):
                await anext(stream.chunks)


async def test_closed_transport_says_so() -> None:
    one = AiohttpTransport({"tokyo": closed_port()}, OPTIONS)
    await one.close()
    await one.close()
    with pytest.raises(errors.ConfigError, match="closed"):
        await one.send(request())
