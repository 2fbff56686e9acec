from __future__ import annotations

from bench.peers.aiohttp_exchange import read_singly, serving


async def test_it_answers_a_kilobyte() -> None:
    with serving() as url:
        assert (await read_singly(url, 10)).per_second > 0
