from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.errors import ClockUnsafe, ConfigError, InvalidOperation
from atoll.ids.snowflake import (
    EPOCH_MS,
    HOLD_MS,
    SnowflakeGenerator,
    SnowflakeParts,
    parse_snowflake,
    region_number,
)

NOW_MS = 1_793_696_400_000
LAST_MS = EPOCH_MS + (1 << 41) - 1
nodes = st.integers(0, 31)
times = st.integers(EPOCH_MS + 1, LAST_MS)


class Hands:
    """A physical clock that a test sets."""

    def __init__(self, ms: int = NOW_MS) -> None:
        self.ms = ms

    def __call__(self) -> int:
        return self.ms


def holder(held: list[int]) -> Callable[[int], Awaitable[None]]:
    async def hold(ms: int) -> None:
        held.append(ms)

    return hold


@given(nodes, nodes, times)
async def test_parsing_gives_back_what_went_in(region: int, machine: int, ms: int) -> None:
    snowflake = (await SnowflakeGenerator(region, machine, Hands(ms)).take(1))[0]
    assert parse_snowflake(snowflake) == SnowflakeParts(ms, region, machine, 0)
    assert parse_snowflake(str(snowflake)) == parse_snowflake(snowflake)


@given(st.lists(st.tuples(st.integers(-(10**8), 10**4), st.integers(1, 40)), max_size=30))
async def test_ids_rise_while_the_clock_steps_back(steps: list[tuple[int, int]]) -> None:
    hands = Hands()
    generator = SnowflakeGenerator(3, 4, hands)
    ids = await generator.take(1)
    for step_ms, count in steps:
        hands.ms += step_ms
        ids += await generator.take(count)
    assert ids == sorted(set(ids))


@given(
    st.sets(st.tuples(nodes, nodes), min_size=2, max_size=5),
    st.lists(st.tuples(st.integers(0, 4), st.integers(-50, 50)), max_size=60),
)
async def test_nodes_never_collide_on_stepping_clocks(
    places: set[tuple[int, int]], turns: list[tuple[int, int]]
) -> None:
    hands = [Hands() for _ in places]
    generators = [
        SnowflakeGenerator(*place, clock) for place, clock in zip(sorted(places), hands, strict=True)
    ]
    ids = []
    for turn, step_ms in turns:
        node = turn % len(generators)
        hands[node].ms += step_ms
        ids += await generators[node].take(3)
    assert len(set(ids)) == len(ids)


@given(st.lists(st.tuples(st.integers(-5_000, 2_000), st.integers(1, 20)), max_size=20))
async def test_restarts_never_collide_when_the_held_time_is_kept(runs: list[tuple[int, int]]) -> None:
    hands = Hands()
    held = [0]
    ids = []
    for step_ms, count in runs:
        hands.ms += step_ms
        ids += await SnowflakeGenerator(1, 1, hands, held[-1], hold=holder(held)).take(count)
    assert ids == sorted(set(ids))


async def test_hold_covers_every_id_and_is_asked_rarely() -> None:
    hands = Hands()
    held: list[int] = []
    generator = SnowflakeGenerator(1, 1, hands, hold=holder(held))
    for _ in range(3 * HOLD_MS):
        await generator.take(1)
        assert generator.last_ms <= held[-1]
        hands.ms += 1
    assert len(held) == 3


async def test_id_is_not_given_out_when_the_hold_fails() -> None:
    async def full(_: int) -> None:
        raise OSError("disk full")

    generator = SnowflakeGenerator(1, 1, Hands(), hold=full)
    for _ in range(2):
        with pytest.raises(OSError, match="disk full"):
            await generator.take(1)
    assert generator.last_ms == EPOCH_MS


async def test_full_millisecond_borrows_the_next() -> None:
    ids = await SnowflakeGenerator(0, 0, Hands()).take(4097)
    assert parse_snowflake(ids[4095]) == SnowflakeParts(NOW_MS, 0, 0, 4095)
    assert parse_snowflake(ids[4096]) == SnowflakeParts(NOW_MS + 1, 0, 0, 0)


