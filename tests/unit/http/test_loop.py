"""Nobody holds the event loop: every operation near the limits of its sizes, by processor time.

Time is measured for each operation at a size and at four times that size. Linear work takes four times as long, and
quadratic work sixteen times. What the loop's own thread does in one piece is compared with parsing a document.
"""

from __future__ import annotations

import asyncio
import gc
import json
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec
import pytest

from atoll import Collection
from atoll.schema import application_of
from atoll.schema.fields import ListOf, MapOf, SetOf, Text

from .served import Served

SMALL = 6_000
"""Elements; four times as many are about 150 kB."""
TIMES = 10
"""Between four and sixteen."""
PIECES = 6
"""Documents of a megabyte, parsed in Python: what one piece of work may take in the loop's own thread."""


class Plain(Collection):
    items: list[int]
    note: str = ""


class Todo(Collection):
    items: ListOf[int]


class Tag(Collection):
    items: SetOf[int]


class Label(Collection):
    items: MapOf[int]


class Page(Collection):
    body: Text = ""


class Deed(Collection, consistency="strong"):
    items: list[int]


class Card(Collection, resolve="merge"):
    items: ListOf[int]
    more: dict[str, int] | None = None


APPLICATION = application_of(Plain, Todo, Tag, Label, Page, Deed, Card)


class Asked(NamedTuple):
    method: str
    path: str
    body: Any = None
    query: Any = None
    status: int = 200


def numbers(n: int) -> list[int]:
    return list(range(n))


