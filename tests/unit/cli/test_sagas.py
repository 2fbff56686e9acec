from __future__ import annotations

import json
from typing import Any

from typer.testing import CliRunner

from atoll.cli.main import app

from .conftest import Deployment

STUCK = {
    "saga": "checkout", "key": "a/1", "home": "tokyo", "region": "frankfurt", "status": "stuck", "step": "reserve",
    "backwards": True, "attempts": 10, "wake_ms": 0, "since_ms": 1_800_000_000_000, "started_ms": 1_799_999_000_000,
    "cause": "failed", "error": "no [stock]", "fields": {"sku": "tea"}, "signals": {},
    "done": [{"step": "reserve", "outcome": "done", "at_ms": 1_799_999_000_000, "region": "tokyo", "attempts": 2}],
}  # fmt: skip


def run(deployment: Deployment, *words: str) -> Any:
    return CliRunner().invoke(app, ["sagas", *words, "-c", deployment.config])


def test_what_is_stuck_is_listed(deployment: Deployment) -> None:
    asked: list[dict[str, list[str]]] = []

    def reply(path: str, query: dict[str, list[str]]) -> tuple[int, Any]:
        asked.append(query)
        start = int(query.get("cursor", ["0"])[0])
        items = [{**STUCK, "key": str(number)} for number in range(start, min(700, start + 500))]
        return 200, {"items": items, "cursor": "500" if start == 0 else None}

    deployment.silent("tokyo")
    deployment.answers("frankfurt", reply)
    found = json.loads(run(deployment, "list", "--status", "stuck", "--limit", "0", "--json").stdout)
    assert (found["region"], len(found["items"])) == ("frankfurt", 700)
    assert asked[0]["status"] == ["stuck"]
    shown = run(deployment, "list", "--limit", "3").stdout
    for text in ("checkout/2", "undo reserve", "failed: no [stock]", "2027-01-15 08:00:00", "reserve done"):
        assert text in shown


def test_one_saga_is_shown(deployment: Deployment) -> None:
    deployment.answers(
        "tokyo", lambda path, query: (200, STUCK) if path == "/v1/sagas/checkout/a%2F1" else (404, {})
    )
    shown = run(deployment, "show", "checkout", "a/1").stdout
    for text in ("stuck since 2027", "undo reserve", "no [stock]", '{"sku": "tea"}', "in tokyo, 2 attempts"):
        assert text in shown
    assert json.loads(run(deployment, "show", "checkout", "a/1", "--json").stdout) == STUCK
    assert run(deployment, "show", "checkout", "b").exit_code == 1


def test_orders_are_sent(deployment: Deployment) -> None:
    sent: list[tuple[str, Any]] = []

    def reply(path: str, query: dict[str, list[Any]]) -> tuple[int, Any]:
        sent.append((path, query))
        return 200, STUCK

    deployment.answers("tokyo", reply)
    for words in (("retry",), ("skip",), ("skip", "--step", "ship"), ("abort", "--reason", "sold out")):
        assert "undo reserve" in run(deployment, words[0], "checkout", "1", *words[1:]).stdout
    assert [query for _, query in sent] == [
        {"retry": [{}]}, {}, {"skip": [{"step": "reserve"}]}, {"skip": [{"step": "ship"}]},
        {"abort": [{"reason": "sold out"}]},
    ]  # fmt: skip


def test_a_refusal_is_told(deployment: Deployment) -> None:
    problem = {"type": "urn:atoll:problem:conflict", "status": 409, "detail": "checkout/1 is completed"}
    deployment.answers("tokyo", lambda path, query: (409, problem))
    result = run(deployment, "retry", "checkout", "1")
    assert (result.exit_code, "checkout/1 is completed" in result.stderr) == (2, True)
