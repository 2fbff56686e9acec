from __future__ import annotations

import json
from typing import Any

from typer.testing import CliRunner

from atoll.cli.main import app

from .conftest import Deployment


def record(number: int) -> dict[str, Any]:
    side = {
        "region": "tokyo",
        "seq": number,
        "at": "2026-11-23T09:00:00Z",
        "value": {"name": f"Ann {number}"},
    }
    return {
        "id": f"r{number}",
        "collection": "profile",
        "key": "ann",
        "field": "",
        "kind": "update_origin_differs",
        "status": "open",
        "strategy": "lww",
        "reason": "later stamp [sic]",
        "uncertain": True,
        "losing": side,
        "winning": {**side, "region": "frankfurt"},
    }


def audit(path: str, query: dict[str, list[str]]) -> tuple[int, Any]:
    """Twelve hundred records, in pages."""
    start, limit = int(query.get("cursor", ["0"])[0]), int(query["limit"][0])
    end = min(1200, start + limit)
    return 200, {
        "items": [record(number) for number in range(start, end)],
        "cursor": str(end) if end < 1200 else None,
    }


def test_all_pages_are_read_when_all_are_wanted(deployment: Deployment) -> None:
    deployment.answers("tokyo", audit)
    result = CliRunner().invoke(app, ["conflicts", "-c", deployment.config, "--limit", "0", "--json"])
    found = json.loads(result.stdout)
    assert [item["id"] for item in found["items"]] == [f"r{number}" for number in range(1200)]
    assert found["cursor"] is None


def test_limit_ends_with_a_cursor_to_go_on(deployment: Deployment) -> None:
    deployment.answers("tokyo", audit)
    result = CliRunner().invoke(app, ["conflicts", "-c", deployment.config, "--limit", "700", "--json"])
    found = json.loads(result.stdout)
    assert (len(found["items"]), found["cursor"]) == (700, "700")


def test_filters_reach_the_region_that_was_named(deployment: Deployment) -> None:
    seen: list[dict[str, list[str]]] = []

    def reply(path: str, query: dict[str, list[str]]) -> tuple[int, Any]:
        seen.append(query)
        return 200, {"items": [], "cursor": None}

    deployment.answers("frankfurt", lambda path, query: (500, {}))
    deployment.answers("tokyo", reply)
    arguments = [
        "--region",
        "tokyo",
        "--kind",
        "update_deleted",
        "--collection",
        "cart",
        "--since",
        "5",
        "--json",
    ]
    result = CliRunner().invoke(app, ["conflicts", "-c", deployment.config, *arguments])
    assert result.exit_code == 0
    assert seen == [{"collection": ["cart"], "kind": ["update_deleted"], "since": ["5"], "limit": ["100"]}]


def test_table_shows_what_was_dropped_and_why(deployment: Deployment) -> None:
    deployment.answers("tokyo", audit)
    result = CliRunner().invoke(app, ["conflicts", "-c", deployment.config, "--limit", "1"])
    for shown in ("profile/ann", "lww", "Ann 0", "[sic]", "uncertainty", "--cursor 1"):
        assert shown in result.stdout


def test_refused_filter_is_a_usage_error(deployment: Deployment) -> None:
    problem = {"type": "urn:atoll:problem:malformed-request", "detail": "since takes milliseconds"}
    deployment.answers("tokyo", lambda path, query: (400, problem))
    result = CliRunner().invoke(app, ["conflicts", "-c", deployment.config, "--since", "soon"])
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "atoll: tokyo: since takes milliseconds\n"
