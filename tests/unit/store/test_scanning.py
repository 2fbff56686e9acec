from __future__ import annotations

import json
from typing import Any

import apsw
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.store.port import Condition
from atoll.store.scanning import condition_sql, matches, prefix_end

TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=4)
SCALARS = st.none() | st.booleans() | st.integers(-3, 3) | st.integers(-(2**63), 2**63 - 1) | TEXTS
NUMBERS = st.floats(allow_nan=False, allow_infinity=False, width=32)
VALUES = (
    SCALARS | NUMBERS | st.lists(SCALARS | NUMBERS, max_size=3) | st.dictionaries(TEXTS, SCALARS, max_size=2)
)
ORDERED = st.tuples(st.sampled_from(["lt", "le", "gt", "ge"]), st.integers(-3, 3) | TEXTS | NUMBERS)
ANY = st.tuples(st.sampled_from(["eq", "ne", "contains"]), SCALARS | NUMBERS)


@pytest.fixture(scope="module")
def connection() -> apsw.Connection:
    return apsw.Connection(":memory:")


@given(document=st.dictionaries(st.sampled_from(["n", "名"]), VALUES), asked=ORDERED | ANY)
def test_sql_and_python_give_one_answer(
    connection: apsw.Connection, document: dict[str, Any], asked: tuple[Any, Any]
) -> None:
    condition = Condition("n", *asked)
    sql, bindings = condition_sql(condition, "held.value")
    text = json.dumps(document, ensure_ascii=False)
    found = connection.execute(f"SELECT {sql} FROM (SELECT ? AS value) AS held", [*bindings, text]).get
    assert bool(found) is matches(condition, document)


@pytest.mark.parametrize("value", [1, 1.5, "a", "", None, True, False])
def test_both_find_each_kind_of_element(connection: apsw.Connection, value: str | float | None) -> None:
    condition = Condition("n", "contains", value)
    sql, bindings = condition_sql(condition, "held.value")
    for elements in ([value], [0, value], []):
        document = {"n": elements}
        found = connection.execute(
            f"SELECT {sql} FROM (SELECT ? AS value) AS held", [*bindings, json.dumps(document)]
        ).get
        assert bool(found) is matches(condition, document) is bool(elements)


@given(TEXTS | st.text("\ud7ff\ue000\U0010ffffa", max_size=4), TEXTS | st.text("\ud7ff\ue000\U0010ffffa"))
def test_prefix_range_holds_exactly_the_prefixed(prefix: str, text: str) -> None:
    end = prefix_end(prefix)
    assert (prefix <= text and (end is None or text < end)) is text.startswith(prefix)
    if end is not None:
        end.encode()  # no surrogate came out
