from __future__ import annotations

from itertools import count
from typing import Any

import pytest

from atoll.errors import InvalidHistory
from atoll.histories.bank import Bank, check_bank
from atoll.histories.history import Recorder


def after_reading(value: Any, **options: Any) -> Bank:
    recorder = Recorder(count().__next__)
    client = recorder.client()
    client.invoke("transfer", value={"from": "a", "to": "b", "amount": 1})
    client.info()
    client.invoke("read")
    client.ok(value)
    return check_bank(recorder.events(), total=10, **options)


@pytest.mark.parametrize(
    ("balances", "overdraft", "verdict"),
    [
        ({"a": 4, "b": 6}, False, "valid"),
        ({"a": 4, "b": 5}, False, "invalid"),
        ({"a": -1, "b": 11}, False, "invalid"),
        ({"a": -1, "b": 11}, True, "valid"),
    ],
)
def test_every_snapshot_has_the_same_total(balances: Any, overdraft: bool, verdict: str) -> None:
    found = after_reading(balances, overdraft=overdraft)
    assert (found.verdict, found.snapshots) == (verdict, 1)


@pytest.mark.parametrize("value", [None, [1], {"a": "1"}, {"a": True}, {"a": 1.5}])
def test_a_snapshot_is_whole_numbers(value: Any) -> None:
    with pytest.raises(InvalidHistory, match="not a map of accounts"):
        after_reading(value)