async def test_borrowing_ends_at_the_lead_and_goes_on_with_the_clock() -> None:
    hands = Hands()
    generator = SnowflakeGenerator(0, 0, hands, max_lead_ms=2)
    ids = await generator.take(3 * 4096)
    with pytest.raises(ClockUnsafe, match="run 2 ms ahead of the clock"):
        await generator.take(1)
    hands.ms += 1
    ids += await generator.take(4096)
    assert ids == sorted(set(ids))


async def test_step_back_of_a_day_does_not_stop_the_generator() -> None:
    hands = Hands()
    generator = SnowflakeGenerator(0, 0, hands, max_lead_ms=2)
    ids = await generator.take(1)
    hands.ms -= 86_400_000
    for _ in range(10):
        hands.ms += 1
        ids += await generator.take(4096)
    assert ids == sorted(set(ids))


async def test_next_run_starts_past_the_last_millisecond() -> None:
    assert (
        parse_snowflake((await SnowflakeGenerator(0, 0, Hands(), NOW_MS + 5).take(1))[0]).unix_ms
        == NOW_MS + 6
    )


async def test_ids_end_where_41_bits_do() -> None:
    hands = Hands(LAST_MS)
    generator = SnowflakeGenerator(31, 31, hands)
    assert (await generator.take(1))[0] < 1 << 63
    hands.ms += 1
    with pytest.raises(ClockUnsafe, match="September 2093"):
        await generator.take(1)


async def test_clock_that_was_never_set_is_refused() -> None:
    with pytest.raises(ClockUnsafe, match="not past 2024-01-01"):
        await SnowflakeGenerator(0, 0, Hands(0)).take(1)


async def test_clock_glitch_past_the_end_harms_nothing() -> None:
    hands = Hands()
    generator = SnowflakeGenerator(0, 0, hands)
    first = (await generator.take(1))[0]
    hands.ms = 1 << 60
    with pytest.raises(ClockUnsafe):
        await generator.take(1)
    hands.ms = NOW_MS + 1
    assert parse_snowflake((await generator.take(1))[0]).unix_ms == parse_snowflake(first).unix_ms + 1


async def test_parts_tell_the_time() -> None:
    parts = parse_snowflake((await SnowflakeGenerator(0, 0, Hands()).take(1))[0])
    assert parts.time == datetime(2026, 11, 3, 9, tzinfo=UTC)


@pytest.mark.parametrize(
    "text", [-1, 1 << 63, True, "", "1_000", " 12", "-3", "9" * 19, "1" * 5000, "٣", None]
)
def test_what_is_no_snowflake_is_refused(text: int | str) -> None:
    with pytest.raises(InvalidOperation, match="is not a snowflake"):
        parse_snowflake(text)


@pytest.mark.parametrize(("region", "machine"), [(32, 0), (0, 32), (-1, 0)])
def test_numbers_that_do_not_fit_are_refused(region: int, machine: int) -> None:
    with pytest.raises(ConfigError, match="support 0 to 31"):
        SnowflakeGenerator(region, machine, Hands())


def test_region_number_is_its_place_among_the_sorted_names() -> None:
    regions = ["tokyo", "frankfurt", "virginia"]
    assert [region_number(regions, region) for region in regions] == [1, 0, 2]


@given(st.dictionaries(st.sampled_from("abcdefgh"), nodes))
def test_regions_never_share_a_number(wanted: dict[str, int]) -> None:
    explicit = {region: number for number, region in {n: r for r, n in wanted.items()}.items()}
    numbers = {region: region_number("hgfedcba", region, explicit) for region in "abcdefgh"}
    assert len(set(numbers.values())) == 8
    assert {region: numbers[region] for region in explicit} == explicit


@pytest.mark.parametrize(
    ("regions", "explicit", "message"),
    [
        (["a", "b"], {"a": 1, "b": 1}, "both have the number 1"),
        (["a"], {"a": 32}, "a's number is 32"),
        (["a"], {"z": 1}, "no region z in the deployment"),
        (["b"], None, "no region a in the deployment"),
        ([f"r{n}" for n in range(33)], None, "33 regions; snowflakes support 32"),
    ],
)
def test_numbering_that_cannot_be_is_refused(
    regions: list[str], explicit: dict[str, int] | None, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        region_number(regions, "a", explicit)
