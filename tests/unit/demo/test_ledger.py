from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.demo.ledger import Ledger, percentile


def test_summary_is_plain_json_and_adds_up() -> None:
    ledger = Ledger()
    ledger.order("b-0", {"sku": "7"})
    ledger.sold.update({"7": 2, "8": 1})
    ledger.took_ms("tokyo", 2.0)
    summary = json.loads(json.dumps(ledger.summary()))
    assert (summary["orders"], summary["units_sold"], summary["write_p50_ms"]) == (1, 3, {"tokyo": 2.0})


def test_order_is_kept_as_it_was_acknowledged() -> None:
    ledger, document = Ledger(), {"quantity": 1}
    ledger.order("b-0", document)
    document["quantity"] = 2
    assert ledger.orders == {"b-0": {"quantity": 1}}


@pytest.mark.parametrize(("part", "value"), [(0.0, 1.0), (0.5, 3.0), (0.99, 4.0), (1.0, 4.0)])
def test_percentile_is_one_of_the_values(part: float, value: float) -> None:
    assert percentile([4.0, 2.0, 3.0, 1.0], part) == value


@given(st.lists(st.floats(0, 1e6), max_size=50), st.floats(0, 1))
def test_percentile_never_fails(values: list[float], part: float) -> None:
    assert percentile(values, part) in (values or [0.0])
