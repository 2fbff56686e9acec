from __future__ import annotations

import math

from atoll.protocol import port
from atoll.recovery.startup_check import (
    Event,
    Rewound,
    Started,
    StartupState,
    counters,
    held_by,
    step,
    void_at,
)

PEERS = ("b", "c")


class Starting:
    """A node of region a, at second 0, and what it has asked for last."""

    def __init__(self, *peers: str, **stored: int) -> None:
        self.state = StartupState("a", frozenset(peers), 3.0)
        self.asked: tuple[port.Effect, ...] = ()
        self.meets(port.CountersRead(dict.fromkeys(counters(peers), 0) | stored))
        self.meets(Started())

    def meets(self, event: Event) -> tuple[port.Effect, ...]:
        self.state, self.asked = step(self.state, event, 0.0)
        return self.asked


def heard(peer: str, there: int, here: int) -> port.Heard:
    """The peer holds so much of a, which itself has so much."""
    return port.Heard(peer, {"a": there}, {"a": here})


def test_it_waits_for_every_peer_for_so_long() -> None:
    it = Starting(*PEERS)
    assert it.asked == (port.WakeAt(3.0),)
    it.meets(heard("b", 0, 0))
    assert "waits for c" in it.state.reason
    it.meets(port.Woken())
    assert it.state.over


def test_it_is_over_when_the_last_peer_was_heard() -> None:
    it = Starting(*PEERS)
    it.meets(heard("b", 0, 0))
    assert it.meets(heard("c", 0, 0)) == (port.WakeAt(math.inf),)
    assert it.state.over


def test_nobody_waits_for_a_peer_that_has_left_nor_for_what_it_alone_held() -> None:
    it = Starting(*PEERS)
    it.meets(heard("b", 0, 0))
    it.meets(heard("c", 7, 0))
    assert it.state.own_elsewhere == 7
    left = it.meets(port.MembersChanged(frozenset({"b"})))
    assert left == (port.RaiseCounters({void_at("c"): 7}), port.RefreshPosition())
    assert it.state.own_elsewhere == 0
    waiting = Starting(*PEERS)
    waiting.meets(heard("b", 0, 0))
    assert port.WakeAt(math.inf) in waiting.meets(port.MembersChanged(frozenset({"b"})))
    assert waiting.state.over


def test_a_region_without_peers_waits_for_nobody() -> None:
    assert Starting().state.over


def test_what_another_node_wrote_is_not_taken_for_lost() -> None:
    it = Starting("b")
    assert port.RefreshPosition() in it.meets(heard("b", 4, 3))
    assert it.meets(port.Refreshed({"a": 4})) == ()
    assert not it.state.recovering


def test_lost_entries_are_asked_for_everywhere_until_they_are_back() -> None:
    it = Starting("b")
    assert it.meets(heard("b", 4, 1)) == (
        port.RaiseCounters({held_by("b"): 4}),
        port.RefreshPosition(),
        port.WakeAt(math.inf),
    )
    assert it.meets(port.Refreshed({"a": 1})) == (port.ReviewLinks(),)
    assert (it.state.recovering, it.state.own_elsewhere) == (True, 4)
    it.meets(port.CountersRaised({held_by("b"): 4}))
    assert it.meets(heard("b", 4, 3)) == ()  # it is durable, and asked for already
    assert it.meets(heard("b", 4, 4)) == (port.RefreshPosition(),)
    assert it.meets(port.Refreshed({"a": 4})) == (port.ReviewLinks(),)
    assert not it.state.recovering


def test_what_a_peer_held_is_known_after_a_restart_without_it() -> None:
    it = Starting(*PEERS, **{held_by("c"): 9})
    it.meets(heard("b", 0, 0))
    it.meets(port.Refreshed({}))
    it.meets(port.Woken())
    assert "up to 9" in it.state.reason


def test_a_peer_that_was_forgotten_does_not_count_any_more() -> None:
    it = Starting(*PEERS, **{held_by("c"): 9})
    it.meets(heard("b", 7, 0))
    assert it.meets(port.Forgotten("c"))[0] == port.RaiseCounters({void_at("c"): 9})
    assert (it.state.over, it.state.own_elsewhere) == (True, 7)
    again = Starting(*PEERS, **{held_by("c"): 9, void_at("c"): 9})
    assert again.state.own_elsewhere == 0
    again.meets(heard("c", 12, 0))  # it was not gone after all
    assert again.state.own_elsewhere == 12


def test_peers_are_heard_anew_where_the_database_is_another_one() -> None:
    it = Starting("b")
    it.meets(heard("b", 4, 4))
    it.meets(Rewound())
    assert it.state.own_elsewhere == 0


def test_a_peer_that_lost_its_disk_takes_nothing_back() -> None:
    it = Starting("b")
    it.meets(heard("b", 4, 1))
    it.meets(heard("b", 0, 1))
    assert it.state.own_elsewhere == 4
