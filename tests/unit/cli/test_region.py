from __future__ import annotations

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from atoll.cli.main import app

from .conftest import Deployment

Told = list[tuple[str, str, dict[str, list[Any]]]]


@pytest.fixture
def told(deployment: Deployment) -> Told:
    """Tokyo has two nodes, virginia one; frankfurt is gone. (region, path, body) of what was asked."""
    asked: Told = []

    def answers(region: str) -> None:
        def reply(path: str, body: dict[str, list[Any]]) -> tuple[int, Any]:
            asked.append((region, path, body))
            return 200, {"gone": "frankfurt"}

        deployment.answers(region, reply)

    deployment.silent("frankfurt")
    for region in ("tokyo", "tokyo", "virginia"):
        answers(region)
    return asked


def said_to(*regions: str) -> Told:
    body = {"peer": ["frankfurt"], "gone": [True]}
    return [(region, "/admin/forgo", body) for region in regions]


def test_every_node_of_the_other_regions_is_told(deployment: Deployment, told: Told) -> None:
    result = CliRunner().invoke(app, ["forgo", "frankfurt", "--yes", "-c", deployment.config])
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == "tokyo does not wait for frankfurt.\nvirginia does not wait for frankfurt.\n"
    assert sorted(told, key=str) == said_to("tokyo", "tokyo", "virginia")


def test_one_region_alone_is_told(deployment: Deployment, told: Told) -> None:
    arguments = ["forgo", "frankfurt", "--region", "virginia", "--yes", "--json", "-c", deployment.config]
    result = CliRunner().invoke(app, arguments)
    assert json.loads(result.stdout) == {"gone": "frankfurt", "regions": {"virginia": True}}
    assert told == said_to("virginia")


def test_nobody_is_told_without_a_yes(deployment: Deployment, told: Told) -> None:
    for answer in ("n\n", ""):
        result = CliRunner().invoke(app, ["forgo", "frankfurt", "-c", deployment.config], input=answer)
        assert (result.exit_code, result.stdout.strip()) == (1, answer.strip())  # an echo of the answer
        assert "that frankfurt alone still holds, are lost then" in result.stderr
    assert told == []
    result = CliRunner().invoke(app, ["forgo", "frankfurt", "-c", deployment.config], input="y\n")
    assert result.exit_code == 0
    assert len(told) == 3


def test_a_peer_that_answers_is_not_gone(deployment: Deployment, told: Told) -> None:
    deployment.answers("frankfurt", lambda path, query: (200, {"status": "ok"}))  # of two nodes, the second
    result = CliRunner().invoke(app, ["forgo", "frankfurt", "--yes", "-c", deployment.config])
    assert (result.exit_code, result.stdout) == (2, "")
    assert "so it is not gone" in result.stderr
    assert told == []


def test_a_silent_node_is_named_and_does_no_harm(deployment: Deployment, told: Told) -> None:
    deployment.silent("virginia")
    result = CliRunner().invoke(app, ["forgo", "frankfurt", "--yes", "-c", deployment.config])
    assert result.exit_code == 0
    assert "virginia does not answer at" in result.stderr


def test_a_silent_region_is_a_failure(deployment: Deployment, told: Told) -> None:
    deployment.silent("ireland")
    result = CliRunner().invoke(app, ["forgo", "frankfurt", "--yes", "--json", "-c", deployment.config])
    assert result.exit_code == 1
    assert json.loads(result.stdout)["regions"] == {"ireland": False, "tokyo": True, "virginia": True}
    assert "ireland does not answer at" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["paris"], "no region is called 'paris'"),
        (["frankfurt", "--region", "osaka"], "no region is called 'osaka'"),
        (["frankfurt", "--region", "frankfurt"], "cannot be told to go on without itself"),
    ],
)
def test_what_makes_no_sense_is_a_usage_error(
    deployment: Deployment, told: Told, arguments: list[str], message: str
) -> None:
    result = CliRunner().invoke(app, ["forgo", *arguments, "--yes", "-c", deployment.config])
    assert (result.exit_code, result.stdout, told) == (2, "", [])
    assert message in result.stderr
