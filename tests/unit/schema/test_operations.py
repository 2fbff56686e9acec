from __future__ import annotations

import pytest

from atoll.errors import InvalidOperation
from atoll.schema import Add, Append, Decrement, Increment, Operation, Remove, Splice


@pytest.mark.parametrize(
    ("operation", "operator", "argument"),
    [
        (Increment(), "$inc", 1),
        (Decrement(2), "$inc", -2),
        (Add("a", "b"), "$add", ["a", "b"]),
        (Remove("a"), "$remove", ["a"]),
        (Append("!"), "$append", "!"),
        (Splice(3, 1, "x"), "$splice", {"at": 3, "remove": 1, "insert": "x"}),
        (Splice(0, insert=[1]), "$splice", {"at": 0, "remove": 0, "insert": [1]}),
    ],
)
def test_operation_has_its_patch_form(operation: Operation, operator: str, argument: object) -> None:
    assert (operation.operator, operation.argument) == (operator, argument)


@pytest.mark.parametrize("n", [True, 1.0, "1", None])
def test_only_integers_count(n: object) -> None:
    with pytest.raises(InvalidOperation, match="integer"):
        Increment(n)  # type: ignore[arg-type]
    with pytest.raises(InvalidOperation, match="integer"):
        Decrement(n)  # type: ignore[arg-type]


def test_splice_has_no_negative_position() -> None:
    with pytest.raises(InvalidOperation, match="at least 0"):
        Splice(-1)


def test_append_takes_text() -> None:
    with pytest.raises(InvalidOperation, match="string"):
        Append(1)  # type: ignore[arg-type]


def test_operations_compare_by_content() -> None:
    assert Add("a") == Add("a")
    assert Increment(1) != Decrement(1)
