from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from atoll.bulk.importing import _Chunk, _Import
from atoll.bulk.reading import Position
from atoll.errors import Unavailable

from ..virtual_time import in_virtual_time


class _Slow(_Import):
    """Writes of it take long, the earlier the longer; one may fail."""

    def __init__(self, fails: str = "") -> None:
        self.state: Any = SimpleNamespace(region="tokyo")
        self.began: list[str] = []
        self.ended: list[str] = []
        self._fails = fails

    async def _put(self, chunk: _Chunk, owner: str, items: list[Any], name: str) -> None:
        ((_, (key, text)),) = items
        self.began.append(f"{key}{text.decode()}")
        await asyncio.sleep(1 / len(self.began))
        if key == self._fails:
            raise Unavailable("no majority")
        self.ended.append(f"{key}{text.decode()}")


def chunk_of(*rows: tuple[str, str]) -> _Chunk:
    good: list[Any] = [(None, (key, text.encode())) for key, text in rows]
    return _Chunk(0, Position(), good)


@in_virtual_time
async def test_strong_rows_of_one_key_are_written_in_their_order() -> None:
    run = _Slow()
    await run._put_singly(chunk_of(("a", "1"), ("b", "1"), ("a", "2"), ("c", "1"), ("a", "3")))
    assert [each for each in run.ended if each[0] == "a"] == ["a1", "a2", "a3"]
    assert len(run.ended) == 5
    assert run.began[:3] == ["a1", "b1", "c1"]  # other keys do not wait


@in_virtual_time
async def test_nothing_of_a_chunk_that_failed_is_still_on_its_way() -> None:
    run = _Slow(fails="c")
    with pytest.raises(Unavailable):
        await run._put_singly(chunk_of(("a", "1"), ("b", "1"), ("c", "1"), ("a", "2")))
    ended = list(run.ended)
    assert sorted(ended) == ["a1", "b1"]
    await asyncio.sleep(10)
    assert run.ended == ended
