"""Against servers that answer as the test says, over real connections."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from tests.ports import free_ports

from atoll.replication import posting as module
from atoll.replication.posting import Answered, NotConnected, Posting

_MOST = 1000
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nAtoll-Seal: s\r\n\r\nhi"


class Server:
    """Answers request number n with what `answer(n)` says: nothing at all for None, and closes for b""."""

    def __init__(self, answer: Callable[[int], bytes | None]) -> None:
        self.answer = answer
        self.connections = 0
        self.requests: list[bytes] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
                self.requests.append(head + await reader.readexactly(length))
                answer = self.answer(len(self.requests))
                if answer == b"":
                    return
                if answer is not None:
                    writer.write(answer)
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()


@asynccontextmanager
async def posting(
    answer: Callable[[int], bytes | None],
) -> AsyncIterator[tuple[Server, Callable[..., asyncio.Future[Answered]]]]:
    it, posts = Server(answer), Posting(_MOST)
    server = await asyncio.start_server(it.serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    def post(body: bytes = b"ho", timeout_s: float = 10.0) -> asyncio.Future[Answered]:
        return asyncio.ensure_future(
            posts.post(url, "/there", {"atoll-seal": "mine"}, body, timeout_s=timeout_s)
        )

    try:
        yield it, post
    finally:
        await posts.close()
        server.close()


async def test_an_answer_is_taken_and_its_connection_kept() -> None:
    async with posting(lambda _: OK) as (server, post):
        for _ in range(3):
            assert await post() == (200, {b"content-length": b"2", b"atoll-seal": b"s"}, b"hi")
        assert server.connections == 1
        assert server.requests[0].startswith(b"POST /there HTTP/1.1\r\nHost: 127.0.0.1:")
        assert server.requests[0].endswith(b"\r\natoll-seal: mine\r\n\r\nho")


async def test_an_answer_in_chunks_is_taken() -> None:
    chunked = b"HTTP/1.1 503 No\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nh\r\n1\r\ni\r\n0\r\n\r\n"
    async with posting(lambda _: chunked) as (_, post):
        found = await post()
        assert (found.status, found.body) == (503, b"hi")


async def test_a_connection_that_the_peer_ends_is_not_used_again() -> None:
    ends = OK.replace(b"200 OK\r\n", b"200 OK\r\nConnection: close\r\n")
    async with posting(lambda _: ends) as (server, post):
        assert [(await post()).body for _ in range(2)] == [b"hi", b"hi"]
        assert server.connections == 2


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"", "closed"),
        (b"SMTP\r\n\r\n", "no HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n" + bytes(1001), "more than 1000 bytes"),
    ],
)
async def test_what_is_no_answer_leaves_open_what_was_done(answer: bytes, reason: str) -> None:
    async with posting(lambda number: answer if number == 1 else OK) as (server, post):
        with pytest.raises(OSError, match=reason) as raised:
            await post()
        assert not isinstance(raised.value, NotConnected)
        assert (await post()).body == b"hi"
        assert server.connections == 2


async def test_an_answer_that_does_not_come_is_not_waited_for() -> None:
    async with posting(lambda number: None if number == 1 else OK) as (server, post):
        with pytest.raises(TimeoutError):
            await post(timeout_s=0.05)
        assert (await post()).body == b"hi"
        assert server.connections == 2, "the late answer would be taken for the next one"


async def test_where_nobody_listens_nothing_has_left() -> None:
    (port,) = free_ports(1)
    with pytest.raises(NotConnected):
        await Posting(_MOST).post(f"http://127.0.0.1:{port}", "/", {}, b"", timeout_s=10.0)


async def test_only_so_many_connections_are_open_at_once() -> None:
    async with posting(lambda _: OK) as (server, post):
        found = await asyncio.gather(*(post() for _ in range(200)))
        assert {each.body for each in found} == {b"hi"}
        assert server.connections <= 64


async def test_a_connection_that_the_peer_may_be_closing_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async with posting(lambda _: OK) as (server, post):
        await post()
        monkeypatch.setattr(module, "_IDLE_S", 0)
        assert (await post()).body == b"hi"
        assert server.connections == 2
