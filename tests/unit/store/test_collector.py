from __future__ import annotations

import gc
import threading

import pytest

from atoll.store.collector import uncollected


def many() -> list[list[int]]:
    assert not gc.isenabled()
    return [[] for _ in range(100_000)]


def test_what_work_leaves_behind_is_not_visited_when_it_ends() -> None:
    kept = uncollected(many)
    assert gc.isenabled()
    assert (gc.get_count()[0], len(kept)) < (1_000, 100_001)


def test_the_collector_is_back_when_the_last_of_several_works_ends() -> None:
    begun, end = threading.Event(), threading.Event()

    def long() -> None:
        begun.set()
        end.wait()

    thread = threading.Thread(target=uncollected, args=(long,))
    thread.start()
    begun.wait()
    uncollected(many)
    assert not gc.isenabled()
    end.set()
    thread.join()
    assert gc.isenabled()


def test_whoever_has_disabled_it_goes_without() -> None:
    gc.disable()
    try:
        uncollected(many)
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_a_work_that_fails_brings_it_back() -> None:
    with pytest.raises(ZeroDivisionError):
        uncollected(lambda: 1 // 0)
    assert gc.isenabled()
