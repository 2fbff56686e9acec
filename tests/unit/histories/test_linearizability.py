from __future__ import annotations

import math
from itertools import count
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atoll.errors import InvalidHistory
from atoll.histories.history import Event
from atoll.histories.linearizability import check_registers
from atoll.histories.search import NOTHING, BudgetExceeded, Call, search

INF = math.inf
BUDGET = 100_000


def write(value: Any, start: float, end: float = INF) -> tuple[Any, ...]:
    return "write", value, start, end


def read(value: Any, start: float, end: float) -> tuple[Any, ...]:
    return "read", value, start, end


def cas(old: Any, new: Any, start: float, end: float = INF) -> tuple[Any, ...]:
    return "cas", [old, new], start, end


def events_of(*operations: tuple[Any, ...], key: str = "x") -> list[Event]:
    """Each operation by a process of its own; one that never returns has no outcome."""
    drawn: list[tuple[float, int, Event]] = []
    for process, (f, value, start, end) in enumerate(operations):
        invoked = None if f == "read" else value
        drawn.append((start, 0, Event(process, "invoke", f, key, invoked, int(start * 1e6))))
        if end < INF:
            drawn.append((end, 1, Event(process, "ok", f, key, value, int(end * 1e6))))
    return [event for _, _, event in sorted(drawn, key=lambda each: each[:2])]


@pytest.mark.parametrize(
    ("history", "possible"),
    [
        ([], True),
        ([read(None, 0, 1)], True),
        ([read(1, 0, 1)], False),
        ([write(1, 0, 1), read(1, 2, 3)], True),
        ([write(1, 0, 1), read(None, 2, 3)], False),
        ([write(1, 0, 5), read(None, 1, 2), read(1, 3, 4)], True),
        ([write(1, 0, 5), read(1, 1, 2), read(None, 3, 4)], False),
        ([write(1, 0, 1), write(2, 2, 3), read(1, 4, 5)], False),
        ([write(1, 0, 9), write(2, 0, 9), read(2, 1, 2), read(1, 3, 4)], True),
        ([write(1, 0, 9), write(2, 0, 9), read(2, 1, 2), read(1, 3, 4), read(2, 5, 6)], False),
        ([write(1, 0), read(1, 5, 6)], True),
        ([write(1, 0), read(None, 5, 6)], True),
        ([write(1, 0), read(1, 1, 2), read(None, 5, 6)], False),
        ([write(1, 3), read(1, 1, 2)], False),
        ([cas(None, 1, 0, 1), read(1, 2, 3)], True),
        ([cas(2, 1, 0, 1)], False),
        ([cas(None, 1, 0, 1), cas(None, 2, 2, 3)], False),
        ([cas(None, 1, 0), cas(None, 2, 2, 3), read(1, 4, 5)], False),
        ([cas(None, 1, 0), cas(1, 2, 2, 3), read(2, 4, 5)], True),
        ([cas(None, None, 0, 1), cas(None, None, 0, 1)], True),
        ([write(True, 0, 1), read(1, 2, 3)], False),
        ([write({"a": 1, "b": [2]}, 0, 1), read({"b": [2], "a": 1}, 2, 3)], True),
        # A write of what is there already may hide another write.
        ([cas(None, 2, 1, 4), write(4, 2, 8), write(2, 3, 7), cas(2, 0, 5, 6), cas(0, 3, 9, 11)], True),
    ],
)
def test_an_order_is_found_where_there_is_one(history: list[tuple[Any, ...]], possible: bool) -> None:
    assert check_registers(events_of(*history)).verdict == ("valid" if possible else "invalid")


def by_definition(calls: list[Call], initial: int) -> bool:
    """Try every order that respects real time."""
    certain = sum(1 << number for number, each in enumerate(calls) if each.end < INF)
    seen, open_ones = {(0, initial)}, [(0, initial)]
    while open_ones:
        done, held = open_ones.pop()
        if done & certain == certain:
            return True
        for number, call in enumerate(calls):
            left = [each for other, each in enumerate(calls) if not done >> other & 1]
            if call not in left or any(each.end < call.start for each in left):
                continue
            if call.need in (NOTHING, held):
                step = (done | 1 << number, held if call.makes == NOTHING else call.makes)
                if step not in seen:
                    seen.add(step)
                    open_ones.append(step)
    return False


