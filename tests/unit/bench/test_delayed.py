from __future__ import annotations

import asyncio
from contextlib import suppress
from time import perf_counter

import pytest
from bench.delayed import Links, network
from bench.served import free_ports

HEAD = b"GET / HTTP/1.1\r\nHost: there\r\nX-Server-From: 1f\r\n\r\n"


@pytest.mark.parametrize(
    ("head", "one_way_ms", "least_s"), [(HEAD, 30.0, 0.06), (HEAD[:16] + HEAD[-2:], 60_000.0, 0.0)]
)
async def test_bytes_of_known_origin_arrive_later_and_in_order(
    head: bytes, one_way_ms: float, least_s: float
) -> None:
    ended = asyncio.Event()

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(1 << 16):
            writer.write(piece)
        writer.close()
        await writer.wait_closed()
        ended.set()

    async with await asyncio.start_server(echo, "127.0.0.1", 0) as server:
        behind = server.sockets[0].getsockname()[1]
        (port,) = free_ports(1)
        with network() as between:
            between.set(Links({port: ("there", behind)}, {"1f": "here"}, {"here>there": one_way_ms}))
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            sent, began = head, perf_counter()
            writer.write(head)
            for number in range(50):
                sent += b"%d " % number
                writer.write(b"%d " % number)
                await writer.drain()
                await asyncio.sleep(0)
            assert await reader.readexactly(len(sent)) == sent
            assert perf_counter() - began >= least_s
            writer.close()
            await writer.wait_closed()
            await ended.wait()


async def test_a_connection_ends_where_its_server_is_gone() -> None:
    port, behind = free_ports(2)
    with network() as between:
        between.set(Links({port: ("there", behind)}, {}, {}))
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        with suppress(ConnectionError):
            assert await reader.read() == b""
        writer.close()
