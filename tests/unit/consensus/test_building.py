"""Which state of a build may follow which."""

from __future__ import annotations

from atoll.consensus.building import Build, begun, built, knows, may_begin, requested, settles, waits_for

REGIONS = ("a", "b")


def settled() -> Build:
    build = knows(requested(None, "a"), "b")
    for name in REGIONS:
        build = settles(build, name, {name: 1})
    return build


def test_all_have_to_know_and_to_settle() -> None:
    build = requested(None, "a")
    assert waits_for(build, REGIONS) == ["b"]
    build = settles(knows(build, "b"), "a", {})
    assert not may_begin(build, REGIONS, REGIONS)
    assert may_begin(settled(), REGIONS, REGIONS)
    assert not may_begin(settled(), (*REGIONS, "c"), REGIONS)
    assert not may_begin(knows(build, "c"), REGIONS, REGIONS)


def test_who_asks_once_more_has_been_away() -> None:
    for before in (settled(), begun(settled(), "b/1", 5, {}), built(settled(), 3, 7)):
        again = requested(before, "a")
        assert (again.generation, again.state, again.settled) == (2, "waiting", {})
        assert again.known == ("a", "b")
        assert not may_begin(again, REGIONS, REGIONS)
    assert requested(built(settled(), 3, 7), "a").conflicts == 3
