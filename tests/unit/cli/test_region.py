from __future__ import annotations

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from atoll.cli.main import app

from .conftest import Deployment

Requests = list[tuple[str, str, dict[str, list[Any]]]]


@pytest.fixture
def requests(deployment: Deployment) -> Requests:
    """Tokyo has two nodes, virginia one; frankfurt is gone. (region, path, body) of each request."""
    received: Requests = []

    def answers(region: str) -> None:
        def reply(path: str, body: dict[str, list[Any]]) -> tuple[int, Any]:
            received.append((region, path, body))
            return 200, {"gone": "frankfurt"}

        deployment.answers(region, reply)

    deployment.silent("frankfurt")
    for region in ("tokyo", "tokyo", "virginia"):
        answers(region)
    return received


def requests_to(*regions: str) -> Requests:
    body = {"peer": ["frankfurt"], "gone": [True]}
    return [(region, "/admin/forget", body) for region in regions]


def test_every_node_of_the_other_regions_forgets(deployment: Deployment, requests: Requests) -> None:
    result = CliRunner().invoke(app, ["region", "forget", "frankfurt", "--yes", "-c", deployment.config])
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == "tokyo does not wait for frankfurt.\nvirginia does not wait for frankfurt.\n"
    assert sorted(requests, key=str) == requests_to("tokyo", "tokyo", "virginia")


def test_one_region_alone_forgets(deployment: Deployment, requests: Requests) -> None:
    arguments = [
        "region",
        "forget",
        "frankfurt",
        "--region",
        "virginia",
        "--yes",
        "--json",
        "-c",
        deployment.config,
    ]
    result = CliRunner().invoke(app, arguments)
    assert json.loads(result.stdout) == {"gone": "frankfurt", "regions": {"virginia": True}}
    assert requests == requests_to("virginia")


def test_no_region_forgets_without_confirmation(deployment: Deployment, requests: Requests) -> None:
    for answer in ("n\n", ""):
        result = CliRunner().invoke(
            app, ["region", "forget", "frankfurt", "-c", deployment.config], input=answer
        )
        assert (result.exit_code, result.stdout.strip()) == (1, answer.strip())  # an echo of the answer
        assert "that only frankfurt holds are then lost" in result.stderr
    assert requests == []
    result = CliRunner().invoke(app, ["region", "forget", "frankfurt", "-c", deployment.config], input="y\n")
    assert result.exit_code == 0
    assert len(requests) == 3


def test_a_peer_that_answers_is_not_gone(deployment: Deployment, requests: Requests) -> None:
    deployment.answers("frankfurt", lambda path, query: (200, {"status": "ok"}))  # of two nodes, the second
    result = CliRunner().invoke(app, ["region", "forget", "frankfurt", "--yes", "-c", deployment.config])
    assert (result.exit_code, result.stdout) == (2, "")
    assert "so it is not lost" in result.stderr
    assert requests == []


def test_a_silent_node_is_named_and_does_no_harm(deployment: Deployment, requests: Requests) -> None:
    deployment.silent("virginia")
    result = CliRunner().invoke(app, ["region", "forget", "frankfurt", "--yes", "-c", deployment.config])
    assert result.exit_code == 0
    assert "virginia does not answer at" in result.stderr


def test_a_silent_region_is_a_failure(deployment: Deployment, requests: Requests) -> None:
    deployment.silent("ireland")
    result = CliRunner().invoke(
        app, ["region", "forget", "frankfurt", "--yes", "--json", "-c", deployment.config]
    )
    assert result.exit_code == 1
    assert json.loads(result.stdout)["regions"] == {"ireland": False, "tokyo": True, "virginia": True}
    assert "ireland does not answer at" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["paris"], "no region is called 'paris'"),
        (["frankfurt", "--region", "osaka"], "no region is called 'osaka'"),
        (["frankfurt", "--region", "frankfurt"], "cannot forget itself"),
    ],
)
def test_what_makes_no_sense_is_a_usage_error(
    deployment: Deployment, requests: Requests, arguments: list[str], message: str
) -> None:
    result = CliRunner().invoke(app, ["region", "forget", *arguments, "--yes", "-c", deployment.config])
    assert (result.exit_code, result.stdout, requests) == (2, "", [])
    assert message in result.stderr


def test_a_region_is_told_to_decide_alone(deployment: Deployment) -> None:
    asked: list[Any] = []

    def answer(path: str, query: Any) -> tuple[int, Any]:
        asked.append(path)
        return 200, {"acceptors": ["virginia"]}

    deployment.answers("virginia", answer)
    arguments = ["region", "decide-alone", "virginia", "-c", deployment.config]
    result = CliRunner().invoke(app, arguments, input="n\n")
    assert result.exit_code == 1
    assert "Acknowledged writes of strong documents that only others hold are then lost" in result.stderr
    assert asked == []
    result = CliRunner().invoke(app, [*arguments, "--yes"])
    assert (result.exit_code, asked) == (0, ["/admin/decide-alone"])
    assert "virginia decides alone." in result.stdout
    result = CliRunner().invoke(app, [*arguments, "--yes", "--json"])
    assert json.loads(result.stdout) == {"acceptors": ["virginia"]}


def test_a_region_that_does_not_answer_is_not_told(deployment: Deployment) -> None:
    deployment.silent("virginia")
    result = CliRunner().invoke(app, ["region", "decide-alone", "virginia", "--yes", "-c", deployment.config])
    assert result.exit_code != 0
    assert "virginia" in result.stderr
