from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.errors import InvalidOperation, StoreCorrupt, StoreUnwritable
from atoll.ids.prefixed import PrefixedId, RangeAllocator, parse_prefixed

names = st.from_regex(r"[a-z][a-z0-9_-]{0,31}", fullmatch=True)


class Counter:
    """A region's durable counter: what it gave survives every allocator."""

    def __init__(self) -> None:
        self.next = 1
        self.calls = 0

    async def __call__(self, count: int) -> int:
        self.calls += 1
        first, self.next = self.next, self.next + count
        return first


@given(names, st.integers(1, 10**17))
def test_parsing_gives_back_what_went_in(region: str, number: int) -> None:
    assert parse_prefixed(str(PrefixedId(region, number))) == (region, number)


async def test_ids_read_as_region_and_number() -> None:
    assert await RangeAllocator("tokyo", Counter()).take(2) == ["tokyo-000001", "tokyo-000002"]
    assert str(PrefixedId("tokyo", 12_345_678)) == "tokyo-12345678"


@given(st.lists(st.tuples(st.integers(0, 2), st.booleans(), st.integers(1, 25)), max_size=40))
async def test_nodes_that_crash_never_repeat_a_number(turns: list[tuple[int, bool, int]]) -> None:
    counter = Counter()
    allocators = [RangeAllocator("tokyo", counter, block=10) for _ in range(3)]
    ids = []
    for node, crash, count in turns:
        if crash:
            allocators[node] = RangeAllocator("tokyo", counter, block=10)
        ids += await allocators[node].take(count)
    assert len(set(ids)) == len(ids) == sum(count for _, _, count in turns)


@given(st.lists(st.integers(1, 40), max_size=20))
async def test_numbers_rise_without_gaps_in_one_run(counts: list[int]) -> None:
    allocator = RangeAllocator("tokyo", Counter(), block=7)
    numbers = [parse_prefixed(text).number for count in counts for text in await allocator.take(count)]
    assert numbers == list(range(1, sum(counts) + 1))


async def test_counter_is_asked_once_in_a_block() -> None:
    counter = Counter()
    allocator = RangeAllocator("tokyo", counter, block=100)
    for _ in range(250):
        await allocator.take(1)
    assert counter.calls == 3


async def test_failed_reservation_uses_up_nothing() -> None:
    counter = Counter()
    answers = iter([counter, None, counter])

    async def failing(count: int) -> int:
        answer = next(answers)
        if answer is None:
            raise StoreUnwritable("disk full")
        return await answer(count)

    allocator = RangeAllocator("tokyo", failing, block=4)
    await allocator.take(3)
    with pytest.raises(StoreUnwritable):
        await allocator.take(2)
    assert await allocator.take(2) == ["tokyo-000004", "tokyo-000005"]


async def test_takers_at_once_share_no_number() -> None:
    counter = Counter()

    async def slow(count: int) -> int:
        await asyncio.sleep(0)
        return await counter(count)

    allocator = RangeAllocator("tokyo", slow, block=4)
    taken = await asyncio.gather(*(allocator.take(3) for _ in range(10)))
    assert len({text for texts in taken for text in texts}) == 30


async def test_counter_that_went_back_is_found_out() -> None:
    counter = Counter()
    allocator = RangeAllocator("tokyo", counter, block=5)
    await allocator.take(5)
    counter.next = 3
    with pytest.raises(StoreCorrupt, match="gave 3 after 5"):
        await allocator.take(1)


@pytest.mark.parametrize(
    "text", ["", "tokyo", "tokyo-", "tokyo-12", "-000001", "Tokyo-000001", "tokyo-0000001", "tokyo-00000١"]
)
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(InvalidOperation):
        parse_prefixed(text)
