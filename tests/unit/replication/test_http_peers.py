from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import msgspec
import pytest
from aiohttp import web
from tests.ports import free_ports

from atoll.errors import HostileEntry, Indefinite, NotFound, RegionUnreachable
from atoll.replication import seal
from atoll.replication.emulation import Emulation
from atoll.replication.failure import Failure
from atoll.replication.http_peers import HttpPeers
from atoll.replication.messages import PingCall, PingReply
from atoll.replication.seal import CALL_PATH

KEY = b"k" * 32
NOW_MS = 1_700_000_000_000
PONG = PingReply("tokyo", NOW_MS, "f")

Damage = Callable[[bytes, str], tuple[bytes, str]]


@asynccontextmanager
async def asking(
    answer: msgspec.Struct,
    status: int = 200,
    damage: Damage = lambda body, sealed: (body, sealed),
    down: Sequence[str] = (),
) -> AsyncIterator[HttpPeers]:
    """Frankfurt, whose peer tokyo gives this answer to everything."""

    async def tokyo(request: web.Request) -> web.Response:
        asked, body = request.headers[seal.HEADER], msgspec.msgpack.encode(answer)
        assert seal.verify(KEY, asked, CALL_PATH, NOW_MS, await request.read()) == "frankfurt"
        target = seal.reply_target(asked, status)
        body, sealed = damage(body, seal.sign(KEY, "tokyo", target, NOW_MS, body))
        return web.Response(status=status, body=body, headers={seal.HEADER: sealed})

    app = web.Application()
    app.router.add_post(CALL_PATH, tokyo)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    urls = {"tokyo": [*down, f"http://127.0.0.1:{port}"]}
    peers = HttpPeers(
        "frankfurt",
        lambda peer: urls.get(peer, ()),
        KEY,
        lambda: NOW_MS,
        Emulation("frankfurt", lambda _: 0.0),
    )
    try:
        yield peers
    finally:
        await peers.close()
        await runner.cleanup()


async def test_a_sealed_reply_is_taken() -> None:
    async with asking(PONG) as peers:
        assert await peers.call("tokyo", PingCall(), timeout_s=5) == PONG


@pytest.mark.parametrize(
    "damage",
    [
        lambda body, sealed: (body[:-1] + b"g", sealed),
        lambda body, sealed: (body, ""),
        lambda body, sealed: (body, seal.sign(KEY, "tokyo", seal.reply_target("another", 200), NOW_MS, body)),
        lambda body, sealed: (b"<html>", sealed),
    ],
)
async def test_what_a_damaged_reply_says_is_not_known(damage: Damage) -> None:
    async with asking(PONG, damage=damage) as peers:
        with pytest.raises(Indefinite, match="damaged or not its own"):
            await peers.call("tokyo", PingCall(), timeout_s=5)


async def test_a_refusal_is_the_peer_s() -> None:
    async with asking(Failure.of(NotFound("no such thing")), 404) as peers:
        with pytest.raises(NotFound, match="no such thing"):
            await peers.call("tokyo", PingCall(), timeout_s=5)


async def test_a_request_that_was_damaged_is_no_fault_of_the_client() -> None:
    async with asking(Failure.of(HostileEntry("a wrong seal")), 400) as peers:
        with pytest.raises(RegionUnreachable, match="tokyo refuses the request of frankfurt: a wrong seal"):
            await peers.call("tokyo", PingCall(), timeout_s=5)


async def test_another_node_of_a_peer_is_asked_when_one_is_down() -> None:
    down = [f"http://127.0.0.1:{port}" for port in free_ports(2)]
    async with asking(PONG, down=down) as peers:
        for _ in range(2):
            assert await peers.call("tokyo", PingCall(), timeout_s=5) == PONG
