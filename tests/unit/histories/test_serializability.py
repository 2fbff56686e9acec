from __future__ import annotations

import json
from itertools import count
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atoll.errors import InvalidHistory
from atoll.histories.history import Event, Operation, Recorder, operations_of
from atoll.histories.serializability import check_transactions

Steps = list[list[Any]]


def events_of(*transactions: tuple[Any, ...]) -> list[Event]:
    """(steps, start, end) and, unless it is `ok`, the outcome; each by a process of its own."""
    drawn: list[tuple[float, Event]] = []
    for process, (steps, start, end, *told) in enumerate(transactions):
        outcome = told[0] if told else "ok"
        invoked = [[f, key, None if f == "r" else value] for f, key, value in steps]
        drawn.append((start, Event(process, "invoke", "txn", None, invoked, int(start * 1e6))))
        value = steps if outcome == "ok" else invoked
        drawn.append((end, Event(process, outcome, "txn", None, value, int(end * 1e6))))
    return [event for _, event in sorted(drawn, key=lambda each: each[0])]


def steps(text: str) -> Steps:
    """`rx1 wy2` is a read of 1 from x and a write of 2 to y; `rx-` reads nothing."""
    found: Steps = []
    for word in text.split():
        f = {"r": "r", "w": "w", "a": "append"}[word[0]]
        value = json.loads(word[2:]) if word[2:] != "-" else None
        found.append([f, word[1], value])
    return found


@pytest.mark.parametrize(
    ("history", "names"),
    [
        ([("wx1", 0, 1), ("rx1 wx2", 2, 3), ("rx2", 4, 5)], set()),
        ([("ax1 ay1", 0, 9), ("ay2 ax2", 0, 8), ("rx[1,2] ry[2,1]", 10, 11)], {"G0"}),
        ([("wx1", 0, 1, "fail"), ("rx1", 2, 3)], {"G1a"}),
        ([("wx1 wx2", 0, 9), ("rx1", 1, 8)], {"G1b"}),
        ([("wx1 ry1", 0, 9), ("wy1 rx1", 1, 8)], {"G1c"}),
        ([("wx1 wy1", 0, 9), ("rx1 ry-", 1, 8)], {"G-single"}),
        ([("wx1", 0, 1), ("rx-", 2, 3)], {"G-single-realtime"}),
        ([("rx- wy1", 0, 9), ("ry- wx1", 1, 8)], {"write skew"}),
        ([("wx1", 0, 9), ("wy1", 1, 9.1), ("rx1 ry-", 2, 8), ("rx- ry1", 3, 7)], {"long fork"}),
        ([("rx- wy1", 0, 9), ("ry- wz1", 1, 8), ("rz- wx1", 2, 7)], {"G2"}),
        ([("rx- wx1", 0, 9), ("rx- wx2", 1, 8)], {"lost update"}),
        ([("rx[] ax1", 0, 9), ("rx[] ax2", 1, 8)], {"lost update"}),
        ([("wx1", 0, 1), ("rx1 rx-", 2, 3)], {"internal"}),
        ([("wx1 rx-", 0, 1)], {"internal"}),
        ([("rx1 wx1", 0, 1)], {"internal"}),
        ([("ax1 ax2", 0, 8), ("ax3", 0, 9), ("rx[1,2,3] ax4 rx[1,3,4]", 1, 7)], {"internal"}),
        ([("rx7", 0, 1)], {"unknown value"}),
        ([("ax1", 0, 9), ("ax2", 0, 8), ("rx[1]", 1, 7), ("rx[2]", 2, 6)], {"incompatible order"}),
        ([("wx1", 0, 1, "info"), ("rx-", 2, 3), ("rx1", 4, 5)], set()),
        ([("wx1", 0, 1, "info"), ("rx1", 2, 3), ("rx-", 4, 5)], {"G-single-realtime"}),
    ],
)
def test_an_anomaly_has_its_name(history: list[tuple[Any, ...]], names: set[str]) -> None:
    found = check_transactions(events_of(*((steps(text), *rest) for text, *rest in history)))
    assert names <= found.names
    assert found.verdict == ("invalid" if names else "valid"), str(found)