def drawn_calls(rng: Random) -> list[Call]:
    """A real execution in most cases, often with one value changed afterwards."""
    number, values, lasting = rng.randint(1, 9), rng.choice([2, 3, 9]), rng.choice([2, 4, 8])
    spans = [(start := rng.uniform(0, number), start + rng.uniform(0, lasting)) for _ in range(number)]
    times = sorted([(start, each, 0) for each, (start, _) in enumerate(spans)]
                   + [(end, each, 1) for each, (_, end) in enumerate(spans)])  # fmt: skip
    at = {(each, side): place for place, (_, each, side) in enumerate(times)}
    kinds = rng.choice(["rw", "rwc", "cccrw", "wwr"])
    held, found = 0, []
    for _, each in sorted((rng.uniform(*span), each) for each, span in enumerate(spans)):
        kind, end = rng.choice(kinds), at[each, 1] if rng.random() < 0.8 else INF
        need = NOTHING if kind == "w" else held if rng.random() < 0.7 else rng.randrange(values)
        makes = NOTHING if kind == "r" else rng.randrange(values)
        if need != makes and (end < INF or makes != NOTHING):
            found.append(Call(need, makes, at[each, 0], end))
            if makes != NOTHING and (end < INF or rng.random() < 0.5):
                held = makes
    return sorted(found, key=lambda each: each.start)


@settings(max_examples=400)
@given(st.integers(0, 1 << 32).map(lambda seed: drawn_calls(Random(seed))))
def test_it_agrees_with_trying_every_order(calls: list[Call]) -> None:
    assert (search(calls, [0], BUDGET).stuck is None) is by_definition(calls, 0)


def test_it_agrees_with_trying_every_order_of_many_histories() -> None:
    verdicts = []
    for seed in range(3000):
        calls = drawn_calls(Random(seed))
        verdicts.append(search(calls, [0], BUDGET).stuck is None)
        assert verdicts[-1] is by_definition(calls, 0), f"seed {seed}"
    assert 500 < sum(verdicts) < 2500


def recorded(
    rng: Random, number: int, processes: int, *, keys: int = 1, kinds: str = "rwc", values: int | None = None
) -> list[Event]:
    """A history of registers that are linearizable, by clients whose requests and answers are delayed at random.

    Without `values`, no value is written twice. One operation in twenty has no outcome, one in twenty fails.
    """
    free = [(0.0, process) for process in range(processes)]
    names, fresh = count(processes), count(1)
    points: list[tuple[float, float, float, int, str, str, str]] = []
    for _ in range(number):
        at, process = min(free)
        free.remove((at, process))
        start = at + rng.expovariate(3)
        end = start + rng.expovariate(1)
        outcome = rng.choices(["ok", "info", "fail"], [18, 1, 1])[0]
        point = rng.uniform(start, start + 9 if outcome == "info" else end)
        points.append((point, start, end, process, rng.choice(kinds), f"k{rng.randrange(keys)}", outcome))
        free.append((end, next(names) if outcome == "info" else process))
    held: dict[str, Any] = {}
    drawn: list[tuple[float, Event]] = []
    for _, start, end, process, kind, key, outcome in sorted(points):
        value = next(fresh) if values is None else rng.randrange(values)
        f, invoked, told, learned = "write", value, value, outcome
        if kind == "r":
            f, invoked, told = "read", None, held.get(key)
        elif kind == "c":
            old = held.get(key) if rng.random() < 0.6 else value
            f, invoked, told = "cas", [old, value], [old, value]
            if old != held.get(key) and outcome == "ok":
                learned = "fail"
        happens = learned == "ok" or (learned == "info" and rng.random() < 0.5)
        if happens and f != "read" and (f != "cas" or told[0] == held.get(key)):
            held[key] = value
        drawn.append((start, Event(process, "invoke", f, key, invoked, int(start * 1e6))))
        shown = told if learned == "ok" else invoked
        drawn.append((end, Event(process, learned, f, key, shown, int(end * 1e6))))
    return [event for _, event in sorted(drawn, key=lambda each: each[0])]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_what_was_linearizable_is_accepted(data: st.DataObject) -> None:
    events = recorded(
        Random(data.draw(st.integers(0, 1 << 32), "seed")),
        data.draw(st.integers(1, 120), "operations"),
        data.draw(st.integers(1, 12), "processes"),
        keys=data.draw(st.integers(1, 3), "keys"),
        kinds=data.draw(st.sampled_from(["rw", "rwc"]), "kinds"),
        values=data.draw(st.none() | st.integers(2, 5), "values"),
    )
    assert check_registers(events).verdict == "valid"


