from __future__ import annotations

import json
from typing import Any

from typer.testing import CliRunner

from atoll.cli.main import app

from .conftest import Deployment


def outcome(different: list[str], error: str | None = None) -> dict[str, Any]:
    peer: dict[str, Any] = {"different": different, "documents": 2}
    if error is not None:
        peer["error"] = error
    cart = {"documents": 2, "digest": "ab" * 16, "peers": {"frankfurt": peer}}
    return {"region": "tokyo", "equal": not different and error is None, "collections": {"cart": cart}}


def test_equal_regions_pass(deployment: Deployment) -> None:
    deployment.answers("tokyo", lambda path, query: (200, outcome([])))
    result = CliRunner().invoke(app, ["verify", "-c", deployment.config])
    assert result.exit_code == 0
    assert "Equal, as tokyo sees it." in result.stdout


def test_documents_that_differ_are_named(deployment: Deployment) -> None:
    deployment.answers("tokyo", lambda path, query: (200, outcome(["ann", "bob"])))
    result = CliRunner().invoke(app, ["verify", "-c", deployment.config, "--wait", "0"])
    assert result.exit_code == 1
    assert "2 differ" in result.stdout
    assert "cart/bob differs in frankfurt" in result.stdout


def test_long_lists_are_cut_short_with_a_way_to_all(deployment: Deployment) -> None:
    deployment.answers("tokyo", lambda path, query: (200, outcome([f"k{number}" for number in range(30)])))
    result = CliRunner().invoke(app, ["verify", "-c", deployment.config, "--wait", "0"])
    assert "cart: 10 more differ in frankfurt; --json names all" in result.stdout


def test_peer_that_was_not_compared_fails(deployment: Deployment) -> None:
    deployment.answers("tokyo", lambda path, query: (200, outcome([], error="the link is cut")))
    result = CliRunner().invoke(app, ["verify", "-c", deployment.config, "--wait", "0"])
    assert result.exit_code == 1
    assert "frankfurt was not compared: the link is cut" in result.stdout


def test_writes_under_way_are_given_time(deployment: Deployment) -> None:
    answers = [outcome(["ann"]), outcome([])]
    deployment.answers("tokyo", lambda path, query: (200, answers.pop(0)))
    result = CliRunner().invoke(app, ["verify", "-c", deployment.config, "--wait", "30", "--json"])
    assert result.exit_code == 0
    assert json.loads(result.stdout)["equal"] is True
