from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.causality.clock import HybridLogicalClock, format_stamp, pack, stamp_counter, stamp_ms
from atoll.errors import ClockAhead

NOW_MS = 1_793_696_400_000
milliseconds = st.integers(min_value=0, max_value=1 << 45)


class Hands:
    """A physical clock that a test sets."""

    def __init__(self, ms: int = NOW_MS) -> None:
        self.ms = ms

    def __call__(self) -> int:
        return self.ms


@given(st.lists(milliseconds, min_size=1))
def test_stamps_rise_however_the_clock_steps(readings: list[int]) -> None:
    clock = HybridLogicalClock(iter(readings).__next__)
    stamps = [clock.now() for _ in readings]
    assert stamps == sorted(set(stamps))
    assert all(stamp_ms(stamp) >= reading for stamp, reading in zip(stamps, readings, strict=True))


@given(milliseconds, st.integers(0, 65_535))
def test_packing_keeps_both_parts(ms: int, counter: int) -> None:
    stamp = pack(ms, counter)
    assert (stamp_ms(stamp), stamp_counter(stamp)) == (ms, counter)


def test_stamp_follows_the_physical_clock() -> None:
    hands = Hands()
    clock = HybridLogicalClock(hands)
    clock.now()
    hands.ms += 7
    assert clock.now() == pack(NOW_MS + 7)


def test_full_counter_carries_into_the_milliseconds() -> None:
    clock = HybridLogicalClock(Hands(), last=pack(NOW_MS, 65_535))
    assert clock.now() == pack(NOW_MS + 1)


def test_clock_resumes_past_its_last_durable_stamp() -> None:
    durable = pack(NOW_MS + 400, 3)
    assert HybridLogicalClock(Hands(), last=durable).now() == durable + 1


@given(st.integers(-(10**6), 500))
def test_now_exceeds_every_stamp_seen(ahead_ms: int) -> None:
    clock = HybridLogicalClock(Hands())
    remote = pack(NOW_MS + ahead_ms, 9)
    assert clock.update(remote) >= remote
    assert clock.now() > remote


def test_stamp_at_the_bound_is_taken() -> None:
    clock = HybridLogicalClock(Hands(), max_offset_ms=500)
    assert clock.update(pack(NOW_MS + 500, 65_535)) == pack(NOW_MS + 500, 65_535)


def test_stamp_past_the_bound_is_refused_and_changes_nothing() -> None:
    clock = HybridLogicalClock(Hands(), max_offset_ms=500)
    before = clock.now()
    with pytest.raises(ClockAhead, match=r"is 501 ms ahead .* at most 500 ms") as caught:
        clock.update(pack(NOW_MS + 501))
    assert clock.last == before
    assert caught.value.details == {
        "remote_ms": NOW_MS + 501,
        "physical_ms": NOW_MS,
        "ahead_ms": 501,
        "max_offset_ms": 500,
    }


def test_absurd_stamp_is_refused_with_a_readable_message() -> None:
    with pytest.raises(ClockAhead, match=r"^the stamp 73786976294838206464ms is"):
        HybridLogicalClock(Hands()).check(1 << 82)


def test_stamp_already_passed_is_taken_after_a_step_back() -> None:
    hands = Hands()
    clock = HybridLogicalClock(hands)
    last = clock.now()
    hands.ms -= 3_600_000
    assert clock.update(last - 1) == last


def test_lead_is_the_size_of_a_step_back() -> None:
    hands = Hands()
    clock = HybridLogicalClock(hands)
    clock.now()
    assert clock.lead_ms() == 0
    hands.ms -= 1_200
    assert clock.lead_ms() == 1_200
    hands.ms += 5_000
    assert clock.lead_ms() == 0


@pytest.mark.parametrize(
    ("stamp", "text"),
    [
        (pack(NOW_MS), "2026-11-03T09:00:00.000Z"),
        (pack(NOW_MS + 1_023, 12), "2026-11-03T09:00:01.023Z#12"),
        (0, "1970-01-01T00:00:00.000Z"),
        (pack(1 << 60, 2), f"{1 << 60}ms#2"),
    ],
)
def test_stamp_is_readable(stamp: int, text: str) -> None:
    assert format_stamp(stamp) == text