@pytest.mark.parametrize(
    ("processes", "kinds", "values", "most"),
    [(30, "rw", None, 40_000), (30, "rwc", None, 40_000), (30, "rw", 5, 400_000)],
)
def test_ten_thousand_operations_on_one_key_take_few_configurations(
    processes: int, kinds: str, values: int | None, most: int
) -> None:
    events = recorded(Random(1), 10_000, processes, kinds=kinds, values=values)
    found = check_registers(events)
    assert found.verdict == "valid"
    assert found.examined < most


def test_a_stale_read_among_ten_thousand_is_found_and_explained() -> None:
    events = recorded(Random(2), 10_000, 30)
    assert check_registers(events).verdict == "valid"
    reads = [number for number, each in enumerate(events) if (each.type, each.f) == ("ok", "read")]
    stale = reads[len(reads) * 9 // 10]
    old = events[reads[len(reads) * 8 // 10]].value
    changed = events[stale]
    events[stale] = Event(changed.process, "ok", "read", changed.key, old, changed.time_ns)
    found = check_registers(events)
    assert found.verdict == "invalid"
    failure = found.failures[0]
    assert len(failure.part) <= 6
    assert any(each.end == stale for each in failure.part)


def test_a_failing_part_names_what_could_not_be_placed() -> None:
    found = check_registers(
        events_of(write(1, 0, 1), read(1, 2, 3), write(2, 4, 5), write(3, 4, 5), read(1, 6, 7), read(3, 8, 9))
    )
    failure = found.failures[0]
    assert (failure.operation.f, failure.operation.value) == ("read", 1)
    assert failure.held == [2, 3]
    # One of the two writes is enough, whatever was there before it.
    assert [(each.f, each.value) for each in failure.part] == [("write", 3), ("read", 1)]
    assert str(found).splitlines()[:4] == [
        "invalid",
        'key "x" is not linearizable: no order has a place for',
        "  process 4: read x 1 → ok [6.000 to 7.000 ms]",
        "since the register could hold 2 or 3. What contradicts it:",
    ]


def test_keys_are_checked_apart() -> None:
    right = events_of(write(1, 0, 1), read(1, 2, 3), key="right")
    wrong = [
        Event(each.process + 2, each.type, each.f, each.key, each.value, each.time_ns + 3_000_000)
        for each in events_of(write(1, 0, 1), read(2, 2, 3), key="wrong")
    ]
    found = check_registers(right + wrong)
    assert [each.key for each in found.failures] == ["wrong"]


def test_keys_of_several_types_are_not_mixed_up() -> None:
    assert check_registers(
        [
            Event(0, "invoke", "write", "1", 1, 0),
            Event(0, "ok", "write", "1", 1, 1),
            Event(0, "invoke", "read", 1, None, 2),
            Event(0, "ok", "read", 1, None, 3),
        ]
    ).verdict == "valid"  # fmt: skip


def test_a_write_that_failed_was_never_there() -> None:
    events = events_of(write(1, 0, 1), read(1, 2, 3))
    failed = [
        Event(each.process, "fail", each.f, each.key, each.value, each.time_ns)
        if (each.f, each.type) == ("write", "ok")
        else each
        for each in events
    ]
    assert check_registers(events).verdict == "valid"
    assert check_registers(failed).verdict == "invalid"


def test_the_first_value_is_given() -> None:
    assert check_registers(events_of(read(7, 0, 1)), initial=7).verdict == "valid"


@pytest.mark.parametrize("possible", [True, False])
def test_beyond_its_budget_it_does_not_know(possible: bool) -> None:
    history = [write(1, 0, 1), read(1, 2, 3) if possible else read(2, 2, 3)]
    found = check_registers(events_of(*history), budget=2)
    assert (found.verdict, found.unknown) == ("unknown", ["x"])
    with pytest.raises(BudgetExceeded):
        search([Call(NOTHING, 1, 0, 1)], [0], 0)


@pytest.mark.parametrize(("f", "value"), [("append", 1), ("cas", 1), ("cas", [1])])
def test_other_operations_are_refused(f: str, value: Any) -> None:
    with pytest.raises(InvalidHistory, match="none of read, write and cas"):
        check_registers([Event(0, "invoke", f, "x", value, 0)])
