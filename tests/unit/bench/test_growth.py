from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from bench.growth import SIZES_BYTES, among, body_of, key_of
from bench.regions import APPLICATION, COLLECTION, region_in
from bench.rounds import QUICK


@pytest.mark.parametrize("size", SIZES_BYTES)
def test_documents_have_the_size_that_is_said(size: int) -> None:
    assert len(body_of(size, 7)) == size
    assert APPLICATION.collections[COLLECTION].canonical(body_of(size, 7))
    assert json.loads(body_of(size, 7)) != json.loads(body_of(size, 8))


def test_keys_stay_distinct_beyond_a_million() -> None:
    numbers = [*range(0, 10_000_000, 997), *range(1_000_000, 1_001_000)]
    assert len({key_of(number) for number in numbers}) == len(set(numbers))


async def test_documents_are_loaded_once_and_then_replaced(tmp_path: Path) -> None:
    scale = replace(QUICK, seconds=0.2, reads=100)
    for documents in (30, 30, 50):
        rate, read_us = await among(tmp_path / "region", documents, scale, partial(body_of, 100))
        assert rate > 0
        assert read_us > 0
        async with region_in(tmp_path / "region") as region:
            assert (await region.store.statistics()).documents[COLLECTION] == documents
