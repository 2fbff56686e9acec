from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from atoll.conflicts.guard import GuardOptions, _Outcomes, guarded
from atoll.documents.strategies import ResolverFailed
from atoll.errors import InvalidDocument

VALUES = [b'{"n":1}', b'{"n":2}']
BOUNDS = GuardOptions(lines=5_000, wall_s=0.2)


def validate(document: Any) -> bytes:
    if not isinstance(document["n"], int):
        raise InvalidDocument("n must be an integer")
    return msgspec.json.encode(document)


def resolve(function: Callable[[Any], Any], values: list[bytes | None] | None = None) -> bytes | None:
    return guarded(function, validate, BOUNDS)(values or list(VALUES))


def loops(versions: list[Any]) -> Any:
    while True:
        pass


def loops_on(versions: list[Any]) -> Any:
    while True:
        try:
            while True:
                pass
        except Exception:
            continue


def sleeps(versions: list[Any]) -> Any:
    time.sleep(5)


def recurses(versions: list[Any]) -> Any:
    return recurses(versions)


def leaves(versions: list[Any]) -> Any:
    raise SystemExit(3)


def test_its_document_is_taken() -> None:
    assert resolve(lambda versions: {"n": sum(v["n"] for v in versions)}) == b'{"n":3}'


def test_it_may_keep_a_deletion() -> None:
    assert resolve(lambda versions: None, [b'{"n":1}', None]) is None


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda versions: 1 / 0, "ZeroDivisionError"),
        (loops, "more than 5000 lines"),
        (loops_on, "more than 5000 lines"),
        (sleeps, "did not return within 0.2 s"),
        (recurses, "lines|RecursionError"),
        (leaves, "SystemExit"),
        (lambda versions: None, "returned None"),
        (lambda versions: {"n": "one"}, "an invalid document: n must be an integer"),
        (lambda versions: [1], "an invalid document"),
        (lambda versions: {"n": {1, 2}}, "an invalid document"),
        (lambda versions: {}, "an invalid document"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_whatever_it_does_wrong_has_one_outcome(function: Callable[[Any], Any], reason: str) -> None:
    with pytest.raises(ResolverFailed, match=reason):
        resolve(function)


def test_what_it_does_to_its_argument_stays_with_it() -> None:
    def spoils(versions: list[Any]) -> Any:
        first = dict(versions[0])
        versions.clear()
        return first

    guard = guarded(spoils, validate, BOUNDS)
    assert guard(VALUES) == guard(VALUES) == b'{"n":1}'


def test_a_failure_on_the_same_versions_is_not_waited_for_again() -> None:
    calls: list[int] = []

    def counts(versions: list[Any]) -> Any:
        calls.append(1)
        raise ValueError("never")

    guard = guarded(counts, validate, BOUNDS)
    for _ in range(3):
        with pytest.raises(ResolverFailed, match="never"):
            guard(VALUES)
    with pytest.raises(ResolverFailed):
        guard([*VALUES, None])
    assert len(calls) == 2


def test_what_it_made_of_the_same_versions_is_remembered() -> None:
    calls: list[int] = []

    def counts(versions: list[Any]) -> Any:
        calls.append(1)
        return None if None in versions else versions[0]

    guard = guarded(counts, validate, BOUNDS)
    assert [guard(VALUES) for _ in range(3)] == [b'{"n":1}'] * 3
    assert [guard([None, b'{"n":1}']) for _ in range(3)] == [None] * 3
    assert len(calls) == 2


def test_what_is_remembered_is_bounded() -> None:
    outcomes = _Outcomes()
    for number in range(50):
        outcomes.keep(bytes([number]), bytes(1 << 20))
        kept = sum(outcomes.get(bytes([n])) is not None for n in range(number + 1))
        assert 1 <= kept <= 4
    for number in range(10_000):
        outcomes.keep(number.to_bytes(4), b"")
    assert outcomes.get((9_999).to_bytes(4)) == b""
    assert sum(outcomes.get(number.to_bytes(4)) is not None for number in range(10_000)) <= 4096


def test_one_that_hangs_is_left_behind_and_the_next_has_another_thread() -> None:
    let_go = threading.Event()
    threads: list[int] = []

    def hangs(versions: list[Any]) -> Any:
        threads.append(threading.get_ident())
        let_go.wait()

    def returns(versions: list[Any]) -> Any:
        threads.append(threading.get_ident())
        return versions[0]

    with pytest.raises(ResolverFailed, match="did not return"):
        resolve(hangs)
    assert resolve(returns) == resolve(returns) == b'{"n":1}'
    assert threads[0] != threads[1] == threads[2]
    let_go.set()


def test_it_works_in_a_process_that_was_forked_off() -> None:
    guard = guarded(lambda versions: versions[0], validate, GuardOptions(wall_s=30.0))
    assert guard(VALUES) == b'{"n":1}'
    child = os.fork()
    if child == 0:
        os._exit(0 if guard([b'{"n":5}', b'{"n":6}']) == b'{"n":5}' else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_the_bound_is_the_same_wherever_it_runs() -> None:
    """Counted in lines, an endless loop stops at the same place on any machine."""
    reached: list[int] = []

    def counts(versions: list[Any]) -> Any:
        reached.append(0)
        while True:
            reached[-1] += 1

    for _ in range(2):
        with pytest.raises(ResolverFailed):
            resolve(counts)
    assert reached[0] == reached[1] > 0


def test_an_endless_function_leaves_no_thread_behind() -> None:
    resolve(lambda versions: versions[0])  # the thread that all share
    before = set(threading.enumerate())
    with pytest.raises(ResolverFailed):
        resolve(loops)
    assert set(threading.enumerate()) <= before
