from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.errors import ClockUnsafe
from atoll.ids.after_restore import SLACK_MS, counters_after_restore

DAY_MS = 86_400_000


@given(
    kept=st.integers(0, 10**12),
    passed_ms=st.integers(0, 365 * DAY_MS),
    rate=st.integers(0, 9_000),
    skew_ms=st.integers(-SLACK_MS + 1, SLACK_MS - 1),
)
def test_what_was_given_out_since_is_passed_over(kept: int, passed_ms: int, rate: int, skew_ms: int) -> None:
    made_ms = 10**12
    given_out = kept + passed_ms * rate
    found = counters_after_restore({"ids": kept}, made_ms=made_ms, now_ms=made_ms + passed_ms + skew_ms)
    assert found["ids"] >= given_out or skew_ms < 0
    assert found["snowflake_ms"] >= made_ms + passed_ms


def test_two_restores_of_one_backup_leave_room_between_them() -> None:
    first = counters_after_restore({"ids": 5}, made_ms=0, now_ms=1_000)
    second = counters_after_restore({"ids": 5}, made_ms=0, now_ms=2_000)
    assert second["ids"] - first["ids"] >= 1_000 * 9_000


def test_a_year_later_ids_still_fit() -> None:
    assert counters_after_restore({}, made_ms=0, now_ms=10 * 365 * DAY_MS)["ids"] < 10**16


def test_a_clock_before_the_backup_is_refused() -> None:
    with pytest.raises(ClockUnsafe, match="set it right"):
        counters_after_restore({}, made_ms=10**12, now_ms=10**12 - SLACK_MS - 1)
