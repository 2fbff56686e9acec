from __future__ import annotations

import pytest

from atoll.errors import UnknownCollection
from atoll.repair.digests import BUCKETS
from atoll.replication.messages import DigestCall

from ..region.world import World
from ..virtual_time import in_virtual_time


@in_virtual_time
async def test_digests_are_equal_where_the_data_is() -> None:
    async with World() as it:
        for n in range(30):
            await it.write("abc"[n % 3], "note", f"k{n}", {"text": str(n)})
        await it.write("a", "note", "k0", None)
        await it.settled()
        one, *others = [await it[name].digests.of("note") for name in it.names]
        assert all(other.digests == one.digests for other in others)
        assert one.count == 29
        await it.write("a", "note", "k1", {"text": "changed"})
        assert (await it["a"].digests.of("note")).digests != one.digests


@in_virtual_time
async def test_a_bucket_names_its_documents() -> None:
    async with World() as it:
        for n in range(10):
            await it.write("a", "note", f"k{n}", {})
        buckets = (await it["a"].digests.of("note")).digests
        assert all(0 <= int(bucket) < BUCKETS for bucket in buckets)
        found: set[str] = set()
        for bucket in buckets:
            reply = await it["a"].answer(DigestCall("note", int(bucket)))
            found |= set(reply.digests)  # type: ignore[union-attr]
        assert found == {f"k{n}" for n in range(10)}
        with pytest.raises(UnknownCollection):
            await it["a"].digests.of("unheard")
