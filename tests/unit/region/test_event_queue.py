from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from atoll.region.event_queue import EventLimits, EventQueue, LinkSeen, Occurrence

LIMITS = EventLimits(settle_s=5.0, flapping_s=60.0, burst=3, every_s=10.0, most_waiting=4)
UP = LinkSeen(True, 1000)
DOWN = LinkSeen(False, 2000, "nothing heard for 3 s")


def running(*peers: str) -> EventQueue:
    """One whose region has started long ago, with these links up."""
    queue = EventQueue(LIMITS)
    queue.started(Occurrence("region-started", 0), -100.0)
    queue.look(dict.fromkeys(peers, UP), -100.0)
    assert [each.kind for each in queue.take(-50.0)] == ["region-started"]
    return queue


def test_a_start_names_the_links_that_came_with_it() -> None:
    queue = EventQueue(LIMITS)
    queue.started(Occurrence("region-started", 7), 0.0)
    queue.look({"b": UP, "c": DOWN, "d": UP}, 1.0)
    assert queue.take(4.9) == []
    assert queue.wake_s() == 5.0
    assert queue.take(5.0) == [
        Occurrence("region-started", 7, detail="linked with b, d; not linked with c"),
    ]


def test_links_that_come_up_with_a_start_are_no_events() -> None:
    queue = EventQueue(LIMITS)
    queue.started(Occurrence("region-started", 7), 0.0)
    for number in range(30):
        queue.look({f"r{n}": UP if n <= number else DOWN for n in range(30)}, number / 10)
    assert [each.kind for each in queue.take(5.0)] == ["region-started"]
    assert queue.take(1000.0) == []


def test_a_link_that_was_down_at_the_start_comes_up() -> None:
    queue = EventQueue(LIMITS)
    queue.started(Occurrence("region-started", 7), 0.0)
    queue.look({"b": DOWN}, 0.0)
    queue.take(5.0)
    queue.look({"b": UP}, 9.0)
    assert queue.take(14.0) == [Occurrence("link-up", 1000, "b")]


def test_a_change_that_lasts_is_one_event() -> None:
    queue = running("b", "c")
    queue.look({"b": DOWN, "c": UP}, 10.0)
    assert queue.wake_s() == 15.0
    assert queue.take(14.9) == []
    assert queue.take(15.0) == [Occurrence("link-down", 2000, "b", "nothing heard for 3 s")]
    assert queue.take(1000.0) == []
    queue.look({"b": UP, "c": UP}, 1010.0)
    assert queue.take(1015.0) == [Occurrence("link-up", 1000, "b")]


def test_a_change_that_is_undone_is_counted_with_the_next() -> None:
    queue = running("b")
    for at in (0.0, 4.0, 8.0):
        queue.look({"b": DOWN}, at)
        queue.look({"b": UP}, at + 2.0)
    queue.look({"b": DOWN}, 12.0)
    (event,) = queue.take(17.0)
    assert (event.kind, event.detail) == (
        "link-down",
        "nothing heard for 3 s; after 3 changes that did not last",
    )


def test_a_link_that_keeps_changing_is_one_event_a_minute() -> None:
    queue = running("b")
    events = []
    for at in range(0, 181, 2):
        queue.look({"b": DOWN if at % 4 else UP}, float(at))
        events += queue.take(float(at))
    assert [each.kind for each in events] == ["link-flapping"] * len(events)
    assert 2 <= len(events) <= 3
    assert all(each.detail.startswith("up, with ") and each.times > 10 for each in events)


def test_a_link_that_another_node_keeps_is_its_affair() -> None:
    queue = running("b")
    queue.look({"b": DOWN}, 0.0)
    queue.look({}, 1.0)
    assert queue.take(100.0) == []
    queue.look({"b": DOWN}, 101.0)  # it takes the link over, and the peer is away
    assert [each.kind for each in queue.take(106.0)] == ["link-down"]


def test_occurrences_that_wait_become_one_event() -> None:
    queue = running()
    for n in range(1000):
        queue.note(Occurrence("change-parked", n, "b", str(n)))
    assert queue.take(0.0) == [Occurrence("change-parked", 0, "b", "999", 1000)]


def test_what_finds_no_room_is_counted() -> None:
    queue = running()
    for n in range(6):
        queue.note(Occurrence("change-parked", n, f"r{n}", times=10))
    assert queue.left_out == 20


def test_events_leave_at_a_bounded_rate() -> None:
    queue = running()
    taken: list[Occurrence] = []
    for second in range(1000):
        queue.note(Occurrence("change-parked", second, f"r{second % 4}"))
        taken += queue.take(float(second))
    assert len(taken) <= LIMITS.burst + 1000 / LIMITS.every_s
    assert sum(each.times for each in taken) >= 950  # nothing is lost: they are counted together


@given(st.lists(st.tuples(st.floats(0, 20), st.booleans()), max_size=30))
def test_events_of_a_link_alternate(changes: list[tuple[float, bool]]) -> None:
    queue = running("b")
    now_s, events = 0.0, []
    for pause_s, up in changes:
        end_s = now_s + pause_s
        while (wake_s := queue.wake_s()) <= end_s:  # as the log does
            events += queue.take(wake_s)
            assert queue.wake_s() > wake_s
        now_s = end_s
        queue.look({"b": UP if up else DOWN}, now_s)
    while (wake_s := queue.wake_s()) < math.inf:
        events += queue.take(wake_s)
    kinds = [each.kind for each in events if each.kind != "link-flapping"]
    assert kinds == (["link-down", "link-up"] * len(kinds))[: len(kinds)]
    last_up = changes[-1][1] if changes else True
    assert (len(kinds) % 2 == 0) == last_up