def words(n: int) -> str:
    return " ".join(f"w{i % 977}" for i in range(n // 4))


def members(n: int, letter: str) -> dict[str, int]:
    return {f"{letter}{i}": i for i in range(n // 4)}


def operations(n: int) -> Iterator[tuple[str, list[Asked], Asked]]:
    """Of size `n`: name, what goes before, and what is measured."""
    for name, field in (("todo", "items"), ("tag", "items"), ("card", "items"), ("plain", "items")):
        path = f"/v1/{name}/k"
        put = Asked("PUT", path, {field: numbers(n)})
        yield f"{name}: put", [], put
        yield f"{name}: put others", [put], Asked("PUT", path, {field: [-i for i in numbers(n)]})
        yield f"{name}: put in another order", [put], Asked("PUT", path, {field: numbers(n)[::-1]})
        yield f"{name}: get", [put], Asked("GET", path)
        yield f"{name}: delete", [put], Asked("DELETE", path)
        yield f"{name}: all elements wrong", [], Asked("PUT", path, {field: ["x"] * n}, status=422)
        yield f"{name}: set a field", [put], Asked("PATCH", path, {"$set": {field: numbers(n)[1:]}})
        if name == "plain":
            continue
        yield f"{name}: add one", [put], Asked("PATCH", path, {"$add": {field: [n]}})
        yield f"{name}: add many", [], Asked("PATCH", path, {"$add": {field: numbers(n)}})
        yield f"{name}: add wrong ones", [], Asked("PATCH", path, {"$add": {field: ["x"] * n}}, status=422)
        yield (
            f"{name}: remove every second",
            [put],
            Asked("PATCH", path, {"$remove": {field: numbers(n)[::2]}}),
        )
        yield f"{name}: find", [put], Asked("GET", f"/v1/{name}", query={"where": f"items:contains:{n + 1}"})
        yield f"{name}: digest", [put], Asked("GET", "/admin/digest")
    put = Asked("PUT", "/v1/todo/k", {"items": numbers(n)})
    splice = {"at": n // 2, "remove": n // 4, "insert": numbers(n // 2)}
    yield "todo: splice", [put], Asked("PATCH", "/v1/todo/k", {"$splice": {"items": splice}})
    many = [
        {"put": {"collection": "todo", "key": f"k{i}", "value": {"items": numbers(100)}}}
        for i in range(n // 100)
    ]
    yield "todo: batch", [], Asked("POST", "/v1/batch", {"writes": many[:1000]})
    small = [{"put": {"collection": "card", "key": f"k{i}", "value": {"items": [i]}}} for i in range(n // 24)]
    yield "card: batch of small ones", [], Asked("POST", "/v1/batch", {"writes": small})
    nothing = Asked("POST", "/v1/batch", {"writes": [{}] * (40 * n)}, status=400)
    yield "card: batch of nothing", [], nothing
    put = Asked("PUT", "/v1/label/k", {"items": members(n, "k")})
    yield "label: put", [], put
    yield "label: put others", [put], Asked("PUT", "/v1/label/k", {"items": members(n, "q")})
    yield "label: set one", [put], Asked("PATCH", "/v1/label/k", {"$set": {"items.k7": -1}})
    yield "label: set others", [put], Asked("PATCH", "/v1/label/k", {"$set": {"items": members(n, "q")}})
    object_ = {
        **members(n, "k"),
        "~": 0,
        **members(n, "q"),
    }  # an order for which some ways to sort are quadratic
    yield "card: object", [], Asked("PUT", "/v1/card/k", {"more": object_})
    put = Asked("PUT", "/v1/page/k", {"body": words(n)})
    yield "page: put", [], put
    yield "page: put others", [put], Asked("PUT", "/v1/page/k", {"body": words(n)[::-1]})
    yield "page: append", [put], Asked("PATCH", "/v1/page/k", {"$append": {"body": words(n)}})
    yield "page: no spaces", [], Asked("PUT", "/v1/page/k", {"body": "日本語" * (n // 6)})

    deeds = [
        {"put": {"collection": "deed", "key": f"k{i}", "value": {"items": numbers(n // 4)}}}
        for i in range(10)
    ]
    together = Asked("POST", "/v1/transactions", {"writes": deeds})
    yield "deed: transaction", [], together
    reads = [{"collection": "deed", "key": f"k{i}"} for i in range(10)]
    yield "deed: snapshot", [together], Asked("POST", "/v1/transactions", {"reads": reads})


NAMES = [name for name, _, _ in operations(100)]


async def asked(it: Served, what: Asked) -> None:
    body = None if what.body is None else json.loads(json.dumps(what.body))
    answer = await it.ask(what.method, what.path, b"" if body is None else body, query=what.query or "")
    assert answer.status == what.status, answer.body[:300]


class Measured(NamedTuple):
    seconds: float
    """Of the processor, of all threads."""
    longest: float
    """Of the loop's thread in one piece."""


async def measured(name: str, n: int, monkeypatch: pytest.MonkeyPatch) -> Measured:
    before, what = next((before, what) for found, before, what in operations(n) if found == name)
    longest = 0.0
    run = asyncio.Handle._run  # type: ignore[attr-defined]

    def watched(handle: Any) -> None:
        nonlocal longest
        begun = time.thread_time()
        run(handle)
        longest = max(longest, time.thread_time() - begun)

    async with Served(application=APPLICATION) as it:
        for each in before:
            await asked(it, each)
        gc.collect()
        with monkeypatch.context() as patched:
            patched.setattr(asyncio.Handle, "_run", watched)
            begun = time.process_time()
            await asked(it, what)
            return Measured(time.process_time() - begun, longest)


def parsing() -> float:
    body = msgspec.json.encode(numbers(150_000))
    begun = time.thread_time()
    json.loads(body)
    return time.thread_time() - begun


@pytest.mark.parametrize("name", NAMES)
async def test_work_is_linear_and_does_not_hold_the_loop(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for last in (False, False, True):  # another process may have been in the way
        small = await measured(name, SMALL, monkeypatch)
        large = await measured(name, 4 * SMALL, monkeypatch)
        linear = large.seconds < TIMES * small.seconds + 0.02
        short = large.longest < PIECES * parsing() + 0.02
        if linear and short:
            break
        assert not last, (small, large, parsing())
