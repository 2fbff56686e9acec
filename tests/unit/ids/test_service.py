from __future__ import annotations

from collections.abc import Awaitable, Callable
from random import Random
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ulid import ULID

from atoll.errors import InvalidOperation, Overloaded, SerializationConflict
from atoll.ids import KINDS, IdService, SnowflakeParts, parse_prefixed, parse_snowflake
from atoll.store.memory.store import MemoryStore
from atoll.store.memory.tables import MemoryTables

NOW_MS = 1_793_696_400_000


async def third(name: str) -> bool:
    return name == "machine 3"


def service(seed: int = 1, **options: Any) -> IdService:
    defaults: dict[str, Any] = {
        "region_number": 2,
        "claim": third,
        "clock": lambda: NOW_MS,
        "random": Random(seed).randbytes,
        "counters": MemoryStore(),
    }
    return IdService("tokyo", **(defaults | options))


async def test_every_kind_has_its_shape() -> None:
    made = {kind: (await service().generate(kind))[0] for kind in KINDS}
    assert UUID(made["uuid4"]).version == 4
    assert UUID(made["uuid7"]).version == 7
    assert ULID.from_str(made["ulid"]).milliseconds == NOW_MS
    assert parse_snowflake(made["snowflake"]) == SnowflakeParts(NOW_MS, 2, 3, 0)
    assert parse_prefixed(made["prefixed"]) == ("tokyo", 1)


@given(st.sampled_from(KINDS), st.lists(st.integers(1, 50), min_size=1, max_size=5))
async def test_count_is_kept_and_nothing_repeats(kind: str, counts: list[int]) -> None:
    ids = service()
    made = [text for count in counts for text in await ids.generate(kind, count)]
    assert len(set(made)) == len(made) == sum(counts)


@pytest.mark.parametrize("kind", KINDS)
async def test_largest_count_is_served(kind: str) -> None:
    assert len(set(await service().generate(kind, 10_000))) == 10_000


@pytest.mark.parametrize("kind", KINDS)
async def test_same_seed_gives_the_same_ids(kind: str) -> None:
    assert await service(seed=7).generate(kind, 5) == await service(seed=7).generate(kind, 5)


@pytest.mark.parametrize("kind", ["uuid7", "ulid", "snowflake", "prefixed"])
@given(steps=st.lists(st.integers(-10_000, 10_000), min_size=1, max_size=30))
async def test_kinds_with_an_order_rise_however_the_clock_steps(kind: str, steps: list[int]) -> None:
    readings = iter([NOW_MS, *(NOW_MS + step for step in steps)])
    ids = service(clock=readings.__next__)
    made = [(await ids.generate(kind))[0] for _ in steps]
    assert made == sorted(set(made))


async def test_snowflakes_go_on_past_an_earlier_run() -> None:
    kept = MemoryStore()
    first = await service(counters=kept).generate("snowflake", 5)
    second = await service(counters=kept, clock=lambda: NOW_MS - 9).generate("snowflake", 5)
    assert int(first[-1]) < int(second[0])


@pytest.mark.parametrize("count", [0, -1, 10_001, True, "5", 1.0])
async def test_count_out_of_bounds_is_refused(count: Any) -> None:
    with pytest.raises(InvalidOperation, match="ask for 1 to 10000 identifiers"):
        await service().generate("ulid", count)


@pytest.mark.parametrize("kind", ["uuid1", "", "ULID", "x" * 5000])
async def test_unknown_kind_is_refused_with_the_kinds_there_are(kind: str) -> None:
    with pytest.raises(InvalidOperation, match=r"uuid4, uuid7, ulid, snowflake, prefixed$") as caught:
        await service().generate(kind)
    assert caught.value.details == {"allowed": list(KINDS)}
    assert len(caught.value.message) < 200


async def test_two_nodes_under_one_number_never_make_the_same_identifier() -> None:
    kept, now_ms = MemoryStore(), [NOW_MS]
    one, other = (service(counters=kept, clock=lambda: now_ms[0]) for _ in range(2))
    made: list[str] = []
    noticed = 0
    for step in range(60):
        now_ms[0] += 400
        for node in (one, other) if step % 2 else (other, one, one):
            try:
                made += await node.generate("snowflake", 3)
            except SerializationConflict:
                noticed += 1
    assert len(set(made)) == len(made) > 0
    assert noticed > 2


async def test_each_node_finds_a_number_of_its_own() -> None:
    tables = MemoryTables()
    nodes = [MemoryStore(tables) for _ in range(3)]

    def claim(node: MemoryStore) -> Callable[[str], Awaitable[bool]]:
        async def claimed(name: str) -> bool:
            return bool(await node.lease([name], 60))

        return claimed

    async def machine(node: MemoryStore) -> int:
        made = await service(claim=claim(node)).generate("snowflake")
        return parse_snowflake(made[0]).machine

    assert [await machine(node) for node in nodes] == [0, 1, 2]
    await nodes[1].close()
    assert await machine(nodes[2]) == 1


async def test_a_region_has_so_many_numbers_and_no_more() -> None:
    async def taken(name: str) -> bool:
        return False

    with pytest.raises(Overloaded, match="32 nodes"):
        await service(claim=taken).generate("snowflake")
