"""What a scan asks: ranges of keys, and conditions on fields, as SQL and as plain Python with one meaning.

A condition compares within one JSON type: numbers with numbers, texts with texts by code point, `true` and
`false` by equality only. A field that is absent equals null. `ne` is the exact opposite of `eq`. A condition with a
kind compares what texts stand for: see `store.typed`.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

from atoll.errors import InvalidOperation
from atoll.store import typed
from atoll.store.port import Condition

_LAST = 0x10FFFF
_SURROGATES = range(0xD800, 0xE000)

COMPARE = "atoll_compare"
"""`typed.compare`, as SQLite's connections call it."""
_SQL_OPERATORS = {"lt": "<", "le": "<=", "gt": ">", "ge": ">="}
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
}


def prefix_end(prefix: str) -> str | None:
    """The lowest text above all texts that start with `prefix`, by code point; None when there is none."""
    kept = prefix.rstrip(chr(_LAST))
    if not kept:
        return None
    following = ord(kept[-1]) + 1
    if following in _SURROGATES:  # not characters: UTF-8 has no bytes for them
        following = _SURROGATES.stop
    return kept[:-1] + chr(following)


def check_condition(condition: Condition) -> None:
    """Raise InvalidOperation for an order among values that have none, or a name that no field can have."""
    name, op, value, _ = condition
    if not name or '"' in name or "\\" in name:
        raise InvalidOperation(f"{name!r} cannot be the name of a field", field=name)
    if op in _SQL_OPERATORS and (value is None or isinstance(value, bool)):
        raise InvalidOperation(
            f"`{op}` on {name} needs a number or a text to compare with, not {value!r}: use eq or ne",
            field=name,
        )


def member_sql(field: str, *, decimal: bool = False) -> str:
    """What SQLite's index of a declared field holds; of a decimal a float about it, which other tools know, too."""
    member = f"json_extract(value, '$.\"{field}\"')"
    return f"CAST({member} AS REAL)" if decimal else member


def condition_sql(condition: Condition, column: str, *, indexed: bool = False) -> tuple[str, list[object]]:
    """One condition over a column of JSON text: an SQL expression that is 0 or 1, and its bindings.

    `column` is qualified by its table, since `json_each` has columns `key` and `value` of its own. Of an `indexed`
    field the expression also says, in the index's own words, what the index can find.
    """
    check_condition(condition)
    name, op, value, kind_of_text = condition
    if kind_of_text != "json":
        return _typed_sql(condition, column, indexed=indexed)
    if indexed and op not in ("ne", "contains") and isinstance(value, str | int | float):
        term, bindings = condition_sql(condition, column)
        return f"({member_sql(name)} {_SQL_OPERATORS.get(op, '=')} ? AND {term})", [value, *bindings]
    path = f'$."{name}"'
    kind = f"json_type({column}, ?)"
    content = f"json_extract({column}, ?)"
    if op == "contains":
        one, bindings = _equals_sql("element.type", "element.atom", value)
        found = f"EXISTS (SELECT 1 FROM json_each({column}, ?) AS element WHERE {one})"
        listed = f"coalesce({kind} = 'array', 0) AND {found}"
        if not isinstance(value, str):
            return f"({listed})", [path, path, *bindings]
        written = f"coalesce({kind} = 'text', 0) AND instr({content}, ?) > 0"
        return f"(({listed}) OR ({written}))", [path, path, *bindings, path, path, value]
    if op in _SQL_OPERATORS:
        types = "('text')" if isinstance(value, str) else "('integer', 'real')"
        ordered = f"coalesce({kind} IN {types} AND {content} {_SQL_OPERATORS[op]} ?, 0)"
        return ordered, [path, path, value]
    same, bindings = _equals_sql(kind, content, value)
    paths: list[object] = [path] if value is None or isinstance(value, bool) else [path, path]
    return (same if op == "eq" else f"(NOT {same})"), [*paths, *bindings]


def _typed_sql(condition: Condition, column: str, *, indexed: bool) -> tuple[str, list[object]]:
    """By a function of `typed`, which every connection that reads has."""
    name, op, value, kind = condition
    path = f'$."{name}"'
    types = ", ".join(f"'{each}'" for each in typed.JSON_TYPES.get(kind, ("text",)))
    if op == "contains":
        one = f"element.type IN ({types}) AND {COMPARE}(?, element.atom, ?) = 0"
        found = f"EXISTS (SELECT 1 FROM json_each({column}, ?) AS element WHERE {one})"
        return f"(coalesce(json_type({column}, ?) = 'array', 0) AND {found})", [path, path, kind, value]
    compared = f"{COMPARE}(?, json_extract({column}, ?), ?) {_SQL_OPERATORS.get(op, '=')} 0"
    term = f"coalesce(json_type({column}, ?) IN ({types}) AND {compared}, 0)"
    bindings: list[object] = [path, kind, path, value]
    if op == "ne":
        return f"(NOT {term})", bindings
    if not indexed:
        return term, bindings
    member = member_sql(name, decimal=kind == "decimal")
    bounds = zip((">=", "<="), typed.index_range(condition), strict=True)
    given = [(f"{member} {order} ?", bound) for order, bound in bounds if bound is not None]
    return f"({' AND '.join([*(sql for sql, _ in given), term])})", [
        *(bound for _, bound in given),
        *bindings,
    ]


def _equals_sql(kind: str, content: str, value: str | float | bool | None) -> tuple[str, list[object]]:
    match value:
        case None:
            return f"(coalesce({kind}, 'null') = 'null')", []
        case bool():
            return f"coalesce({kind} = '{'true' if value else 'false'}', 0)", []
        case str():
            return f"coalesce({kind} = 'text' AND {content} = ?, 0)", [value]
        case _:
            return f"coalesce({kind} IN ('integer', 'real') AND {content} = ?, 0)", [value]


def matches(condition: Condition, document: Mapping[str, Any]) -> bool:
    """The same question asked of a document in memory."""
    check_condition(condition)
    name, op, value, kind = condition
    held = document.get(name)
    if kind != "json":
        return _typed_matches(condition, held)
    match op:
        case "eq":
            return _equals(held, value)
        case "ne":
            return not _equals(held, value)
        case "contains":
            if isinstance(held, list):
                return any(_equals(element, value) for element in held)
            return isinstance(held, str) and isinstance(value, str) and value in held
        case _:
            return _kind(held) == _kind(value) and _COMPARE[op](held, value)


def _typed_matches(condition: Condition, held: Any) -> bool:
    _, op, value, kind = condition
    assert isinstance(value, str)
    if op == "contains":
        return isinstance(held, list) and any(typed.compare(kind, each, value) == 0 for each in held)
    found = typed.compare(kind, held, value)
    if op in ("eq", "ne"):
        return (found == 0) is (op == "eq")
    return found is not None and _COMPARE[op](found, 0)


def _equals(held: Any, value: str | float | bool | None) -> bool:
    return _kind(held) == _kind(value) and bool(held == value)


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int | float):
        return "number"
    return type(value).__name__
