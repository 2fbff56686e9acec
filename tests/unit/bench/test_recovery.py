from __future__ import annotations

from bench.recovery import Found, Written, worst


def test_the_longest_pause_lies_between_two_acknowledgements() -> None:
    assert Written({1: 10.0, 2: 10.5, 3: 14.0, 4: 14.1}).longest_pause_s() == 3.5
    assert Written().longest_pause_s() == 0.0


def test_calls_in_flight_are_told_from_later_ones() -> None:
    written = Written(calls=[(0.0, 1.0), (1.5, 9.5), (3.0, 4.0), (3.5, 3.75)])
    assert written.longest_call_s(2.0, in_flight=True) == 8.0
    assert written.longest_call_s(2.0, in_flight=False) == 1.0
    assert written.longest_call_s(20.0, in_flight=False) == 0.0


def test_of_several_failures_the_longest_times_and_all_losses_count() -> None:
    one = Found(1.0, 0.5, 0.2, 3.0, 100, 0, 0.0)
    other = Found(2.0, 0.1, 0.3, 1.0, 50, 2, 40.0)
    assert worst([one, other]) == Found(2.0, 0.5, 0.3, 3.0, 150, 2, 40.0)
