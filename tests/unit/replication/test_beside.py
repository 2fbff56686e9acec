from __future__ import annotations

import asyncio
import io

from atoll.replication.beside import Turns, in_pieces
from atoll.schema.bounds import BESIDE_BYTES


async def test_others_have_their_turn_between_many_pieces() -> None:
    turns, seen = Turns(), []
    asyncio.get_running_loop().call_soon(seen.append, "another")
    for _ in range(4):
        await turns.after(BESIDE_BYTES // 4)
    assert seen == []
    await turns.after(1)
    assert seen == ["another"]


def test_a_large_body_is_sent_in_pieces() -> None:
    body = bytes(2 << 20)
    pieces = in_pieces(body)
    assert isinstance(pieces, io.BytesIO)
    assert pieces.read() == body
    assert in_pieces(b"small") == b"small"
