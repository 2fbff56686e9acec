from __future__ import annotations

from random import Random
from uuid import RFC_4122, UUID

from hypothesis import given
from hypothesis import strategies as st
from ulid import ULID

from atoll.ids.sortable import SortableIds

NOW_MS = 1_793_696_400_000
readings = st.lists(st.integers(0, (1 << 48) - 2), min_size=1, max_size=50)


@given(readings, st.integers())
def test_ulids_rise_however_the_clock_steps(clock: list[int], seed: int) -> None:
    ids = SortableIds(iter(clock).__next__, Random(seed).randbytes)
    made = [ids.ulid() for _ in clock]
    assert made == sorted(set(made))


@given(readings, st.integers())
def test_uuids_rise_however_the_clock_steps(clock: list[int], seed: int) -> None:
    ids = SortableIds(iter(clock).__next__, Random(seed).randbytes)
    made = [ids.uuid7() for _ in clock]
    assert made == sorted(set(made))


def test_ids_carry_the_time_and_their_version() -> None:
    ids = SortableIds(lambda: NOW_MS, Random(1).randbytes)
    assert ULID.from_str(ids.ulid()).milliseconds == NOW_MS
    made = UUID(ids.uuid7())
    assert (made.version, made.variant) == (7, RFC_4122)
    assert made.int >> 80 == NOW_MS


def test_randomness_without_successor_goes_on_in_the_next_millisecond() -> None:
    ids = SortableIds(lambda: NOW_MS, lambda count: b"\xff" * count)
    made = [ids.ulid() for _ in range(5)]
    assert made == sorted(set(made))
    assert ULID.from_str(made[-1]).milliseconds == NOW_MS + 4


def test_processes_on_one_clock_never_collide() -> None:
    random = Random(5)
    processes = [SortableIds(lambda: NOW_MS, random.randbytes) for _ in range(20)]
    made = [make() for process in processes for make in [process.ulid, process.uuid7] * 20]
    assert len(set(made)) == len(made)
