from __future__ import annotations

from typing import Any, ClassVar

import pytest

from atoll import Abort, Collection, Counter, Increment, Retry, Saga, step
from atoll.errors import InvalidOperation
from atoll.testing import NotEnded, saga_crashes


class Shelf(Collection):
    taken: Counter


class Bank:
    paid: ClassVar[list[str]] = []
    """Keys, each as often as it was paid under."""


class Order(Saga):
    total: int = 1
    by: str = ""

    @step(compensate="put_back")
    def take(self, tx: Any) -> None:
        tx.update(Shelf, "tea", taken=Increment(1))

    def put_back(self, tx: Any) -> None:
        tx.update(Shelf, "tea", taken=Increment(-1))

    @step(effect=True, compensate="refund", retry=Retry(2))
    async def charge(self, key: str) -> None:
        Bank.paid.append(key)
        if self.total > 100:
            raise OSError("no answer")

    async def refund(self, key: str) -> None:
        Bank.paid.append(key)

    @step(signal="approved", wait_s=0)
    def approve(self, tx: Any, signal: Any) -> None:
        self.by = signal


def runs(order: Order, **options: Any) -> Any:
    for run in saga_crashes(order, Shelf, given=[Shelf(key="tea", taken=5)], **options):
        yield run
        Bank.paid.clear()


def test_it_crashes_before_and_after_each_entry_and_amid_each_effect() -> None:
    crashes = []
    for run in runs(Order(key="1"), signals={"approved": "ann"}):
        crashes.append(run.crash)
        assert (run.status, run.value.by, run.documents) == (
            "completed",
            "ann",
            {("shelf", "tea"): {"taken": 6}},
        )
        assert len(set(Bank.paid)) == 1
        assert len(Bank.paid) == len(run.calls) <= 2
    assert crashes[0] == ""
    assert {"before entry 1: running take", "after entry 1: running take", "amid charge"} < {*crashes}
    assert any(crash.startswith("before") and crash.endswith(": completed") for crash in crashes)


def test_what_is_undone_is_undone_at_every_crash() -> None:
    for run in runs(Order(key="1", total=101)):
        assert (run.status, run.error) == ("compensated", "OSError: no answer")
        assert [f"{each.step} {each.outcome}" for each in run.done] == [
            "take done",
            "charge undone",
            "take undone",
        ]
        assert run.documents == {("shelf", "tea"): {"taken": 5}}


def test_a_method_that_does_not_bear_to_be_called_twice_is_found() -> None:
    twice = [run.crash for run in runs(Order(key="1"), signals={"approved": "ann"}) if len(Bank.paid) > 1]
    assert "amid charge" in twice


def test_what_does_not_end_is_told() -> None:
    with pytest.raises(NotEnded, match="no crash: not over after 60 s"):
        next(runs(Order(key="1"), within_s=60))


class Refused(Saga):
    @step
    def no(self) -> None:
        raise Abort("no")


def test_a_run_without_documents() -> None:
    assert [(run.status, run.documents) for run in saga_crashes(Refused(key="1"))] == [
        ("compensated", {})
    ] * 5


def test_a_signal_that_nothing_waits_for_is_told() -> None:
    with pytest.raises(InvalidOperation, match="waits for no signal 'never'"):
        next(saga_crashes(Refused(key="1"), signals={"never": 1}))
