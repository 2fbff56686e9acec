"""A region of a few lines, to test the shop's programs against over real HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import aiohttp
from aiohttp import web

from atoll.demo.http_client import HttpClient
from atoll.demo.ledger import Ledger

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def client_at(handler: Handler) -> AsyncIterator[HttpClient]:
    """A client for regions `tokyo` and `frankfurt`, both answered by `handler`."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    urls = dict.fromkeys(("tokyo", "frankfurt"), f"http://127.0.0.1:{port}")
    try:
        async with aiohttp.ClientSession() as http:
            yield HttpClient(http, urls, Ledger())
    finally:
        await runner.cleanup()
