"""What one exchange costs with aiohttp on both sides and nothing in between: a GET of a kilobyte from a dictionary.

`python -m bench.peers.aiohttp_exchange` is the server: it binds a free loopback port, prints its URL, and serves.
"""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import aiohttp
import uvloop
from aiohttp import web

from bench.callers import Calls, drive
from bench.documents import document_body, document_key
from bench.peers import STOP_S, NotMeasured

KEYS = 1_000
LABEL = f"aiohttp {aiohttp.__version__}, server and client"
DURABILITY = "nothing is written"


@contextmanager
def serving() -> Iterator[str]:
    """A server process for the length of the block; yields its URL."""
    command = [sys.executable, "-m", "bench.peers.aiohttp_exchange"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            if not url:
                raise NotMeasured(f"the aiohttp server ended at once, with status {process.wait()}")
            yield url
        finally:
            process.terminate()
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()


async def read_singly(url: str, count: int) -> Calls:
    """One GET after the other over one connection."""
    async with aiohttp.ClientSession() as session:

        async def get(number: int) -> None:
            async with session.get(f"{url}/{document_key(number % KEYS)}") as response:
                assert len(await response.read()) > 1_000

        return await drive([get], range(count))


async def _serve() -> None:
    documents = {document_key(number): document_body(number) for number in range(KEYS)}

    async def get(request: web.Request) -> web.Response:
        return web.Response(body=documents[request.match_info["key"]], content_type="application/json")

    app = web.Application()
    app.router.add_get("/{key}", get)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    with socket.create_server(("127.0.0.1", 0), backlog=2048) as listener:
        await web.SockSite(runner, listener).start()
        print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop:
        loop.run(_serve())