def test_a_cycle_is_explained() -> None:
    events = events_of((steps("wx1"), 0, 1), (steps("rx-"), 2, 3))
    assert str(check_transactions(events)).splitlines()[-2:] == [
        '  T1 before T2: it read nothing of "x", which the other replaced',
        "  T2 before T1: it had ended when the other began",
    ]


def drawn(rng: Random, write: str) -> list[Event]:
    """Transactions that often read old versions, and at the end a read of everything."""
    number, keys, fresh = rng.randint(2, 4), "xy"[: rng.randint(1, 2)], count(1)
    spans = [(start := rng.uniform(0, number), start + rng.uniform(0, 4)) for _ in range(number)]
    versions: dict[str, list[Any]] = {key: [[] if write == "append" else None] for key in keys}
    stale = rng.choice([0.0, 0.4])
    found: list[tuple[Any, ...]] = []
    for start, end in sorted(spans, key=lambda span: rng.uniform(*span)):
        outcome, told, own = rng.choices(["ok", "fail", "info"], [8, 1, 1])[0], [], {}
        for _ in range(rng.randint(1, 3)):
            key = rng.choice(keys)
            old = versions[key][-1 - (rng.random() < stale and len(versions[key]) > 1)]
            held = own.get(key, old)
            if rng.random() < 0.5:
                told.append(["r", key, held])
            else:
                told.append([write, key, value := next(fresh)])
                held = [*held, value] if write == "append" else value
            own[key] = held
        if outcome == "ok" or (outcome == "info" and rng.random() < 0.5):
            for f, key, value in told:
                if f != "r":
                    versions[key].append([*versions[key][-1], value] if write == "append" else value)
        found.append((told, start, end, outcome))
    found.append(([["r", key, versions[key][-1]] for key in keys], 98, 99))
    return events_of(*found)


def serializable(operations: list[Operation], lists: bool) -> bool:
    """Try every order that respects real time."""
    certain = [each for each in operations if each.outcome == "ok"]
    possible = [each for each in operations if each.outcome != "fail"]

    def go_on(done: list[Operation], state: dict[str, Any]) -> bool:
        if all(each in done for each in certain):
            return True
        for each in possible:
            if each in done or any(e not in done and (e.end or 0) < each.start for e in certain):
                continue
            after, right = dict(state), True
            for f, key, value in each.value:
                held = after.get(key, [] if lists else None)
                if f != "r":
                    after[key] = [*held, value] if lists else value
                elif each.outcome == "ok" and held != value:
                    right = False
            if right and go_on([*done, each], after):
                return True
        return False

    return go_on([], {})


def compare(seed: int) -> tuple[str, bool]:
    write = ["append", "w"][seed % 2]
    events = drawn(Random(seed), write)
    found, possible = check_transactions(events), serializable(operations_of(events), write == "append")
    if possible:
        assert found.verdict == "valid", str(found)
    elif write == "append":
        assert found.verdict == "invalid"
    return found.verdict, possible


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 1 << 32))
def test_it_agrees_with_trying_every_order(seed: int) -> None:
    compare(seed)


def test_it_agrees_with_trying_every_order_of_many_histories() -> None:
    verdicts = [compare(seed) for seed in range(1500)]
    assert 50 < verdicts.count(("invalid", False)) < 1400


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (None, "is not a list"),
        ([["r", "x"]], "is not a list"),
        ([["d", "x", 1]], "is not a list"),
        ([["w", "x", None]], "may be written once"),
        ([["w", "x", 1], ["w", "x", 1]], "may be written once"),
        ([["w", "x", 1], ["append", "y", 1]], "not both"),
    ],
)
def test_other_steps_are_refused(value: Any, why: str) -> None:
    with pytest.raises(InvalidHistory, match=why):
        check_transactions([Event(0, "invoke", "txn", None, value, 0)])


def test_an_outcome_has_the_steps_of_its_invocation() -> None:
    client = (recorder := Recorder(count().__next__)).client()
    client.invoke("txn", value=[["w", "x", 1]])
    client.ok([["w", "x", 2]])
    with pytest.raises(InvalidHistory, match="other steps"):
        check_transactions(recorder.events())
