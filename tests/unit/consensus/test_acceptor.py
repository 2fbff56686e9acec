from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from atoll.causality.types import Ballot
from atoll.consensus.acceptor import (
    NEVER,
    Accept,
    Acceptor,
    Inspect,
    Prepare,
    Request,
    decoded,
    encoded,
    joined,
    vote,
)
from atoll.consensus.round import Round, heard
from atoll.consensus.voters import Joining, later, outdated

BALLOTS = st.builds(Ballot, st.integers(1, 6), st.sampled_from(["a/1", "b/1"]))
REQUESTS: st.SearchStrategy[Request] = st.one_of(
    st.builds(Prepare, st.just("r"), BALLOTS),
    st.builds(
        lambda ballot, value: Accept("r", ballot, value, Ballot(ballot.number + 1, ballot.proposer)),
        BALLOTS,
        st.binary(min_size=1, max_size=2),
    ),
    st.builds(Inspect, st.just("r")),
)


def after(*requests: Request) -> Acceptor:
    state = Acceptor()
    for request in requests:
        state, _ = vote(state, request)
    return state


@given(st.lists(REQUESTS), REQUESTS)
def test_promises_only_rise_and_what_is_below_is_refused(before: list[Request], request: Request) -> None:
    state = after(*before)
    changed, answer = vote(state, request)
    assert changed.promised >= state.promised
    assert changed.accepted >= state.accepted
    if not isinstance(request, Inspect) and request.ballot < state.promised:
        repeated = isinstance(request, Accept) and request.ballot == state.accepted
        assert changed == state
        assert answer.granted == repeated


@given(st.lists(REQUESTS), REQUESTS)
def test_a_repeated_request_changes_nothing(before: list[Request], request: Request) -> None:
    state, answer = vote(after(*before), request)
    again, repeated = vote(state, request)
    assert again == state
    if answer.granted:
        assert repeated.granted


def test_an_accepted_proposal_promises_the_next_ballot() -> None:
    ballot, upcoming = Ballot(3, "a/1"), Ballot(4, "a/1")
    state = after(Accept("r", ballot, b"v", upcoming))
    assert (state.promised, state.accepted, state.value) == (upcoming, ballot, b"v")
    assert not vote(state, Prepare("r", Ballot(3, "b/1")))[1].granted
    assert vote(state, Accept("r", upcoming, b"w", Ballot(5, "a/1")))[1].granted


def test_a_value_that_is_known_is_not_sent() -> None:
    state = after(Accept("r", Ballot(3, "a/1"), b"v", Ballot(4, "a/1")))
    assert vote(state, Inspect("r"))[1].value == b"v"
    assert vote(state, Inspect("r", Ballot(3, "a/1")))[1].value is None


@given(st.lists(REQUESTS), st.lists(REQUESTS))
def test_an_acceptor_takes_over_the_higher_promise_and_the_later_value(
    ours: list[Request], theirs: list[Request]
) -> None:
    one, other = after(*ours), after(*theirs)
    both = joined(one, other)
    assert both.promised == max(one.promised, other.promised)
    assert both.accepted == max(one.accepted, other.accepted)
    assert joined(both, other) == joined(both, one) == both
    assert decoded(encoded(both)) == both


def test_nothing_is_stored_of_a_register_that_nobody_asked_for() -> None:
    assert decoded(None) == Acceptor(NEVER, NEVER, b"")


def test_a_majority_that_holds_one_value_has_decided_it() -> None:
    state = after(Accept("r", Ballot(3, "a/1"), b"v", Ballot(4, "a/1")))
    holds, empty = vote(state, Inspect("r"))[1], vote(Acceptor(), Inspect("r"))[1]
    voters = dict.fromkeys("abc", 0)
    two = heard(heard(Round(voters), "a", holds), "b", empty)
    assert (two.outcome, two.decided, two.value) == ("won", False, b"v")
    assert heard(two, "c", holds).decided
    assert not heard(two, "c", empty).decided
    assert heard(heard(Round(voters), "a", empty), "b", empty).decided


def test_a_round_without_a_majority_is_refused_or_unreachable() -> None:
    voters = dict.fromkeys("abc", 0)
    refusal = vote(after(Prepare("r", Ballot(9, "b/1"))), Prepare("r", Ballot(1, "a/1")))[1]
    state = heard(heard(Round(voters), "a", refusal), "b", None)
    assert (state.outcome, state.promised) == ("refused", Ballot(9, "b/1"))
    assert heard(heard(Round(voters), "a", None), "b", None).outcome == "unreachable"
    assert heard(state, "stranger", None) == heard(state, "a", None) == state


def test_an_incarnation_that_is_over_is_not_counted() -> None:
    assert later({"a": 1, "b": 0}, {"a": 0, "c": 2}) == {"a": 1, "b": 0, "c": 2}
    assert not outdated({"a": 1, "b": 0}, {"a": 1}, "b", 0)
    assert outdated({"a": 0, "b": 0}, {"a": 1}, "b", 0)
    assert outdated({"a": 1, "b": 0}, {}, "b", 1)


def test_a_region_votes_once_it_has_read_what_any_majority_shares() -> None:
    five = frozenset("abcde")
    assert not Joining("a", five, read=frozenset("bcd"), voting=frozenset("bc")).enough
    assert Joining("a", five, read=frozenset("bcd"), voting=frozenset("bcd")).enough
    assert Joining("a", five, read=frozenset("bcde")).enough  # all others: a deployment that begins
    assert not Joining("a", frozenset("abc"), read=frozenset("b"), voting=frozenset("b")).enough
    assert Joining("a", frozenset("a")).enough


def test_a_region_reads_enough_of_the_former_set_too() -> None:
    four, three = frozenset("abcd"), frozenset("abc")
    assert not Joining("a", four, three, read=frozenset("cd"), voting=frozenset("cd")).enough
    assert Joining("a", four, three, read=frozenset("bc"), voting=frozenset("bc")).enough
    assert Joining("d", four, three, read=frozenset("cb"), voting=frozenset("cb")).enough  # it was not in it


def test_a_region_alone_asks_all_that_may_know_of_others() -> None:
    alone = Joining("a", frozenset("a"), named=frozenset("ab"))
    assert not alone.enough
    assert alone.asked == {"b"}
    assert msgspec.structs.replace(alone, read=frozenset("b")).enough
